/* Flushing and protecting the software TLB; the mailbox by which others ask for it. */
#include "mmu/tlb.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/cpu.h"
#include "cpu/sync.h"
#include "isa/codecache.h"
#include "mmu/large.h"
#include "mmu/phys.h"

enum { HOST_PAGE = 4096, JUMPS_IN_PAGE = HOST_PAGE / sizeof(struct jump_entry) };

/* How many entries it has to look at, and the k-th of them. */
static unsigned fills_count(const struct fills *f, unsigned all) { return f->count <= FILLS_MAX ? f->count : all; }
static unsigned fills_at(const struct fills *f, unsigned k) { return f->count <= FILLS_MAX ? f->at[k] : k; }

static void clear_set(struct tlb_set *set)
{
    for (unsigned k = 0; k < fills_count(&set->fills, TLB_ENTRIES); k++) {
        unsigned n = fills_at(&set->fills, k);
        set->read.entry[n].tag = set->write.entry[n].tag = tlb_none(n);
    }
    set->fills.count = set->nonglobal.count = 0;
}

static bool is_global(const struct tlb_table *t, unsigned n) { return t->global[n / 64] >> n % 64 & 1; }

static void drop_nonglobal(struct tlb_table *t, unsigned n)
{
    if (!is_global(t, n))
        t->entry[n].tag = tlb_none(n);
}

/* What is global stays. */
static void clear_nonglobal(struct tlb_set *set)
{
    for (unsigned k = 0; k < fills_count(&set->nonglobal, TLB_ENTRIES); k++) {
        unsigned n = fills_at(&set->nonglobal, k);
        drop_nonglobal(&set->read, n);
        drop_nonglobal(&set->write, n);
    }
    set->nonglobal.count = 0;
}

static void drop_tag(struct tlb_table *t, uint64_t page)
{
    unsigned n = tlb_index(page);

    if (t->entry[n].tag == page)
        t->entry[n].tag = tlb_none(n);
}

/* The part of it in [from, to), all of a page of the host's: that page is given back when nothing is left in it. */
static void drop_jumps(struct jump_cache *j, unsigned from, unsigned to, uint64_t first, uint64_t last)
{
    bool dropped = false, left = false;

    for (unsigned n = from; n < to; n++) {
        struct jump_entry *e = &j->entry[n];
        if (e->code >= first && e->code < last) {
            *e = (struct jump_entry){.rip = jump_none(n)};
            dropped = true;
        }
        left |= e->rip != jump_none(n);
    }
    if (dropped && !left && to - from == JUMPS_IN_PAGE && !madvise(&j->entry[from], HOST_PAGE, MADV_DONTNEED))
        j->entry[0].rip = from ? j->entry[0].rip : jump_none(0);
}

void jump_cache_drop(struct jump_cache *j, uint64_t first, uint64_t last)
{
    unsigned to, head = (unsigned)(-(uintptr_t)j->entry & (HOST_PAGE - 1)) / sizeof(j->entry[0]);

    for (unsigned n = 0; j->used && n < JUMP_ENTRIES; n = to) {
        to = n < head ? head : n + JUMPS_IN_PAGE;
        to = to < JUMP_ENTRIES ? to : JUMP_ENTRIES;
        drop_jumps(j, n, to, first, last);
    }
}

/* ---- the fetch look-aside ------------------------------------------------------------------ */

static uint64_t *code_at(struct vcpu *v, uint64_t tag, const struct codepage *p) { return &v->code_at[tag >> 1 & 1][p->number]; }

static void itlb_drop(struct vcpu *v, struct itlb_entry *e)
{
    if (e->tag == ITLB_NONE)
        return;
    *code_at(v, e->tag, e->page) = CODE_NOWHERE;
    e->tag = ITLB_NONE;
}

void itlb_drop_page(struct vcpu *v, const struct codepage *page)
{
    for (unsigned user = 0; user < 2; user++)
        if (v->code_at[user][page->number] != CODE_NOWHERE)
            itlb_drop(v, itlb_entry_of(v, v->code_at[user][page->number], user));
}

void itlb_enter(struct vcpu *v, uint64_t linear, struct codepage *page, bool global)
{
    bool user = v->cpl == 3;
    struct itlb_entry *e = itlb_entry_of(v, linear, user);
    uint64_t tag = (linear & ~0xfffull) | itlb_key(v), *at = code_at(v, tag, page);

    itlb_drop(v, e);
    if (*at != CODE_NOWHERE)
        itlb_drop(v, itlb_entry_of(v, *at, user));
    *e = (struct itlb_entry){.tag = tag, .page = page, .global = global};
    *at = linear & ~0xfffull;
    fills_add(&v->itlb_fills, (unsigned)(e - v->itlb));
    if (!global)
        fills_add(&v->itlb_nonglobal, (unsigned)(e - v->itlb));
}

static void clear_fetch(struct vcpu *v, bool globals)
{
    const struct fills *f = globals ? &v->itlb_fills : &v->itlb_nonglobal;

    for (unsigned k = 0; k < fills_count(f, ITLB_ENTRIES); k++) {
        struct itlb_entry *e = &v->itlb[fills_at(f, k)];
        if (globals || !e->global)
            itlb_drop(v, e);
    }
    v->itlb_nonglobal.count = 0;
    if (globals)
        v->itlb_fills.count = 0;
}

void itlb_clear(struct vcpu *v) { clear_fetch(v, true); }

int mmu_create(struct vcpu *v)
{
    v->itlb = calloc(ITLB_ENTRIES, sizeof(struct itlb_entry));
    if (!v->itlb || large_create(v)) {
        mmu_destroy(v);
        return -1;
    }
    for (unsigned n = 0; n < ITLB_ENTRIES; n++)
        v->itlb[n].tag = ITLB_NONE;
    for (unsigned n = 0; n < TLB_SET_COUNT; n++) /* all others are absent as they are: the memory is zero, and not touched */
        v->tlb_sets[n].read.entry[0].tag = v->tlb_sets[n].write.entry[0].tag = tlb_none(0);
    for (unsigned n = 0; n < JUMP_CACHES; n++)
        v->jumps[n].entry[0].rip = jump_none(0);
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
    v->tlb_drops++;
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
    v->tlb_drops++;
    v->stat_tlb_flush++;
}

void tlb_drop_page(struct vcpu *v, uint64_t page)
{
    v->tlb_drops++;
    for (unsigned s = 0; s < TLB_USER_AC; s++) { /* which has none */
        drop_tag(&v->tlb_sets[s].read, page);
        drop_tag(&v->tlb_sets[s].write, page);
    }
    for (unsigned user = 0; user < 2; user++) {
        struct itlb_entry *fetch = itlb_entry_of(v, page, user);
        if ((fetch->tag & ~0xfffull) == page)
            itlb_drop(v, fetch);
    }
}

void tlb_drop_gigabyte(struct vcpu *v, uint64_t linear)
{
    v->tlb_drops++;
    for (unsigned s = 0; s < TLB_SET_COUNT; s++) {
        struct tlb_set *set = &v->tlb_sets[s];
        for (unsigned n = 0; n < TLB_ENTRIES; n++)
            if ((set->read.entry[n].tag ^ linear) >> 30 == 0 || (set->write.entry[n].tag ^ linear) >> 30 == 0)
                set->read.entry[n].tag = set->write.entry[n].tag = tlb_none(n);
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
    v->tlb_drops++;
    for (unsigned s = 0; s < TLB_SET_COUNT; s++) {
        struct tlb_set *set = &v->tlb_sets[s];
        for (unsigned k = 0; k < fills_count(&set->fills, TLB_ENTRIES); k++) {
            unsigned n = fills_at(&set->fills, k);
            set->write.entry[n].tag = tlb_none(n);
        }
    }
}

/* Who invalidates page by page fills the same entries again and again. What is there may be little. */
void tlb_fills_renew(struct tlb_set *set)
{
    set->fills.count = set->nonglobal.count = 0;
    for (unsigned n = 0; n < TLB_ENTRIES; n++) {
        bool read = set->read.entry[n].tag != tlb_none(n), write = set->write.entry[n].tag != tlb_none(n);
        if (read || write)
            fills_add(&set->fills, n);
        if ((read && !is_global(&set->read, n)) || (write && !is_global(&set->write, n)))
            fills_add(&set->nonglobal, n);
    }
    if (set->fills.count > FILLS_MAX / 2) /* not again soon */
        set->fills.count = FILLS_MAX + 1;
}

void tlb_protect_host_page(struct vcpu *v, const void *hpage)
{
    v->tlb_drops++;
    for (unsigned s = 0; s < TLB_SET_COUNT; s++) {
        struct tlb_set *set = &v->tlb_sets[s];
        for (unsigned k = 0; k < fills_count(&set->fills, TLB_ENTRIES); k++) {
            unsigned n = fills_at(&set->fills, k);
            if (set->write.entry[n].host == (uint64_t)hpage)
                set->write.entry[n].tag = tlb_none(n);
        }
    }
}

/* ---- the mailbox ------------------------------------------------------------------------ */

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
