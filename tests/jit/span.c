/* An instruction that ends in the next page looks at that page each time, although its block belongs to the first one. */
#include "eax.h"

enum { FIRST = CODE_ADDR + 4096 - 3, NEXT = CODE_ADDR + 4096, GPA_OTHER = GPA_CODE + 8192 };

static void map_next(uint64_t gpa, uint64_t rights)
{
    emu_map(NEXT, gpa, rights);
    tlb_flush_page(emu, NEXT);
}

int main(void)
{
    static const uint8_t load[] = {0xb8, 0x78, 0x56, 0x34, 0x12}, other[] = {0xcd, 0xab}; /* mov eax, imm32 */
    struct state after;

    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    emu_engine = &engine_translate;
    emu_code_put(FIRST, load, sizeof(load));
    memset(emu_ram + GPA_OTHER, 0xcc, 4096);
    memcpy(emu_ram + GPA_OTHER, other, sizeof(other));
    expect_eax("as it was", FIRST, 0x12345678);
    map_next(GPA_OTHER, 0x67);
    expect_eax("another page", FIRST, 0xabcd5678);
    map_next(GPA_CODE + 4096, 0x67);
    expect_eax("the first again", FIRST, 0x12345678);
    emu_code_put(NEXT, other, sizeof(other));
    expect_eax("written", FIRST, 0xabcd5678);
    map_next(GPA_CODE + 4096, 0x67 | PTE_NX);
    run_at(FIRST, &after);
    if (after.vector != VEC_PF || after.cr2 != NEXT || after.rip != FIRST) {
        printf("not executable: vector %d, CR2 %llx\n", after.vector, (unsigned long long)after.cr2);
        return 1;
    }
    return 0;
}
