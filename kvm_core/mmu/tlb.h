/* The software TLB: linear page -> host address, apart for reading and writing; the fetch look-aside. Layout: mmu/tlbset.h */
#ifndef KVMISH_MMU_TLB_H
#define KVMISH_MMU_TLB_H

#include "cpu/vcpu.h"
#include "mmu/tlbset.h"

enum { ITLB_ENTRIES = 8192 };
#define ITLB_NONE 1ull

struct codepage;
struct itlb_entry {
    uint64_t tag; /* linear page | itlb_key(), or ITLB_NONE */
    struct codepage *page;
    bool global;
};
/* A page that both privileges execute has two entries, half of all apart. */
static inline unsigned itlb_index(uint64_t linear, bool user)
{
    return (linear >> 12 ^ user * (ITLB_ENTRIES / 2)) & (ITLB_ENTRIES - 1);
}
static inline struct itlb_entry *itlb_entry_of(const struct vcpu *v, uint64_t linear, bool user)
{
    return &v->itlb[itlb_index(linear, user)];
}
/* A page is in one entry at most for each of the two privileges, and vcpu.code_at says in which. */
void itlb_enter(struct vcpu *v, uint64_t linear, struct codepage *page, bool global);
void itlb_drop_page(struct vcpu *v, const struct codepage *page);
/* What besides the address decides whether and how a page may be executed: privilege and code size. */
static inline uint64_t itlb_key(const struct vcpu *v)
{
    return (uint64_t)(v->cpl == 3) << 1 | (uint64_t)(v->code_bits >> 5) << 2; /* bit 0 clear: never ITLB_NONE */
}

int mmu_create(struct vcpu *v);
void mmu_destroy(struct vcpu *v);

void tlb_flush_all(struct vcpu *v);        /* globals too */
void itlb_clear(struct vcpu *v);           /* the fetch look-aside alone */
void tlb_flush_nonglobal(struct vcpu *v);  /* MOV CR3 */
void tlb_flush_page(struct vcpu *v, uint64_t linear); /* INVLPG */
void tlb_drop_page(struct vcpu *v, uint64_t page);       /* 4 KiB of it and no more */
void tlb_drop_gigabyte(struct vcpu *v, uint64_t linear); /* what lies in the same aligned GiB */
void jump_cache_drop(struct jump_cache *j, uint64_t first, uint64_t last); /* what leads to code in [first, last) */
void tlb_fills_renew(struct tlb_set *set); /* the list of all becomes shorter, or is given up */
static inline void tlb_forbid_write(struct vcpu *v, struct tlb_set *set, unsigned n)
{
    set->write.entry[n].tag = tlb_none(n);
    v->tlb_drops++;
}
static inline bool tlb_is_free(const struct tlb_table *t, unsigned n, uint64_t page)
{
    return t->entry[n].tag == tlb_none(n) || t->entry[n].tag == page;
}
static inline void tlb_put(struct vcpu *v, struct tlb_table *t, unsigned n, uint64_t page, const uint8_t *host, bool global)
{
    if (t->entry[n].tag == page && t->entry[n].host != (uint64_t)host)
        v->tlb_drops++;
    t->entry[n].tag = page;
    t->entry[n].host = (uint64_t)host;
    t->global[n / 64] = (t->global[n / 64] & ~(1ull << n % 64)) | (uint64_t)global << n % 64;
}
/* Enters a page of a walk for reading or writing; for the other as well where that takes no other page's place and, for writing, it is
 * `direct`: may be written without a look. */
static inline void tlb_enter(struct vcpu *v, struct tlb_set *set, uint64_t page, const uint8_t *host, bool write, bool direct, bool global)
{
    unsigned n = tlb_index(page);

    if (!write || tlb_is_free(&set->read, n, page))
        tlb_put(v, &set->read, n, page, host, global);
    if (direct && (write || tlb_is_free(&set->write, n, page)))
        tlb_put(v, &set->write, n, page, host, global);
    else if (set->write.entry[n].tag == page)
        tlb_forbid_write(v, set, n);
    fills_add(&set->fills, n);
    if (!global)
        fills_add(&set->nonglobal, n);
}
/* Takes away the right to write host page `hpage` directly (it now holds code, or is dirty-logged). */
void tlb_protect_host_page(struct vcpu *v, const void *hpage);

/* Access kinds for a walk. */
enum { ACC_READ = 0, ACC_WRITE = 1, ACC_FETCH = 2 };

/* Page-table walk, SDM vol. 3, ch. 4. Returns 0 and the gpa of the page, or the #PF error code with the present
 * etc. bits | WALK_FAULT. Sets A/D. */
#define WALK_FAULT (1u << 31)
struct walk {
    uint64_t gpa;       /* page-aligned guest physical address */
    bool writable;      /* a write would be allowed now and D is set */
    bool global;
    bool user;          /* the page's U/S bits allow CPL 3 */
    uint8_t page_shift; /* 12, 21, 22, 30 */
};
uint32_t mmu_walk(struct vcpu *v, uint64_t linear, enum tlb_set_kind kind, int access, struct walk *out);
/* The walk for a fetch at the current privilege; raises #PF. */
void mmu_walk_fetch(struct vcpu *v, uint64_t linear, struct walk *out);
/* KVM_TRANSLATE: no A/D, no rights; false when not mapped. */
bool mmu_translate(struct vcpu *v, uint64_t linear, uint64_t *gpa, bool *writable, bool *user);

#endif
