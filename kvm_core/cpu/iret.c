/* IRET in every mode: to the same, an outer or the virtual-8086 level, and back to the previous
 * task. SDM vol. 2, IRET/IRETD/IRETQ; vol. 3, 6.12 and 21.2.
 */
#include "cpu/access.h"
#include "cpu/far.h"
#include "cpu/straight.h"

enum { FL_ALWAYS = FL_ARITH | FL_TF | FL_DF | FL_NT };

/* What remains of the old flags, and what the image may change. */
static void change_flags(struct vcpu *v, uint64_t image, uint64_t may_change)
{
    cpu_set_eflags(v, (cpu_get_eflags(v) & ~may_change) | (image & may_change));
}

/* Flags that the image may change in protected mode, by the CPL before the return. */
static uint64_t protected_mask(const struct vcpu *v, unsigned opsize)
{
    uint64_t mask = FL_ALWAYS | FL_RF;

    if (opsize > 2)
        mask |= FL_AC | FL_ID;
    if (v->cpl <= cpu_iopl(v))
        mask |= FL_IF;
    if (v->cpl == 0)
        mask |= opsize > 2 ? FL_IOPL | FL_VIF | FL_VIP : FL_IOPL;
    return mask;
}

static void iret_real(struct vcpu *v, unsigned opsize)
{
    uint64_t rip, flags, mask = FL_ALWAYS | FL_IF | FL_IOPL | FL_RF;
    struct far_stack st;
    uint16_t sel;

    far_stack_current(v, &st, 0);
    rip = far_pop(v, &st, opsize);
    sel = (uint16_t)far_pop(v, &st, opsize);
    flags = far_pop(v, &st, opsize);
    if (rip > v->seg[CS].limit)
        cpu_gp(v, 0);
    if (opsize > 2)
        mask |= FL_AC | FL_ID;
    v->gpr[RSP] = st.sp;
    if (opsize == 2)
        flags &= 0xffff; /* RF: cleared */
    change_flags(v, flags, mask);
    segment_load_real(v, CS, sel);
    v->rip = rip;
}

static void iret_vm86(struct vcpu *v, unsigned opsize)
{
    uint64_t rip, flags, mask = FL_ALWAYS | FL_IF | FL_RF;
    bool virtual_if = cpu_iopl(v) < 3;
    struct far_stack st;
    uint16_t sel;

    if (virtual_if && (!(v->cr4 & CR4_VME) || opsize != 2))
        cpu_gp(v, 0);
    far_stack_current(v, &st, 0);
    rip = far_pop(v, &st, opsize);
    sel = (uint16_t)far_pop(v, &st, opsize);
    flags = far_pop(v, &st, opsize);
    if (rip > v->seg[CS].limit)
        cpu_gp(v, 0);
    if (opsize > 2)
        mask |= FL_AC | FL_ID;
    else
        flags &= 0xffff;
    if (virtual_if) { /* SDM vol. 3, 21.3.3.4: VIF stands for IF */
        if ((flags & FL_IF && v->eflags & FL_VIP) || flags & FL_TF)
            cpu_gp(v, 0);
        flags |= flags & FL_IF ? FL_VIF : 0;
        mask = (mask & ~(uint64_t)FL_IF) | FL_VIF;
    }
    v->gpr[RSP] = st.sp;
    change_flags(v, flags, mask);
    segment_load_real(v, CS, sel);
    v->rip = rip;
}

static void iret_to_vm86(struct vcpu *v, struct far_stack *st, uint64_t rip, uint16_t cs,
                         uint64_t flags)
{
    static const enum segreg order[] = {SS, ES, DS, FS, GS};
    uint16_t sel[5];
    uint64_t rsp = far_pop(v, st, 4);

    for (unsigned n = 0; n < 5; n++)
        sel[n] = (uint16_t)far_pop(v, st, 4);
    if (rip > 0xffff)
        cpu_gp(v, 0);
    cpu_set_eflags(v, flags);
    segment_set_vm86(v, CS, cs);
    for (unsigned n = 0; n < 5; n++)
        segment_set_vm86(v, order[n], sel[n]);
    v->cpl = 3;
    cpu_update_mode(v);
    v->gpr[RSP] = (uint32_t)rsp;
    v->rip = rip;
}

/* NT: back to the task whose selector is in the link field. SDM vol. 3, 8.4 */
static void iret_task(struct vcpu *v, const struct insn *i)
{
    uint16_t link;

    if (cpu_lma(v))
        cpu_gp(v, 0);
    link = (uint16_t)sys_load(v, (uint32_t)v->seg[TR].base, 2);
    task_switch(v, link, TASK_IRET, cpu_next_rip(v, i), false, 0);
}

static void iret_protected(struct vcpu *v, unsigned opsize)
{
    uint64_t rip, rsp = 0, flags, mask = protected_mask(v, opsize);
    unsigned old_cpl = v->cpl;
    struct segment cs, ss;
    struct far_stack st;
    bool outer;
    uint16_t sel;

    far_stack_current(v, &st, 0);
    if (v->mode == MODE_LONG)
        far_hold(v, &st, 5 * opsize);
    if (!st.host) {
        far_touch(v, &st, 2 * opsize, opsize);
        if (v->amd && v->mode == MODE_LONG) {
            far_touch(v, &st, 4 * opsize, opsize);
            far_touch(v, &st, 3 * opsize, opsize);
        }
    }
    rip = far_pop(v, &st, opsize);
    sel = (uint16_t)far_pop(v, &st, opsize);
    flags = far_pop(v, &st, opsize);
    if (opsize == 2)
        flags &= 0xffff;
    if (flags & FL_VM && v->cpl == 0 && !cpu_lma(v)) {
        iret_to_vm86(v, &st, rip, sel, flags);
        return;
    }
    if (v->amd && v->mode != MODE_LONG && sel_rpl(sel) != v->cpl) {
        far_touch(v, &st, opsize, opsize);
        far_touch(v, &st, 0, opsize);
    }
    far_return_code(v, sel, &cs);
    rip = far_ip(v, &cs, rip);
    if (v->amd) /* before the stack segment is looked at */
        far_check_ip(v, &cs, rip, 0);
    outer = sel_rpl(sel) != v->cpl || v->mode == MODE_LONG;
    if (outer) {
        rsp = far_pop(v, &st, opsize);
        far_return_stack(v, (uint16_t)far_pop(v, &st, opsize), &cs, &ss);
    }
    far_check_ip(v, &cs, rip, 0);

    change_flags(v, flags, mask);
    if (!outer)
        v->gpr[RSP] = st.sp;
    far_commit(v, &cs, outer ? &ss : NULL, sel_rpl(cs.sel), rip);
    if (outer)
        stack_set(v, rsp);
    if (v->cpl > old_cpl)
        far_null_data(v);
}

void insn_iret(struct vcpu *v, const struct insn *i, unsigned opsize)
{
    if (v->mode == MODE_REAL)
        iret_real(v, opsize);
    else if (v->mode == MODE_VM86)
        iret_vm86(v, opsize);
    else if (v->eflags & FL_NT)
        iret_task(v, i);
    else if (opsize < 8 || v->slow || !straight_iretq(v, protected_mask(v, opsize)))
        iret_protected(v, opsize);
    if (v->nmi_masked) { /* one may wait: SDM vol. 3, 6.7.1 */
        v->nmi_masked = false;
        __atomic_store_n(&v->kick, 1, __ATOMIC_RELAXED);
    }
}
