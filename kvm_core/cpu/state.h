/* What keeps the derived fields of struct vcpu true, for handlers that change one thing only.
 *
 * cpu_update_mode() (cpu.h) recomputes everything; these are its parts, cheap enough for STAC or
 * POPF.
 */
#ifndef KVMISH_CPU_STATE_H
#define KVMISH_CPU_STATE_H

#include "cpu/cpu.h"
#include "mmu/tlb.h"

/* After a change of CPL, CR0.AM, CR4.SMAP or EFLAGS.AC: which rights data accesses have. */
static inline void cpu_update_tlb_set(struct vcpu *v)
{
    enum tlb_set_kind kind = TLB_SUPER;

    if (v->cpl == 3)
        kind = (v->cr0 & CR0_AM) && (v->eflags & FL_AC) ? TLB_USER_AC : TLB_USER;
    else if ((v->cr4 & CR4_SMAP) && !(v->eflags & FL_AC))
        kind = TLB_SUPER_SMAP;
    v->tlb = v->tlb_sets + kind;
}

/* After a change of EFLAGS.TF, DR7 or guest_debug: SLOW_*; SLOW_SINGLE stays as it is. */
void cpu_update_slow(struct vcpu *v);

#endif
