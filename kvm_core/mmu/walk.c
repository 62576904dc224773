/* The page-table walk: linear to guest physical, in every paging mode. SDM vol. 3, chapter 4. */
#include "mmu/tlb.h"

#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "cpu/lockstep.h"
#include "mmu/paging.h"
#include "mmu/phys.h"
#include "mmu/reach.h"

enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16, PF_PK = 32 }; /* error code, 4.7 */

/* An entry read during a walk, and where it is. */
struct entry {
    uint64_t value;
    uint64_t *at64; /* one of both: the entry in host memory */
    uint32_t *at32;
    uint64_t gpa;
    struct page_ref ref;
};

enum step { STEP_OK, STEP_ABSENT, STEP_RESERVED, STEP_UNBACKED };

static bool entry_find(struct vcpu *v, uint64_t gpa, struct entry *e)
{
    e->gpa = gpa;
    return phys_lookup_near(v->phys, &v->slot_near, gpa, &e->ref);
}

static enum step entry_read64(struct vcpu *v, uint64_t gpa, struct entry *e)
{
    if (!entry_find(v, gpa, e))
        return STEP_ABSENT;
    e->at32 = NULL;
    e->at64 = (uint64_t *)(e->ref.host + (gpa & 0xfff));
    struct reached r = reach_load(e->at64);
    if (unlikely(!r.there))
        return STEP_UNBACKED;
    e->value = r.value;
    return r.value & PTE_P ? STEP_OK : STEP_ABSENT;
}

static enum step entry_read32(struct vcpu *v, uint64_t gpa, struct entry *e)
{
    if (!entry_find(v, gpa, e))
        return STEP_ABSENT;
    e->at64 = NULL;
    e->at32 = (uint32_t *)(e->ref.host + (gpa & 0xfff));
    if (unlikely(!reach_read(e->at32)))
        return STEP_UNBACKED;
    e->value = __atomic_load_n(e->at32, __ATOMIC_RELAXED);
    return e->value & PTE_P ? STEP_OK : STEP_ABSENT;
}

/* Sets A (and D) in an entry; false when the entry has changed meanwhile and the walk must restart. */
static bool entry_set(struct vcpu *v, struct entry *e, uint64_t bits)
{
    if ((e->value & bits) == bits || e->ref.slot->readonly)
        return true;
    if (unlikely(v->lockstep != NULL))
        lockstep_page(v, e->ref.slot, e->ref.page, e->ref.host);
    if (e->at64) {
        uint64_t old = e->value;
        if (!__atomic_compare_exchange_n(e->at64, &old, old | bits, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
            return false;
    } else {
        uint32_t old = (uint32_t)e->value;
        if (!__atomic_compare_exchange_n(e->at32, &old, old | (uint32_t)bits, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_RELAXED))
            return false;
    }
    e->value |= bits;
    phys_mark_dirty(e->ref.slot, e->ref.page);
    return true;
}

/* The levels of a paging mode, from the root; `rights` are the entries' U, W and NX combined. */
struct path {
    struct entry level[5];
    int count;
    uint64_t rights; /* PTE_W | PTE_U as and-ed, PTE_NX as or-ed */
    uint64_t gpa;
    uint64_t directory, above; /* the page directory, and the rights of the levels above it */
    uint8_t shift;
    bool global;
};

static uint64_t reserved_long(const struct vcpu *v, uint64_t pte, int shift, bool large)
{
    uint64_t bits = v->phys_reserved & PTE_FRAME;

    if (!(v->efer & EFER_NXE))
        bits |= PTE_NX;
    if (shift == 48 || shift == 39) /* PML5E, PML4E have no PS (4.5.2); AMD's no bit 8 either (APM vol. 2, 5.3.3) */
        bits |= v->amd ? PTE_PS | PTE_G : PTE_PS;
    if (shift == 30 && large && !cpu_has(v, FEAT_PDPE1GB))
        bits |= PTE_PS;
    if (large)
        bits |= ((1ull << shift) - 1) & ~0x1fffull; /* below the frame, PAT bit excepted */
    return pte & bits;
}

/* Down tables of 64-bit entries from the one that indexes by `shift`, with the rights above it. `reserved`: bits beyond those
 * of reserved_long(). */
static enum step path_down(struct vcpu *v, uint64_t linear, uint64_t table, int shift, uint64_t rights, uint64_t reserved,
                           struct path *p)
{
    p->rights = rights;
    for (p->count = 0;; shift -= 9) {
        if (shift == 21) {
            p->directory = table;
            p->above = p->rights;
        }
        struct entry *e = &p->level[p->count];
        enum step step = entry_read64(v, table + (linear >> shift & 511) * 8, e);
        if (step)
            return step;
        p->count++;
        bool large = shift > 12 && e->value & PTE_PS;
        if (reserved_long(v, e->value, shift, large && shift <= 30) || e->value & reserved)
            return STEP_RESERVED;
        p->rights = (p->rights & (e->value | PTE_NX)) | (e->value & PTE_NX);
        if (large || shift == 12) {
            uint64_t mask = (1ull << shift) - 1;
            p->gpa = (e->value & PTE_FRAME & ~mask) | (linear & mask & ~0xfffull);
            p->shift = (uint8_t)shift;
            p->global = e->value & PTE_G;
            return STEP_OK;
        }
        table = e->value & PTE_FRAME;
    }
}

static enum step path_long(struct vcpu *v, uint64_t linear, struct path *p)
{
    struct directory *d = directory_of(v, linear);

    if (d->tag == directory_tag(v, linear))
        return path_down(v, linear, d->table, 21, d->rights, 0, p);
    p->directory = 0;
    return path_down(v, linear, v->cr3 & PTE_FRAME, v->cr4 & CR4_LA57 ? 48 : 39, PTE_W | PTE_U, 0, p);
}

static enum step path_pae(struct vcpu *v, uint64_t linear, struct path *p)
{
    uint64_t pdpte = v->pdpte[linear >> 30 & 3];

    p->count = 0;
    if (!(pdpte & PTE_P))
        return STEP_ABSENT;
    /* bits 62:52 are reserved in PAE (4.4.2) */
    return path_down(v, linear, pdpte & PTE_FRAME, 21, PTE_W | PTE_U, 0x7ff0000000000000ull, p);
}

static enum step path_32(struct vcpu *v, uint64_t linear, struct path *p)
{
    struct entry *e = &p->level[0];
    enum step step;

    p->count = 0;
    p->rights = PTE_W | PTE_U;
    step = entry_read32(v, (v->cr3 & 0xfffff000u) + (linear >> 22 & 1023) * 4, e);
    if (step)
        return step;
    p->count = 1;
    p->rights &= e->value;
    if (e->value & PTE_PS && v->cr4 & CR4_PSE) { /* 4 MiB, with PSE-36: bits 20:13 are 39:32 (4.3) */
        uint64_t high = e->value >> 13 & 0xff;
        if (e->value & 1 << 21 || (high << 32 & v->phys_reserved))
            return STEP_RESERVED;
        p->gpa = (high << 32) | (e->value & 0xffc00000u) | (linear & 0x3ff000);
        p->shift = 22;
        p->global = e->value & PTE_G;
        return STEP_OK;
    }
    e = &p->level[1];
    step = entry_read32(v, (p->level[0].value & 0xfffff000u) + (linear >> 12 & 1023) * 4, e);
    if (step)
        return step;
    p->count = 2;
    p->rights &= e->value;
    p->gpa = e->value & 0xfffff000u;
    p->shift = 12;
    p->global = e->value & PTE_G;
    return STEP_OK;
}

static enum step path_find(struct vcpu *v, uint64_t linear, struct path *p)
{
    if (cpu_lma(v))
        return path_long(v, linear, p);
    if (v->cr4 & CR4_PAE)
        return path_pae(v, (uint32_t)linear, p);
    return path_32(v, (uint32_t)linear, p);
}

/* Access rights, SDM vol. 3, 4.6: true when allowed. *pk is set when the protection key denies, whatever
 * else does. */
static bool rights_allow(const struct vcpu *v, uint64_t rights, uint64_t leaf, bool user, bool smap, int access,
                         bool *pk)
{
    bool user_page = rights & PTE_U;

    *pk = false;
    if (access == ACC_FETCH) {
        if (rights & PTE_NX)
            return false;
        if (user)
            return user_page;
        return !(user_page && v->cr4 & CR4_SMEP);
    }
    if (cpu_lma(v) && (user_page ? v->cr4 & CR4_PKE : v->cr4 & CR4_PKS && !user)) { /* SDM vol. 3, 4.6.2 */
        uint32_t keys = user_page ? v->pkru : (uint32_t)v->pkrs;
        unsigned key = leaf >> 59 & 15;
        bool ad = keys >> (2 * key) & 1, wd = keys >> (2 * key + 1) & 1;
        *pk = ad || (wd && access == ACC_WRITE && (user || v->cr0 & CR0_WP));
    }
    if (user ? !user_page : user_page && smap)
        return false;
    if (access == ACC_WRITE && !(rights & PTE_W) && (user || v->cr0 & CR0_WP))
        return false;
    return !*pk;
}

uint32_t mmu_walk(struct vcpu *v, uint64_t linear, enum tlb_set_kind kind, int access, struct walk *out)
{
    bool user = kind == TLB_USER || kind == TLB_USER_AC, smap = kind == TLB_SUPER_SMAP, pk;
    bool nx = v->efer & EFER_NXE && (v->cr4 & CR4_PAE || cpu_lma(v));
    uint32_t error = (access == ACC_WRITE ? PF_W : 0) | (user ? PF_U : 0) |
                     (access == ACC_FETCH && (nx || v->cr4 & CR4_SMEP) ? PF_I : 0);
    struct path p;

    if (!(v->cr0 & CR0_PG)) {
        *out = (struct walk){.gpa = linear & 0xfffff000ull, .writable = true, .user = true, .page_shift = 12};
        return 0;
    }
    for (;;) {
        enum step step = path_find(v, linear, &p);
        if (step == STEP_ABSENT)
            return WALK_FAULT | error;
        if (unlikely(step == STEP_UNBACKED))
            cpu_unbacked(v, p.level[p.count].gpa, false);
        if (step == STEP_RESERVED)
            return WALK_FAULT | error | PF_P | PF_RSVD;
        struct entry *leaf = &p.level[p.count - 1];
        if (!rights_allow(v, p.rights, leaf->value, user, smap, access, &pk))
            return WALK_FAULT | error | PF_P | (pk ? PF_PK : 0);
        bool restart = false;
        for (int n = 0; n < p.count - 1 && !restart; n++)
            restart = !entry_set(v, &p.level[n], PTE_A);
        if (!restart && entry_set(v, leaf, PTE_A | (access == ACC_WRITE ? PTE_D : 0))) {
            if (cpu_lma(v) && p.directory) { /* all above it are marked accessed */
                struct directory *d = directory_of(v, linear);
                *d = (struct directory){directory_tag(v, linear), p.directory, p.above};
            }
            bool may_write = rights_allow(v, p.rights, leaf->value, user, smap, ACC_WRITE, &pk);
            *out = (struct walk){.gpa = p.gpa,
                                 .writable = may_write && leaf->value & PTE_D,
                                 .global = p.global && v->cr4 & CR4_PGE,
                                 .user = p.rights & PTE_U,
                                 .page_shift = p.shift};
            return 0;
        }
    }
}

void mmu_walk_fetch(struct vcpu *v, uint64_t linear, struct walk *out)
{
    uint32_t error;

    if (cpu_lma(v) && !cpu_canonical(v, linear))
        cpu_gp(v, 0);
    error = mmu_walk(v, linear, v->cpl == 3 ? TLB_USER : TLB_SUPER, ACC_FETCH, out);
    if (error)
        cpu_page_fault(v, linear, error & ~WALK_FAULT);
}

bool mmu_translate(struct vcpu *v, uint64_t linear, uint64_t *gpa, bool *writable, bool *user)
{
    struct path p;

    if (!(v->cr0 & CR0_PG)) {
        *gpa = linear;
        *writable = *user = true;
        return true;
    }
    if (path_find(v, linear, &p) != STEP_OK)
        return false;
    *gpa = p.gpa | (linear & 0xfff);
    *writable = p.rights & PTE_W;
    *user = p.rights & PTE_U;
    return true;
}
