/* Segment, control and system registers in and out: KVM_GET/SET_SREGS and SREGS2 (KVM API 4.13, 4.132). */
#include <errno.h>
#include <string.h>

#include "kvm/kvm.h"
#include "mmu/tlb.h"

static void segment_out(const struct segment *s, struct kvm_segment *k)
{
    *k = (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->sel,
        .type = s->ar & AR_TYPE,
        .present = !!(s->ar & AR_P) && !(s->ar & AR_UNUSABLE),
        .dpl = (s->ar & AR_DPL) >> AR_DPL_SHIFT,
        .db = !!(s->ar & AR_DB),
        .s = !!(s->ar & AR_S),
        .l = !!(s->ar & AR_L),
        .g = !!(s->ar & AR_G),
        .avl = !!(s->ar & AR_AVL),
        .unusable = !!(s->ar & AR_UNUSABLE),
    };
}

static void segment_in(struct segment *s, const struct kvm_segment *k)
{
    s->base = k->base;
    s->limit = k->limit;
    s->sel = k->selector;
    s->ar = (k->type & AR_TYPE) | (k->s ? AR_S : 0) | (k->dpl & 3) << AR_DPL_SHIFT | (k->present ? AR_P : 0) |
            (k->avl ? AR_AVL : 0) | (k->l ? AR_L : 0) | (k->db ? AR_DB : 0) | (k->g ? AR_G : 0) |
            (k->unusable || !k->present ? AR_UNUSABLE : 0);
}

struct common { /* the head of both structures */
    struct kvm_segment cs, ds, es, fs, gs, ss, tr, ldt;
    struct kvm_dtable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
};
_Static_assert(sizeof(struct common) == offsetof(struct kvm_sregs2, flags), "sregs2 head");
_Static_assert(sizeof(struct common) == offsetof(struct kvm_sregs, interrupt_bitmap), "sregs head");

static void get_common(struct kvm_vcpu *kv, struct common *s)
{
    const struct vcpu *v = &kv->cpu;

    segment_out(&v->seg[CS], &s->cs);
    segment_out(&v->seg[DS], &s->ds);
    segment_out(&v->seg[ES], &s->es);
    segment_out(&v->seg[FS], &s->fs);
    segment_out(&v->seg[GS], &s->gs);
    segment_out(&v->seg[SS], &s->ss);
    segment_out(&v->seg[TR], &s->tr);
    segment_out(&v->seg[LDTR], &s->ldt);
    s->gdt = (struct kvm_dtable){.base = v->gdt.base, .limit = v->gdt.limit};
    s->idt = (struct kvm_dtable){.base = v->idt.base, .limit = v->idt.limit};
    s->cr0 = v->cr0;
    s->cr2 = v->cr2;
    s->cr3 = v->cr3;
    s->cr4 = v->cr4;
    s->cr8 = vcpu_get_cr8(kv);
    s->efer = v->efer;
    s->apic_base = kv->has_lapic ? lapic_base_get(&kv->lapic)
                                 : APIC_DEFAULT_BASE | APIC_BASE_ENABLE | (kv->id == kv->vm->bsp_id ? APIC_BASE_BSP : 0);
}

static bool common_valid(const struct kvm_vcpu *kv, const struct common *s)
{
    if ((s->efer & EFER_LME) && (s->cr0 & CR0_PG)) {
        if (!(s->cr4 & CR4_PAE) || !(s->efer & EFER_LMA))
            return false;
    } else if ((s->efer & EFER_LMA) || s->cs.l) {
        return false;
    }
    if (s->cr0 >> 32 || ((s->cr0 & CR0_NW) && !(s->cr0 & CR0_CD)) || ((s->cr0 & CR0_PG) && !(s->cr0 & CR0_PE)))
        return false;
    return !(s->cr4 & ~cpu_cr4_allowed(&kv->cpu));
}

static int set_common(struct kvm_vcpu *kv, const struct common *s)
{
    struct vcpu *v = &kv->cpu;

    if (!common_valid(kv, s))
        return -EINVAL;
    if (kv->has_lapic && lapic_base_set(&kv->lapic, s->apic_base, true))
        return -EINVAL;
    segment_in(&v->seg[CS], &s->cs);
    segment_in(&v->seg[DS], &s->ds);
    segment_in(&v->seg[ES], &s->es);
    segment_in(&v->seg[FS], &s->fs);
    segment_in(&v->seg[GS], &s->gs);
    segment_in(&v->seg[SS], &s->ss);
    segment_in(&v->seg[TR], &s->tr);
    segment_in(&v->seg[LDTR], &s->ldt);
    v->gdt = (struct desc_table){.base = s->gdt.base, .limit = s->gdt.limit};
    v->idt = (struct desc_table){.base = s->idt.base, .limit = s->idt.limit};
    v->cr0 = s->cr0 | CR0_ET;
    v->cr2 = s->cr2;
    v->cr3 = s->cr3;
    v->cr4 = s->cr4;
    v->efer = s->efer;
    vcpu_set_cr8(kv, s->cr8);
    v->cpl = s->cr0 & CR0_PE ? s->ss.dpl & 3 : 0; /* kept in SS.DPL, as VMX and SVM do */
    cpu_update_mode(v);
    __atomic_fetch_or(&v->requests, REQ_TLB_FLUSH, __ATOMIC_SEQ_CST);
    /* Clients of old reset the boot processor like this and expect it to run. */
    if (kv->id == kv->vm->bsp_id && v->rip == 0xfff0 && s->cs.selector == 0xf000 && !(s->cr0 & CR0_PE))
        kv->mp_state = KVM_MP_STATE_RUNNABLE;
    return 0;
}

static bool pae_paging(const struct vcpu *v)
{
    return (v->cr0 & CR0_PG) && (v->cr4 & CR4_PAE) && !(v->efer & EFER_LMA);
}

void state_get_sregs(struct kvm_vcpu *kv, struct kvm_sregs *s)
{
    get_common(kv, (struct common *)s);
    if (kv->cpu.pending.type == EVENT_EXTINT)
        s->interrupt_bitmap[kv->cpu.pending.vector / 64] |= 1ull << kv->cpu.pending.vector % 64;
    else if (kv->user_irq >= 0)
        s->interrupt_bitmap[kv->user_irq / 64] |= 1ull << kv->user_irq % 64;
}

int state_set_sregs(struct kvm_vcpu *kv, const struct kvm_sregs *s)
{
    int err = set_common(kv, (const struct common *)s);

    if (err)
        return err;
    if (pae_paging(&kv->cpu))
        vcpu_guest_read(kv, s->cr3 & 0xffffffe0, kv->cpu.pdpte, sizeof(kv->cpu.pdpte));
    for (unsigned i = 0; i < 4; i++)
        if (s->interrupt_bitmap[i]) {
            kv->cpu.pending = (struct event){
                .type = EVENT_EXTINT, .vector = (uint8_t)(i * 64 + (unsigned)__builtin_ctzll(s->interrupt_bitmap[i]))};
            break;
        }
    return 0;
}

void state_get_sregs2(struct kvm_vcpu *kv, struct kvm_sregs2 *s)
{
    get_common(kv, (struct common *)s);
    if (pae_paging(&kv->cpu)) {
        memcpy(s->pdptrs, kv->cpu.pdpte, sizeof(s->pdptrs));
        s->flags |= KVM_SREGS2_FLAGS_PDPTRS_VALID;
    }
}

int state_set_sregs2(struct kvm_vcpu *kv, const struct kvm_sregs2 *s)
{
    bool valid = s->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
    bool pae = (s->cr0 & CR0_PG) && (s->cr4 & CR4_PAE) && !(s->efer & EFER_LMA);
    int err;

    if (s->flags & ~(uint64_t)KVM_SREGS2_FLAGS_PDPTRS_VALID || (valid && !pae))
        return -EINVAL;
    err = set_common(kv, (const struct common *)s);
    if (err)
        return err;
    if (valid)
        memcpy(kv->cpu.pdpte, s->pdptrs, sizeof(s->pdptrs));
    else if (pae)
        vcpu_guest_read(kv, s->cr3 & 0xffffffe0, kv->cpu.pdpte, sizeof(kv->cpu.pdpte));
    return 0;
}

uint64_t vcpu_get_cr8(struct kvm_vcpu *kv)
{
    return kv->has_lapic ? lapic_get_tpr(&kv->lapic) : kv->cpu.cr8;
}

void vcpu_set_cr8(struct kvm_vcpu *kv, uint64_t cr8)
{
    if (kv->has_lapic)
        lapic_set_tpr(&kv->lapic, cr8 & 0xf);
    else
        kv->cpu.cr8 = cr8 & 0xf;
}
