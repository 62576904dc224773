/* A loop of a few iterations in another one: across the ends of pages, over pages that are exchanged or protected while it
 * runs, into its own code. */
#include "inside.h"

/* In entries of the TLB of their own. */
enum { ROWS_ADDR = 0x11000000, SUMS_ADDR = 0x12010000, GPA_ROWS = 0x90000, GPA_OTHERS = 0x94000, GPA_SUMS = 0x98000, PAGES = 3 };
enum { STRIDE = 264, SLICE = 1000, BODY = 7 /* instructions of the inner loop */ };

static const uint8_t nest[] = {
    0x49, 0x89, 0xf3,                         /* 1: mov r11, rsi */
    0x48, 0x89, 0xfa,                         /* mov rdx, rdi */
    0x48, 0x8b, 0x02,                         /* 2: mov rax, [rdx] */
    0x49, 0x03, 0x03,                         /* add rax, [r11] */
    0x49, 0x89, 0x03,                         /* mov [r11], rax */
    0x48, 0x83, 0xc2, 0x08,                   /* add rdx, 8 */
    0x49, 0x83, 0xc3, 0x08,                   /* add r11, 8 */
    0x4c, 0x3b, 0x5c, 0x24, 0xf0,             /* cmp r11, [rsp - 16] */
    0x75, 0xe8,                               /* jne 2b */
    0x48, 0x01, 0x6c, 0x24, 0xf0,             /* add [rsp - 16], rbp */
    0x48, 0x01, 0xee,                         /* add rsi, rbp */
    0x48, 0x81, 0xc7, STRIDE & 255, STRIDE >> 8, 0, 0, /* add rdi, STRIDE */
    0x41, 0xff, 0xcc,                         /* dec r12d */
    0x75, 0xce,                               /* jne 1b */
    0xcc
};
enum { STORE_AT = 12 /* of mov [r11], rax */, STRIDE_AT = 41 };

struct way { /* through the nest */
    uint64_t rows, sums;
    unsigned rounds, turns;
    unsigned moves; /* bytes that the sums go on each time */
    bool protects;  /* the second page of the sums */
};

static void map(uint64_t linear, uint64_t gpa, uint64_t rights)
{
    emu_map(linear, gpa, rights | PTE_NX);
    tlb_flush_page(emu, linear);
}

static void map_data(uint64_t gpa_rows, uint64_t sums_rights)
{
    for (unsigned k = 0; k < PAGES; k++) {
        map(ROWS_ADDR + 4096 * k, gpa_rows + 4096 * k, 0x67);
        map(SUMS_ADDR + 4096 * k, GPA_SUMS + 4096 * k, sums_rights);
    }
}

static uint64_t *word(uint64_t gpa) { return (uint64_t *)(emu_ram + gpa); }

static void begin(const struct way *w)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};

    map_data(GPA_ROWS, 0x67);
    if (w->protects)
        map(SUMS_ADDR + 4096, GPA_SUMS + 4096, 0x65);
    memset(emu_ram + GPA_SUMS, 0, PAGES * 4096);
    emu_code_put(CODE_ADDR, nest, sizeof(nest));
    c.before.rip = CODE_ADDR;
    c.before.gpr[RDI] = w->rows;
    c.before.gpr[RSI] = w->sums;
    c.before.gpr[R12] = w->rounds;
    c.before.gpr[RBP] = w->moves;
    c.before.gpr[RSP] = DATA_ADDR + 2048;
    *word(GPA_DATA + 2048 - 16) = w->sums + 8 * w->turns;
    emu_load(&c);
}

/* -> how many slices there were */
static unsigned finish(const struct engine *engine, struct state *s)
{
    enum cpu_exit_reason why;
    unsigned slices = 0;

    memset(s, 0, sizeof(*s));
    while ((why = engine->enter(emu, SLICE)) == EXIT_POLL)
        slices++;
    emu_store(s);
    if (why == EXIT_HLT)
        emu_frame(s);
    return slices;
}

/* Both engines, from the same memory; the translator twice. */
static void compare(const char *what, const struct way *w)
{
    static uint8_t sums[PAGES * 4096], code[sizeof(nest)];
    struct state want, got;
    uint64_t count = emu->instructions;

    begin(w);
    finish(&engine_emulate, &want);
    count = emu->instructions - count;
    memcpy(sums, emu_ram + GPA_SUMS, sizeof(sums));
    memcpy(code, emu_code, sizeof(code));
    for (unsigned n = 0; n < 2; n++) {
        uint64_t counted = emu->instructions;
        begin(w);
        unsigned slices = finish(&engine_translate, &got);
        expect(what, emu->instructions - counted, count);
        expect(what, slices >= count / (2 * SLICE), true);
        got.rflags = want.rflags; /* at the INT3 nobody looks */
        expect(what, memcmp(&want, &got, sizeof(want)), 0);
        expect(what, memcmp(sums, emu_ram + GPA_SUMS, sizeof(sums)), 0);
        expect(what, memcmp(code, emu_code, sizeof(code)), 0);
    }
}

static void pages_end(void)
{
    static const unsigned turns[] = {1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 18, 33};

    for (unsigned n = 0; n < sizeof(turns) / sizeof(turns[0]); n++)
        for (unsigned at = 0; at < 3; at++) {
            uint64_t sums = SUMS_ADDR + 4096 * at - 8 * (at ? turns[n] / 2 : 0) + (at == 2 ? 4 : 0);
            struct way w = {ROWS_ADDR + 100, sums, 40, turns[n], 0, false};
            compare("ends of pages", &w);
            w.moves = 8 * turns[n];
            compare("moving sums", &w);
        }
}

static uint64_t sum_of_sums(void)
{
    uint64_t sum = 0;

    for (unsigned k = 0; k < PAGES * 512; k++)
        sum += word(GPA_SUMS)[k];
    return sum;
}

/* All rows are 1, so that the sums say how far it has come; then 2. */
static void exchanged(void)
{
    const struct way w = {ROWS_ADDR, SUMS_ADDR + 64, 40, 4, 0, false};
    const uint64_t total = w.rounds * w.turns;
    struct state s;

    for (unsigned k = 0; k < PAGES * 512; k++)
        word(GPA_ROWS)[k] = 1, word(GPA_OTHERS)[k] = 2;
    compare("rows of 1", &w);
    for (int32_t first = 50; first < 600; first += 50) {
        begin(&w);
        expect("first slice", engine_translate.enter(emu, first), EXIT_POLL);
        uint64_t before = sum_of_sums();
        map_data(GPA_OTHERS, 0x67);
        finish(&engine_translate, &s);
        expect("exchanged", sum_of_sums(), before + 2 * (total - before));
    }
}

static void protected(void)
{
    const struct way w = {ROWS_ADDR, SUMS_ADDR + 64, 40, 4, 0, false};
    struct state s;

    begin(&w);
    expect("first slice", engine_translate.enter(emu, 500), EXIT_POLL);
    uint64_t before = sum_of_sums();
    map_data(GPA_ROWS, 0x65);
    finish(&engine_translate, &s);
    expect("vector", (uint64_t)s.vector, VEC_PF);
    expect("error", s.error, 7);
    expect("place", s.rip, CODE_ADDR + STORE_AT);
    expect("address", s.cr2, s.gpr[R11]);
    expect("sums", sum_of_sums(), before);
}

/* The sums come to a page that is only for reading; the rows, in it too, have been read. */
static void into_protected(void)
{
    const struct way w = {SUMS_ADDR + 4096, SUMS_ADDR + 4096 - 32 * 10, 30, 4, 32, true};

    compare("protected", &w);
    expect("protected", emu->cr2, SUMS_ADDR + 4096);
}

/* The sums, being zero but for one, go over the code; that one makes the stride 8 longer. */
static void own_code(void)
{
    enum { BEFORE = 30 };
    const struct way w = {ROWS_ADDR, SUMS_ADDR + 4096 * PAGES - 8 * BEFORE + (STRIDE_AT & 7), BEFORE + 40 / 8, 3, 8, false};
    const unsigned at = STRIDE * (BEFORE + STRIDE_AT / 8 - 2) + 8 * 2; /* in the rows, when the third sum is the stride */

    memset(emu_ram + GPA_ROWS, 0, PAGES * 4096);
    emu_map(SUMS_ADDR + 4096 * PAGES, GPA_CODE, 0x67 | PTE_NX);
    *word(GPA_ROWS + at) = 8;
    compare("its own code", &w);
    expect("stride", emu_code[STRIDE_AT], (STRIDE + 8) & 255);
}

int main(void)
{
    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    for (unsigned k = 0; k < PAGES * 512; k++)
        word(GPA_ROWS)[k] = k * 0x9e3779b97f4a7c15;
    pages_end();
    expect("a window was used", emu->run.window[0] != 0, true);
    exchanged();
    protected();
    into_protected();
    own_code();
    return failures != 0;
}
