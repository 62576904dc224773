/* Lookup of guest physical pages, and copies to and from guest memory outside of instructions. */
#include "mmu/phys.h"

#include <errno.h>

#include "mmu/reach.h"

bool phys_lookup(const struct phys_map *map, uint64_t gpa, struct page_ref *out)
{
    unsigned low = 0, high = map ? map->count : 0;

    while (low < high) {
        unsigned mid = (low + high) / 2;
        struct memslot *slot = map->slot[mid];
        if (phys_in_slot(slot, gpa, out))
            return true;
        if (gpa < slot->gpa)
            high = mid;
        else
            low = mid + 1;
    }
    return false;
}

int phys_read(const struct phys_map *map, uint64_t gpa, void *buf, size_t n)
{
    uint8_t *to = buf;

    while (n) {
        struct page_ref ref;
        size_t part = 4096 - (gpa & 0xfff);
        if (part > n)
            part = n;
        if (!phys_lookup(map, gpa, &ref) || !reach_copy(to, ref.host + (gpa & 0xfff), part))
            return -EFAULT;
        to += part;
        gpa += part;
        n -= part;
    }
    return 0;
}

int phys_write(const struct phys_map *map, uint64_t gpa, const void *buf, size_t n)
{
    const uint8_t *from = buf;

    while (n) {
        struct page_ref ref;
        size_t part = 4096 - (gpa & 0xfff);
        if (part > n)
            part = n;
        if (!phys_lookup(map, gpa, &ref) || ref.slot->readonly || !reach_copy(ref.host + (gpa & 0xfff), from, part))
            return -EFAULT;
        phys_mark_dirty(ref.slot, ref.page);
        from += part;
        gpa += part;
        n -= part;
    }
    return 0;
}
