/* What the semantics templates share: operand forms, register access, conditions, the ends of blocks.
 *
 * A template is an always-inline function sem_NAME(v, i, ARG, form, size) whose last three arguments are constants at each of
 * its uses in gen/handlers_*.c, so that the compiler folds it to one operand form and size.
 */
#ifndef KVMISH_CPU_SEM_COMMON_H
#define KVMISH_CPU_SEM_COMMON_H

#include "cpu/access.h"
#include "cpu/alu.h"
#include "isa/codecache.h"

#define SEM static inline __attribute__((always_inline)) const struct insn *

/* Explicit operands in the manual's order: r register, m memory, i immediate. */
enum form {
    FORM_NONE, FORM_R, FORM_M, FORM_I, FORM_RR, FORM_RM, FORM_MR, FORM_RI, FORM_MI, FORM_RRI, FORM_RMI,
    FORM_MRI, FORM_RRR, FORM_MRR, FORM_IR, FORM_II
};

static inline __attribute__((always_inline)) uint64_t reg_get(const struct vcpu *v, unsigned n, const unsigned size)
{
    switch (size) {
    case 1: return ((const uint8_t *)v->gpr)[n];
    case 2: return (uint16_t)v->gpr[n];
    case 4: return (uint32_t)v->gpr[n];
    default: return v->gpr[n];
    }
}

static inline __attribute__((always_inline)) void reg_set(struct vcpu *v, unsigned n, const unsigned size,
                                                          uint64_t value)
{
    switch (size) {
    case 1: ((uint8_t *)v->gpr)[n] = (uint8_t)value; break;
    case 2: *(uint16_t *)&v->gpr[n] = (uint16_t)value; break;
    case 4: v->gpr[n] = (uint32_t)value; break; /* zero-extended: SDM vol. 1, 3.4.1.1 */
    default: v->gpr[n] = value; break;
    }
}

static inline __attribute__((always_inline)) uint64_t size_mask(const unsigned size)
{
    return size == 8 ? ~0ull : (1ull << 8 * size) - 1;
}

static inline __attribute__((always_inline)) int64_t sign_extend(uint64_t value, const unsigned size)
{
    switch (size) {
    case 1: return (int8_t)value;
    case 2: return (int16_t)value;
    case 4: return (int32_t)value;
    default: return (int64_t)value;
    }
}

enum cond { /* in encoding order, SDM vol. 2, appendix B, table B-10; odd: negated */
    CC_O, CC_NO, CC_B, CC_NB, CC_Z, CC_NZ, CC_BE, CC_NBE, CC_S, CC_NS, CC_P, CC_NP, CC_L, CC_NL, CC_LE, CC_NLE
};

static inline __attribute__((always_inline)) bool cond_holds(uint32_t f, const enum cond cc)
{
    bool r;

    switch (cc >> 1) {
    case 0: r = f & PF_OF; break;
    case 1: r = f & PF_CF; break;
    case 2: r = f & PF_ZF; break;
    case 3: r = f & (PF_CF | PF_ZF); break;
    case 4: r = f & PF_SF; break;
    case 5: r = f & PF_PF; break;
    case 6: r = (f >> 15 ^ f) & 1; break;
    default: r = ((f >> 15 ^ f) & 1) || f & PF_ZF; break;
    }
    return (cc & 1) ? !r : r;
}

/* ---- ends of blocks ------------------------------------------------------------------------ */

/* Ends the block behind this instruction: what it changed (IF, mode, TLB) is looked at before the next. */
static inline const struct insn *insn_end(struct vcpu *v, const struct insn *i)
{
    v->rip = cpu_next_rip(v, i);
    return NULL;
}

/* A near transfer to `target` that is not linked: checked as SDM vol. 2 (JMP, CALL, RET) says. */
static inline const struct insn *branch_to(struct vcpu *v, uint64_t target)
{
    if (v->code_bits == 64) {
        if (unlikely(!cpu_canonical(v, target)))
            cpu_gp(v, 0);
    } else if (unlikely(target > v->seg[CS].limit)) {
        cpu_gp(v, 0);
    }
    v->rip = target;
    return NULL;
}

static inline __attribute__((always_inline)) uint64_t branch_target(struct vcpu *v, const struct insn *i,
                                                                   const unsigned size)
{
    return (v->gpr[REG_PAGE] + i->off + i->len + (int64_t)i->disp) & size_mask(size);
}

/* Takes the direct branch: to its decoded target when linked and nothing asks for a poll. */
static inline __attribute__((always_inline)) const struct insn *branch_direct(struct vcpu *v, const struct insn *i,
                                                                             const unsigned size)
{
    const struct insn *target = i->target;

    if (likely(target != NULL)) {
        int32_t left = v->budget - (int32_t)(i - v->blk_start) - 1;
        if (likely(left > 0 && !__atomic_load_n(&v->kick, __ATOMIC_RELAXED))) {
            v->budget = left;
            v->blk_start = target;
            return target;
        }
    } else {
        codecache_link(v, i);
    }
    return branch_to(v, branch_target(v, i, size));
}

#endif
