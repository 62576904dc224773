/* The engines themselves, from bytes in memory: smallest reproducers of defects that they had. */
#include "fixture.h"

#include "isa/codecache.h"
#include "jit/translate.h"

enum { CODE = 0x1000, DATA = 0x8000, RUNAWAY = 40 };

static const struct engine *engine;

/* Real mode with all segment bases 0, or (bits 32) flat protected mode without paging. */
static struct vcpu *start(unsigned bits, const uint8_t *code, size_t n)
{
    struct vcpu *v = new_vcpu();

    set_supported_cpuid(v);
    if (engine == &engine_translate && translate_create(v) == 0)
        translate_at_once(v, true);
    memset(ram, 0, RAM_BYTES);
    memcpy(ram + CODE, code, n);
    if (bits == 32)
        v->cr0 |= CR0_PE;
    for (unsigned s = ES; s <= GS; s++)
        v->seg[s] = (struct segment){.limit = bits == 32 ? UINT32_MAX : 0xffff,
                                     .ar = AR_P | AR_S | AR_WRITABLE | AR_ACCESSED |
                                           (s == CS ? AR_CODE : 0) | (bits == 32 ? AR_DB | AR_G : 0)};
    v->rip = CODE;
    v->gpr[RSP] = 0x7000;
    cpu_update_mode(v);
    return v;
}

#define START(bits, ...) start(bits, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* ---- exits that the client answers ---------------------------------------------------------------- */

static int ask_pio_in(struct vcpu *v, uint16_t port, unsigned size, uint32_t *data)
{
    (void)v, (void)port, (void)size, (void)data;
    return 1;
}
static int ask_pio_out(struct vcpu *v, uint16_t port, unsigned size, uint32_t data)
{
    (void)v, (void)port, (void)size, (void)data;
    return 1;
}
static int ask_rdmsr(struct vcpu *v, uint32_t index, uint64_t *value)
{
    (void)v, (void)index, (void)value;
    return 1;
}
static int ask_wrmsr(struct vcpu *v, uint32_t index, uint64_t value)
{
    (void)v, (void)index, (void)value;
    return 1;
}
static int device_read(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t *data)
{
    (void)v, (void)gpa, (void)size;
    *data = 0x55;
    return 0;
}
static int known_rdmsr(struct vcpu *v, uint32_t index, uint64_t *value)
{
    (void)v, (void)index;
    *value = 0x77;
    return 0;
}

/* Runs to HLT, answering the n-th exit of kind `reason` with n (a read) or noting what was written; how many there were.
 * A runaway guest is stopped. */
static unsigned exits_until_hlt(struct vcpu *v, uint32_t reason, uint64_t written[RUNAWAY])
{
    for (unsigned n = 0; n < RUNAWAY; n++) {
        uint64_t answer = n + 1;
        bool write = reason == EXIT_WRMSR;

        if (engine->enter(v, 1000) == EXIT_HLT)
            return n;
        CHECK(v->exit.reason == reason, "reason %u at exit %u", v->exit.reason, n);
        if (reason == EXIT_PIO) {
            write = v->exit.io.write;
            written[n] = v->pio_data[0];
        } else if (write) {
            written[n] = v->exit.msr.data;
        }
        cpu_answer(v, write ? NULL : &answer);
    }
    return RUNAWAY;
}

/* Each loop below first reads a device that the core answers itself (mov bl, [0]), which leaves an entry in the access log;
 * the client's answer to the exit behind it must be found all the same, and serve that one instruction once. */
static struct vcpu *start_with_device(const uint8_t *code, size_t n)
{
    struct vcpu *v = start(16, code, n);

    ops.mmio_read = device_read;
    v->seg[DS].base = 0x200000;
    cpu_update_mode(v);
    return v;
}
#define READ_DEVICE 0x8a, 0x1e, 0, 0
#define START_DEVICE(...) \
    start_with_device((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* mov cx, 3; again: read; inc ax; out 0x80, al; loop again; hlt */
static void check_out(void)
{
    struct vcpu *v = START_DEVICE(0xb9, 3, 0, READ_DEVICE, 0x40, 0xe6, 0x80, 0xe2, 0xf7, 0xf4);
    uint64_t written[RUNAWAY];
    unsigned n;

    ops.pio_out = ask_pio_out;
    n = exits_until_hlt(v, EXIT_PIO, written);
    CHECK(n == 3, "%u exits", n);
    CHECK(written[0] == 1 && written[1] == 2 && written[2] == 3);
    free_vcpu(v);
}

/* mov cx, 3; again: read; in al, 0x80; stosb; loop again; hlt */
static void check_in(void)
{
    struct vcpu *v = START_DEVICE(0xb9, 3, 0, READ_DEVICE, 0xe4, 0x80, 0xaa, 0xe2, 0xf7, 0xf4);
    uint64_t written[RUNAWAY];
    unsigned n;

    ops.pio_in = ask_pio_in;
    v->gpr[RDI] = DATA;
    n = exits_until_hlt(v, EXIT_PIO, written);
    CHECK(n == 3, "%u exits", n);
    CHECK(memcmp(ram + DATA, "\1\2\3", 3) == 0);
    free_vcpu(v);
}

/* mov bp, 3; again: read; inc ax; wrmsr; dec bp; jnz again; hlt (of an MSR that the client has) */
static void check_wrmsr(void)
{
    struct vcpu *v = START_DEVICE(0xbd, 3, 0, READ_DEVICE, 0x40, 0x0f, 0x30, 0x4d, 0x75, 0xf6, 0xf4);
    uint64_t written[RUNAWAY];
    unsigned n;

    ops.wrmsr = ask_wrmsr;
    v->gpr[RCX] = 0x4b564dff;
    v->gpr[RDX] = 0;
    n = exits_until_hlt(v, EXIT_WRMSR, written);
    CHECK(n == 3, "%u exits", n);
    CHECK(written[0] == 1 && written[1] == 2 && written[2] == 3);
    ops.wrmsr = no_wrmsr;
    free_vcpu(v);
}

/* mov bp, 3; again: read; rdmsr; stosb; dec bp; jnz again; hlt; afterwards the machine knows the MSR itself */
static void check_rdmsr(void)
{
    struct vcpu *v = START_DEVICE(0xbd, 3, 0, READ_DEVICE, 0x0f, 0x32, 0xaa, 0x4d, 0x75, 0xf6, 0xf4);
    uint64_t written[RUNAWAY];
    unsigned n;

    ops.rdmsr = ask_rdmsr;
    v->gpr[RCX] = 0x4b564dff;
    v->gpr[RDI] = DATA;
    n = exits_until_hlt(v, EXIT_RDMSR, written);
    CHECK(n == 3, "%u exits", n);
    CHECK(memcmp(ram + DATA, "\1\2\3", 3) == 0);
    ops.rdmsr = known_rdmsr;
    v->rip = CODE;
    CHECK(engine->enter(v, 1000) == EXIT_HLT);
    CHECK(memcmp(ram + DATA + 3, "\x77\x77\x77", 3) == 0);
    ops.rdmsr = no_rdmsr;
    free_vcpu(v);
}

/* ---- operands of string instructions --------------------------------------------------------------------------- */

/* DS:SI or its override is the source, ES:DI the destination. Each segment holds its own number at offset 0x10. */
static void check_string_segments(void)
{
    static const uint8_t override[] = {[ES] = 0x26, [CS] = 0x2e, [SS] = 0x36, [DS] = 0x3e, [FS] = 0x64, [GS] = 0x65};

    for (unsigned s = ES; s <= GS; s++) {
        struct vcpu *v = START(16, override[s], 0xa4, 0xa4, override[s], 0xac, override[s], 0x6e, 0xf4);
        uint64_t written[RUNAWAY];

        ops.pio_out = ask_pio_out;
        for (unsigned k = ES; k <= GS; k++) {
            v->seg[k].base = k == CS ? 0 : 0x2000 + 0x1000 * k;
            memset(ram + v->seg[k].base + 0x10, 0xa0 + (int)k, 16);
        }
        cpu_update_mode(v);
        v->gpr[RSI] = 0x10;
        v->gpr[RDI] = 0x80;
        CHECK(exits_until_hlt(v, EXIT_PIO, written) == 1);
        CHECK(ram[v->seg[ES].base + 0x80] == 0xa0 + s, "MOVSB with override %u: %02x", s, ram[v->seg[ES].base + 0x80]);
        CHECK(ram[v->seg[ES].base + 0x81] == 0xa0 + DS, "MOVSB: %02x", ram[v->seg[ES].base + 0x81]);
        CHECK((uint8_t)v->gpr[RAX] == 0xa0 + s, "LODSB with override %u: %02x", s, (uint8_t)v->gpr[RAX]);
        CHECK(written[0] == 0xa0 + s, "OUTSB with override %u: %02x", s, (unsigned)written[0]);
        free_vcpu(v);
    }
}

/* ---- linked branches ---------------------------------------------------------------------------------------------- */

/* inc eax; dec ecx; jnz -4; hlt: the branch, linked by then, is executed with RF set, as IRET leaves it for what faulted. */
static void check_linked_branch(void)
{
    struct vcpu *v = START(32, 0x40, 0x49, 0x75, 0xfc, 0xf4);

    v->gpr[RCX] = 10;
    CHECK(engine->enter(v, 1000) == EXIT_HLT && v->gpr[RAX] == 10); /* links it */
    v->gpr[RCX] = 10;
    v->gpr[RAX] = 0;
    v->rip = CODE + 2;
    cpu_set_eflags(v, FL_RF); /* ZF clear: taken */
    CHECK(engine->enter(v, 1000) == EXIT_HLT);
    CHECK(v->gpr[RCX] == 0 && v->gpr[RAX] == 10, "eax %u", (unsigned)v->gpr[RAX]);
    CHECK(!(cpu_get_eflags(v) & FL_RF));
    v->gpr[RAX] = 0;
    v->rip = CODE + 2;
    cpu_set_eflags(v, FL_RF | FL_ZF);
    CHECK(engine->enter(v, 1000) == EXIT_HLT);
    CHECK(v->gpr[RAX] == 0, "not taken, eax %u", (unsigned)v->gpr[RAX]);
    free_vcpu(v);
}

/* ---- operands against a segment's limit ------------------------------------------------------------------------------ */

/* xrstor [esi]; hlt: a compacted image of three components that ends beyond the limit, of which nothing, or all
 * is loaded. AMD's processors look as far as they load, Intel's at all of it. */
static void check_xrstor_limit(void)
{
    for (unsigned n = 0; n < 4; n++) {
        struct vcpu *v = START(32, 0x0f, 0xae, 0x2e, 0xf4);
        unsigned load = n & 1 ? 7 : 0;
        uint64_t header[2] = {load, 1ull << 63 | 7};

        if (!cpu_has(v, FEAT_AVX)) {
            free_vcpu(v);
            return;
        }
        memcpy(ram + DATA + 512, header, sizeof(header));
        v->amd = n & 2;
        v->cr4 |= CR4_OSXSAVE | CR4_OSFXSR;
        v->xcr0 = 7;
        v->seg[DS].limit = DATA + 640;
        v->seg[DS].ar &= ~(uint32_t)AR_G;
        cpu_update_mode(v);
        v->gpr[RSI] = DATA;
        v->gpr[RAX] = 7;
        v->gpr[RDX] = 0;
        /* no IDT: the #GP(0) of the whole image ends in a shutdown */
        CHECK(engine->enter(v, 1000) == (load || !v->amd ? EXIT_SHUTDOWN : EXIT_HLT), "load %u: exit %u", load, v->exit.reason);
        free_vcpu(v);
    }
}

int main(void)
{
    static const struct engine *const engines[] = {&engine_emulate, &engine_translate};

    for (unsigned n = 0; n < sizeof(engines) / sizeof(engines[0]); n++) {
        engine = engines[n];
        check_xrstor_limit();
        check_out();
        check_in();
        check_wrmsr();
        check_rdmsr();
        check_string_segments();
        check_linked_branch();
    }
    return report();
}
