/* Flags that nobody looks at are not kept: random straight code of what writes all flags, some or perhaps none, and of what looks at
 * some, with probes in between that clobber them, must end as in the interpreter. The INT3 at its end looks at all. In 32-bit code
 * what is REX in the pieces is INC or DEC. */
#include "inside.h"

enum { CASES = 20000, LENGTH = 12, BUDGET = 1000 };

struct piece {
    uint8_t bytes[6], length;
};
static const struct piece pieces[] = {
    {{0x01, 0xf8}, 2},                   /* add eax, edi */
    {{0x39, 0xd6}, 2},                   /* cmp esi, edx */
    {{0x85, 0xc0}, 2},                   /* test eax, eax */
    {{0x11, 0xd0}, 2},                   /* adc eax, edx */
    {{0x83, 0xdf, 0x7f}, 3},             /* sbb edi, 127 */
    {{0x81, 0xd6, 0x00, 0x00, 0x00, 0x80}, 6}, /* adc esi, 0x80000000 */
    {{0xff, 0xc0}, 2},                   /* inc eax */
    {{0x41, 0xff, 0xc9}, 3},             /* dec r9d */
    {{0xfe, 0x03}, 2},                   /* inc byte [rbx] */
    {{0xd1, 0xc0}, 2},                   /* rol eax, 1 */
    {{0xc1, 0xce, 0x05}, 3},             /* ror esi, 5 */
    {{0x49, 0xc1, 0xc1, 0x03}, 4},       /* rol r9, 3: a register that is kept in memory */
    {{0xc0, 0x03, 0x02}, 3},             /* rol byte [rbx], 2 */
    {{0xc1, 0xc6, 0x20}, 3},             /* rol esi, 32: nothing */
    {{0xd3, 0xc2}, 2},                   /* rol edx, cl */
    {{0xd3, 0xe0}, 2},                   /* shl eax, cl */
    {{0xd3, 0x3b}, 2},                   /* sar dword [rbx], cl */
    {{0xc1, 0xe8, 0x03}, 3},             /* shr eax, 3 */
    {{0xd1, 0xd2}, 2},                   /* rcl edx, 1 */
    {{0xd3, 0xd8}, 2},                   /* rcr eax, cl */
    {{0x0f, 0xa3, 0xd0}, 3},             /* bt eax, edx */
    {{0x41, 0x0f, 0xba, 0xf9, 0x05}, 5}, /* btc r9d, 5 */
    {{0x0f, 0xa5, 0xd0}, 3},             /* shld eax, edx, cl */
    {{0xf8}, 1},                         /* clc */
    {{0xf9}, 1},                         /* stc */
    {{0xf5}, 1},                         /* cmc */
    {{0x9e}, 1},                         /* sahf */
    {{0x9f}, 1},                         /* lahf */
    {{0x0f, 0xc7, 0x0b}, 3},             /* cmpxchg8b [rbx] */
    {{0x8b, 0x13}, 2},                   /* mov edx, [rbx] */
    {{0x8b, 0x7b, 0x40}, 3},             /* mov edi, [rbx + 64] */
    {{0x89, 0x73, 0x08}, 3},             /* mov [rbx + 8], esi */
    {{0x49, 0x8b, 0x0c, 0x24}, 4},       /* mov rcx, [r12] */
    {{0x8d, 0x51, 0x01}, 3},             /* lea edx, [rcx + 1] */
};
enum { PIECES = sizeof(pieces) / sizeof(pieces[0]), SETCC = 16, CMOVCC = 16, JCC = 16, ALL = PIECES + SETCC + CMOVCC + JCC };

static uint64_t rnd(void) /* xorshift64 */
{
    static uint64_t x = 88172645463325252ull;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

/* One that carries and overflows often. */
static uint64_t random_integer(void)
{
    uint64_t x = rnd();

    switch (x >> 62) {
    case 0: return x;
    case 1: return x & 0xff;
    case 2: return 1ull << (x & 63);
    default: return -(x & 3);
    }
}

static unsigned put_piece(uint8_t *p, unsigned which)
{
    if (which < PIECES) {
        memcpy(p, pieces[which].bytes, pieces[which].length);
        return pieces[which].length;
    }
    which -= PIECES;
    if (which < SETCC)
        return memcpy(p, "\x0f\x90\xc2", 3), p[1] |= (uint8_t)which, 3; /* setcc dl */
    which -= SETCC;
    if (which < CMOVCC)
        return memcpy(p, "\x44\x0f\x40\x0b", 4), p[2] |= (uint8_t)which, 4; /* cmovcc r9d, [rbx] */
    p[0] = (uint8_t)(0x70 | (which - CMOVCC)); /* jcc over what follows */
    p[1] = (uint8_t)put_piece(p + 2, (unsigned)rnd() % (PIECES + SETCC + CMOVCC));
    return 2u + p[1];
}

static unsigned put_case(uint8_t *p)
{
    unsigned length = 0;

    for (unsigned n = 0; n < LENGTH; n++)
        length += put_piece(p + length, (unsigned)rnd() % ALL);
    p[length++] = 0xcc;
    return length;
}

static void run(const struct icase *c, const struct engine *engine, struct state *after, uint8_t *data)
{
    for (unsigned n = 0; n < 256; n++)
        emu_data[n] = (uint8_t)(n * 37);
    emu_load(c);
    while (engine->enter(emu, BUDGET) == EXIT_POLL)
        ;
    emu_store(after);
    memcpy(data, emu_data, 256);
}

static bool differs(const struct state *a, const struct state *b)
{
    return memcmp(a->gpr, b->gpr, sizeof(a->gpr)) || a->rip != b->rip || a->rflags != b->rflags || a->vector != b->vector;
}

int main(void)
{
    static struct icase c = {.ss = 0x2b, .ds = 0x2b, .es = 0x2b};
    uint8_t code[256], truth[256], data[256];

    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    for (unsigned n = 0; n < CASES && !failures; n++) {
        struct state want = {0}, got = {0};
        unsigned length = put_case(code);
        c.mode = n % 2 ? 32 : 64;
        c.cs = n % 2 ? 0x23 : 0x33;
        emu_code_put(CODE_ADDR, code, length);
        for (unsigned r = 0; r < 16; r++)
            c.before.gpr[r] = n % 2 ? (uint32_t)random_integer() : random_integer();
        c.before.rip = CODE_ADDR;
        c.before.rflags = rnd() & ARITH_FLAGS;
        c.before.gpr[RBX] = DATA_ADDR;
        c.before.gpr[R12] = DATA_ADDR + 128;
        c.before.gpr[RSP] = DATA_ADDR + 4096 - 64;
        run(&c, &engine_emulate, &want, truth);
        run(&c, &engine_translate, &got, data);
        if (!differs(&want, &got) && !memcmp(truth, data, sizeof(data)))
            continue;
        printf("case %u: flags %llx instead of %llx, rax %llx instead of %llx:", n, (unsigned long long)got.rflags,
               (unsigned long long)want.rflags, (unsigned long long)got.gpr[RAX], (unsigned long long)want.gpr[RAX]);
        for (unsigned k = 0; k < length; k++)
            printf(" %02x", code[k]);
        printf("\n");
        failures++;
    }
    return failures != 0;
}
