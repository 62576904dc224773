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
        set->read.tag[n] = set->write.tag[n] = tlb_none(n);
    set->fills.count = 0;
    set->dirty = false;
}

static void drop_nonglobal(struct tlb_table *t, unsigned n)
{
    if (!(t->global[n / 64] >> n % 64 & 1))
        t->tag[n] = tlb_none(n);
}

/* What is global stays. */
static void clear_nonglobal(struct tlb_set *set)
{
    struct fills *f = &set->fills;

    for (unsigned k = 0; k < (f->count <= FILLS_MAX ? f->count : TLB_ENTRIES); k++) {
        unsigned n = f->count <= FILLS_MAX ? f->at[k] : k;
        drop_nonglobal(&set->read, n);
        drop_nonglobal(&set->write, n);
    }
    f->count = 0;
}

static void drop_tag(struct tlb_table *t, uint64_t page)
{
    unsigned n = tlb_index(page);

    if (t->tag[n] == page)
        t->tag[n] = tlb_none(n);
}

void jump_cache_clear(struct jump_cache *j)
{
    if (!j->dirty)
        return;
    if (j->fills.count <= FILLS_MAX) {
        for (unsigned k = 0; k < j->fills.count; k++) {
            unsigned n = j->fills.at[k];
            j->pages[jump_page(j->rip[n])].count = 0;
            j->rip[n] = n ^ 1;
        }
    } else {
        for (unsigned n = 0; n < JUMP_ENTRIES; n++)
            j->rip[n] = n ^ 1; /* the address of another index */
        memset(j->pages, 0, sizeof(j->pages));
    }
    j->fills.count = 0;
    j->nonglobal = j->dirty = false;
}

static void jump_page_add(struct jump_page *p, unsigned n)
{
    for (unsigned k = 0; k < p->count && k < JUMPS_NAMED; k++)
        if (p->at[k] == n)
            return;
    if (p->count < JUMPS_NAMED)
        p->at[p->count] = (uint16_t)n;
    if (p->count <= JUMPS_NAMED)
        p->count++;
}

void jump_cache_add(struct jump_cache *j, uint64_t rip, uint64_t code, bool global)
{
    unsigned n = jump_index(rip);

    j->rip[n] = rip;
    j->code[n] = code;
    jump_page_add(&j->pages[jump_page(rip)], n);
    fills_add(&j->fills, n);
    j->nonglobal |= !global;
    j->dirty = true;
}

/* What the page shares its hash with is named anew, as long as there is room. */
static void jump_cache_forget(struct jump_cache *j, uint64_t linear)
{
    struct jump_page *p = &j->pages[jump_page(linear)], old = *p;
    bool named = old.count <= JUMPS_NAMED;

    p->count = 0;
    for (unsigned k = 0; k < (named ? old.count : JUMP_ENTRIES); k++) {
        unsigned n = named ? old.at[k] : k;
        if ((j->rip[n] ^ linear) < 4096)
            j->rip[n] = n ^ 1;
        else if (jump_page(j->rip[n]) == jump_page(linear) && jump_index(j->rip[n]) == n)
            jump_page_add(p, n);
    }
}

static void clear_fetch(struct vcpu *v, bool globals)
{
    struct fills *f = &v->itlb_fills;

    if (!globals && f->count <= FILLS_MAX) {
        for (unsigned k = 0; k < f->count; k++)
            if (!v->itlb[f->at[k]].global)
                v->itlb[f->at[k]].tag = ITLB_NONE;
    } else {
        for (unsigned n = 0; n < ITLB_ENTRIES; n++)
            if (globals || !v->itlb[n].global)
                v->itlb[n].tag = ITLB_NONE;
    }
    f->count = 0;
    for (unsigned s = 0; s < JUMP_CACHES; s++)
        if (globals || v->jumps[s].nonglobal)
            jump_cache_clear(&v->jumps[s]);
}

int mmu_create(struct vcpu *v)
{
    v->itlb = calloc(ITLB_ENTRIES, sizeof(struct itlb_entry));
    if (!v->itlb || large_create(v)) {
        mmu_destroy(v);
        return -1;
    }
    for (unsigned n = 0; n < TLB_SET_COUNT; n++)
        v->tlb_sets[n].dirty = true;
    for (unsigned n = 0; n < JUMP_CACHES; n++)
        v->jumps[n].rip[0] = 1; /* the others are absent as they are: address 0 has index 0 */
    v->tlb = &v->tlb_sets[TLB_SUPER];
    tlb_flush_all(v);
    return 0;
}

void mmu_destroy(struct vcpu *v)
{
    large_destroy(v);
    free(v->itlb);
    v->itlb = NULL;
}

void tlb_flush_all(struct vcpu *v)
{
    for (unsigned n = 0; n < TLB_SET_COUNT; n++)
        clear_set(&v->tlb_sets[n]);
    clear_fetch(v, true);
    large_forget(v);
    v->directory_generation++;
    v->stat_tlb_flush++;
}

void tlb_flush_nonglobal(struct vcpu *v)
{
    if (!(v->cr4 & CR4_PGE)) {
        tlb_flush_all(v);
        return;
    }
    for (unsigned s = 0; s < TLB_SET_COUNT; s++)
        clear_nonglobal(&v->tlb_sets[s]);
    clear_fetch(v, false);
    v->directory_generation++;
    v->stat_tlb_flush++;
}

void tlb_drop_page(struct vcpu *v, uint64_t page)
{
    struct itlb_entry *fetch = &v->itlb[page >> 12 & (ITLB_ENTRIES - 1)];

    for (unsigned s = 0; s < TLB_SET_COUNT; s++) {
        drop_tag(&v->tlb_sets[s].read, page);
        drop_tag(&v->tlb_sets[s].write, page);
    }
    if ((fetch->tag & ~0xfffull) == page)
        fetch->tag = ITLB_NONE;
    for (unsigned s = 0; s < JUMP_CACHES; s++)
        jump_cache_forget(&v->jumps[s], page);
}

void tlb_drop_gigabyte(struct vcpu *v, uint64_t linear)
{
    for (unsigned s = 0; s < TLB_SET_COUNT; s++) {
        struct tlb_set *set = &v->tlb_sets[s];
        for (unsigned n = 0; n < TLB_ENTRIES; n++)
            if ((set->read.tag[n] ^ linear) >> 30 == 0 || (set->write.tag[n] ^ linear) >> 30 == 0)
                set->read.tag[n] = set->write.tag[n] = tlb_none(n);
    }
    clear_fetch(v, true);
}

void tlb_flush_page(struct vcpu *v, uint64_t linear)
{
    v->directory_generation++;
    large_drop(v, linear);
    tlb_drop_page(v, linear & ~0xfffull);
}

static void forget_write_tags(struct vcpu *v)
{
    for (unsigned s = 0; s < TLB_SET_COUNT; s++)
        if (v->tlb_sets[s].dirty)
            for (unsigned n = 0; n < TLB_ENTRIES; n++)
                v->tlb_sets[s].write.tag[n] = tlb_none(n);
}

void tlb_protect_host_page(struct vcpu *v, const void *hpage)
{
    for (unsigned s = 0; s < TLB_SET_COUNT; s++) {
        struct tlb_set *set = &v->tlb_sets[s];
        if (!set->dirty)
            continue;
        for (unsigned n = 0; n < TLB_ENTRIES; n++)
            if (set->write.host[n] == (uint64_t)hpage)
                set->write.tag[n] = tlb_none(n);
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
