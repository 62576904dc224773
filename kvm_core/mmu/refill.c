/* The walk that nearly every miss of the TLB needs: two levels below a page directory that is known, both entries with their bits set,
 * in the slot that was walked to last. Whatever is not like that is left to mmu_walk(), and what it would mark or raise.
 *
 * The guest's vector registers are live meanwhile, so that the compiler must not use them: see the Makefile.
 */
#ifdef __SSE__
#error "needs -mgeneral-regs-only"
#endif

#include "mmu/refill.h"

#include "cpu/cpu.h"
#include "mmu/large.h"
#include "mmu/paging.h"
#include "mmu/phys.h"
#include "mmu/reach.h"
#include "mmu/tlb.h"

struct leaf {
    uint64_t entry;
    uint64_t rights; /* U and W of all levels */
    uint64_t gpa;
    unsigned shift;
};

static bool in_near_slot(const struct vcpu *v, uint64_t gpa, struct page_ref *ref)
{
    return v->slot_near && phys_in_slot(v->slot_near, gpa, ref);
}

/* Present, accessed, nothing reserved. */
static bool read_entry(const struct vcpu *v, uint64_t gpa, uint64_t *entry)
{
    uint64_t reserved = (v->phys_reserved & PTE_FRAME) | (v->efer & EFER_NXE ? 0 : PTE_NX);
    struct page_ref ref;

    if (!in_near_slot(v, gpa, &ref))
        return false;
    struct reached r = reach_load((const uint64_t *)(ref.host + (gpa & 0xfff)));
    *entry = r.value;
    return r.there && (r.value & (PTE_P | PTE_A)) == (PTE_P | PTE_A) && !(r.value & reserved);
}

static bool find_leaf(struct vcpu *v, uint64_t linear, struct leaf *l)
{
    const struct directory *d = directory_of(v, linear);
    uint64_t large = (1 << 21) - 1;

    if (!cpu_lma(v) || d->tag != directory_tag(v, linear) || !read_entry(v, d->table + (linear >> 21 & 511) * 8, &l->entry))
        return false;
    l->rights = d->rights & l->entry;
    l->shift = 21;
    if (l->entry & PTE_PS) {
        l->gpa = (l->entry & PTE_FRAME & ~large) | (linear & large & ~0xfffull);
        return !(l->entry & large & PTE_FRAME & ~(uint64_t)PTE_PAT_LARGE) && large_note_again(v->large, linear, l->shift);
    }
    if (!read_entry(v, (l->entry & PTE_FRAME) + (linear >> 12 & 511) * 8, &l->entry))
        return false;
    l->rights &= l->entry;
    l->shift = 12;
    l->gpa = l->entry & PTE_FRAME;
    return true;
}

static bool is_allowed(const struct vcpu *v, const struct leaf *l, bool write)
{
    bool user_page = l->rights & PTE_U;
    uint32_t keys = user_page ? (v->cr4 & CR4_PKE ? v->pkru : 0) : v->cr4 & CR4_PKS ? (uint32_t)v->pkrs : 0;

    if (v->tlb != &v->tlb_sets[TLB_SUPER] && user_page != (v->tlb == &v->tlb_sets[TLB_USER]))
        return false;
    if (keys >> 2 * (l->entry >> 59 & 15) & 3)
        return false;
    return !write || (l->rights & PTE_W && l->entry & PTE_D);
}

/* Does the TLB have it for the other kind of access, and otherwise? The block that is running may rely on that: `tlb_drops`. */
static bool is_changed(const struct tlb_set *set, uint64_t page, const uint8_t *host, bool direct)
{
    const struct tlb_entry *read = &set->read.entry[tlb_index(page)], *write = &set->write.entry[tlb_index(page)];

    return (read->tag == page && read->host != (uint64_t)host) || (write->tag == page && (!direct || write->host != (uint64_t)host));
}

static bool refill(struct vcpu *v, uint64_t linear, bool write)
{
    struct tlb_set *set = v->tlb;
    struct page_ref ref;
    struct leaf l;

    if (v->slow || v->lockstep || set->fills.count == FILLS_MAX || __atomic_load_n(&v->kick, __ATOMIC_RELAXED))
        return false; /* who wants the vCPU need not wait for so many misses: the interpreter looks */
    if (!find_leaf(v, linear, &l) || !is_allowed(v, &l, write) || !in_near_slot(v, l.gpa, &ref))
        return false;
    bool direct = l.rights & PTE_W && l.entry & PTE_D && !ref.slot->readonly && !ref.slot->partial && !ref.slot->dirty &&
                  !__atomic_load_n(&ref.slot->page_flags[ref.page], __ATOMIC_SEQ_CST);
    if ((write && !direct) || is_changed(set, linear & ~0xfffull, ref.host, direct))
        return false;
    tlb_enter(v, set, linear & ~0xfffull, ref.host, write, direct, l.entry & PTE_G && v->cr4 & CR4_PGE);
    v->stat_tlb_miss++;
    return true;
}

struct refilled mmu_refill(struct vcpu *v, uint64_t distance, uint64_t at, bool write)
{
    const struct tlb_table *t = write ? &v->tlb->write : &v->tlb->read;
    uint64_t tag = t->entry[at / sizeof(t->entry[0])].tag, linear = tag ^ distance;

    return (struct refilled){linear, tag != (linear & ~0xfffull) && refill(v, linear, write)}; /* or it goes beyond the page */
}
