/* A copy between pages that share an index of the TLB: reading has entries of its own, so that it misses once a page. */
#include "../isa/emu.h"

int main(void)
{
    uint64_t from = 0x30000000, to = from + (uint64_t)TLB_ENTRIES * 4096, before;

    emu_create();
    emu_map(from, GPA_DATA, 0x67);
    emu_map(to, GPA_DATA + 4096, 0x67);
    before = emu->stat_tlb_miss;
    for (unsigned k = 0; k < 4096; k += 8)
        mem_store(emu, to + k, 8, mem_load(emu, from + k, 8) + 1);
    if (emu->stat_tlb_miss - before > 2) {
        printf("%llu misses\n", (unsigned long long)(emu->stat_tlb_miss - before));
        return 1;
    }
    return 0;
}
