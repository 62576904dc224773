/* Semantics of near control transfers and of the stack. SDM vol. 1, chapter 6. */
#ifndef KVMISH_CPU_SEM_FLOW_H
#define KVMISH_CPU_SEM_FLOW_H

#include "cpu/sem/common.h"

SEM sem_jcc(struct vcpu *v, const struct insn *i, const enum cond cc, const enum form form, const unsigned size)
{
    (void)form;
    if (cond_holds(v->oszapc, cc))
        return branch_direct(v, i, size);
    return insn_next(i);
}

SEM sem_jmp(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    (void)unused;
    if (form == FORM_I)
        return branch_direct(v, i, size);
    uint64_t target = form == FORM_R ? reg_get(v, i->dst, size) : mem_load(v, ea(v, i, size, false), size);
    return branch_to(v, target);
}

static inline void check_target(struct vcpu *v, uint64_t target)
{
    if (v->code_bits == 64 ? !cpu_canonical(v, target) : target > v->seg[CS].limit)
        cpu_gp(v, 0);
}

/* Whether the return address can be pushed comes first; of one that cannot be gone from, Intel's processors leave it in memory. */
static inline void check_call_target(struct vcpu *v, const struct insn *i, uint64_t target, unsigned size)
{
    if (likely(v->code_bits == 64 ? cpu_canonical(v, target) : target <= v->seg[CS].limit))
        return;
    uint64_t linear = stack_linear(v, (v->gpr[RSP] - size) & stack_mask(v), size, true);
    if (v->amd) {
        stack_check_canonical(v, linear, size);
        mem_check_write(v, linear, size);
    } else {
        stack_store(v, linear, size, cpu_next_rip(v, i));
    }
    cpu_gp(v, 0);
}

SEM sem_call(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    (void)unused;
    if (form == FORM_I) {
        uint64_t target = branch_target(v, i, size);
        if (!i->target)
            check_call_target(v, i, target, size);
        stack_push(v, size, cpu_next_rip(v, i));
        return branch_direct(v, i, size);
    }
    uint64_t target = form == FORM_R ? reg_get(v, i->dst, size) : mem_load(v, ea(v, i, size, false), size);
    check_call_target(v, i, target, size);
    stack_push(v, size, cpu_next_rip(v, i));
    v->rip = target;
    return NULL;
}

SEM sem_ret(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    uint64_t target = stack_peek(v, size);

    (void)unused;
    check_target(v, target);
    stack_set(v, v->gpr[RSP] + size + (form == FORM_I ? (uint16_t)i->imm : 0));
    v->rip = target;
    return NULL;
}

/* JCXZ JECXZ JRCXZ, LOOP LOOPE LOOPNE: the counter has the address size */
enum loop { LOOP_JCXZ, LOOP_LOOP, LOOP_LOOPE, LOOP_LOOPNE };

SEM sem_loop(struct vcpu *v, const struct insn *i, const enum loop op, const enum form form, const unsigned size)
{
    unsigned width = i->am == AM_16 ? 2 : i->am == AM_32 || i->am == AM_64A32 ? 4 : 8;
    uint64_t mask = width == 8 ? ~0ull : (1ull << 8 * width) - 1;
    uint64_t count = (v->gpr[RCX] - (op != LOOP_JCXZ)) & mask;
    bool taken = op == LOOP_JCXZ ? count == 0 : count != 0;

    (void)form;
    if (op == LOOP_LOOPE)
        taken = taken && v->oszapc & PF_ZF;
    if (op == LOOP_LOOPNE)
        taken = taken && !(v->oszapc & PF_ZF);
    if (taken && !i->target)
        check_target(v, branch_target(v, i, size));
    if (op != LOOP_JCXZ)
        v->gpr[RCX] = width == 8 ? count : width == 4 ? count : (v->gpr[RCX] & ~0xffffull) | count;
    return taken ? branch_direct(v, i, size) : insn_next(i);
}

SEM sem_push(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    uint64_t a;

    (void)unused;
    if (form == FORM_R)
        a = reg_get(v, i->dst, size);
    else if (form == FORM_I)
        a = i->imm;
    else
        a = mem_load(v, ea(v, i, size, false), size);
    stack_push(v, size, a);
    return insn_next(i);
}

SEM sem_pop(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    uint64_t a = stack_peek(v, size), sp = v->gpr[RSP];

    (void)unused;
    if (form == FORM_R) {
        stack_set(v, sp + size);
        reg_set(v, i->dst, size, a); /* POP rSP: the value wins */
        return insn_next(i);
    }
    stack_set(v, sp + size); /* an rSP-based address uses the new value: SDM vol. 2, POP */
    uint64_t lin, after = v->gpr[RSP];
    if (v->mode == MODE_LONG) {
        lin = ea(v, i, size, true);
        v->gpr[RSP] = sp;
        mem_store(v, lin, size, a);
        v->gpr[RSP] = after;
        return insn_next(i);
    }
    uint64_t off = ea_offset(v, i);
    v->gpr[RSP] = sp;
    lin = seg_linear(v, i->seg, off, size, true);
    mem_store(v, lin, size, a);
    v->gpr[RSP] = after;
    return insn_next(i);
}

SEM sem_leave(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    uint64_t bp = v->gpr[RBP] & stack_mask(v);
    uint64_t a = stack_load(v, stack_linear(v, bp, size, false), size);

    (void)unused;
    (void)form;
    stack_set(v, bp + size);
    reg_set(v, RBP, size, a);
    return insn_next(i);
}

SEM sem_nop(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    (void)v;
    (void)unused;
    (void)form;
    (void)size;
    return insn_next(i);
}

#endif
