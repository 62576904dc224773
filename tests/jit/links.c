/* A page that is called from another runs as what it is now, not as what it was when the call was linked to it. */
#include "../isa/emu.h"

enum {
    ONE = CODE_ADDR + 4096, TWO = CODE_ADDR + 8192, /* pages that are called */
    GPA_ONE = GPA_CODE + 4096, GPA_TWO = GPA_CODE + 8192, GPA_OTHER = GPA_CODE + 12288
};

static unsigned run(struct state *after)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};

    c.before.rip = CODE_ADDR;
    c.before.gpr[RSP] = DATA_ADDR + 3800;
    emu_go(&c, after, 1000, false);
    return (unsigned)after->gpr[RAX];
}

static void expect(const char *what, unsigned eax)
{
    struct state after;

    for (unsigned n = 0; n < 4; n++) {
        unsigned got = run(&after);
        if (got != eax || after.vector != -1) {
            printf("%s, run %u: EAX %x, vector %d; wanted %x\n", what, n, got, after.vector, eax);
            exit(1);
        }
    }
}

/* A fault of the fetch at `rip`, which state_normalise() takes for the end of the run. */
static void expect_stop(const char *what, uint64_t rip)
{
    struct state after;

    run(&after);
    if (after.rip != rip) {
        printf("%s: RIP %llx, vector %d\n", what, (unsigned long long)after.rip, after.vector);
        exit(1);
    }
}

static void map(uint64_t linear, uint64_t gpa, uint64_t rights)
{
    emu_map(linear, gpa, rights);
    tlb_flush_page(emu, linear);
}

static void put_page(uint64_t gpa, uint8_t number)
{
    const uint8_t add[] = {0x83, 0xc0, number, 0xc3}; /* add eax, number; ret */

    memcpy(emu_ram + gpa, add, sizeof(add));
    codecache_written(emu, gpa, sizeof(add));
}

int main(void)
{
    static const uint8_t calls[] = {0x31, 0xc0,                  /* xor eax, eax */
                                    0xe8, 0xf9, 0x0f, 0x00, 0x00, /* call ONE */
                                    0xe8, 0xf4, 0x1f, 0x00, 0x00, /* call TWO */
                                    0xcc};

    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    emu_engine = &engine_translate;
    emu_code_put(CODE_ADDR, calls, sizeof(calls));
    put_page(GPA_ONE, 1);
    put_page(GPA_TWO, 2);
    put_page(GPA_OTHER, 0x10);
    map(ONE, GPA_ONE, 0x67);
    map(TWO, GPA_TWO, 0x67);
    expect("as it was", 3);
    map(ONE, GPA_OTHER, 0x67);
    expect("another page", 0x12);
    map(TWO, GPA_OTHER, 0x67);
    expect("one page at two addresses", 0x20);
    map(ONE, GPA_ONE, 0x67);
    expect("the first again", 0x11);
    put_page(GPA_ONE, 4);
    expect("written", 0x14);
    map(TWO, GPA_OTHER, 0x67 | PTE_NX);
    expect_stop("not executable", TWO);
    map(TWO, GPA_OTHER, 0x67);
    expect("executable again", 0x14);
    map(ONE, GPA_ONE, 0);
    expect_stop("absent", ONE);
    return 0;
}
