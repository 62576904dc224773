/* Which 4 KiB fragments of large pages the TLB and the fetch look-aside may hold: INVLPG of any address in a large page drops
 * them all (SDM vol. 3, 4.10.4.1), and that of a small page should not have to search for them.
 */
#ifndef KVMISH_MMU_LARGE_H
#define KVMISH_MMU_LARGE_H

#include <stdbool.h>
#include <stdint.h>

struct vcpu;

enum { LARGE_REGIONS = 256, REGION_SHIFT = 21 };

struct large_region { /* 2 MiB of linear address space */
    uint64_t number;     /* linear address >> 21 */
    uint64_t pages[8];   /* bitmap of its 4 KiB pages */
    uint32_t generation; /* valid while that of the table */
    uint8_t shift;       /* log2 of the (largest) page's size in bytes: 21, 22, 30; 0: the place is free */
};

struct large_pages {
    uint32_t generation;
    /* linear ranges, low and high half of the address space, first and last byte; first > last: none */
    uint64_t wide_first[2], wide_last[2];   /* pages larger than a region */
    uint64_t spill_first[2], spill_last[2]; /* pages whose region found its place taken */
    struct large_region region[LARGE_REGIONS];
};

static inline struct large_region *large_place(struct large_pages *l, uint64_t number)
{
    return &l->region[(number ^ number >> 8 ^ number >> 16) & (LARGE_REGIONS - 1)];
}

int large_create(struct vcpu *v);
void large_destroy(struct vcpu *v);
/* Everything has been flushed. */
void large_forget(struct vcpu *v);
/* The 4 KiB at `linear`, part of a page of 1 << shift bytes, is about to be entered. */
void large_note(struct vcpu *v, uint64_t linear, unsigned shift);
/* The same where something of that region has been noted already; false: has not. */
static inline bool large_note_again(struct large_pages *l, uint64_t linear, unsigned shift)
{
    struct large_region *r = large_place(l, linear >> REGION_SHIFT);

    if (r->number != linear >> REGION_SHIFT || r->generation != l->generation || r->shift < shift)
        return false;
    r->pages[linear >> 18 & 7] |= 1ull << (linear >> 12 & 63);
    return true;
}
/* Drops the fragments of the large page at `linear`, if there is one. */
void large_drop(struct vcpu *v, uint64_t linear);

#endif
