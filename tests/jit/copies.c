/* Loops of which the translator makes several copies in a row: left in each of them by each of their branches, with what is
 * over at the ends of pages and of slices, and with flags that go from one iteration to the next. */
#include "inside.h"

/* In entries of the TLB of their own. */
enum { FROM_ADDR = 0x11000000, TO_ADDR = 0x12010000, GPA_FROM = 0x90000, GPA_TO = 0x98000, PAGES = 3 };
/* What ends or interrupts a loop when it is read. */
#define STOP 0x7777ull
#define STOP_FOR_GOOD 0xa000000000000002ull

static const uint8_t two_exits[] = {
    0x48, 0x8b, 0x06,                   /* 1: mov rax, [rsi] */
    0x48, 0x39, 0xd8,                   /* cmp rax, rbx */
    0x74, 0x10,                         /* je 2f */
    0x48, 0x01, 0x07,                   /* add [rdi], rax */
    0x48, 0x83, 0xc6, 0x08,             /* add rsi, 8 */
    0x48, 0x83, 0xc7, 0x08,             /* add rdi, 8 */
    0x48, 0xff, 0xc9,                   /* dec rcx */
    0x75, 0xe8,                         /* jne 1b */
    0x9c, 0x41, 0x5e,                   /* 2: pushfq; pop r14 */
    0xcc
};
static const uint8_t carry[] = {
    0xf8,                               /* clc */
    0x48, 0x8b, 0x06,                   /* 1: mov rax, [rsi] */
    0x48, 0x11, 0x07,                   /* adc [rdi], rax */
    0x48, 0x8d, 0x76, 0x08,             /* lea rsi, [rsi + 8] */
    0x48, 0x8d, 0x7f, 0x08,             /* lea rdi, [rdi + 8] */
    0x48, 0xff, 0xc9,                   /* dec rcx */
    0x75, 0xed,                         /* jne 1b */
    0x9c, 0x41, 0x5e,                   /* pushfq; pop r14 */
    0xcc
};
/* The inner loop is left by its end, for the outer one's start, and for good. */
static const uint8_t inner[] = {
    0x48, 0xff, 0xcd,                   /* 1: dec rbp */
    0x74, 0x2d,                         /* je 3f */
    0x48, 0x89, 0xca,                   /* mov rdx, rcx */
    0x48, 0x8b, 0x06,                   /* 2: mov rax, [rsi] */
    0x48, 0x11, 0x07,                   /* adc [rdi], rax */
    0x48, 0x8d, 0x76, 0x08,             /* lea rsi, [rsi + 8] */
    0x48, 0x8d, 0x7f, 0x08,             /* lea rdi, [rdi + 8] */
    0x48, 0x39, 0xd8,                   /* cmp rax, rbx */
    0x74, 0xe5,                         /* je 1b */
    0x4c, 0x39, 0xe0,                   /* cmp rax, r12 */
    0x74, 0x12,                         /* je 3f */
    0x48, 0xff, 0xca,                   /* dec rdx */
    0x75, 0xe3,                         /* jne 2b */
    0x48, 0x83, 0xc7, 0x10,             /* add rdi, 16 */
    0x49, 0xff, 0xc5,                   /* inc r13 */
    0x41, 0xf6, 0xc5, 0xff,             /* test r13b, 255 */
    0x75, 0xce,                         /* jne 1b */
    0x9c, 0x41, 0x5e,                   /* 3: pushfq; pop r14 */
    0xcc
};

/* Its first instruction writes all flags: nobody in it wants those that its last one leaves. */
static const uint8_t overwrites[] = {
    0x48, 0x39, 0xd8,                   /* 1: cmp rax, rbx */
    0x48, 0x89, 0x07,                   /* mov [rdi], rax */
    0x48, 0x8d, 0x7f, 0x08,             /* lea rdi, [rdi + 8] */
    0x48, 0xff, 0xc9,                   /* dec rcx */
    0x75, 0xf1,                         /* jne 1b */
    0xcc
};

struct loop {
    const char *name;
    const uint8_t *code;
    unsigned bytes, turns, at; /* iterations; where the streams begin in their pages */
    unsigned stop;             /* the word of the one that is read which is STOP */
    int32_t slice;
};

static uint64_t *word(uint64_t gpa) { return (uint64_t *)(emu_ram + gpa); }

static void begin(const struct loop *l)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};

    for (unsigned k = 0; k < PAGES * 512; k++) {
        word(GPA_FROM)[k] = k * 0x9e3779b97f4a7c15 | 1;
        word(GPA_TO)[k] = k * 0xd1b54a32d192ed03;
    }
    word(GPA_FROM)[l->at / 8 + l->stop] = STOP;
    word(GPA_FROM)[l->at / 8 + l->stop + 30] = STOP_FOR_GOOD;
    emu_code_put(CODE_ADDR, l->code, l->bytes);
    c.before.rip = CODE_ADDR;
    c.before.gpr[RSI] = FROM_ADDR + l->at;
    c.before.gpr[RDI] = TO_ADDR + l->at + 64;
    c.before.gpr[RCX] = l->turns;
    c.before.gpr[RBX] = STOP;
    c.before.gpr[R12] = STOP_FOR_GOOD;
    c.before.gpr[R13] = 1;
    c.before.gpr[RBP] = 20;
    c.before.gpr[RSP] = DATA_ADDR + 2048;
    emu_load(&c);
}

static uint64_t run(const struct loop *l, const struct engine *engine, struct state *s)
{
    uint64_t before = emu->instructions;

    begin(l);
    memset(s, 0, sizeof(*s));
    while (engine->enter(emu, l->slice) == EXIT_POLL)
        ;
    emu_store(s);
    emu_frame(s);
    s->rflags = 0; /* they are in R14 */
    return emu->instructions - before;
}

static void compare(const struct loop *l)
{
    static uint8_t to[PAGES * 4096];
    struct state want, got;
    uint64_t count = run(l, &engine_emulate, &want);

    memcpy(to, emu_ram + GPA_TO, sizeof(to));
    for (unsigned n = 0; n < 2; n++) { /* translated, and with all links */
        expect(l->name, run(l, &engine_translate, &got), count);
        expect(l->name, memcmp(&want, &got, sizeof(want)), 0);
        expect(l->name, memcmp(to, emu_ram + GPA_TO, sizeof(to)), 0);
    }
}

static void all_ways(const char *name, const uint8_t *code, unsigned bytes, unsigned turns_max)
{
    static const unsigned at[] = {0, 4096 - 8 * 13, 4096 - 8 * 18}, stops[] = {0, 9, 10, 11, 12, 27, 400};
    static const int32_t slices[] = {83, 149, 100000};

    for (unsigned turns = 1; turns < turns_max; turns++)
        for (unsigned n = 0; n < 3; n++)
            for (unsigned k = 0; k < sizeof(stops) / sizeof(stops[0]); k++) {
                struct loop l = {name, code, bytes, turns, at[n], stops[k], slices[(n + k + turns) % 3]};
                compare(&l);
            }
}

/* Whoever looks at the end of a slice, as lockstep does, finds the flags, too. */
static void flags_between(void)
{
    struct loop l = {"flags between slices", overwrites, sizeof(overwrites), 200, 0, 400, 0};

    for (int32_t slice = 100; slice < 180; slice += 7) {
        uint64_t count = emu->instructions, flags;
        begin(&l);
        engine_translate.enter(emu, slice);
        count = emu->instructions - count;
        flags = cpu_get_eflags(emu);
        begin(&l);
        while (count--) {
            emu->slow |= SLOW_SINGLE;
            engine_emulate.enter(emu, 1);
        }
        expect(l.name, flags, cpu_get_eflags(emu));
    }
}

int main(void)
{
    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    for (unsigned k = 0; k < PAGES; k++) {
        emu_map(FROM_ADDR + 4096 * k, GPA_FROM + 4096 * k, 0x67 | PTE_NX);
        emu_map(TO_ADDR + 4096 * k, GPA_TO + 4096 * k, 0x67 | PTE_NX);
    }
    for (unsigned exact = 0; exact < 2; exact++) {
        translate_at_once(emu, exact);
        all_ways("two exits", two_exits, sizeof(two_exits), 40);
        all_ways("carry", carry, sizeof(carry), 40);
        all_ways("inner", inner, sizeof(inner), 12);
        if (exact)
            flags_between();
    }
    return failures != 0;
}
