/* Handlers of the instructions that touch segment registers and descriptors, and of far transfers:
 * operands in, the work is segment.c's, far.c's, exception.c's, syscall.c's. SDM vol. 2
 */
#include <linux/kvm.h>

#include "cpu/access.h"
#include "cpu/far.h"
#include "cpu/sem/common.h"
#include "gen/handlers.h"
#include "mmu/phys.h"

#define OP(name) const struct insn *op_##name(struct vcpu *v, const struct insn *i)

/* ---- far transfers ---------------- */

static bool in_device(struct vcpu *v, uint64_t linear)
{
    struct page_ref ref;
    bool writable, user;
    uint64_t gpa;

    return !mem_probe_read(v, linear, 1) && mmu_translate(v, linear, &gpa, &writable, &user) &&
           !phys_lookup(v->phys, gpa, &ref);
}

/* m16:16, m16:32, m16:64: offset first. AMD has no m16:64: REX.W is ignored (APM vol. 3, CALL far,
 * LSS); but a pointer in a device's memory is KVM's to emulate, and it reads 64 bits for every vendor. */
static unsigned pointer_size(struct vcpu *v, const struct insn *i)
{
    unsigned size = far_opsize(v, i);

    if (size == 8 && v->amd && !in_device(v, ea(v, i, 6, false)))
        return 4;
    return size;
}

static uint16_t load_pointer(struct vcpu *v, const struct insn *i, unsigned size, uint64_t *off)
{
    uint64_t linear = ea(v, i, size + 2, false);

    *off = mem_load(v, linear, size);
    return (uint16_t)mem_load(v, linear + size, 2);
}

static uint16_t far_target(struct vcpu *v, const struct insn *i, unsigned *size, uint64_t *off)
{
    *size = far_opsize(v, i); /* of what is pushed, also where the pointer is smaller */
    if (i->am != AM_NONE)
        return load_pointer(v, i, pointer_size(v, i), off);
    *off = (uint32_t)i->imm;
    return (uint16_t)(i->imm >> 32);
}

OP(call_far)
{
    unsigned size;
    uint64_t off;
    uint16_t sel = far_target(v, i, &size, &off);

    insn_call_far(v, i, sel, off, size);
    return NULL;
}

OP(jmp_far)
{
    unsigned size;
    uint64_t off;
    uint16_t sel = far_target(v, i, &size, &off);

    insn_jmp_far(v, i, sel, off, size);
    return NULL;
}

OP(ret_far)
{
    insn_ret_far(v, i, far_opsize(v, i), i->imm & 0xffff);
    return NULL;
}

OP(int)
{
    insn_int(v, i, i->imm & 0xff, EVENT_SOFTINT);
    return NULL;
}

OP(int1)
{
    insn_int(v, i, VEC_DB, EVENT_ICEBP);
    return NULL;
}

OP(int3)
{
    unsigned wanted = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;

    if ((v->guest_debug & wanted) == wanted) { /* the client's breakpoint: KVM API 4.87 */
        v->rip = cpu_this_rip(v, i);
        v->exit.debug.vector = VEC_BP;
        v->exit.debug.halted = false;
        v->exit.debug.pc = (cpu_is_long(v) ? 0 : v->seg[CS].base) + cpu_this_rip(v, i);
        v->exit.debug.dr6 = 0;
        v->exit.debug.dr7 = 0;
        cpu_leave(v, EXIT_DEBUG);
    }
    insn_int(v, i, VEC_BP, EVENT_SOFTEXC);
    return NULL;
}

OP(into)
{
    if (!(v->oszapc & PF_OF))
        return insn_next(i);
    insn_int(v, i, VEC_OF, EVENT_SOFTEXC);
    return NULL;
}

static const struct insn *iret(struct vcpu *v, const struct insn *i, unsigned size)
{
    insn_iret(v, i, size);
    return NULL;
}

OP(iret) { return iret(v, i, 2); }
OP(iretd) { return iret(v, i, 4); }
OP(iretq) { return iret(v, i, 8); }

OP(syscall)
{
    insn_syscall(v, i);
    return NULL;
}

OP(sysret)
{
    insn_sysret(v, i, cpu_is_long(v) && i->prefix & PFX_REXW ? 8 : 4);
    return NULL;
}

OP(sysenter)
{
    insn_sysenter(v, i);
    return NULL;
}

OP(sysexit)
{
    insn_sysexit(v, i, cpu_is_long(v) && i->prefix & PFX_REXW ? 8 : 4);
    return NULL;
}

/* ---- segment registers ---------------- */

/* A register of the size of the instruction. */
static void reg_set_any(struct vcpu *v, unsigned n, unsigned size, uint64_t value)
{
    if (size == 2)
        reg_set(v, n, 2, value);
    else if (size == 4)
        reg_set(v, n, 4, value);
    else
        reg_set(v, n, 8, value);
}

/* r16/m16, the selector operand of most instructions here; `reg` is the register when there is no
 * memory. */
static uint16_t selector(struct vcpu *v, const struct insn *i, unsigned reg)
{
    if (i->am == AM_NONE)
        return (uint16_t)v->gpr[reg];
    return (uint16_t)mem_load(v, ea(v, i, 2, false), 2);
}

/* Memory gets 16 bits, a register its whole size, zero-extended. */
static void store_selector(struct vcpu *v, const struct insn *i, unsigned reg, uint16_t sel)
{
    if (i->am == AM_NONE)
        reg_set_any(v, reg, far_opsize(v, i), sel);
    else
        mem_store(v, ea(v, i, 2, true), 2, sel);
}

/* Loads of SS hold interrupts for one instruction (SDM vol. 3, 6.8.3) and may change the stack's
 * width. */
static const struct insn *loaded(struct vcpu *v, const struct insn *i, unsigned s, bool shadow)
{
    if (s != SS)
        return insn_next(i);
    if (shadow)
        v->shadow = SHADOW_MOV_SS;
    return insn_end(v, i);
}

OP(mov_from_sreg)
{
    unsigned s = i->am == AM_NONE ? i->src : i->dst;

    store_selector(v, i, i->dst, v->seg[s].sel);
    return insn_next(i);
}

OP(mov_to_sreg)
{
    segment_load(v, i->dst, selector(v, i, i->src));
    return loaded(v, i, i->dst, true);
}

/* PUSH and POP: 64-bit mode has no 32-bit form. */
static unsigned push_size(const struct vcpu *v, const struct insn *i)
{
    if (v->code_bits == 64)
        return i->prefix & PFX_OPSIZE && !(i->prefix & PFX_REXW) ? 2 : 8;
    return far_opsize(v, i);
}

OP(push_sreg)
{
    unsigned size = push_size(v, i);
    uint64_t sp = (v->gpr[RSP] - size) & stack_mask(v);
    /* Intel writes 16 bits of a 32-bit slot, AMD all: SDM vol. 2, PUSH */
    unsigned written = size == 4 && !v->amd ? 2 : size;

    stack_store(v, stack_linear(v, sp, size, true), written, v->seg[i->dst].sel);
    stack_set(v, sp);
    return insn_next(i);
}

OP(pop_sreg)
{
    unsigned size = push_size(v, i);
    unsigned loaded_bytes = v->amd ? size : 2;
    uint64_t sp = v->gpr[RSP] & stack_mask(v);
    uint16_t sel = (uint16_t)stack_load(v, stack_linear(v, sp, loaded_bytes, false), loaded_bytes);
    unsigned width = v->stack_size;

    segment_load(v, i->dst, sel);
    /* the width of the stack that was popped from, also when SS is what changed */
    if (width == 2)
        v->gpr[RSP] = (v->gpr[RSP] & ~0xffffull) | ((sp + size) & 0xffff);
    else
        v->gpr[RSP] = width == 4 ? (uint32_t)(sp + size) : sp + size;
    return loaded(v, i, i->dst, true);
}

static const struct insn *load_far_pointer(struct vcpu *v, const struct insn *i, enum segreg s)
{
    unsigned size = pointer_size(v, i);
    uint64_t off;
    uint16_t sel = load_pointer(v, i, size, &off);

    segment_load(v, s, sel);
    reg_set_any(v, i->dst, size, off);
    return loaded(v, i, s, false);
}

OP(lds) { return load_far_pointer(v, i, DS); }
OP(les) { return load_far_pointer(v, i, ES); }
OP(lfs) { return load_far_pointer(v, i, FS); }
OP(lgs) { return load_far_pointer(v, i, GS); }
OP(lss) { return load_far_pointer(v, i, SS); }

/* ---- descriptors ---------------- */

static void need_protected(struct vcpu *v)
{
    if (!cpu_protected(v))
        cpu_ud(v);
}

static void need_cpl0(struct vcpu *v)
{
    if (v->cpl)
        cpu_gp(v, 0);
}

OP(lldt)
{
    need_protected(v);
    need_cpl0(v);
    segment_load_ldt(v, selector(v, i, i->dst));
    return insn_next(i);
}

OP(ltr)
{
    need_protected(v);
    need_cpl0(v);
    segment_load_tr(v, selector(v, i, i->dst));
    return insn_next(i);
}

static const struct insn *store_system(struct vcpu *v, const struct insn *i, enum segreg s)
{
    need_protected(v);
    if (v->cpl && v->cr4 & CR4_UMIP)
        cpu_gp(v, 0);
    store_selector(v, i, i->dst, v->seg[s].sel);
    return insn_next(i);
}

OP(sldt) { return store_system(v, i, LDTR); }
OP(str) { return store_system(v, i, TR); }

static const struct insn *set_zf(struct vcpu *v, const struct insn *i, bool zf)
{
    v->oszapc = zf ? v->oszapc | PF_ZF : v->oszapc & ~(uint32_t)PF_ZF;
    return insn_next(i);
}

OP(lar)
{
    uint32_t rights;
    bool ok;

    need_protected(v);
    ok = segment_lar(v, selector(v, i, i->src), &rights);
    if (ok)
        reg_set_any(v, i->dst, far_opsize(v, i), rights);
    return set_zf(v, i, ok);
}

OP(lsl)
{
    uint32_t limit;
    bool ok;

    need_protected(v);
    ok = segment_lsl(v, selector(v, i, i->src), &limit);
    if (ok)
        reg_set_any(v, i->dst, far_opsize(v, i), limit);
    return set_zf(v, i, ok);
}

OP(verr)
{
    need_protected(v);
    return set_zf(v, i, segment_verify(v, selector(v, i, i->dst), false));
}

OP(verw)
{
    need_protected(v);
    return set_zf(v, i, segment_verify(v, selector(v, i, i->dst), true));
}

OP(arpl)
{
    unsigned reg =
        i->am == AM_NONE ? i->src : i->dst; /* the one operand that is always a register */
    uint16_t dst, rpl;
    uint64_t linear = 0;
    struct rmw m;

    need_protected(v);
    rpl = v->gpr[reg] & 3;
    if (i->am == AM_NONE) {
        dst = (uint16_t)v->gpr[i->dst];
    } else {
        linear = ea(v, i, 2, false);
        dst = (uint16_t)mem_load(v, linear, 2);
    }
    if ((dst & 3) >= rpl)
        return set_zf(v, i, false); /* nothing is written */
    dst = (uint16_t)((dst & ~3u) | rpl);
    if (i->am == AM_NONE) {
        reg_set(v, i->dst, 2, dst);
    } else {
        linear = ea(v, i, 2, true);
        mem_rmw_begin(v, linear, 2, &m);
        mem_rmw_end(v, 2, &m, dst);
    }
    return set_zf(v, i, true);
}
