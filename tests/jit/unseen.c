/* Code that changes without a word, as by a device's DMA: noticed when its page is looked up anew, decoded further, or translated. */
#include "inside.h"
#include "eax.h"

enum { RUNS = 20, LINE = 64, FIRST = 5, SECOND = 5 + LINE, THIRD = 5 + 2 * LINE, FAR_AWAY = 5 + 40 * LINE };

static void put(unsigned off, unsigned eax) /* mov eax, it; int3 */
{
    emu_code[off] = 0xb8;
    memcpy(emu_code + off + 1, &eax, 4);
    emu_code[off + 5] = 0xcc;
}

static unsigned run(unsigned off)
{
    struct state after;

    return run_at(CODE_ADDR + off, &after);
}

static unsigned run_looked_up(unsigned off)
{
    tlb_flush_all(emu);
    return run(off);
}

static void begin(void)
{
    put(FIRST, 1);
    put(SECOND, 2);
    codecache_written(emu, GPA_CODE, 4096);
    expect("first", run_looked_up(FIRST), 1);
    expect("second", run_looked_up(SECOND), 2);
}

static void look_ups(void)
{
    begin();
    for (unsigned bit = 0; bit < 32; bit++) {
        put(FIRST, 1u << bit);
        expect("one bit", run_looked_up(FIRST), 1u << bit);
    }
    put(FIRST, 2);
    put(SECOND, 1);
    expect("two lines that changed places", run_looked_up(FIRST), 2);
    put(FIRST, 3);
    put(SECOND, 0);
    expect("more here, as much less there", run_looked_up(FIRST), 3);
    expect("and there", run_looked_up(SECOND), 0);
}

static void near(void)
{
    begin();
    put(FIRST, 3);
    put(THIRD, 4);
    expect("decoded near it", run(THIRD), 4);
    expect("what was decoded before", run(FIRST), 3);
    put(FIRST, 5);
    put(FAR_AWAY, 6);
    expect("decoded far from it", run(FAR_AWAY), 6);
    expect("looked up", run_looked_up(FIRST), 5);
}

static void hot(void)
{
    unsigned eax = 0;

    begin();
    put(FIRST, 7);
    for (unsigned n = 0; n < RUNS; n++) {
        eax = run(FIRST);
        if (eax != 1 && eax != 7)
            expect("before or after", eax, 7);
    }
    expect("translated", eax, 7);
}

int main(void)
{
    emu_create();
    look_ups();
    near();
    emu_engine = &engine_translate;
    if (!emu->translator && translate_create(emu))
        return 3;
    look_ups();
    near();
    hot();
    return failures != 0;
}
