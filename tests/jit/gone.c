/* Memory that is gone without a word under loops that have a second version (jit/strip.c, jit/nest.c): the guest stops before
 * the instruction that wants it, as interpreted, and goes on there when it is back; also when it goes at any moment. No arguments. */
#include "gone.h"

#include <sys/time.h>

enum { AREAS = 4, AREA_ADDR = 0x11000000, GPA_AREAS = 0x90000, AREA_PAGES = 3 };
enum { BUDGET = 5000, SLICES = 40, TRIALS = 40, SHORTEST_US = 20, LONGEST_US = 200 };

static const uint8_t strip[] = {
    0x48, 0x8b, 0x0e,                   /* 1: mov rcx, [rsi] */
    0x48, 0x11, 0xc8,                   /* adc rax, rcx */
    0x4c, 0x8b, 0x46, 0x08,             /* mov r8, [rsi + 8]: flags are in the host alone */
    0x4c, 0x11, 0xc2,                   /* adc rdx, r8 */
    0x48, 0x89, 0x07,                   /* mov [rdi], rax */
    0x48, 0x8d, 0x76, 0x10,             /* lea rsi, [rsi + 16] */
    0x48, 0x8d, 0x7f, 0x08,             /* lea rdi, [rdi + 8] */
    0x41, 0xff, 0xcc,                   /* dec r12d */
    0x75, 0xe3,                         /* jne 1b */
    0xcc
};
static const uint8_t nest[] = {
    0x49, 0x89, 0xf3,                   /* 1: mov r11, rsi */
    0x48, 0x89, 0xfa,                   /* mov rdx, rdi */
    0x4d, 0x8b, 0x0e,                   /* mov r9, [r14]: before the inner loop */
    0x49, 0x83, 0xc6, 0x08,             /* add r14, 8 */
    0x48, 0x8b, 0x02,                   /* 2: mov rax, [rdx] */
    0x49, 0x03, 0x03,                   /* add rax, [r11] */
    0x49, 0x89, 0x03,                   /* mov [r11], rax */
    0x48, 0x83, 0xc2, 0x08,             /* add rdx, 8 */
    0x49, 0x83, 0xc3, 0x08,             /* add r11, 8 */
    0x4c, 0x3b, 0x5c, 0x24, 0xf0,       /* cmp r11, [rsp - 16] */
    0x75, 0xe8,                         /* jne 2b */
    0x48, 0x89, 0x45, 0x00,             /* mov [rbp], rax: behind it */
    0x48, 0x83, 0xc5, 0x08,             /* add rbp, 8 */
    0x48, 0x83, 0x44, 0x24, 0xf0, 0x40, /* add qword [rsp - 16], 64 */
    0x48, 0x83, 0xc6, 0x40,             /* add rsi, 64 */
    0x48, 0x83, 0xc7, 0x40,             /* add rdi, 64 */
    0x41, 0xff, 0xcc,                   /* dec r12d */
    0x75, 0xc0,                         /* jne 1b */
    0xcc
};
static const struct loop {
    const char *name;
    const uint8_t *code;
    unsigned bytes, rounds, step[AREAS]; /* that a round goes on: RSI, RDI, R14, RBP */
} loops[] = {{"strip", strip, sizeof(strip), 150, {16, 8, 0, 0}}, {"nest", nest, sizeof(nest), 50, {64, 64, 8, 8}}};

static uint64_t address(unsigned area) { return AREA_ADDR + area * 0x101000ull; /* in entries of the TLB of their own */ }
static uint8_t *page_of(unsigned area, unsigned page) { return emu_ram + GPA_AREAS + (area * AREA_PAGES + page) * 4096; }

static struct outcome {
    struct state s;
    uint64_t rip, count;
    uint8_t areas[AREAS * AREA_PAGES * 4096];
} want, got, end;

/* Each area's second page begins after `rounds` rounds, if the loop goes through it at all; 0: never. */
static void begin(const struct loop *l, unsigned rounds)
{
    static const uint8_t pointers[AREAS] = {RSI, RDI, R14, RBP};
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};
    unsigned bytes = rounds ? 0 : 4096;

    for (unsigned n = 0; n < sizeof(want.areas); n += 8)
        *(uint64_t *)(page_of(0, 0) + n) = n * 0x9e3779b97f4a7c15ull;
    memset(&c.before, 0, sizeof(c.before));
    for (unsigned k = 0; k < AREAS; k++)
        c.before.gpr[pointers[k]] = address(k) + 4096 - rounds * l->step[k] - bytes;
    c.before.gpr[RSP] = DATA_ADDR + 2048;
    c.before.gpr[R12] = rounds ? l->rounds : UINT32_MAX;
    c.before.rip = CODE_ADDR;
    *(uint64_t *)(emu_data + 2048 - 16) = c.before.gpr[RSI] + 64;
    emu_load(&c);
}

static void go(const struct engine *engine, struct outcome *o)
{
    enum cpu_exit_reason why = EXIT_POLL;

    memset(o, 0, sizeof(*o));
    o->count = 0u - emu->instructions;
    for (unsigned n = 0; why == EXIT_POLL && n < SLICES && !stopped; n++)
        why = engine->enter(emu, BUDGET);
    o->count += emu->instructions;
    emu_store(&o->s);
    o->rip = emu->rip;
    if (why == EXIT_HLT)
        emu_frame(&o->s);
}

static void keep_areas(struct outcome *o) { memcpy(o->areas, page_of(0, 0), sizeof(o->areas)); }

static bool exact;

/* ---- known to be gone when the loop comes to it ---------------------------------------------------------------------- */

static bool try(const struct loop *l, unsigned area, unsigned rounds)
{
    uint64_t count;

    stopped = 0;
    begin(l, rounds);
    go(&engine_translate, &end); /* which knows of every page then */
    keep_areas(&end);
    begin(l, rounds);
    gone_begin(page_of(area, 1));
    go(&engine_translate, &got);
    bool here = stopped;
    gone_end();
    keep_areas(&got);
    stopped = 0;
    count = got.count;
    struct outcome *rest = &want;
    go(&engine_translate, rest);
    keep_areas(rest);
    rest->count += count;
    if (!here || memcmp(rest, &end, sizeof(end))) {
        printf("%s, area %u, %u rounds: %s\n", l->name, area, rounds, here ? "does not end as without" : "is not stopped");
        return false;
    }
    begin(l, rounds);
    gone_begin(page_of(area, 1));
    go(&engine_emulate, &want);
    gone_end();
    keep_areas(&want);
    if (!exact) /* flags that nobody looks at; `end` has what became of the others */
        got.s.rflags = want.s.rflags;
    if (!memcmp(&want, &got, sizeof(want)))
        return true;
    printf("%s, area %u, %u rounds: at %llx instead of %llx, %llu instructions instead of %llu\n", l->name, area, rounds,
           (unsigned long long)got.rip, (unsigned long long)want.rip, (unsigned long long)got.count, (unsigned long long)want.count);
    return false;
}

/* ---- at any moment ---------------------------------------------------------------------------------------------------------- */

static void on_alarm(int sig)
{
    (void)sig;
    take_away();
}

static void take_away_soon(uint8_t *page)
{
    static unsigned seed = 1;
    struct itimerval soon = {.it_value.tv_usec = SHORTEST_US + rand_r(&seed) % (LONGEST_US - SHORTEST_US)};

    gone_watch(page);
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &soon, NULL);
}

/* What a loop that stays where it is has come to: the interpreter after as many instructions. */
static bool try_any_time(const struct loop *l, unsigned area)
{
    begin(l, 0);
    take_away_soon(page_of(area, 0));
    memset(&got, 0, sizeof(got));
    got.count = 0u - emu->instructions;
    while (!stopped)
        engine_translate.enter(emu, BUDGET);
    got.count += emu->instructions;
    emu_store(&got.s);
    got.rip = emu->rip;
    gone_end();
    keep_areas(&got);
    begin(l, 0);
    memset(&want, 0, sizeof(want));
    for (; want.count < got.count; want.count++) {
        emu->slow |= SLOW_SINGLE;
        engine_emulate.enter(emu, 1);
    }
    emu_store(&want.s);
    want.rip = emu->rip;
    keep_areas(&want);
    if (!exact)
        got.s.rflags = want.s.rflags;
    if (!memcmp(&want, &got, sizeof(want)))
        return true;
    printf("%s, area %u: after %llu instructions at %llx instead of %llx\n", l->name, area, (unsigned long long)got.count,
           (unsigned long long)got.rip, (unsigned long long)want.rip);
    return false;
}

/* The loop's code with nothing that goes on from round to round. */
static void put_standing(const struct loop *l)
{
    static const uint8_t strip_at[] = {19, 23}, nest_at[] = {12, 44, 50, 54, 58} /* immediates */;
    uint8_t code[sizeof(nest)];

    memcpy(code, l->code, l->bytes);
    for (unsigned n = 0; n < (l == loops ? sizeof(strip_at) : sizeof(nest_at)); n++)
        code[l == loops ? strip_at[n] : nest_at[n]] = 0;
    emu_code_put(CODE_ADDR, code, l->bytes);
}

int main(void)
{
    unsigned failures = 0;

    emu_create();
    for (unsigned k = 0; k < AREAS; k++)
        for (unsigned n = 0; n < AREA_PAGES; n++)
            emu_map(address(k) + 4096 * n, GPA_AREAS + (k * AREA_PAGES + n) * 4096, 0x67 | PTE_NX);
    if (!emu->translator && translate_create(emu))
        return 3;
    for (unsigned n = 0; n < 2; n++) {
        exact = n;
        translate_at_once(emu, exact);
        for (const struct loop *l = loops; l < loops + sizeof(loops) / sizeof(loops[0]); l++) {
            emu_code_put(CODE_ADDR, l->code, l->bytes);
            for (unsigned area = 0; area < AREAS; area++)
                for (unsigned rounds = 1; rounds < 40 && l->step[area]; rounds += 1 + rounds / 4)
                    failures += !try(l, area, rounds);
            put_standing(l);
            for (unsigned k = 0; k < TRIALS; k++)
                failures += !try_any_time(l, k % (l == loops ? 2 : AREAS));
        }
    }
    return failures != 0;
}
