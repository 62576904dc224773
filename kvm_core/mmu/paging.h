/* Page-table entries, and the cache of page directories that a walk leaves behind. SDM vol. 3, chapter 4. */
#ifndef KVMISH_MMU_PAGING_H
#define KVMISH_MMU_PAGING_H

#include "cpu/vcpu.h"

enum { /* SDM vol. 3, table 4-20 */
    PTE_P = 1 << 0, PTE_W = 1 << 1, PTE_U = 1 << 2, PTE_A = 1 << 5, PTE_D = 1 << 6, PTE_PS = 1 << 7,
    PTE_G = 1 << 8, PTE_PAT_LARGE = 1 << 12
};
#define PTE_NX (1ull << 63)
#define PTE_FRAME 0x000ffffffffff000ull

/* A paging-structure cache (SDM vol. 3, 4.10.3): page directories by GiB of linear address, in IA-32e paging. Every flush of
 * the TLB, of a page too, empties it. */
static inline struct directory *directory_of(struct vcpu *v, uint64_t linear) { return &v->directories[linear >> 30 & (DIRECTORIES - 1)]; }
static inline uint64_t directory_tag(const struct vcpu *v, uint64_t linear) { return linear >> 30 | v->directory_generation << 34; }

#endif
