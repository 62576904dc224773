/* Code in `code`, which never ends, translated and timed. The best of many short runs, so that others on the machine matter little. */
#ifndef TESTS_BENCH_CYCLES_H
#define TESTS_BENCH_CYCLES_H

#include "../isa/emu.h"

#include <x86intrin.h>

static uint8_t code[CODE_BYTES], *out;

static inline void put(const char *bytes, unsigned n)
{
    memcpy(out, bytes, n);
    out += n;
}
#define PUT(bytes) put(bytes, sizeof(bytes) - 1)

static inline void code_begin(void)
{
    memset(code, 0xcc, sizeof(code));
    out = code;
}

/* Cycles of the TSC per guest instruction. */
static inline double best_cycles(struct icase *c, unsigned runs, int32_t instructions)
{
    double best = 1e9;

    emu_code_put(CODE_ADDR, code, sizeof(code));
    c->mode = 64;
    c->cs = 0x33;
    c->ss = c->ds = c->es = 0x2b;
    c->before.rip = CODE_ADDR;
    emu_load(c);
    for (unsigned n = 0; n < runs; n++) {
        uint64_t before = emu->instructions, start = __rdtsc();
        engine_translate.enter(emu, instructions);
        double each = (double)(__rdtsc() - start) / (double)(emu->instructions - before);
        best = each < best ? each : best;
    }
    return best;
}

#endif
