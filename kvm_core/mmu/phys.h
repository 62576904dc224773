/* Guest physical memory: an immutable map of slots, replaced as a whole when the client changes one.
 *
 * A page is looked up as (object, offset), never as slot + constant, so that copy-on-write forks, adopted client
 * memory, shared files and read-only ROM need no second path.
 */
#ifndef KVMISH_MMU_PHYS_H
#define KVMISH_MMU_PHYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct memobj { /* something that backs guest memory */
    uint8_t *host; /* where it is mapped in this process */
    size_t size_bytes;
};

struct memslot {
    uint32_t id;          /* the client's slot number (as_id << 16 | slot) */
    bool readonly;        /* KVM_MEM_READONLY: reads are RAM, writes are MMIO */
    _Atomic bool partial; /* not all of it may be written in the client: who writes asks first */
    uint64_t gpa, size_bytes;
    uint64_t userspace_addr;
    struct memobj *obj;
    uint64_t obj_offset;  /* of gpa in obj */
    uint8_t *page_flags;  /* one byte a page: PAGE_*; atomically changed */
    unsigned long *dirty; /* bitmap, or NULL without KVM_MEM_LOG_DIRTY_PAGES */
};

/* page_flags: the vCPU's bit is set while it holds decoded instructions of the page; the eighth and all further ones
 * share a bit, which therefore stays once it is set. Any bit takes the direct right to write the page away from all. */
enum { PAGE_CODE_OWN = 7, PAGE_CODE_ANY = 0xff };
static inline uint8_t page_code_flag(unsigned vcpu_index)
{
    return (uint8_t)(1 << (vcpu_index < PAGE_CODE_OWN ? vcpu_index : PAGE_CODE_OWN));
}

struct phys_map { /* sorted by gpa, no overlap */
    uint64_t generation;
    unsigned count;
    struct memslot *slot[];
};

struct page_ref {
    struct memslot *slot;
    uint64_t page;  /* index within the slot */
    uint8_t *host;  /* NULL: not backed */
};

/* The page that holds gpa; false when there is no slot (MMIO). */
bool phys_lookup(const struct phys_map *map, uint64_t gpa, struct page_ref *out);
static inline bool phys_in_slot(struct memslot *slot, uint64_t gpa, struct page_ref *out)
{
    if (gpa - slot->gpa >= slot->size_bytes)
        return false;
    out->slot = slot;
    out->page = (gpa - slot->gpa) >> 12;
    out->host = slot->obj->host + slot->obj_offset + (out->page << 12);
    return true;
}
/* The same; looks into *near first, a slot of the map or NULL, and leaves the right one there. */
static inline bool phys_lookup_near(const struct phys_map *map, struct memslot **near, uint64_t gpa, struct page_ref *out)
{
    if (*near && phys_in_slot(*near, gpa, out))
        return true;
    if (!phys_lookup(map, gpa, out))
        return false;
    *near = out->slot;
    return true;
}

static inline void phys_mark_dirty(struct memslot *slot, uint64_t page)
{
    if (slot->dirty)
        __atomic_fetch_or(&slot->dirty[page / 64], 1ul << (page % 64), __ATOMIC_RELAXED);
}

/* Guest physical reads and writes outside of any instruction (kvmclock page, PV structures, TRANSLATE); marks dirty;
 * -EFAULT beyond RAM. n bytes may cross pages. */
int phys_read(const struct phys_map *map, uint64_t gpa, void *buf, size_t n);
int phys_write(const struct phys_map *map, uint64_t gpa, const void *buf, size_t n);

#endif
