/* Random sequences of instructions, translated and interpreted from the same state: registers, memory, faults must agree.
 * 64-bit code, and 32-bit code with addresses that wrap, FS and GS with bases and limits, segment loads.
 *
 * Pointers lie near the ends of pages, some of which are absent, read-only or alias another or the code itself; the code
 * changes itself, loops, calls, and crosses a page. Each case runs several times from other registers, so that linked
 * blocks and what was dropped by self-modification are met again; and with a page of data that is gone without a word, which must
 * stop both before the same instruction. Arguments: cases, seed.
 */
#include "gone.h"

#include <inttypes.h>

enum { RUNS = 4, STEPS = 8000 /* REP LODS through two pages */ };
enum { ALIAS_ADDR = 0x30000000 /* a data page, the code, read-only data, nothing */ };
enum { COUNTER_ADDR = DATA_ADDR + 0x40, GS_LIMIT = DATA_ADDR + 4096 + 2000 };

#define TOP_ADDR 0xfffff000ull /* data there and at 0: for addresses of 32 bits that wrap */

static uint64_t seed;
static unsigned bits; /* of the code */
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
static bool strings, changed; /* there are string instructions; the code is not what it was at the start */

/* Repetitions are counted in pieces, which are not the same; and changed code may have some. */
static bool is_counted(void) { return !strings && !changed; }
static const uint8_t scratch64[] = {RAX, RCX, RDX, RDI, R8, R10, R11, R15}, pointers64[] = {RBX, RSI, R9, R12, RBP, RSP};
static const uint8_t scratch32[] = {RAX, RCX, RDX}, pointers32[] = {RBX, RSI, RBP, RSP};
enum { INDEX64 = R14, INDEX32 = RDI };

static void put(unsigned b) { *out++ = (uint8_t)b; }
static void put_bytes(uint64_t value, unsigned n)
{
    memcpy(out, &value, n);
    out += n;
}
static unsigned any_pointer(void) { return bits == 64 ? pointers64[below(sizeof(pointers64))] : pointers32[below(sizeof(pointers32))]; }
static unsigned any_scratch(void)
{
    if (bits == 64)
        return chance(4) ? pointers64[below(5)] : scratch64[below(sizeof(scratch64))];
    return chance(4) ? pointers32[below(3)] : scratch32[below(sizeof(scratch32))];
}

/* [66] [REX] opcode ModRM of register `reg` and a random operand; size in bytes; no operand in memory when `regs`. */
static void put_modrm(unsigned map, unsigned opcode, unsigned reg, unsigned size, bool regs, bool lock)
{
    unsigned base = any_pointer(), rm = any_scratch();
    bool memory = !regs && (lock || chance(65)), index = memory && chance(25), relative = memory && !index && chance(10);
    unsigned b = memory ? (relative ? 0 : base) : rm;
    unsigned rex = 0x40 | (size == 8 ? 8 : 0) | (reg & 8) >> 1 | (index ? 2 : 0) /* r14 */ | (b & 8) >> 3;
    unsigned number = bits == 64 ? INDEX64 & 7 : INDEX32;
    int8_t disp = (int8_t)(below(40) * 4 - 80);

    if (lock && memory)
        put(0xf0);
    if (size == 2)
        put(0x66);
    if (memory && chance(12))
        put(chance(50) ? 0x64 : 0x65); /* FS, GS */
    if (memory && bits == 64 && chance(5))
        put(0x67);
    if (bits == 64 && (rex != 0x40 || (size == 1 && chance(80))))
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
        put_bytes((uint64_t)(DATA_ADDR + 4096 * below(2) + below(4000) - (bits == 64 ? CODE_ADDR + (out - code) + 8 : 0)), 4);
    } else if (index) {
        put(0x44 | (reg & 7) << 3);
        put(below(4) << 6 | number << 3 | (base & 7));
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
    return sizes[below(bits == 64 ? 8 : 5)];
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

    switch (below(6)) {
    case 0: put_modrm(1, 0xc0 | wide, any_scratch(), size, false, lock); break;
    case 1: put_modrm(1, 0xb0 | wide, any_scratch(), size, false, lock); break;
    case 2: put_modrm(0, 0x86 | wide, any_scratch(), size, false, false); break;
    case 3: put_modrm(1, 0xc7, 1, bits == 64 && chance(70) ? 8 : 4, false, true); break; /* CMPXCHG8B, CMPXCHG16B */
    default: put_modrm(1, bit[below(4)], any_scratch(), wide ? size : 4, chance(40), lock && chance(50));
    }
}

/* What 64-bit code does not have, or has in another form. */
static void put_legacy(unsigned r)
{
    static const uint16_t selectors[] = {0x2b, 0x2b, 0x2b, 0, 0x23, LDT_DATA32, LDT_SHORT, LDT_DOWN32};

    switch (below(8)) {
    case 0:
    case 1: put(0x40 | below(2) << 3 | r); break; /* INC, DEC */
    case 2: put(0x40 | below(2) << 3 | any_pointer()); break;
    case 3:
    case 4: /* MOV moffs */
        if (chance(50))
            put(chance(50) ? 0x64 : 0x65);
        put(0xa0 | below(4));
        put_bytes(chance(80) ? DATA_ADDR + below(8200) : 0u - below(80), 4);
        break;
    case 5:
        put(0x82), put(0xc0 | below(64)); /* Group 1, bytes: an alias */
        put(random32());
        break;
    case 6: put(0x60 | below(2)); break; /* PUSHAD, POPAD */
    default:
        if (chance(60))
            return;
        put_bytes(0xb866, 2); /* mov ax, imm16; mov sreg, ax; */
        put_bytes(selectors[below(8)], 2);
        unsigned s = chance(30) ? (chance(50) ? ES : DS) : chance(50) ? FS : GS;
        put(0x8e), put(0xc0 | s << 3);
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
        if (bits == 64)
            put(0x48 | r >> 3);
        put(0xb8 | (r & 7));
        put_bytes((uint64_t)random32() << 32 | random32(), bits / 8);
        break;
    case 6:
        if (bits == 64)
            put_modrm(0, 0x63, r, 8, false, false);
        else
            put_legacy(r);
        break;
    default: put_modrm(0, 0x8d, r, wide && size > 2 ? size : bits / 8, false, false);
    }
}

static void put_stack(void)
{
    unsigned r = any_scratch();

    switch (below(8)) {
    case 0:
    case 1:
    case 2:
    case 3:
        if (bits == 64)
            put(0x40 | r >> 3);
        put((chance(50) ? 0x50 : 0x58) | (r & 7)); /* PUSH, POP */
        break;
    case 4: put(0x6a), put(random32()); break;
    case 5: put_modrm(0, 0xff, 6, 4, false, false); break; /* PUSH r/m */
    case 6: put(chance(20) ? 0xc9 : 0x90); break; /* LEAVE */
    default: put(0x9c); /* PUSHF */
    }
}

/* MOV: copies a pointer. */
static void put_pointer(unsigned to)
{
    unsigned from = any_pointer();

    if (bits == 64)
        put(0x48 | (from & 8) >> 1);
    put(0x89), put(0xc0 | (from & 7) << 3 | to);
}

static void put_string(void)
{
    static const uint8_t ops[] = {0xa4, 0xa4, 0xaa, 0xaa, 0xac, 0xa6, 0xae};
    unsigned size = any_size();
    bool down = chance(8);

    put_pointer(RDI);
    if (chance(70)) { /* mov ecx, imm32 */
        put(0xb9);
        put_bytes(chance(95) ? below(chance(90) ? 40 : 1500) : random32(), 4);
    }
    if (down)
        put(0xfd); /* STD */
    if (chance(10))
        put(chance(50) ? 0x64 : 0x65);
    if (size == 2)
        put(0x66);
    if (chance(75))
        put(chance(85) ? 0xf3 : 0xf2);
    if (size == 8)
        put(0x48);
    put(ops[below(sizeof(ops))] | (size > 1));
    if (down)
        put(0xfc);
}

static void put_vector(void)
{
    static const uint8_t ops[] = {0x58, 0x59, 0x5c, 0x57, 0x54, 0xfe, 0xef, 0xd4, 0x6f, 0x2e};
    unsigned x = below(bits == 64 ? 16 : 8), size = bits == 64 && chance(50) ? 8 : 4;

    switch (below(7)) {
    case 0: put_modrm(1, 0x10, x, 4, false, false); break; /* MOVUPS */
    case 1: put_modrm(1, 0x11, x, 4, false, false); break;
    case 2: put_modrm(1, ops[below(5)], x, 4, true, false); break;
    case 3: put(0x66), put_modrm(1, ops[5 + below(3)], x, 4, true, false); break;
    case 4: put(0x66), put_modrm(1, 0x6e | (chance(50) ? 0x10 : 0), x, size, false, false); break; /* MOVD, MOVQ */
    case 5: put(0xf3), put_modrm(1, 0x2a, x, size, false, false); break; /* CVTSI2SS */
    default:
        put(0xc5), put(0xfd ^ (x & 15) << 3), put(0xfe), put(0xc0 | below(64)); /* VPADDD ymm */
    }
}

static void put_x87(void)
{
    static const uint16_t others[] = {
        0xe8d9 /* FLD1 */, 0xeed9 /* FLDZ */, 0xe0df /* FNSTSW AX */, 0x770f /* EMMS */, 0xfcd9 /* FRNDINT */
    };
    static const uint8_t mmx[] = {0xfe, 0xef, 0xd4, 0x6f, 0x6e, 0x7e, 0x7f};

    switch (below(8)) {
    case 0:
    case 1:
    case 2: put_modrm(0, 0xd8 | below(8), below(8), 4, false, false); break;
    case 3: put_modrm(0, 0xd9 | (chance(50) ? 4 : 0), below(4), 4, false, false); break; /* FLD, FST */
    case 4: put(0xd8 | below(8)), put(0xc0 | below(64)); break;
    case 5: put_bytes(others[below(5)], 2); break;
    case 6: put_modrm(0, 0xd9, chance(60) ? 7 : 5, 4, false, false); break; /* FNSTCW, FLDCW */
    default: put_modrm(1, mmx[below(7)], below(8), 4, false, false);
    }
}

static void put_random(void);

/* A pointer, or the index, goes on by a constant or by a register. */
static void put_advance(void)
{
    static const int8_t steps[] = {1, 2, 3, 4, 8, 12, 16, 16, 32, 64, 100, -1, -4, -8, -16, -64};
    unsigned r = chance(80) ? pointers64[below(sizeof(pointers64) - 1)] : INDEX64;
    int8_t by = steps[below(sizeof(steps))];

    put(0x48 | r >> 3);
    switch (below(5)) {
    case 0: put(0x83), put(0xc0 | (r & 7)), put((uint8_t)by); break; /* ADD */
    case 1: put(0x83), put(0xe8 | (r & 7)), put((uint8_t)by); break; /* SUB */
    case 2: put(0xff), put((chance(50) ? 0xc0 : 0xc8) | (r & 7)); break; /* INC, DEC */
    case 3: /* LEA r, [r + by] */
        out[-1] |= (r & 8) >> 1;
        put(0x8d), put(0x40 | (r & 7) << 3 | (r & 7));
        if ((r & 7) == 4)
            put(0x24);
        put((uint8_t)by);
        break;
    default: { /* ADD r, register */
        unsigned by = (uint8_t[]){INDEX64, RDI, R8, R11}[below(4)];
        out[-1] |= (by & 8) >> 1;
        put(0x01), put(0xc0 | (by & 7) << 3 | (r & 7));
    }
    }
}

/* The body of a loop over memory: n instructions, and one that advances. */
static void put_body(unsigned n, unsigned x)
{
    for (unsigned k = below(n); n--;) {
        unsigned what = below(100);
        if (n == k && chance(80))
            put_advance();
        if (what < 35)
            put_move();
        else if (what < 60)
            put_arithmetic();
        else if (what < 80)
            put_vector();
        else if (what < 95) /* MOVAPS, ADDPS */
            put_modrm(1, (uint8_t[]){0x28, 0x29, 0x58}[below(3)], x, 4, false, false);
        else
            put_atomic();
    }
}

static void put_counter(unsigned opcode, unsigned digit)
{
    put(opcode), put(digit << 3 | 4), put(0x25);
    put_bytes(COUNTER_ADDR, 4);
}

/* A loop of a few iterations, counted in memory or, when nothing else is to be in it, in RCX. */
static void put_inner_walk(unsigned x)
{
    bool copied = chance(50), in_memory = chance(70);
    unsigned count = 1 + below(chance(80) ? 6 : 40);
    uint8_t *at;

    if (copied) /* lea rbx or rsi, [another]: from the same place each time */
        put(0x48), put(0x8d), put(0x45 | (chance(50) ? 3 : 6) << 3), put(4 * below(20));
    if (in_memory)
        put_counter(0xc7, 0);
    else
        put(0xb9);
    put_bytes(count, 4);
    at = out;
    if (in_memory) {
        put_body(1 + below(3), x);
        put_advance();
        put_counter(0xff, 1);
    } else { /* add rsi, 8; mov [rsi], rcx; dec ecx */
        put_bytes(0x894808c68348, 6), put(0x0e), put_bytes(0xc9ff, 2);
    }
    put(0x0f), put(0x85);
    put_bytes((uint64_t)(at - out - 4), 4);
}

/* A loop over memory, R13 times, perhaps with another in it: what jit/strip.c and jit/nest.c have a second version for. */
static void put_walk(void)
{
    unsigned aligned = pointers64[below(sizeof(pointers64) - 1)], x = below(16);
    bool nest = chance(40);
    uint8_t *at, *leave = NULL;

    if (chance(40)) { /* and aligned, -16 */
        put(0x48 | aligned >> 3), put(0x83), put(0xe0 | (aligned & 7)), put(0xf0);
    }
    put_bytes(0xbd41, 2);
    put_bytes(1 + below(nest ? 60 : chance(50) ? 300 : 12), 4);
    at = out;
    if (!nest || chance(50))
        put_body(1 + below(nest ? 2 : 4), x);
    if (nest)
        put_inner_walk(x);
    if (chance(30)) {
        put(0x70 | below(16)), put(0);
        leave = out;
    }
    if (!nest || chance(50))
        put_advance();
    put_bytes(0xcdff41, 3); /* dec r13d */
    put(0x0f), put(0x85);
    put_bytes((uint64_t)(at - out - 4), 4);
    if (leave)
        leave[-1] = (uint8_t)(out - leave);
}

static void put_flow(void)
{
    uint8_t *at;

    switch (below(bits == 64 ? 7 : 5)) {
    case 5:
    case 6: put_walk(); break;
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
    case 2: /* a loop, R13 times, in 32-bit code counted in memory */
        put_bytes(bits == 64 ? 0xbd41 : 0x05c7, 2);
        if (bits == 32)
            put_bytes(COUNTER_ADDR, 4);
        put_bytes(1 + below(6), 4);
        at = out;
        for (unsigned n = 1 + below(3); n--;)
            put_random();
        if (bits == 64) {
            put_bytes(0xcdff41, 3); /* dec r13d */
        } else {
            put_bytes(0x0dff, 2);
            put_bytes(COUNTER_ADDR, 4);
        }
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
        put_bytes(bits == 64 ? 5 : CODE_ADDR + (uint64_t)(out - code) + 13, 4);
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
    else if (what < 76)
        put_stack();
    else if (what < 80)
        put_string(), strings = true;
    else if (what < 88)
        put_vector();
    else if (what < 93)
        put_x87();
    else
        put_flow();
}

/* ---- a case ------------------------------------------------------------------------------------------------- */

static uint8_t before[RAM_BYTES], after[RAM_BYTES];
static struct state start, want, got;
static uint64_t want_count, got_count;

static void random_state(uint64_t rip)
{
    memset(&start, 0, sizeof(start));
    for (unsigned n = 0; n < 16; n++)
        start.gpr[n] = chance(50) ? below(200) : (uint64_t)random32() << 32 | random32();
    for (unsigned n = 0; n < (bits == 64 ? sizeof(pointers64) : sizeof(pointers32)); n++) {
        static const uint64_t places[] = {DATA_ADDR, DATA_ADDR + 4096, DATA_ADDR + DATA_READONLY, ALIAS_ADDR, ALIAS_ADDR + 4096, TOP_ADDR};
        uint64_t at = places[chance(80) ? below(2) : below(bits == 64 ? 5 : 6)];
        at += chance(30) ? 4096 - below(60) : 200 + below(3600);
        start.gpr[bits == 64 ? pointers64[n] : pointers32[n]] = bits == 64 ? at : (uint32_t)at; /* 4 GiB is 0 */
    }
    start.gpr[RSP] = (DATA_ADDR + 4096 - 200 + below(400)) & (chance(90) ? ~7ull : ~0ull);
    if (bits == 32 && chance(5))
        start.gpr[RSP] = below(32); /* a stack that grows down from 0 */
    start.gpr[bits == 64 ? INDEX64 : INDEX32] = below(32);
    start.gpr[R13] = 1;
    start.rflags = random32() & ARITH_FLAGS;
    for (unsigned n = 0; n < sizeof(start.ymm); n++)
        ((uint8_t *)start.ymm)[n] = (uint8_t)random32();
    for (unsigned n = 0, upper = below(3); n < 16 && upper < 2; n++) /* all upper halves zero; all but one */
        memset(start.ymm[n] + 16, 0, n == 5 && upper ? 0 : 16);
    memcpy(start.fx, (uint8_t[]){0x7f, 3}, 2);
    memcpy(start.fx + 24, (uint8_t[]){0x80, 0x1f, 0, 0, 0xff, 0xff}, 6);
    start.in_use = 6;
    start.fs_base = chance(50) && bits == 32 ? 0u - 4096 + below(64) : below(4096);
    start.gs_base = chance(50) ? 64 : 0;
    start.rip = rip;
}

/* What is mapped, and by what: all that a sequence can change. */
static struct part {
    uint64_t gpa;
    size_t bytes;
} parts[] = {{GPA_TABLES, 0}, {GPA_DATA, DATA_BYTES}, {GPA_CODE, CODE_BYTES}, {GPA_SYSTEM, 5 * 4096}};
enum { PARTS = sizeof(parts) / sizeof(parts[0]) };

static void find_parts(void) /* the tables end with the last that has an entry */
{
    for (uint64_t gpa = GPA_TABLES; gpa < GPA_DATA; gpa += 8)
        if (*(uint64_t *)(emu_ram + gpa))
            parts[0].bytes = (gpa & ~0xfffull) + 4096 - GPA_TABLES;
}

static void parts_copy(uint8_t *to, const uint8_t *from)
{
    for (const struct part *p = parts; p < parts + PARTS; p++)
        memcpy(to + p->gpa, from + p->gpa, p->bytes);
}

static void memory_put(const uint8_t *content)
{
    parts_copy(emu_ram, content);
    for (unsigned k = 0; k < CODE_BYTES; k += 4096)
        codecache_written(emu, GPA_CODE + k, 4096);
}

/* In 32-bit code thread-local storage lies behind FS, at the other side of 4 GiB, and GS ends in the middle of a page. */
static void segments(void)
{
    uint32_t plain = AR_P | AR_S | AR_DPL | AR_WRITABLE | AR_ACCESSED | AR_DB;

    emu->seg[FS] = (struct segment){.base = start.fs_base, .limit = UINT32_MAX, .ar = plain, .sel = 0x63};
    emu->seg[GS] = (struct segment){.base = start.gs_base, .limit = GS_LIMIT, .ar = plain, .sel = 0x6b};
    cpu_update_mode(emu);
}

static void load(void)
{
    static struct icase c = {.ss = 0x2b, .ds = 0x2b, .es = 0x2b};

    memory_put(before);
    c.before = start;
    c.cs = bits == 64 ? 0x33 : 0x23;
    emu_load(&c);
    segments();
}

/* -> it has come to its end. *count: instructions */
static bool go_on(const struct engine *engine, unsigned slices, struct state *s, uint64_t *count)
{
    enum cpu_exit_reason why = EXIT_POLL;

    memset(s, 0, sizeof(*s));
    *count = 0u - emu->instructions;
    for (unsigned n = 0; why == EXIT_POLL && n < slices && !stopped; n++)
        why = engine->enter(emu, STEPS);
    *count += emu->instructions;
    emu_store(s);
    if (why == EXIT_HLT)
        emu_frame(s);
    else
        s->rip = emu->rip;
    return why == EXIT_HLT;
}

static bool run(const struct engine *engine, unsigned slices, struct state *s, uint64_t *count)
{
    load();
    return go_on(engine, slices, s, count);
}

static void describe(const char *what, unsigned number, uint64_t first)
{
    printf("%u-bit case %u from seed %" PRIu64 ": %s differs; code at %" PRIx64 ":", bits, number, first, what, start.rip);
    for (uint8_t *p = code + (start.rip - CODE_ADDR); p < out; p++)
        printf(" %02x", *p);
    printf("\n  vector %d/%d at %" PRIx64 "/%" PRIx64 ", flags %" PRIx64 "/%" PRIx64 "\n", want.vector, got.vector, want.rip,
           got.rip, want.rflags, got.rflags);
    for (unsigned n = 0; n < 160; n++)
        if (want.fx[n] != got.fx[n])
            printf("  fx[%u] %x start, %x interpreted, %x translated\n", n, start.fx[n], want.fx[n], got.fx[n]);
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
    if (want_count != got_count && is_counted())
        return "number of instructions";
    for (const struct part *p = parts + 1; p < parts + PARTS; p++)
        if (memcmp(after + p->gpa, emu_ram + p->gpa, p->bytes))
            return "memory";
    return NULL;
}

/* ---- a page that is gone ----------------------------------------------------------------------------------------------- */

/* -> it was stopped */
static bool run_without(const struct engine *engine, uint8_t *page, struct state *s, uint64_t *count)
{
    load();
    gone_begin(page);
    go_on(engine, 6, s, count);
    gone_end();
    return stopped;
}

/* What ends as `want` when the page is there: does it stop where the interpreter does, and end like that when it goes on? */
static const char *try_without(uint8_t *page)
{
    static uint8_t here[2 * 4096];
    static struct state end;
    const char *differs = NULL;
    uint64_t count, more;
    bool stops;

    end = want;
    stops = run_without(&engine_emulate, page, &want, &count);
    memcpy(here, emu_data, sizeof(here));
    stopped = 0;
    load(); /* what it will touch is known to the TLB */
    go_on(&engine_translate, 6, &got, &more);
    if (run_without(&engine_translate, page, &got, &got_count) != stops)
        return "stopping";
    if (!exact)
        got.rflags = want.rflags;
    if (stops && (memcmp(&want, &got, sizeof(want)) || memcmp(here, emu_data, sizeof(here))))
        differs = "state without a page";
    else if (stops && got_count != count && is_counted())
        differs = "number of instructions without a page";
    if (differs || !stops)
        return differs;
    stopped = 0;
    want = end;
    go_on(&engine_translate, 6, &got, &more);
    got_count += more;
    differs = compare();
    return differs ? "end behind a page that was gone" : NULL;
}

static unsigned one(unsigned number)
{
    uint64_t first = seed, rip;

    strings = false;
    memset(code, 0xcc, sizeof(code));
    out = code + (chance(50) ? 64 : 4096 - below(120));
    rip = CODE_ADDR + (uint64_t)(out - code);
    for (unsigned n = 4 + below(30); n--;)
        put_random();
    out += 1; /* the INT3 */
    for (unsigned k = 0; k < 2 * 4096; k += 4)
        *(uint32_t *)(emu_data + k) = random32();
    memcpy(emu_code, code, sizeof(code));
    parts_copy(before, emu_ram);
    for (unsigned n = 0; n < RUNS; n++) {
        const char *differs = NULL;
        random_state(rip);
        bool ends = run(&engine_emulate, 4, &want, &want_count);
        parts_copy(after, emu_ram);
        /* a code page is dropped by memory_put(): once more without, so that what was linked is met again */
        bool ended = run(&engine_translate, 6, &got, &got_count); /* its slices are not as long: a repeated instruction costs by page */
        changed = memcmp(after + GPA_CODE, code, sizeof(code));
        if (!exact && changed)
            continue; /* the new instructions may look at flags that the old ones did not: decision 012 */
        if (ends)
            differs = ended ? compare() : "end";
        if (ends && !differs && !(changed && strings)) /* stopped in its middle, a string that writes over itself is read anew */
            differs = try_without(emu_data + 4096 * below(2));
        if (differs) {
            describe(differs, number, first);
            memory_put(before);
            return 1;
        }
    }
    memory_put(before);
    if (!memcmp(before, emu_ram, RAM_BYTES))
        return 0;
    describe("memory that nothing maps", number, first);
    return 1;
}

int main(int argc, char **argv)
{
    unsigned cases = argc > 1 ? (unsigned)atoi(argv[1]) : 1000, failures = 0;

    seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    emu_create();
    emu_map(ALIAS_ADDR, GPA_DATA + 4096, 0x67 | PTE_NX);
    emu_map(ALIAS_ADDR + 4096, GPA_CODE, 0x67 | PTE_NX);
    emu_map(TOP_ADDR, GPA_DATA, 0x67 | PTE_NX);
    emu_map(0, GPA_DATA + 4096, 0x67 | PTE_NX);
    emu_ldt();
    find_parts();
    memcpy(before, emu_ram, RAM_BYTES);
    if (!emu->translator && translate_create(emu))
        return 3;
    for (unsigned k = 0; k < 3; k++) {
        exact = k == 1;
        translate_at_once(emu, exact);
        if (k == 2)
            translate_without_bmi2(emu);
        for (unsigned n = 0; n < cases && failures < 3; n++) {
            bits = n % 2 ? 32 : 64;
            failures += one(n);
        }
    }
    printf("%u sequences, %u times each, in three ways: %u differ\n", cases, RUNS, failures);
    return failures != 0;
}
