/* Fragments of large pages in the TLB: see large.h. */
#include "mmu/large.h"

#include <stdlib.h>
#include <string.h>

#include "mmu/tlb.h"

static void widen(uint64_t *first, uint64_t *last, uint64_t linear, unsigned shift)
{
    uint64_t mask = (1ull << shift) - 1;

    if ((linear & ~mask) < *first)
        *first = linear & ~mask;
    if ((linear | mask) > *last)
        *last = linear | mask;
}

int large_create(struct vcpu *v)
{
    v->large = calloc(1, sizeof(*v->large));
    if (!v->large)
        return -1;
    large_forget(v);
    return 0;
}

void large_destroy(struct vcpu *v)
{
    free(v->large);
    v->large = NULL;
}

void large_forget(struct vcpu *v)
{
    struct large_pages *l = v->large;

    if (!++l->generation) {
        memset(l->region, 0, sizeof(l->region));
        l->generation = 1;
    }
    for (unsigned half = 0; half < 2; half++) {
        l->wide_first[half] = l->spill_first[half] = ~0ull;
        l->wide_last[half] = l->spill_last[half] = 0;
    }
}

void large_note(struct vcpu *v, uint64_t linear, unsigned shift)
{
    struct large_pages *l = v->large;
    uint64_t number = linear >> REGION_SHIFT;
    struct large_region *r = large_place(l, number);
    unsigned half = linear >> 63, page = linear >> 12 & 511;

    if (shift > REGION_SHIFT)
        widen(&l->wide_first[half], &l->wide_last[half], linear, shift);
    if (r->generation != l->generation || !r->shift) {
        *r = (struct large_region){.number = number, .generation = l->generation};
    } else if (r->number != number) {
        widen(&l->spill_first[half], &l->spill_last[half], linear, shift);
        return;
    }
    if (shift > r->shift)
        r->shift = (uint8_t)shift;
    r->pages[page / 64] |= 1ull << page % 64;
}

static void drop_region(struct vcpu *v, struct large_region *r)
{
    for (unsigned w = 0; w < 8; w++)
        for (; r->pages[w]; r->pages[w] &= r->pages[w] - 1)
            tlb_drop_page(v, (r->number << 9 | w * 64 | (unsigned)__builtin_ctzll(r->pages[w])) << 12);
    r->shift = 0;
}

void large_drop(struct vcpu *v, uint64_t linear)
{
    struct large_pages *l = v->large;
    uint64_t number = linear >> REGION_SHIFT;
    struct large_region *r = large_place(l, number);
    unsigned half = linear >> 63;

    if (r->number == number && r->generation == l->generation && r->shift)
        drop_region(v, r);
    if (linear >= l->wide_first[half] && linear <= l->wide_last[half])
        for (r = l->region; r < l->region + LARGE_REGIONS; r++)
            if (r->generation == l->generation && r->shift > REGION_SHIFT &&
                (r->number ^ number) >> (r->shift - REGION_SHIFT) == 0)
                drop_region(v, r);
    if (linear >= l->spill_first[half] && linear <= l->spill_last[half])
        tlb_drop_gigabyte(v, linear);
}
