/* A page that is called from another runs as what it is now, not as what it was when the call was linked to it. */
#include "eax.h"

enum {
    ONE = CODE_ADDR + 4096, TWO = CODE_ADDR + 8192, /* pages that are called */
    GPA_ONE = GPA_CODE + 4096, GPA_TWO = GPA_CODE + 8192, GPA_OTHER = GPA_CODE + 12288
};

/* A fault of the fetch at `rip`, which state_normalise() takes for the end of the run. */
static void expect_stop(const char *what, uint64_t rip)
{
    struct state after;

    run_at(CODE_ADDR, &after);
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
    expect_eax("as it was", CODE_ADDR, 3);
    map(ONE, GPA_OTHER, 0x67);
    expect_eax("another page", CODE_ADDR, 0x12);
    map(TWO, GPA_OTHER, 0x67);
    expect_eax("one page at two addresses", CODE_ADDR, 0x20);
    map(ONE, GPA_ONE, 0x67);
    expect_eax("the first again", CODE_ADDR, 0x11);
    put_page(GPA_ONE, 4);
    expect_eax("written", CODE_ADDR, 0x14);
    map(TWO, GPA_OTHER, 0x67 | PTE_NX);
    expect_stop("not executable", TWO);
    map(TWO, GPA_OTHER, 0x67);
    expect_eax("executable again", CODE_ADDR, 0x14);
    map(ONE, GPA_ONE, 0);
    expect_stop("absent", ONE);
    return 0;
}
