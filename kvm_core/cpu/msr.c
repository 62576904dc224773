/* The model-specific registers of the processor: which exist, what they accept, what a write sets
 * off.
 *
 * SDM vol. 4; AMD APM vol. 2, appendix A. Where KVM lets an unimplemented register read as 0 or
 * ignores a write, so does this, since guests of KVM rely on it.
 */
#include "cpu/msr.h"

#include <errno.h>
#include <string.h>

#include "cpu/cpuid.h"
#include "cpu/msr_index.h"
#include "cpu/state.h"
#include "mmu/tlb.h"

enum { REFUSED = -1, DONE = 0, NOT_OURS = 1 };

/* What an emulated processor is not affected by: IA32_ARCH_CAPABILITIES, SDM vol. 4, table 2-2;
 * docs/security.md */
static const uint64_t arch_capabilities =
    1ull << 0 /* RDCL_NO */ | 1ull << 1 /* IBRS_ALL */ | 1ull << 3 /* SKIP_L1DFL_VMENTRY */ |
    1ull << 4 /* SSB_NO */ | 1ull << 5 /* MDS_NO */ | 1ull << 6 /* PSCHANGE_MC_NO */ |
    1ull << 8 /* TAA_NO */ | 1ull << 13 /* SBDR_SSDP_NO */ | 1ull << 14 /* FBSDP_NO */ |
    1ull << 15 /* PSDP_NO */ | 1ull << 20 /* BHI_NO */ | 1ull << 24 /* PBRSB_NO */ |
    1ull << 26 /* GDS_NO */ | 1ull << 27 /* RFDS_NO */ | 1ull << 62 /* ITS_NO */;

enum { PLATFORM_CPUID_FAULT = 1u << 31, MISC_CPUID_FAULT = 1 };
enum { DE_CFG_LFENCE_SERIALIZE = 1 << 1 };
enum { MCG_CTL_P = 1 << 8, MCG_CMCI_P = 1 << 10, MCG_SER_P = 1 << 24, MCG_LMCE_P = 1 << 27 };
enum { MTRR_VARIABLE = 8, MTRR_CAP = MTRR_VARIABLE | 1 << 8 /* fixed */ | 1 << 10 /* WC */ };
enum {
    HWCR_IGNORED = 1 << 3 | 1 << 6 | 1 << 8,
    HWCR_MC_STATUS_WR = 1 << 18,
    HWCR_TSC_FREQ_SEL = 1 << 24
};
enum { EFER_FFXSR = 1 << 14, EFER_AUTOIBRS = 1 << 21 };

void msr_create(struct vcpu *v)
{
    v->mcg_cap = MCE_BANKS_MAX;
    v->arch_capabilities = arch_capabilities;
    v->platform_info = PLATFORM_CPUID_FAULT;
}

bool msr_canonical(const struct vcpu *v, uint64_t address)
{
    unsigned shift = cpu_has(v, FEAT_LA57) ? 64 - 57 : 64 - 48;

    return (uint64_t)((int64_t)(address << shift) >> shift) == address;
}

/* ---- registers that are no more than storage ---------------------------------------------------
 */

enum check { ANY, CANONICAL, CANONICAL_INTEL, READ_ONLY };

static const struct plain {
    uint32_t index;
    uint16_t offset; /* in struct vcpu */
    uint8_t check;
} plain[] = {
    {MSR_IA32_SYSENTER_CS, offsetof(struct vcpu, sysenter_cs), ANY},
    {MSR_IA32_SYSENTER_ESP, offsetof(struct vcpu, sysenter_esp), CANONICAL_INTEL},
    {MSR_IA32_SYSENTER_EIP, offsetof(struct vcpu, sysenter_eip), CANONICAL_INTEL},
    {MSR_STAR, offsetof(struct vcpu, star), ANY},
    {MSR_LSTAR, offsetof(struct vcpu, lstar), CANONICAL},
    {MSR_CSTAR, offsetof(struct vcpu, cstar), CANONICAL},
    {MSR_SFMASK, offsetof(struct vcpu, sfmask), ANY},
    {MSR_FS_BASE, offsetof(struct vcpu, seg[FS].base), CANONICAL},
    {MSR_GS_BASE, offsetof(struct vcpu, seg[GS].base), CANONICAL},
    {MSR_KERNEL_GS_BASE, offsetof(struct vcpu, kernel_gs_base), CANONICAL},
    {MSR_IA32_POWER_CTL, offsetof(struct vcpu, power_ctl), ANY},
    {MSR_IA32_MCG_STATUS, offsetof(struct vcpu, mcg_status), ANY},
    {MSR_IA32_SMI_COUNT, offsetof(struct vcpu, smi_count), READ_ONLY},
    {MSR_IA32_PLATFORM_INFO, offsetof(struct vcpu, platform_info), READ_ONLY},
};

static const struct plain *find_plain(uint32_t index)
{
    for (unsigned n = 0; n < sizeof(plain) / sizeof(plain[0]); n++)
        if (plain[n].index == index)
            return &plain[n];
    return NULL;
}

static int write_plain(struct vcpu *v, const struct plain *p, uint64_t value, bool host)
{
    if (p->check == READ_ONLY && !host)
        return REFUSED;
    if (p->check == CANONICAL_INTEL && v->amd)
        value = (uint32_t)value; /* SYSENTER is for 32-bit code only: APM vol. 2, 6.1.2 */
    else if (p->check != ANY && p->check != READ_ONLY && !msr_canonical(v, value))
        return REFUSED;
    memcpy((uint8_t *)v + p->offset, &value, sizeof(value));
    if (p->index == MSR_FS_BASE)
        cpu_update_flat(v, FS);
    else if (p->index == MSR_GS_BASE)
        cpu_update_flat(v, GS);
    return DONE;
}

/* ---- what KVM answers with a constant, and the writes it drops ---------------------------------
 */

static const struct constant {
    uint32_t first, last;
    uint64_t value;
    bool write_ignored;
} constants[] = {
    {0x17, 0x17, 0, false},                     /* PLATFORM_ID */
    {0x2a, 0x2a, 0, false},                     /* EBL_CR_POWERON */
    {0x2c, 0x2c, 1 << 24, false},               /* EBC_FREQUENCY_ID */
    {0xc1, 0xc2, 0, true},                      /* P6 performance counters */
    {0xcd, 0xcd, 3, false},                     /* FSB_FREQ */
    {0xfe, 0xfe, MTRR_CAP, false},              /* MTRR_CAP */
    {0x11e, 0x11e, 0xbe702111, true},           /* BBL_CR_CTL3 */
    {0x186, 0x187, 0, true},                    /* P6 event selects */
    {0x198, 0x198, 1000 | 4ull << 40, false},   /* PERF_STATUS */
    {0x199, 0x199, 0, false},                   /* PERF_CTL */
    {0x1db, 0x1de, 0, false},                   /* last branch, last interrupt */
    {0x606, 0x606, 0, false},                   /* RAPL_POWER_UNIT */
    {0x611, 0x611, 0, false},                   /* PKG_ENERGY_STATUS */
    {0x619, 0x619, 0, false},                   /* DRAM_ENERGY_STATUS */
    {0x639, 0x639, 0, false},                   /* PP0_ENERGY_STATUS */
    {0x641, 0x641, 0, false},                   /* PP1_ENERGY_STATUS */
    {0xc0010000, 0xc0010007, 0, true},          /* K7 event selects and performance counters */
    {0xc001001b, 0xc001001b, 0x20000000, true}, /* K7_CLK_CTL */
    {0xc001001f, 0xc001001f, 0, true},          /* NB_CFG */
    {0xc0010055, 0xc0010055, 0, false},         /* interrupt pending message */
    {0xc0010058, 0xc0010058, 0, false},         /* MMIO_CONF_BASE */
    {0xc0010112, 0xc0010113, 0, false},         /* TSEG */
    {0xc0010114, 0xc0010114, 1 << 3 | 1 << 4, false}, /* VM_CR: no SVM, locked */
    {0xc0010117, 0xc0010117, 0, true},                /* VM_HSAVE_PA */
    {0xc0011022, 0xc0011022, 0, true},                /* DC_CFG */
    {0xc001102a, 0xc001102a, 0, true},                /* BU_CFG2 */
    {0xc001102c, 0xc001102c, 0, true},                /* EX_CFG */
};

static const struct constant *find_constant(uint32_t index)
{
    for (unsigned n = 0; n < sizeof(constants) / sizeof(constants[0]); n++)
        if (index >= constants[n].first && index <= constants[n].last)
            return &constants[n];
    return NULL;
}

static int read_constant(uint32_t index, uint64_t *value)
{
    const struct constant *c = find_constant(index);

    *value = c ? c->value : 0;
    return c ? DONE : NOT_OURS;
}

static int write_constant(uint32_t index)
{
    const struct constant *c = find_constant(index);

    if (index == 0x79 || index == 0xc0010020) /* microcode update triggers: write-only */
        return DONE;
    if (!c)
        return NOT_OURS;
    return c->write_ignored ? DONE : REFUSED;
}

/* ---- memory types ------------------------------------------------------------------------------
 */

/* UC 0, WC 1, WT 4, WP 5, WB 6; PAT also has UC- 7. SDM vol. 3, tables 11-8 and 11-10 */
static bool memory_types(uint64_t value, uint8_t allowed)
{
    for (unsigned n = 0; n < 8; n++, value >>= 8)
        if ((value & 0xff) > 7 || !(allowed >> (value & 7) & 1))
            return false;
    return true;
}
enum { MTRR_TYPES = 0x73, PAT_TYPES = 0xf3 };

static uint64_t *mtrr_fixed(struct vcpu *v, uint32_t index)
{
    if (index == 0x250)
        return &v->mtrr_fixed[0];
    if (index == 0x258 || index == 0x259)
        return &v->mtrr_fixed[1 + index - 0x258];
    if (index >= 0x268 && index <= 0x26f)
        return &v->mtrr_fixed[3 + index - 0x268];
    return NULL;
}

static bool is_mtrr(uint32_t index)
{
    return index >= 0x200 && index <= 0x2ff && index != MSR_IA32_PAT;
}

static int read_mtrr(struct vcpu *v, uint32_t index, uint64_t *value)
{
    uint64_t *fixed = mtrr_fixed(v, index);

    if (fixed)
        *value = *fixed;
    else if (index < 0x200 + 2 * MTRR_VARIABLE)
        *value = v->mtrr_var[index - 0x200];
    else if (index == MSR_MTRR_DEF_TYPE)
        *value = v->mtrr_def_type;
    else
        return REFUSED;
    return DONE;
}

static int write_mtrr(struct vcpu *v, uint32_t index, uint64_t value)
{
    uint64_t *fixed = mtrr_fixed(v, index);
    uint64_t beyond = ~0ull << v->maxphyaddr;
    bool type_ok = (value & 0xff) <= 7 && (MTRR_TYPES >> (value & 7) & 1);

    if (fixed) {
        if (!memory_types(value, MTRR_TYPES))
            return REFUSED;
        *fixed = value;
    } else if (index < 0x200 + 2 * MTRR_VARIABLE) {
        bool mask = index & 1;
        if ((value & (beyond | (mask ? 0x7ff : 0xf00))) || (!mask && !type_ok))
            return REFUSED;
        v->mtrr_var[index - 0x200] = value;
    } else if (index == MSR_MTRR_DEF_TYPE) {
        if ((value & ~0xcffull) || !type_ok)
            return REFUSED;
        v->mtrr_def_type = value;
    } else {
        return REFUSED;
    }
    return DONE;
}

/* ---- machine check -----------------------------------------------------------------------------
 */

static unsigned banks(const struct vcpu *v) { return v->mcg_cap & 0xff; }

static bool is_mce(const struct vcpu *v, uint32_t index)
{
    return (index >= MSR_IA32_MCG_CAP && index <= MSR_IA32_MCG_CTL) || index <= 1 ||
           (index >= MSR_IA32_MC0_CTL && index < MSR_IA32_MC0_CTL + 4 * banks(v)) ||
           (index >= MSR_IA32_MC0_CTL2 && index < MSR_IA32_MC0_CTL2 + banks(v));
}

static int read_mce(struct vcpu *v, uint32_t index, uint64_t *value, bool host)
{
    if (index <= 1) /* P5_MC_ADDR, P5_MC_TYPE */
        *value = 0;
    else if (index == MSR_IA32_MCG_CAP)
        *value = v->mcg_cap;
    else if (index == MSR_IA32_MCG_CTL && !(v->mcg_cap & MCG_CTL_P) && !host)
        return REFUSED;
    else if (index == MSR_IA32_MCG_CTL)
        *value = v->mcg_ctl;
    else if (index >= MSR_IA32_MC0_CTL)
        *value = v->mc_bank[index - MSR_IA32_MC0_CTL];
    else if (v->mcg_cap & MCG_CMCI_P || host)
        *value = v->mc_ctl2[index - MSR_IA32_MC0_CTL2];
    else
        return REFUSED;
    return DONE;
}

/* SDM vol. 3, 15.3: MCi_CTL takes 0 or all ones (KVM allows bits 0 and 10 to differ, for Linux's
 * quirk), MCi_STATUS 0. */
static int write_mce(struct vcpu *v, uint32_t index, uint64_t value, bool host)
{
    uint32_t n = index - MSR_IA32_MC0_CTL;

    if (index <= 1 || index == MSR_IA32_MCG_CAP)
        return REFUSED;
    if (index == MSR_IA32_MCG_CTL) {
        if (!(v->mcg_cap & MCG_CTL_P) && (value || !host))
            return REFUSED;
        if (value != 0 && value != ~0ull)
            return REFUSED;
        v->mcg_ctl = value;
    } else if (index >= MSR_IA32_MC0_CTL) {
        if (n % 4 == 0 && value != 0 && (value | 1 << 10 | 1) != ~0ull)
            return REFUSED;
        if (n % 4 == 1 && !host && value && !(v->amd && (v->amd_hwcr & HWCR_MC_STATUS_WR)))
            return REFUSED;
        v->mc_bank[n] = value;
    } else {
        if (!(v->mcg_cap & MCG_CMCI_P) && (value || !host))
            return REFUSED;
        if (value & ~(1ull << 30 | 0x7fff))
            return REFUSED;
        v->mc_ctl2[index - MSR_IA32_MC0_CTL2] = value;
    }
    return DONE;
}

int msr_setup_mce(struct vcpu *v, uint64_t mcg_cap)
{
    uint64_t supported = MCG_CTL_P | MCG_SER_P | MCG_CMCI_P | 0xff | 0xff0000;
    unsigned count = mcg_cap & 0xff;

    if (count == 0 || count > MCE_BANKS_MAX || (mcg_cap & ~supported))
        return -EINVAL;
    v->mcg_cap = mcg_cap;
    if (mcg_cap & MCG_CTL_P)
        v->mcg_ctl = ~0ull;
    for (unsigned n = 0; n < count; n++) {
        v->mc_bank[4 * n] = ~0ull;
        v->mc_ctl2[n] = 0;
    }
    return 0;
}

/* ---- EFER and the others that do something -----------------------------------------------------
 */

static int write_efer(struct vcpu *v, uint64_t value, bool host)
{
    uint64_t known = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_AUTOIBRS;
    uint64_t guest = EFER_LMA | EFER_SCE, old = v->efer; /* KVM takes SCE whatever CPUID says */

    if (value & ~known)
        return REFUSED;
    guest |= cpu_has(v, FEAT_LM) ? EFER_LME : 0;
    guest |= cpu_has(v, FEAT_NX) ? EFER_NXE : 0;
    guest |= cpu_has(v, FEAT_AUTOIBRS) ? EFER_AUTOIBRS : 0;
    if (!host && ((value & ~guest) || ((v->cr0 & CR0_PG) && ((value ^ old) & EFER_LME))))
        return REFUSED;
    v->efer =
        (value & ~(uint64_t)EFER_LMA) | (old & EFER_LMA); /* LMA follows CR0.PG, not this write */
    if ((v->efer ^ old) & EFER_NXE)
        tlb_flush_all(v);
    return DONE;
}

/* A write by the guest moves its TSC, so that IA32_TSC_ADJUST keeps the sum. SDM vol. 3, 17.17.3 */
static int write_tsc(struct vcpu *v, uint32_t index, uint64_t value, bool host)
{
    uint64_t delta = value - (index == MSR_IA32_TSC ? cpu_rdtsc(v) : v->tsc_adjust);

    if (index == MSR_IA32_TSC_ADJUST && !host && !cpu_has(v, FEAT_TSC_ADJUST))
        return REFUSED;
    if (index == MSR_IA32_TSC || !host)
        v->tsc_offset += delta;
    if (index == MSR_IA32_TSC_ADJUST || !host)
        v->tsc_adjust += delta;
    if (!host && v->ops->tsc_moved)
        v->ops->tsc_moved(v);
    return DONE;
}

static bool has_spec_ctrl(const struct vcpu *v)
{
    return cpu_has(v, FEAT_SPEC_CTRL) || cpu_has(v, FEAT_AMD_IBRS) || cpu_has(v, FEAT_AMD_STIBP) ||
           cpu_has(v, FEAT_AMD_SSBD);
}

/* IBRS, STIBP, SSBD, PSFD; BHI_DIS_S. SDM vol. 4, table 2-2 */
static uint64_t spec_ctrl_bits(const struct vcpu *v, bool host)
{
    return 0x87 | (host || cpu_has(v, FEAT_BHI_CTRL) ? 1 << 10 : 0);
}

static int write_feature_control(struct vcpu *v, uint64_t value, bool host)
{
    uint64_t allowed = 1 | (v->mcg_cap & MCG_LMCE_P ? 1 << 20 : 0);

    if (!host && (v->amd || (value & ~allowed) || (v->feature_control & 1)))
        return REFUSED;
    v->feature_control = value;
    return DONE;
}

/* What says that there is no PMU is read-only; so is bit 7, without a fault. SDM vol. 4, table 2-2 */
static int write_misc_enable(struct vcpu *v, uint64_t value, bool host)
{
    enum { PERFMON = 1 << 7 };

    if (!host) {
        if ((value ^ v->misc_enable) & (MISC_NO_BTS | MISC_NO_PEBS))
            return REFUSED;
        value = (value & ~(uint64_t)PERFMON) | (v->misc_enable & PERFMON);
    }
    v->misc_enable = value;
    return DONE;
}

static int write_amd(struct vcpu *v, uint32_t index, uint64_t value, bool host)
{
    switch (index) {
    case MSR_AMD_HWCR:
        value &= ~(uint64_t)HWCR_IGNORED;
        if (value & ~(uint64_t)(HWCR_MC_STATUS_WR | HWCR_TSC_FREQ_SEL))
            return REFUSED;
        v->amd_hwcr = value;
        return DONE;
    case MSR_AMD_MMIO_CONF_BASE: return value ? REFUSED : DONE;
    case MSR_AMD_OSVW_LENGTH:
    case MSR_AMD_OSVW_STATUS:
        if (!cpu_has(v, FEAT_OSVW) && !host)
            return REFUSED;
        *(index == MSR_AMD_OSVW_LENGTH ? &v->osvw_length : &v->osvw_status) = value;
        return DONE;
    case MSR_AMD_SYSCFG:
    case MSR_AMD_LS_CFG:
        if (!v->amd && !host)
            return REFUSED;
        *(index == MSR_AMD_SYSCFG ? &v->amd_syscfg : &v->amd_ls_cfg) = value;
        return DONE;
    case MSR_AMD_DE_CFG:
        if ((!v->amd && !host) || (value & ~(uint64_t)DE_CFG_LFENCE_SERIALIZE))
            return REFUSED;
        v->amd_de_cfg = value;
        return DONE;
    default: return NOT_OURS;
    }
}

static int write_special(struct vcpu *v, uint32_t index, uint64_t value, bool host)
{
    switch (index) {
    case MSR_EFER: return write_efer(v, value, host);
    case MSR_IA32_TSC:
    case MSR_IA32_TSC_ADJUST: return write_tsc(v, index, value, host);
    case MSR_TSC_AUX:
        if (!host && !cpu_has(v, FEAT_RDTSCP) && !cpu_has(v, FEAT_RDPID))
            return REFUSED;
        if (!v->amd && value >> 32)
            return REFUSED;
        v->tsc_aux = (uint32_t)value;
        return DONE;
    case MSR_IA32_PAT:
        if (!memory_types(value, PAT_TYPES))
            return REFUSED;
        v->pat = value;
        return DONE;
    case MSR_IA32_MISC_ENABLE: return write_misc_enable(v, value, host);
    case MSR_IA32_FEATURE_CONTROL: return write_feature_control(v, value, host);
    case MSR_IA32_SPEC_CTRL:
        if ((!host && !has_spec_ctrl(v)) || (value & ~spec_ctrl_bits(v, host)))
            return REFUSED;
        v->spec_ctrl = value;
        return DONE;
    case MSR_IA32_PRED_CMD:
        if (!host && !cpu_has(v, FEAT_SPEC_CTRL) && !cpu_has(v, FEAT_AMD_IBPB))
            return REFUSED;
        return value & ~(1ull | (cpu_has(v, FEAT_SBPB) ? 1 << 7 : 0)) ? REFUSED : DONE;
    case MSR_IA32_FLUSH_CMD:
        return (!host && !cpu_has(v, FEAT_FLUSH_L1D)) || (value & ~1ull) ? REFUSED : DONE;
    case MSR_IA32_ARCH_CAPABILITIES:
        if (!host)
            return REFUSED;
        v->arch_capabilities = value;
        return DONE;
    case MSR_IA32_PERF_CAPABILITIES: return host && !value ? DONE : REFUSED;
    case MSR_IA32_DEBUGCTL: /* LBR is kept but does nothing */
        if (value & ~(v->amd ? 0x3full : 3ull))
            return REFUSED;
        v->debugctl = value;
        return DONE;
    case MSR_IA32_UCODE_REV:
        if (host)
            v->ucode_rev = value;
        return DONE; /* a guest's write is how it asks for the revision */
    case MSR_IA32_XSS: return (!host && !cpu_has(v, FEAT_XSAVES)) || value ? REFUSED : DONE;
    case MSR_IA32_PKRS:
        if ((!host && !cpu_has(v, FEAT_PKS)) || value >> 32)
            return REFUSED;
        if (v->pkrs != value) {
            v->pkrs = value;
            tlb_flush_all(v); /* its tags were made under the old rights */
        }
        return DONE;
    case MSR_IA32_MISC_FEATURES:
        if (value & ~(uint64_t)(v->platform_info & PLATFORM_CPUID_FAULT ? MISC_CPUID_FAULT : 0))
            return REFUSED;
        v->misc_features = value;
        return DONE;
    default: return write_amd(v, index, value, host);
    }
}

static uint64_t ucode_rev(const struct vcpu *v)
{
    return v->ucode_rev ? v->ucode_rev : v->amd ? 0x01000065 : 1ull << 32;
}

static int read_special(struct vcpu *v, uint32_t index, uint64_t *value, bool host)
{
    switch (index) {
    case MSR_EFER: *value = v->efer; return DONE;
    case MSR_IA32_TSC: *value = cpu_rdtsc(v); return DONE;
    case MSR_IA32_TSC_ADJUST: *value = v->tsc_adjust; return DONE;
    case MSR_TSC_AUX:
        *value = v->tsc_aux;
        return host || cpu_has(v, FEAT_RDTSCP) || cpu_has(v, FEAT_RDPID) ? DONE : REFUSED;
    case MSR_IA32_PAT: *value = v->pat; return DONE;
    case MSR_IA32_MISC_ENABLE: *value = v->misc_enable; return DONE;
    case MSR_IA32_FEATURE_CONTROL:
        *value = v->feature_control;
        return v->amd && !host ? REFUSED : DONE;
    case MSR_IA32_SPEC_CTRL:
        *value = v->spec_ctrl;
        return host || has_spec_ctrl(v) ? DONE : REFUSED;
    case MSR_IA32_ARCH_CAPABILITIES:
        *value = v->arch_capabilities;
        return host || cpu_has(v, FEAT_ARCH_CAPABILITIES) ? DONE : REFUSED;
    case MSR_IA32_PERF_CAPABILITIES: *value = 0; return host ? DONE : REFUSED;
    case MSR_IA32_DEBUGCTL: *value = v->debugctl; return DONE;
    case MSR_IA32_UCODE_REV: *value = ucode_rev(v); return DONE;
    case MSR_IA32_XSS: *value = v->xss; return host || cpu_has(v, FEAT_XSAVES) ? DONE : REFUSED;
    case MSR_IA32_PKRS: *value = v->pkrs; return host || cpu_has(v, FEAT_PKS) ? DONE : REFUSED;
    case MSR_IA32_MISC_FEATURES: *value = v->misc_features; return DONE;
    case MSR_AMD_HWCR: *value = v->amd_hwcr; return DONE;
    case MSR_AMD_OSVW_LENGTH:
        *value = v->osvw_length;
        return host || cpu_has(v, FEAT_OSVW) ? DONE : REFUSED;
    case MSR_AMD_OSVW_STATUS:
        *value = v->osvw_status;
        return host || cpu_has(v, FEAT_OSVW) ? DONE : REFUSED;
    case MSR_AMD_SYSCFG: *value = v->amd_syscfg; return DONE;
    case MSR_AMD_LS_CFG: *value = v->amd_ls_cfg; return v->amd || host ? DONE : REFUSED;
    case MSR_AMD_DE_CFG: *value = v->amd_de_cfg; return v->amd || host ? DONE : REFUSED;
    default: return read_constant(index, value);
    }
}

/* ---- the entry points --------------------------------------------------------------------------
 */

int msr_read(struct vcpu *v, uint32_t index, uint64_t *value, bool host_initiated)
{
    const struct plain *p = find_plain(index);

    *value = 0;
    if (p) {
        memcpy(value, (const uint8_t *)v + p->offset, sizeof(*value));
        return DONE;
    }
    if (is_mce(v, index))
        return read_mce(v, index, value, host_initiated);
    if (is_mtrr(index))
        return read_mtrr(v, index, value);
    return read_special(v, index, value, host_initiated);
}

int msr_write(struct vcpu *v, uint32_t index, uint64_t value, bool host_initiated)
{
    const struct plain *p = find_plain(index);
    int result;

    if (p)
        return write_plain(v, p, value, host_initiated);
    if (is_mce(v, index))
        return write_mce(v, index, value, host_initiated);
    if (is_mtrr(index))
        return write_mtrr(v, index, value);
    result = write_special(v, index, value, host_initiated);
    return result == NOT_OURS ? write_constant(index) : result;
}

/* ---- lists -------------------------------------------------------------------------------------
 */

static const uint32_t saved[] = {
    MSR_IA32_SYSENTER_CS,
    MSR_IA32_SYSENTER_ESP,
    MSR_IA32_SYSENTER_EIP,
    MSR_STAR,
    MSR_LSTAR,
    MSR_CSTAR,
    MSR_SFMASK,
    MSR_KERNEL_GS_BASE,
    MSR_TSC_AUX,
    MSR_IA32_TSC,
    MSR_IA32_TSC_ADJUST,
    MSR_IA32_PAT,
    MSR_IA32_FEATURE_CONTROL,
    MSR_IA32_SPEC_CTRL,
    MSR_IA32_ARCH_CAPABILITIES,
    MSR_IA32_PERF_CAPABILITIES,
    MSR_IA32_MISC_ENABLE,
    MSR_IA32_MCG_STATUS,
    MSR_IA32_MCG_CTL,
    MSR_IA32_SMI_COUNT,
    MSR_IA32_PLATFORM_INFO,
    MSR_IA32_MISC_FEATURES,
    MSR_IA32_POWER_CTL,
    MSR_IA32_UCODE_REV,
    MSR_IA32_DEBUGCTL,
    MSR_IA32_XSS,
    MSR_IA32_PKRS,
    MSR_AMD_HWCR,
    MSR_AMD_OSVW_LENGTH,
    MSR_AMD_OSVW_STATUS,
    MSR_AMD_DE_CFG,
    MSR_AMD_SYSCFG,
    MSR_AMD_LS_CFG,
    MSR_MTRR_DEF_TYPE,
    0x250,
    0x258,
    0x259,
    0x268,
    0x269,
    0x26a,
    0x26b,
    0x26c,
    0x26d,
    0x26e,
    0x26f,
    0x200,
    0x201,
    0x202,
    0x203,
    0x204,
    0x205,
    0x206,
    0x207,
    0x208,
    0x209,
    0x20a,
    0x20b,
    0x20c,
    0x20d,
    0x20e,
    0x20f,
};

static const uint32_t feature_msrs[] = {MSR_IA32_UCODE_REV, MSR_IA32_ARCH_CAPABILITIES,
                                        MSR_IA32_PERF_CAPABILITIES, MSR_AMD_DE_CFG};

static unsigned copy_list(uint32_t *to, unsigned max, const uint32_t *from, unsigned count)
{
    if (max)
        memcpy(to, from, (max < count ? max : count) * sizeof(*to));
    return count;
}

unsigned msr_index_list(uint32_t *index, unsigned max)
{
    return copy_list(index, max, saved, sizeof(saved) / sizeof(saved[0]));
}

unsigned msr_feature_list(uint32_t *index, unsigned max)
{
    return copy_list(index, max, feature_msrs, sizeof(feature_msrs) / sizeof(feature_msrs[0]));
}

int msr_feature(uint32_t index, uint64_t *value)
{
    switch (index) {
    case MSR_IA32_UCODE_REV: *value = cpuid_host_is_amd() ? 0x01000065 : 1ull << 32; return 0;
    case MSR_IA32_ARCH_CAPABILITIES: *value = arch_capabilities; return 0;
    case MSR_IA32_PERF_CAPABILITIES: *value = 0; return 0;
    case MSR_AMD_DE_CFG: *value = DE_CFG_LFENCE_SERIALIZE; return 0;
    default: return -1;
    }
}
