/* PUSHF, POPF, CLI, STI: which flags each privilege and mode may see and change.
 * SDM vol. 2, POPF; virtual interrupts (VME, PVI): vol. 3, 21.3 and 21.4.
 */
#include "cpu/access.h"
#include "cpu/sem/common.h"
#include "gen/handlers.h"

#define OP(name) const struct insn *op_##name(struct vcpu *v, const struct insn *i)

/* Virtual-8086 mode below IOPL 3: IF is virtual (VME), or the instruction traps. */
static bool vm86_virtual_if(struct vcpu *v, unsigned size)
{
    if (v->mode != MODE_VM86 || cpu_iopl(v) == 3)
        return false;
    if (!(v->cr4 & CR4_VME) || size != 2)
        cpu_gp(v, 0);
    return true;
}

static const struct insn *pushf(struct vcpu *v, const struct insn *i, const unsigned size)
{
    uint64_t flags = cpu_get_eflags(v) & ~(uint64_t)(FL_VM | FL_RF);

    if (vm86_virtual_if(v, size)) {
        flags = (flags & ~(uint64_t)FL_IF) | FL_IOPL;
        flags |= flags & FL_VIF ? FL_IF : 0;
    }
    stack_push(v, size, flags);
    return insn_next(i);
}

OP(pushf) { return pushf(v, i, 2); }
OP(pushfd) { return pushf(v, i, 4); }
OP(pushfq) { return pushf(v, i, 8); }

static const struct insn *popf(struct vcpu *v, const struct insn *i, const unsigned size)
{
    uint64_t mask = FL_ARITH | FL_TF | FL_DF | FL_NT, image;
    bool virtual_if = vm86_virtual_if(v, size);

    image = stack_peek(v, size);
    if (virtual_if) {
        if ((image & FL_IF && v->eflags & FL_VIP) || image & FL_TF)
            cpu_gp(v, 0);
        image = (image & 0xffff) | (image & FL_IF ? FL_VIF : 0);
        mask |= FL_VIF;
    } else if (v->cpl <= cpu_iopl(v)) {
        mask |= FL_IF;
    }
    if (v->cpl == 0)
        mask |= FL_IOPL;
    if (size > 2)
        mask |= FL_AC | FL_ID;
    stack_set(v, v->gpr[RSP] + size);
    cpu_set_eflags(v, (cpu_get_eflags(v) & ~(mask | FL_RF)) | (image & mask));
    return insn_end(v, i);
}

OP(popf) { return popf(v, i, 2); }
OP(popfd) { return popf(v, i, 4); }
OP(popfq) { return popf(v, i, 8); }

/* Whether CLI and STI act on VIF; #GP(0) when they may act on neither flag. */
static bool acts_on_vif(struct vcpu *v)
{
    if (v->cpl <= cpu_iopl(v))
        return false;
    if (v->mode == MODE_VM86 ? !(v->cr4 & CR4_VME) : v->cpl != 3 || !(v->cr4 & CR4_PVI))
        cpu_gp(v, 0);
    return true;
}

OP(cli)
{
    v->eflags &= acts_on_vif(v) ? ~(uint32_t)FL_VIF : ~(uint32_t)FL_IF;
    return insn_next(i);
}

OP(sti)
{
    if (acts_on_vif(v)) {
        if (v->eflags & FL_VIP)
            cpu_gp(v, 0);
        v->eflags |= FL_VIF;
    } else {
        if (!(v->eflags & FL_IF))
            v->shadow = SHADOW_STI;
        v->eflags |= FL_IF;
    }
    return insn_end(v, i);
}
