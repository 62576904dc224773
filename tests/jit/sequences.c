/* Random sequences of instructions, translated and interpreted from the same state: registers, memory, faults must agree.
 *
 * Pointers lie near the ends of pages, some of which are absent, read-only or alias another or the code itself; the code
 * changes itself, loops, calls, and crosses a page. Each case runs several times from other registers, so that linked
 * blocks and what was dropped by self-modification are met again. Arguments: cases, seed.
 */
#include "../isa/emu.h"

#include <inttypes.h>

enum { RUNS = 4, STEPS = 4000, ALIAS_ADDR = 0x30000000 /* a data page, the code, read-only data, nothing */ };

static uint64_t seed;
static bool exact; /* else the translator leaves other undefined flags than the interpreter: no multiplications */

static uint32_t random32(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 32);
}
static uint32_t below(uint32_t n) { return (uint32_t)((uint64_t)random32() * n >> 32); }
static bool chance(unsigned percent) { return below(100) < percent; }

/* ---- code ------------------------------------------------------------------------------------------------- */

static uint8_t code[CODE_BYTES], *out;
static const uint8_t scratch[] = {RAX, RCX, RDX, RDI, R8, R10, R11, R15}, pointers[] = {RBX, RSI, R9, R12, RBP, RSP};

static void put(unsigned b) { *out++ = (uint8_t)b; }
static void put_bytes(uint64_t value, unsigned n)
{
    memcpy(out, &value, n);
    out += n;
}
static unsigned any_scratch(void) { return chance(4) ? pointers[below(5)] : scratch[below(sizeof(scratch))]; }

/* [66] [REX] opcode ModRM of register `reg` and a random operand; size in bytes; no operand in memory when `regs`. */
static void put_modrm(unsigned map, unsigned opcode, unsigned reg, unsigned size, bool regs, bool lock)
{
    unsigned base = pointers[below(sizeof(pointers))], rm = any_scratch();
    bool memory = !regs && (lock || chance(65)), index = memory && chance(25), relative = memory && !index && chance(10);
    unsigned b = memory ? (relative ? 0 : base) : rm;
    unsigned rex = 0x40 | (size == 8 ? 8 : 0) | (reg & 8) >> 1 | (index ? 2 : 0) /* r14 */ | (b & 8) >> 3;
    int8_t disp = (int8_t)(below(40) * 4 - 80);

    if (lock && memory)
        put(0xf0);
    if (size == 2)
        put(0x66);
    if (rex != 0x40 || (size == 1 && chance(80)))
        put(rex);
    if (map)
        put(0x0f);
    if (map == 2)
        put(0x38);
    put(opcode);
    if (!memory) {
        put(0xc0 | (reg & 7) << 3 | (rm & 7));
    } else if (relative) {
        put((reg & 7) << 3 | 5);
        put_bytes((uint64_t)(DATA_ADDR + 4096 * below(2) + below(4000) - (CODE_ADDR + (out - code) + 8)), 4);
    } else if (index) {
        put(0x44 | (reg & 7) << 3);
        put(below(4) << 6 | 6 << 3 | (base & 7));
        put((uint8_t)disp);
    } else {
        put(0x40 | (reg & 7) << 3 | (base & 7));
        if ((base & 7) == 4)
            put(0x24);
        put((uint8_t)disp);
    }
}

static unsigned any_size(void)
{
    static const uint8_t sizes[] = {1, 2, 4, 4, 4, 8, 8, 8};
    return sizes[below(8)];
}

static void put_arithmetic(void)
{
    unsigned size = any_size(), wide = size > 1, r = any_scratch();

    switch (below(12)) {
    case 0:
    case 1: put_modrm(0, below(8) << 3 | (chance(50) ? 2 : 0) | wide, r, size, false, false); break;
    case 2:
        put_modrm(0, 0x80 | wide | (wide && chance(70) ? 2 : 0), below(8), size, true, false);
        put_bytes(random32(), out[-2] == 0x81 ? (size == 2 ? 2 : 4) : 1);
        break;
    case 3: put_modrm(0, 0x84 | wide, r, size, false, false); break;
    case 4: put_modrm(0, 0xfe | wide, below(2), size, false, chance(15)); break;
    case 5: put_modrm(0, 0xf6 | wide, 2 + below(exact ? 3 : 2), size, false, false); break;
    case 6: put_modrm(0, 0xd2 | wide, below(8), size, false, false); break;
    case 7:
        put_modrm(0, 0xc0 | wide, below(8), size, true, false);
        put(below(70));
        break;
    case 8: put_modrm(1, exact ? 0xaf : 0xb6, r, wide ? size : 4, false, false); break;
    case 9: put_modrm(1, (chance(50) ? 0xb6 : 0xbe) + below(2), r, wide ? size : 4, false, false); break;
    case 10: put_modrm(1, 0x90 + below(16), 0, 1, false, false); break;
    default: put_modrm(1, 0x40 + below(16), r, wide ? size : 4, false, false);
    }
}

static void put_atomic(void)
{
    static const uint8_t bit[] = {0xa3, 0xab, 0xb3, 0xbb};
    unsigned size = any_size(), wide = size > 1;
    bool lock = chance(40);

    switch (below(4)) {
    case 0: put_modrm(1, 0xc0 | wide, any_scratch(), size, false, lock); break;
    case 1: put_modrm(1, 0xb0 | wide, any_scratch(), size, false, lock); break;
    case 2: put_modrm(0, 0x86 | wide, any_scratch(), size, false, false); break;
    default: put_modrm(1, bit[below(4)], any_scratch(), wide ? size : 4, true, false);
    }
}

static void put_move(void)
{
    unsigned size = any_size(), wide = size > 1, r = any_scratch();

    switch (below(8)) {
    case 0:
    case 1:
    case 2: put_modrm(0, 0x8a | wide, r, size, false, false); break;
    case 3:
    case 4: put_modrm(0, 0x88 | wide, r, size, false, false); break;
    case 5:
        put(0x48 | r >> 3);
        put(0xb8 | (r & 7));
        put_bytes((uint64_t)random32() << 32 | random32(), 8);
        break;
    case 6: put_modrm(0, 0x63, r, 8, false, false); break;
    default: put_modrm(0, 0x8d, r, wide && size > 2 ? size : 8, false, false), out[-1] |= 0; break;
    }
}

static void put_stack(void)
{
    unsigned r = any_scratch();

    switch (below(6)) {
    case 0:
    case 1: put(0x40 | r >> 3), put(0x50 | (r & 7)); break;
    case 2:
    case 3: put(0x40 | r >> 3), put(0x58 | (r & 7)); break;
    case 4: put(0x6a), put(random32()); break;
    default: put(chance(50) ? 0x9c : 0x9d); /* PUSHF, POPF: TF by chance too */
        if (out[-1] == 0x9d)
            out[-1] = 0x9c;
    }
}

static void put_vector(void)
{
    static const uint8_t ops[] = {0x58, 0x59, 0x5c, 0x57, 0x54, 0xfe, 0xef, 0xd4, 0x6f, 0x2e};
    unsigned x = below(16);

    switch (below(7)) {
    case 0: put_modrm(1, 0x10, x, 4, false, false); break; /* MOVUPS */
    case 1: put_modrm(1, 0x11, x, 4, false, false); break;
    case 2: put_modrm(1, ops[below(5)], x, 4, true, false); break;
    case 3: put(0x66), put_modrm(1, ops[5 + below(3)], x, 4, true, false); break;
    case 4: put(0x66), put_modrm(1, 0x6e | (chance(50) ? 0x10 : 0), x, chance(50) ? 4 : 8, false, false); break; /* MOVD, MOVQ */
    case 5: put(0xf3), put_modrm(1, 0x2a, x, chance(50) ? 4 : 8, false, false); break; /* CVTSI2SS */
    default:
        put(0xc5), put(0xfd ^ (x & 15) << 3), put(0xfe), put(0xc0 | below(64)); /* VPADDD ymm */
    }
}

static void put_random(void);

static void put_flow(void)
{
    uint8_t *at;

    switch (below(5)) {
    case 0:
    case 1: /* over a few */
        put(0x70 | below(16));
        put(0);
        at = out;
        for (unsigned n = below(3); n--;)
            put_random();
        if (out - at < 128)
            at[-1] = (uint8_t)(out - at);
        break;
    case 2: /* a loop, R13 times */
        put_bytes(0xbd41, 2);
        put_bytes(1 + below(6), 4);
        at = out;
        for (unsigned n = 1 + below(3); n--;)
            put_random();
        put_bytes(0xcdff41, 3); /* dec r13d */
        put(0x0f), put(0x85);
        put_bytes((uint64_t)(at - out - 4), 4);
        break;
    case 3: /* call over a function, which returns */
        put(0xe8);
        put_bytes(5, 4);
        put(0xe9);
        put_bytes(0, 4);
        at = out;
        put_random();
        put(0xc3);
        *(guest_u32 *)(at - 4) = (uint32_t)(out - at);
        break;
    default: /* a later immediate is written: mov eax, imm32 */
        put(0xc7), put(0x05);
        put_bytes(5 + (chance(50) ? (uint64_t)(ALIAS_ADDR + 4096 - CODE_ADDR - (CODE_ADDR & 0xfff)) * 0 : 0), 4);
        put_bytes(random32(), 4);
        put_bytes(0x909090, 3);
        put(0x90);
        put(0xb8);
        put_bytes(random32(), 4);
    }
}

static void put_random(void)
{
    unsigned what = below(100);

    if (out - code > CODE_BYTES - 200)
        return;
    if (what < 34)
        put_arithmetic();
    else if (what < 42)
        put_atomic();
    else if (what < 68)
        put_move();
    else if (what < 78)
        put_stack();
    else if (what < 90)
        put_vector();
    else
        put_flow();
}

/* ---- a case ------------------------------------------------------------------------------------------------- */

static uint8_t before[RAM_BYTES], after[RAM_BYTES];
static struct state start, want, got;

static void random_state(uint64_t rip)
{
    memset(&start, 0, sizeof(start));
    for (unsigned n = 0; n < 16; n++)
        start.gpr[n] = chance(50) ? below(200) : (uint64_t)random32() << 32 | random32();
    for (unsigned n = 0; n < sizeof(pointers); n++) {
        static const uint64_t places[] = {DATA_ADDR, DATA_ADDR + 4096, DATA_ADDR + DATA_READONLY, ALIAS_ADDR, ALIAS_ADDR + 4096};
        uint64_t at = places[chance(80) ? below(2) : below(5)];
        start.gpr[pointers[n]] = at + (chance(30) ? 4096 - below(60) : 200 + below(3600));
    }
    start.gpr[RSP] = (DATA_ADDR + 4096 - 200 + below(400)) & (chance(90) ? ~7ull : ~0ull);
    start.gpr[R14] = below(32);
    start.gpr[R13] = 1;
    start.rflags = random32() & ARITH_FLAGS;
    for (unsigned n = 0; n < sizeof(start.ymm); n++)
        ((uint8_t *)start.ymm)[n] = (uint8_t)random32();
    memcpy(start.fx, (uint8_t[]){0x7f, 3}, 2);
    memcpy(start.fx + 24, (uint8_t[]){0x80, 0x1f, 0, 0, 0xff, 0xff}, 6);
    start.in_use = 6;
    start.rip = rip;
}

static void memory_put(const uint8_t *content)
{
    memcpy(emu_ram + GPA_TABLES, content + GPA_TABLES, RAM_BYTES - GPA_TABLES);
    for (unsigned k = 0; k < CODE_BYTES; k += 4096)
        codecache_written(emu, GPA_CODE + k, 4096);
}

static bool run(const struct engine *engine, struct state *s)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};
    enum cpu_exit_reason why = EXIT_POLL;

    memory_put(before);
    c.before = start;
    emu_load(&c);
    memset(s, 0, sizeof(*s));
    for (unsigned n = 0; why == EXIT_POLL && n < 4; n++)
        why = engine->enter(emu, STEPS);
    emu_store(s);
    if (why == EXIT_HLT)
        emu_frame(s);
    return why == EXIT_HLT;
}

static void describe(const char *what, unsigned number, uint64_t first)
{
    printf("case %u from seed %" PRIu64 ": %s differs; code at %" PRIx64 ":", number, first, what, start.rip);
    for (uint8_t *p = code + (start.rip - CODE_ADDR); p < out; p++)
        printf(" %02x", *p);
    printf("\n  vector %d/%d at %" PRIx64 "/%" PRIx64 ", flags %" PRIx64 "/%" PRIx64 "\n", want.vector, got.vector, want.rip,
           got.rip, want.rflags, got.rflags);
    for (unsigned n = 0; n < 16; n++)
        if (want.gpr[n] != got.gpr[n])
            printf("  r%u %" PRIx64 " start, %" PRIx64 " interpreted, %" PRIx64 " translated\n", n, start.gpr[n], want.gpr[n],
                   got.gpr[n]);
}

static const char *compare(void)
{
    uint64_t *flags = (uint64_t *)(emu_ram + GPA_SYSTEM + (STACK_ADDR - SYSTEM_ADDR) - 24);

    if (want.vector != got.vector)
        return "vector";
    if (!exact && want.vector != 3) { /* flags that nobody looks at any more */
        memcpy(flags, after + ((uint8_t *)flags - emu_ram), 8);
        got.rflags = want.rflags;
    }
    if (memcmp(&want, &got, sizeof(want)))
        return "state";
    return memcmp(after + GPA_DATA, emu_ram + GPA_DATA, RAM_BYTES - GPA_DATA) ? "memory" : NULL;
}

static unsigned one(unsigned number)
{
    uint64_t first = seed, rip;

    memset(code, 0xcc, sizeof(code));
    out = code + (chance(50) ? 64 : 4096 - below(120));
    rip = CODE_ADDR + (uint64_t)(out - code);
    for (unsigned n = 4 + below(30); n--;)
        put_random();
    out += 1; /* the INT3 */
    for (unsigned k = 0; k < 2 * 4096; k += 4)
        *(uint32_t *)(emu_data + k) = random32();
    memcpy(emu_code, code, sizeof(code));
    memcpy(before, emu_ram, RAM_BYTES);
    for (unsigned n = 0; n < RUNS; n++) {
        const char *differs = NULL;
        random_state(rip);
        bool ends = run(&engine_emulate, &want);
        memcpy(after, emu_ram, RAM_BYTES);
        /* a code page is dropped by memory_put(): once more without, so that what was linked is met again */
        bool same = run(&engine_translate, &got) == ends;
        if (!exact && memcmp(after + GPA_CODE, code, sizeof(code)))
            continue; /* the new instructions may look at flags that the old ones did not: decision 012 */
        if (!same)
            differs = "end";
        else if (ends)
            differs = compare();
        if (differs) {
            describe(differs, number, first);
            memory_put(before);
            return 1;
        }
    }
    memory_put(before);
    return 0;
}

int main(int argc, char **argv)
{
    unsigned cases = argc > 1 ? (unsigned)atoi(argv[1]) : 1000, failures = 0;

    seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    emu_create();
    emu_map(ALIAS_ADDR, GPA_DATA + 4096, 0x67 | PTE_NX);
    emu_map(ALIAS_ADDR + 4096, GPA_CODE, 0x67 | PTE_NX);
    if (!emu->translator && translate_create(emu))
        return 3;
    for (unsigned k = 0; k < 3; k++) {
        exact = k == 1;
        translate_at_once(emu, exact);
        if (k == 2)
            translate_without_bmi2(emu);
        for (unsigned n = 0; n < cases && failures < 3; n++)
            failures += one(n);
    }
    printf("%u sequences, %u times each, in three ways: %u differ\n", cases, RUNS, failures);
    return failures != 0;
}
