/* Flushing and protecting the software TLB; the mailbox by which others ask for it. */
#include "mmu/tlb.h"

#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/sync.h"
#include "isa/codecache.h"
#include "mmu/large.h"
#include "mmu/phys.h"

static void clear_set(struct tlb_set *set)
{
    if (!set->dirty)
        return;
    for (unsigned n = 0; n < TLB_ENTRIES; n++)
        set->e[n].read_tag = set->e[n].write_tag = TLB_NONE;
    set->dirty = false;
}

static void clear_fetch(struct vcpu *v, bool globals)
{
    for (unsigned n = 0; n < ITLB_ENTRIES; n++)
        if (globals || !v->itlb[n].global)
            v->itlb[n].tag = TLB_NONE;
}

int mmu_create(struct vcpu *v)
{
    v->tlb_sets = calloc(TLB_SET_COUNT, sizeof(struct tlb_set));
    v->itlb = calloc(ITLB_ENTRIES, sizeof(struct itlb_entry));
    if (!v->tlb_sets || !v->itlb || large_create(v)) {
        mmu_destroy(v);
        return -1;
    }
    for (unsigned n = 0; n < TLB_SET_COUNT; n++)
        v->tlb_sets[n].dirty = true;
    v->tlb = &v->tlb_sets[TLB_SUPER];
    tlb_flush_all(v);
    return 0;
}

void mmu_destroy(struct vcpu *v)
{
    large_destroy(v);
    free(v->tlb_sets);
    free(v->itlb);
    v->tlb_sets = NULL;
    v->itlb = NULL;
}

void tlb_flush_all(struct vcpu *v)
{
    for (unsigned n = 0; n < TLB_SET_COUNT; n++)
        clear_set(&v->tlb_sets[n]);
    clear_fetch(v, true);
    large_forget(v);
    v->stat_tlb_flush++;
}

void tlb_flush_nonglobal(struct vcpu *v)
{
    if (!(v->cr4 & CR4_PGE)) {
        tlb_flush_all(v);
        return;
    }
    for (unsigned s = 0; s < TLB_SET_COUNT; s++) {
        struct tlb_set *set = &v->tlb_sets[s];
        bool left = false;
        if (!set->dirty)
            continue;
        for (unsigned n = 0; n < TLB_ENTRIES; n++) {
            if (set->e[n].flags & TLBE_GLOBAL)
                left = true;
            else
                set->e[n].read_tag = set->e[n].write_tag = TLB_NONE;
        }
        set->dirty = left;
    }
    clear_fetch(v, false);
    v->stat_tlb_flush++;
}

void tlb_drop_page(struct vcpu *v, uint64_t page)
{
    unsigned n = page >> 12 & (TLB_ENTRIES - 1);
    struct itlb_entry *fetch = &v->itlb[page >> 12 & (ITLB_ENTRIES - 1)];

    for (unsigned s = 0; s < TLB_SET_COUNT; s++) {
        struct tlb_entry *e = &v->tlb_sets[s].e[n];
        if (e->read_tag == page || e->write_tag == page)
            e->read_tag = e->write_tag = TLB_NONE;
    }
    if ((fetch->tag & ~0xfffull) == page)
        fetch->tag = TLB_NONE;
}

void tlb_drop_gigabyte(struct vcpu *v, uint64_t linear)
{
    for (unsigned s = 0; s < TLB_SET_COUNT; s++) {
        struct tlb_entry *e = v->tlb_sets[s].e;
        for (unsigned n = 0; n < TLB_ENTRIES; n++)
            if ((e[n].read_tag ^ linear) >> 30 == 0 || (e[n].write_tag ^ linear) >> 30 == 0)
                e[n].read_tag = e[n].write_tag = TLB_NONE;
    }
    clear_fetch(v, true);
}

void tlb_flush_page(struct vcpu *v, uint64_t linear)
{
    large_drop(v, linear);
    tlb_drop_page(v, linear & ~0xfffull);
}

static void forget_write_tags(struct vcpu *v)
{
    for (unsigned s = 0; s < TLB_SET_COUNT; s++)
        if (v->tlb_sets[s].dirty)
            for (unsigned n = 0; n < TLB_ENTRIES; n++)
                v->tlb_sets[s].e[n].write_tag = TLB_NONE;
}

void tlb_protect_host_page(struct vcpu *v, const void *hpage)
{
    for (unsigned s = 0; s < TLB_SET_COUNT; s++) {
        if (!v->tlb_sets[s].dirty)
            continue;
        for (unsigned n = 0; n < TLB_ENTRIES; n++) {
            struct tlb_entry *e = &v->tlb_sets[s].e[n];
            if (e->write_tag != TLB_NONE && e->host + e->write_tag == (uint64_t)hpage)
                e->write_tag = TLB_NONE;
        }
    }
}

/* ---- the mailbox ------------------------------------------------------------------------ */

enum { CODE_DROP_MAX = 16 };

static void drop_lock(struct vcpu *v)
{
    while (__atomic_exchange_n(&v->code_drop.lock, 1, __ATOMIC_ACQUIRE))
        __builtin_ia32_pause();
}

static void drop_unlock(struct vcpu *v)
{
    __atomic_store_n(&v->code_drop.lock, 0, __ATOMIC_RELEASE);
}

void cpu_code_drop(struct vcpu *target, uint64_t gpa)
{
    drop_lock(target);
    if (target->code_drop.count < CODE_DROP_MAX)
        target->code_drop.gpa[target->code_drop.count] = gpa;
    if (target->code_drop.count <= CODE_DROP_MAX)
        target->code_drop.count++;
    drop_unlock(target);
}

void cpu_serve(struct vcpu *v, uint32_t requests)
{
    if (requests & REQ_PHYS_CHANGED)
        codecache_flush(v);
    if (requests & (REQ_TLB_FLUSH | REQ_PHYS_CHANGED))
        tlb_flush_all(v);
    if (requests & REQ_WRITE_PROTECT)
        forget_write_tags(v);
    if (requests & REQ_CODE_DROP) {
        uint64_t gpa[CODE_DROP_MAX];
        unsigned count;

        drop_lock(v);
        count = v->code_drop.count;
        memcpy(gpa, v->code_drop.gpa, sizeof(gpa));
        v->code_drop.count = 0;
        drop_unlock(v);
        if (count > CODE_DROP_MAX)
            codecache_flush(v);
        else
            for (unsigned n = 0; n < count; n++)
                codecache_written(v, gpa[n] & ~0xfffull, 4096);
    }
}
