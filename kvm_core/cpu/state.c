/* Derived state, EFLAGS in and out, RESET and INIT: what must hold whenever an instruction starts.
 */
#include "cpu/state.h"

#include <linux/kvm.h>
#include <string.h>

#include "cpu/cpuid.h"
#include "cpu/msr_index.h"
#include "cpu/tsc.h"

enum { /* the bits that EFLAGS has; all others read as 0, bit 1 as 1 */
       FL_ALL = FL_ARITH | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_RF | FL_VM | FL_AC |
       FL_VIF | FL_VIP | FL_ID
};

static void update_data_segment(struct vcpu *v, struct segment *seg)
{
    uint32_t type_bits = AR_UNUSABLE | AR_P | AR_S | AR_CODE | AR_WRITABLE | AR_EXPAND_DOWN;
    bool whole = seg->base == 0 && seg->limit == UINT32_MAX;
    bool plain = (seg->ar & type_bits) == (AR_P | AR_S | AR_WRITABLE);

    seg->last = plain ? (int64_t)seg->limit : -1;
    switch (v->mode) {
    case MODE_LONG: /* neither limits nor rights; only FS and GS have a base */
        seg->flat = seg < &v->seg[FS] || seg->base == 0;
        break;
    case MODE_REAL: /* limits are checked, rights are not */ seg->flat = whole; break;
    case MODE_VM86: seg->flat = false; break;
    default: seg->flat = whole && plain; break;
    }
}

static enum code_model code_model(const struct vcpu *v)
{
    const struct segment *seg = v->seg;
    bool flat = seg[CS].base == 0 && seg[CS].limit == UINT32_MAX && seg[SS].flat && seg[DS].flat && seg[ES].flat;

    if (v->mode == MODE_LONG)
        return CODE_LONG;
    return v->mode >= MODE_PROT && v->code_bits == 32 && v->stack_size == 4 && flat ? CODE_FLAT32 : CODE_SEGMENTED;
}

void cpu_update_flat(struct vcpu *v, enum segreg s)
{
    update_data_segment(v, &v->seg[s]);
    v->code_model = (uint8_t)code_model(v);
}

void cpu_update_slow(struct vcpu *v)
{
    uint8_t slow = v->slow & (SLOW_SINGLE | SLOW_LOCKSTEP | SLOW_DB_DUE);
    uint64_t dr7 = v->guest_debug & KVM_GUESTDBG_USE_HW_BP ? v->guest_debug_dr[7] : v->dr[7];

    if (v->eflags & FL_TF)
        slow |= SLOW_TF;
    if (dr7 & 0xff)
        slow |= SLOW_BREAKPOINT;
    if (v->guest_debug & KVM_GUESTDBG_ENABLE)
        slow |= SLOW_GUEST_DEBUG;
    v->slow = slow;
}

static enum cpu_mode derive_mode(const struct vcpu *v)
{
    if (!(v->cr0 & CR0_PE))
        return MODE_REAL;
    if (cpu_lma(v))
        return v->seg[CS].ar & AR_L ? MODE_LONG : MODE_COMPAT;
    return v->eflags & FL_VM ? MODE_VM86 : MODE_PROT;
}

void cpu_update_mode(struct vcpu *v)
{
    v->mode = derive_mode(v);
    switch (v->mode) {
    case MODE_LONG:
        v->code_bits = 64;
        v->ip_mask = UINT64_MAX;
        v->stack_size = 8;
        break;
    case MODE_VM86:
        v->cpl = 3;
        v->code_bits = 16;
        v->ip_mask = 0xffff;
        v->stack_size = 2;
        break;
    case MODE_REAL: /* the D and B bits of the descriptor caches survive the way out of protected
                       mode */
        v->cpl = 0;
        __attribute__((fallthrough));
    default:
        v->code_bits = v->seg[CS].ar & AR_DB ? 32 : 16;
        v->ip_mask = v->code_bits == 32 ? UINT32_MAX : 0xffff;
        v->stack_size = v->seg[SS].ar & AR_DB ? 4 : 2;
        break;
    }
    for (unsigned s = ES; s <= GS; s++)
        update_data_segment(v, &v->seg[s]);
    v->code_model = (uint8_t)code_model(v);
    cpu_update_tlb_set(v);
    cpu_update_slow(v);
}

void cpu_set_eflags(struct vcpu *v, uint64_t value)
{
    uint32_t changed = v->eflags ^ (uint32_t)value;

    v->oszapc = (uint32_t)(value & FL_ARITH & 0xff) << 8 | (value & FL_OF ? PF_OF : 0);
    v->eflags = (value & FL_ALL & ~(uint64_t)FL_ARITH) | FL_FIXED;
    if (changed & FL_VM)
        cpu_update_mode(v);
    if (changed & FL_AC)
        cpu_update_tlb_set(v);
    if (changed & FL_TF)
        cpu_update_slow(v);
}

static void reset_segments(struct vcpu *v)
{
    for (unsigned s = ES; s <= GS; s++)
        v->seg[s] =
            (struct segment){.limit = 0xffff, .ar = AR_P | AR_S | AR_WRITABLE | AR_ACCESSED};
    v->seg[CS].sel = 0xf000;
    v->seg[CS].base = 0xffff0000;
    v->seg[CS].ar |= AR_CODE;
    v->seg[LDTR] = (struct segment){.limit = 0xffff, .ar = AR_P | 2};
    v->seg[TR] = (struct segment){.limit = 0xffff, .ar = AR_P | 11}; /* busy 32-bit TSS */
    v->gdt = v->idt = (struct desc_table){.limit = 0xffff};
}

/* What RESET clears and INIT leaves alone: FPU, most MSRs, caches, TSC. */
static void reset_cold(struct vcpu *v)
{
    v->xcr0 = 1;
    v->xss = 0;
    v->star = v->lstar = v->cstar = v->sfmask = v->kernel_gs_base = v->tsc_aux = 0;
    v->sysenter_cs = v->sysenter_esp = v->sysenter_eip = 0;
    v->pat = 0x0007040600070406;
    v->misc_enable = MISC_NO_BTS | MISC_NO_PEBS;
    v->spec_ctrl = v->debugctl = 0;
    v->mtrr_def_type = 0;
    memset(v->mtrr_fixed, 0, sizeof(v->mtrr_fixed));
    memset(v->mtrr_var, 0, sizeof(v->mtrr_var));
    v->mcg_status = 0;
    v->smi_count = v->feature_control = v->tsc_adjust = v->pkrs = v->u_cet = v->s_cet = 0;
    v->amd_syscfg = v->amd_hwcr = v->amd_de_cfg = v->amd_ls_cfg = v->virt_ssbd = 0;
    v->misc_features = v->power_ctl = v->osvw_length = v->osvw_status = 0;
    v->pkru = 0;
    v->tsc_khz = host_tsc_khz();
    v->tsc_offset = 0 - host_tsc();

    memset(v->ymm, 0, sizeof(v->ymm));
    memset(v->fx, 0, sizeof(v->fx));
    v->fx[0] = 0x7f; /* FCW as FNINIT leaves it, which is what KVM starts with, not RESET's 0x40 */
    v->fx[1] = 0x03;
    v->fx[24] = 0x80; /* MXCSR 0x1f80 and the mask of what it may hold */
    v->fx[25] = 0x1f;
    v->fx[28] = v->fx[29] = 0xff;
    v->xinuse = 0;
    v->fcs = v->fds = 0;
}

void cpu_reset(struct vcpu *v, bool init)
{
    uint32_t leaf1[4];
    uint64_t kept_cr0 = init ? v->cr0 & (CR0_CD | CR0_NW) : CR0_CD | CR0_NW;

    if (!init)
        reset_cold(v);
    cpuid_query(v, 1, 0, leaf1);
    memset(v->gpr, 0, sizeof(v->gpr));
    v->gpr[REG_EDGE] = 4096;
    v->gpr[RDX] = leaf1[0] ? leaf1[0] : 0x600; /* family, model, stepping */
    v->rip = 0xfff0;
    v->eflags = FL_FIXED;
    v->oszapc = 0;
    v->cr0 = kept_cr0 | CR0_ET;
    v->cr2 = v->cr3 = v->cr4 = v->cr8 = v->efer = 0;
    memset(v->pdpte, 0, sizeof(v->pdpte));
    memset(v->dr, 0, sizeof(v->dr));
    v->dr[6] = 0xffff0ff0;
    v->dr[7] = 0x400;
    reset_segments(v);
    v->cpl = 0;
    v->shadow = SHADOW_NONE;
    v->pending = (struct event){0};
    v->delivering = EVENT_NONE;
    v->nmi_masked = v->in_smm = false;
    v->db_pending = 0;
    v->slow = 0;
    v->log.count = v->log.next = 0;
    v->log.replay = false;
    v->pio_count = 0;
    tlb_flush_all(v);
    cpu_update_mode(v);
}
