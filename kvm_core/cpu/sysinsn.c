/* System instructions: tables, control and debug registers, MSRs, caches and TLB, HLT. SDM vol. 2
 *
 * Order of the checks: #UD (missing feature, wrong mode), then #GP(0) for privilege, then operands.
 */
#include <linux/kvm.h>
#include <string.h>

#include "cpu/access.h"
#include "cpu/cpuid.h"
#include "cpu/msr.h"
#include "cpu/sem/common.h"
#include "cpu/state.h"
#include "cpu/xsave.h"
#include "gen/handlers.h"

#define UNUSED __attribute__((unused))
#define OP(name) const struct insn *op_##name(struct vcpu *v UNUSED, const struct insn *i UNUSED)

static inline void need_cpl0(struct vcpu *v)
{
    if (v->cpl)
        cpu_gp(v, 0);
}

static inline void need_feature(struct vcpu *v, enum cpu_feature f)
{
    if (!cpu_has(v, f))
        cpu_ud(v);
}

/* SDM vol. 3, 2.5: CR4.UMIP keeps user mode from reading system state. */
static inline void need_umip(struct vcpu *v)
{
    if (v->cpl && (v->cr4 & CR4_UMIP))
        cpu_gp(v, 0);
}

/* `next` was taken before the instruction changed the mode. */
static const struct insn *end_block(struct vcpu *v, uint64_t next)
{
    v->rip = next;
    return NULL;
}

/* Of MOV to and from control and debug registers, RDFSBASE ...: 64-bit mode has no prefix for less.
 */
static inline unsigned mode_size(const struct vcpu *v) { return cpu_is_long(v) ? 8 : 4; }

/* ---- descriptor tables -------------------------------------------------------------------------
 */

static const struct insn *load_table(struct vcpu *v, const struct insn *i, struct desc_table *table)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } image = {0};
    unsigned bytes = 2 + mode_size(v);

    need_cpl0(v);
    mem_read_bytes(v, ea(v, i, bytes, false), &image, bytes);
    if (cpu_is_long(v)) {
        if (!msr_canonical(v, image.base))
            cpu_gp(v, 0);
    } else if ((v->code_bits == 16) !=
               !!(i->prefix & PFX_OPSIZE)) { /* 16-bit operand size: a 24-bit base */
        image.base &= 0xffffff;
    }
    table->limit = image.limit;
    table->base = image.base;
    return insn_next(i);
}

static const struct insn *store_table(struct vcpu *v, const struct insn *i,
                                      const struct desc_table *table)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } image = {table->limit, table->base};
    unsigned bytes = 2 + mode_size(v);

    need_umip(v);
    mem_write_bytes(v, ea(v, i, bytes, true), &image, bytes);
    return insn_next(i);
}

OP(lgdt) { return load_table(v, i, &v->gdt); }
OP(lidt) { return load_table(v, i, &v->idt); }
OP(sgdt) { return store_table(v, i, &v->gdt); }
OP(sidt) { return store_table(v, i, &v->idt); }

/* ---- control and debug registers ---------------------------------------------------------------
 */

OP(smsw)
{
    need_umip(v);
    if (i->am == AM_NONE)
        reg_set(v, i->dst, i->size, v->cr0);
    else
        mem_store(v, ea(v, i, 2, true), 2, v->cr0);
    return insn_next(i);
}

OP(lmsw)
{
    uint64_t next = cpu_next_rip(v, i), value;

    need_cpl0(v);
    value = i->am == AM_NONE ? v->gpr[i->dst] : mem_load(v, ea(v, i, 2, false), 2);
    /* PE, MP, EM and TS; PE can be set, not cleared */
    cpu_write_cr0(v, (v->cr0 & ~(uint64_t)(CR0_MP | CR0_EM | CR0_TS)) | (value & 0xf));
    return end_block(v, next);
}

OP(clts)
{
    need_cpl0(v);
    v->cr0 &= ~(uint64_t)CR0_TS;
    return insn_next(i);
}

static unsigned cr_number(struct vcpu *v, unsigned n)
{
    if (n != 0 && n != 2 && n != 3 && n != 4 && (n != 8 || !cpu_is_long(v)))
        cpu_ud(v);
    need_cpl0(v);
    return n;
}

OP(mov_from_cr)
{
    uint64_t value;

    switch (cr_number(v, i->src)) {
    case 0: value = v->cr0; break;
    case 2: value = v->cr2; break;
    case 3: value = v->cr3; break;
    case 4: value = v->cr4; break;
    default: value = v->ops->cr8_read ? v->ops->cr8_read(v) : v->cr8; break;
    }
    reg_set(v, i->dst, mode_size(v), value);
    return insn_next(i);
}

static void write_cr8(struct vcpu *v, uint64_t value, uint64_t next)
{
    if (value > 15)
        cpu_gp(v, 0);
    if (v->ops->cr8_write)
        v->ops->cr8_write(v, (uint8_t)value);
    else
        v->cr8 = value;
    v->rip = next;
    if (v->want_tpr_exit)
        cpu_leave(v, EXIT_TPR);
}

OP(mov_to_cr)
{
    uint64_t next = cpu_next_rip(v, i), value = reg_get(v, i->src, mode_size(v));

    switch (cr_number(v, i->dst)) {
    case 0: cpu_write_cr0(v, value); break;
    case 2: v->cr2 = value; return insn_next(i);
    case 3: cpu_write_cr3(v, value); break;
    case 4: cpu_write_cr4(v, value); break;
    default: write_cr8(v, value, next); break;
    }
    return end_block(v, next);
}

OP(mov_from_dr)
{
    reg_set(v, i->dst, mode_size(v), cpu_read_dr(v, i->src));
    return insn_next(i);
}

OP(mov_to_dr)
{
    uint64_t next = cpu_next_rip(v, i);

    cpu_write_dr(v, i->dst, reg_get(v, i->src, mode_size(v)));
    return end_block(v, next);
}

OP(xgetbv)
{
    uint64_t value;

    if (!(v->cr4 & CR4_OSXSAVE))
        cpu_ud(v);
    if ((uint32_t)v->gpr[RCX] == 0)
        value = v->xcr0;
    else if ((uint32_t)v->gpr[RCX] == 1 && cpu_has(v, FEAT_XGETBV1))
        value = v->xcr0 & xsave_in_use(v);
    else
        cpu_gp(v, 0);
    v->gpr[RAX] = (uint32_t)value;
    v->gpr[RDX] = value >> 32;
    return insn_next(i);
}

OP(xsetbv)
{
    uint64_t next = cpu_next_rip(v, i);

    if (!(v->cr4 & CR4_OSXSAVE))
        cpu_ud(v);
    need_cpl0(v);
    if ((uint32_t)v->gpr[RCX] != 0)
        cpu_gp(v, 0);
    cpu_write_xcr0(v, v->gpr[RDX] << 32 | (uint32_t)v->gpr[RAX]);
    return end_block(v, next);
}

/* ---- model-specific registers ------------------------------------------------------------------
 */

/* The client's answer to an earlier exit of this very instruction. */
static bool answered(struct vcpu *v, enum cpu_exit_reason kind, uint32_t index, uint64_t *value)
{
    const struct access_fragment *f =
        access_log_next(v, (uint8_t)kind, index, 8, kind == EXIT_WRMSR);

    if (f)
        *value = f->data;
    return f != NULL;
}

/* Neither done here nor (result 1) by the machine: an exit, if the client wants those, or #GP(0).
 * The machine is told by exit.msr.reason why it is asked; where that is not UNKNOWN it only decides
 * between 1 and -1. */
static void ask_machine(struct vcpu *v, bool write, uint32_t index, uint64_t *value,
                        uint32_t reason)
{
    int result;

    v->exit.msr.index = index;
    v->exit.msr.data = *value;
    v->exit.msr.reason = reason;
    result = write ? v->ops->wrmsr(v, index, *value) : v->ops->rdmsr(v, index, value);
    if (result > 0) {
        v->exit.msr.index = index;
        v->exit.msr.data = write ? *value : 0;
        cpu_leave(v, write ? EXIT_WRMSR : EXIT_RDMSR);
    }
    if (result < 0)
        cpu_gp(v, 0);
}

static void access_msr(struct vcpu *v, bool write, uint32_t index, uint64_t *value)
{
    int result;

    if (answered(v, write ? EXIT_WRMSR : EXIT_RDMSR, index, value))
        return;
    if (v->ops->msr_allowed && !v->ops->msr_allowed(v, index, write)) {
        ask_machine(v, write, index, value, KVM_MSR_EXIT_REASON_FILTER);
        return;
    }
    result = write ? msr_write(v, index, *value, false) : msr_read(v, index, value, false);
    if (result)
        ask_machine(v, write, index, value,
                    result < 0 ? KVM_MSR_EXIT_REASON_INVAL : KVM_MSR_EXIT_REASON_UNKNOWN);
}

OP(rdmsr)
{
    uint64_t value = 0;

    need_cpl0(v);
    access_msr(v, false, (uint32_t)v->gpr[RCX], &value);
    v->gpr[RAX] = (uint32_t)value;
    v->gpr[RDX] = value >> 32;
    return insn_next(i);
}

OP(wrmsr)
{
    uint64_t next = cpu_next_rip(v, i), value = v->gpr[RDX] << 32 | (uint32_t)v->gpr[RAX];

    need_cpl0(v);
    access_msr(v, true, (uint32_t)v->gpr[RCX], &value);
    return end_block(v, next);
}

/* ---- identification and time -------------------------------------------------------------------
 */

OP(cpuid)
{
    uint32_t out[4];

    if (v->cpl && (v->misc_features & 1)) /* CPUID faulting: SDM vol. 3, 2.3 */
        cpu_gp(v, 0);
    cpuid_query(v, (uint32_t)v->gpr[RAX], (uint32_t)v->gpr[RCX], out);
    v->gpr[RAX] = out[0];
    v->gpr[RBX] = out[1];
    v->gpr[RCX] = out[2];
    v->gpr[RDX] = out[3];
    return insn_next(i);
}

static void read_tsc(struct vcpu *v)
{
    uint64_t tsc;

    if (v->cpl && (v->cr4 & CR4_TSD))
        cpu_gp(v, 0);
    tsc = cpu_rdtsc(v);
    v->gpr[RAX] = (uint32_t)tsc;
    v->gpr[RDX] = tsc >> 32;
}

OP(rdtsc)
{
    read_tsc(v);
    return insn_next(i);
}

OP(rdtscp)
{
    need_feature(v, FEAT_RDTSCP);
    read_tsc(v);
    v->gpr[RCX] = (uint32_t)v->tsc_aux;
    return insn_next(i);
}

OP(rdpid)
{
    need_feature(v, FEAT_RDPID);
    v->gpr[i->dst] = (uint32_t)v->tsc_aux;
    return insn_next(i);
}

/* No performance counter exists, so that any index is refused. */
OP(rdpmc) { cpu_gp(v, 0); }

/* ---- caches and TLB ----------------------------------------------------------------------------
 */

OP(invd)
{
    need_cpl0(v);
    return insn_next(i);
}

OP(wbinvd)
{
    need_cpl0(v);
    return insn_next(i);
}

/* Checked as a load of a byte, without the load: the page may be a device's. SDM vol. 2, CLFLUSH */
static const struct insn *flush_line(struct vcpu *v, const struct insn *i, enum cpu_feature f)
{
    struct walk w;
    uint64_t linear;
    uint32_t error;

    need_feature(v, f);
    linear = ea(v, i, 1, false);
    if (mem_probe_read(v, linear, 1))
        return insn_next(i);
    if (cpu_is_long(v) && !cpu_canonical(v, linear))
        cpu_fault_error(v, i->seg == SS ? VEC_SS : VEC_GP, 0);
    error = mmu_walk(v, linear, (enum tlb_set_kind)(v->tlb - v->tlb_sets), ACC_READ, &w);
    if (error)
        cpu_page_fault(v, linear, error & ~WALK_FAULT);
    return insn_next(i);
}

OP(clflush) { return flush_line(v, i, FEAT_CLFLUSH); }
OP(clflushopt) { return flush_line(v, i, FEAT_CLFLUSHOPT); }
OP(clwb) { return flush_line(v, i, FEAT_CLWB); }

/* Neither limits nor rights count; a non-canonical address is ignored. SDM vol. 2, INVLPG */
OP(invlpg)
{
    uint64_t linear = ea_offset(v, i), next = cpu_next_rip(v, i);

    need_cpl0(v);
    if (!cpu_is_long(v))
        linear = (uint32_t)(linear + v->seg[i->seg].base);
    else if (i->seg == FS || i->seg == GS)
        linear += v->seg[i->seg].base;
    if (!cpu_is_long(v) || cpu_canonical(v, linear))
        tlb_flush_page(v, linear);
    return end_block(v, next);
}

enum { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL, INVPCID_ALL_NONGLOBAL };

OP(invpcid)
{
    uint64_t descriptor[2], next = cpu_next_rip(v, i), type, pcid;

    need_feature(v, FEAT_INVPCID);
    need_cpl0(v);
    type = reg_get(v, i->dst, mode_size(v));
    if (type > INVPCID_ALL_NONGLOBAL)
        cpu_gp(v, 0);
    mem_read_bytes(v, ea(v, i, 16, false), descriptor, sizeof(descriptor));
    pcid = descriptor[0];
    if (pcid >> 12)
        cpu_gp(v, 0);
    if (type <= INVPCID_CONTEXT && pcid && !(v->cr4 & CR4_PCIDE))
        cpu_gp(v, 0);
    if (type == INVPCID_ADDRESS && !msr_canonical(v, descriptor[1]))
        cpu_gp(v, 0);
    /* the TLB holds the current address space only; INVLPG's global entries may go too (SDM vol.
     * 3, 4.10.4.1) */
    if (type == INVPCID_ALL)
        tlb_flush_all(v);
    else if (type == INVPCID_ALL_NONGLOBAL)
        tlb_flush_nonglobal(v);
    else if (pcid == ((v->cr4 & CR4_PCIDE) ? (v->cr3 & 0xfff) : 0)) {
        if (type == INVPCID_CONTEXT)
            tlb_flush_nonglobal(v);
        else
            tlb_flush_page(v, descriptor[1]);
    }
    return end_block(v, next);
}

/* ---- bases and rights --------------------------------------------------------------------------
 */

OP(swapgs)
{
    uint64_t base = v->seg[GS].base;

    if (!cpu_is_long(v))
        cpu_ud(v);
    need_cpl0(v);
    v->seg[GS].base = v->kernel_gs_base;
    v->kernel_gs_base = base;
    cpu_update_flat(v, GS);
    return insn_next(i);
}

static const struct insn *set_ac(struct vcpu *v, const struct insn *i, uint32_t ac)
{
    need_feature(v, FEAT_SMAP);
    if (v->cpl)
        cpu_ud(v);
    v->eflags = (v->eflags & ~(uint32_t)FL_AC) | ac;
    cpu_update_tlb_set(v);
    return insn_next(i);
}

OP(clac) { return set_ac(v, i, 0); }
OP(stac) { return set_ac(v, i, FL_AC); }

/* ---- waiting -----------------------------------------------------------------------------------
 */

static _Noreturn void wait_for_event(struct vcpu *v, const struct insn *i,
                                     enum cpu_exit_reason reason)
{
    v->rip = cpu_next_rip(v, i);
    v->shadow = SHADOW_NONE;
    cpu_leave(v, reason);
}

OP(hlt)
{
    need_cpl0(v);
    wait_for_event(v, i, EXIT_HLT);
}

/* Without the feature both are no operation, as under KVM (its quirk MWAIT_NEVER_UD_FAULTS). */
OP(monitor)
{
    if (v->cpl)
        cpu_ud(v);
    if (!cpu_has(v, FEAT_MONITOR))
        return insn_next(i);
    if ((uint32_t)v->gpr[RCX])
        cpu_gp(v, 0);
    return insn_next(i);
}

OP(mwait)
{
    if (v->cpl)
        cpu_ud(v);
    if (!cpu_has(v, FEAT_MONITOR))
        return insn_next(i);
    if ((uint32_t)v->gpr[RCX] & ~1u) /* bit 0: interrupts wake even when masked */
        cpu_gp(v, 0);
    wait_for_event(v, i, EXIT_MWAIT);
}

/* ---- hypervisor --------------------------------------------------------------------------------
 */

static const struct insn *hypercall(struct vcpu *v, const struct insn *i)
{
    uint64_t next = cpu_next_rip(v, i);

    v->rip = next;
    if (!v->ops->hypercall || !v->ops->hypercall(v))
        cpu_ud(v);
    return end_block(v, next);
}

/* The other vendor's instruction becomes this processor's (its last byte is another) and is executed again, or is none. */
static const struct insn *foreign_hypercall(struct vcpu *v, const struct insn *i, uint8_t last)
{
    uint64_t at = cpu_next_rip(v, i) - 1;

    if (!v->ops->replaces_hypercall || !v->ops->replaces_hypercall(v))
        cpu_ud(v);
    mem_store(v, cpu_is_long(v) ? at : (uint32_t)(v->seg[CS].base + at), 1, last);
    return end_block(v, cpu_this_rip(v, i));
}

OP(vmcall) { return v->amd ? foreign_hypercall(v, i, 0xd9) : hypercall(v, i); }
OP(vmmcall) { return v->amd ? hypercall(v, i) : foreign_hypercall(v, i, 0xc1); }

/* UD0, UD1, UD2; RSM outside of system-management mode */
OP(ud) { cpu_ud(v); }
