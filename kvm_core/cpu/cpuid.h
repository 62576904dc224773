/* What the guest is told its processor can do, and what the interpreter therefore allows.
 *
 * One row per feature bit: name, CPUID leaf, subleaf, register (EAX 0, EBX 1, ECX 2, EDX 3), bit,
 * and who provides it: OURS the interpreter alone; OURS_AMD, OURS_INTEL likewise, on a host of that
 * vendor, OURS_AS_HOST on one that has it; HOST the host processor, which executes these instructions; NEVER is known by name (a client may
 * set it) but not offered by KVM_GET_SUPPORTED_CPUID: TSC_DEADLINE needs an irqchip of ours, so that
 * only KVM_CAP_TSC_DEADLINE_TIMER tells of it (KVM API 4.46). SDM vol. 2, CPUID; AMD
 * APM vol. 3, appendix E.
 */
#ifndef KVMISH_CPU_CPUID_H
#define KVMISH_CPU_CPUID_H

#include <linux/kvm.h>

#include "cpu/vcpu.h"

/* clang-format off */
#define CPU_FEATURES(X)                                                                       \
    X(FPU, 1, 0, 3, 0, OURS) X(VME, 1, 0, 3, 1, OURS) X(DE, 1, 0, 3, 2, OURS)                 \
    X(PSE, 1, 0, 3, 3, OURS) X(TSC, 1, 0, 3, 4, OURS) X(MSR, 1, 0, 3, 5, OURS)                \
    X(PAE, 1, 0, 3, 6, OURS) X(MCE, 1, 0, 3, 7, OURS) X(CX8, 1, 0, 3, 8, OURS)                \
    X(APIC, 1, 0, 3, 9, OURS) X(SEP, 1, 0, 3, 11, OURS) X(MTRR, 1, 0, 3, 12, OURS)            \
    X(PGE, 1, 0, 3, 13, OURS) X(MCA, 1, 0, 3, 14, OURS) X(CMOV, 1, 0, 3, 15, OURS)            \
    X(PAT, 1, 0, 3, 16, OURS) X(PSE36, 1, 0, 3, 17, OURS) X(CLFLUSH, 1, 0, 3, 19, OURS)       \
    X(MMX, 1, 0, 3, 23, HOST) X(FXSR, 1, 0, 3, 24, OURS) X(SSE, 1, 0, 3, 25, HOST)            \
    X(SSE2, 1, 0, 3, 26, HOST) X(SS, 1, 0, 3, 27, OURS) X(HTT, 1, 0, 3, 28, NEVER)            \
    X(SSE3, 1, 0, 2, 0, HOST) X(PCLMUL, 1, 0, 2, 1, HOST) X(MONITOR, 1, 0, 2, 3, NEVER)       \
    X(SSSE3, 1, 0, 2, 9, HOST) X(FMA, 1, 0, 2, 12, HOST) X(CX16, 1, 0, 2, 13, OURS)           \
    X(PCID, 1, 0, 2, 17, OURS) X(SSE4_1, 1, 0, 2, 19, HOST) X(SSE4_2, 1, 0, 2, 20, HOST)      \
    X(X2APIC, 1, 0, 2, 21, OURS) X(MOVBE, 1, 0, 2, 22, OURS) X(POPCNT, 1, 0, 2, 23, HOST)     \
    X(TSC_DEADLINE, 1, 0, 2, 24, NEVER) X(AES, 1, 0, 2, 25, HOST) X(XSAVE, 1, 0, 2, 26, OURS) \
    X(OSXSAVE, 1, 0, 2, 27, NEVER) X(AVX, 1, 0, 2, 28, HOST) X(F16C, 1, 0, 2, 29, HOST)       \
    X(RDRAND, 1, 0, 2, 30, OURS) X(HYPERVISOR, 1, 0, 2, 31, OURS) X(ARAT, 6, 0, 0, 2, OURS)   \
    X(FSGSBASE, 7, 0, 1, 0, OURS) X(TSC_ADJUST, 7, 0, 1, 1, OURS) X(BMI1, 7, 0, 1, 3, HOST)   \
    X(HLE, 7, 0, 1, 4, NEVER) X(AVX2, 7, 0, 1, 5, HOST) X(FDP_EXCPTN_ONLY, 7, 0, 1, 6, OURS_AS_HOST) \
    X(SMEP, 7, 0, 1, 7, OURS) X(BMI2, 7, 0, 1, 8, HOST) X(ERMS, 7, 0, 1, 9, OURS)             \
    X(INVPCID, 7, 0, 1, 10, OURS) X(RTM, 7, 0, 1, 11, NEVER)                                  \
    X(ZERO_FCS_FDS, 7, 0, 1, 13, OURS_AS_HOST) X(RDSEED, 7, 0, 1, 18, OURS) X(ADX, 7, 0, 1, 19, HOST) \
    X(SMAP, 7, 0, 1, 20, OURS) X(CLFLUSHOPT, 7, 0, 1, 23, OURS) X(CLWB, 7, 0, 1, 24, OURS)    \
    X(SHA, 7, 0, 1, 29, HOST) X(UMIP, 7, 0, 2, 2, OURS) X(PKU, 7, 0, 2, 3, OURS)              \
    X(OSPKE, 7, 0, 2, 4, NEVER) X(VAES, 7, 0, 2, 9, HOST) X(VPCLMULQDQ, 7, 0, 2, 10, HOST)    \
    X(LA57, 7, 0, 2, 16, OURS) X(RDPID, 7, 0, 2, 22, OURS)        \
    X(PKS, 7, 0, 2, 31, OURS)                                                                 \
    X(FSRM, 7, 0, 3, 4, OURS) X(MD_CLEAR, 7, 0, 3, 10, OURS) X(SERIALIZE, 7, 0, 3, 14, OURS)  \
    X(SPEC_CTRL, 7, 0, 3, 26, OURS) X(STIBP, 7, 0, 3, 27, OURS)                               \
    X(FLUSH_L1D, 7, 0, 3, 28, OURS) X(ARCH_CAPABILITIES, 7, 0, 3, 29, OURS)                   \
    X(SSBD, 7, 0, 3, 31, OURS) X(BHI_CTRL, 7, 2, 3, 4, OURS_INTEL)                            \
    X(XSAVEOPT, 0xd, 1, 0, 0, OURS) X(XSAVEC, 0xd, 1, 0, 1, OURS)                             \
    X(XGETBV1, 0xd, 1, 0, 2, OURS) X(XSAVES, 0xd, 1, 0, 3, OURS)                              \
    X(LAHF_LM, 0x80000001, 0, 2, 0, OURS) X(CMP_LEGACY, 0x80000001, 0, 2, 1, OURS_AMD)        \
    X(SVM, 0x80000001, 0, 2, 2, NEVER) X(CR8_LEGACY, 0x80000001, 0, 2, 4, NEVER)              \
    X(LZCNT, 0x80000001, 0, 2, 5, HOST) X(SSE4A, 0x80000001, 0, 2, 6, HOST)                   \
    X(PREFETCHW, 0x80000001, 0, 2, 8, OURS)                                                   \
    X(OSVW, 0x80000001, 0, 2, 9, OURS_AMD) X(TOPOEXT, 0x80000001, 0, 2, 22, OURS_AMD)         \
    X(SYSCALL, 0x80000001, 0, 3, 11, OURS) X(NX, 0x80000001, 0, 3, 20, OURS)                  \
    X(MMXEXT, 0x80000001, 0, 3, 22, HOST) X(FFXSR, 0x80000001, 0, 3, 25, NEVER)               \
    X(PDPE1GB, 0x80000001, 0, 3, 26, OURS) X(RDTSCP, 0x80000001, 0, 3, 27, OURS)              \
    X(LM, 0x80000001, 0, 3, 29, OURS) X(INVARIANT_TSC, 0x80000007, 0, 3, 8, OURS)             \
    X(WBNOINVD, 0x80000008, 0, 1, 9, OURS) X(AMD_IBPB, 0x80000008, 0, 1, 12, OURS)            \
    X(AMD_IBRS, 0x80000008, 0, 1, 14, OURS) X(AMD_STIBP, 0x80000008, 0, 1, 15, OURS)          \
    X(AMD_STIBP_ALWAYS_ON, 0x80000008, 0, 1, 17, OURS) X(AMD_SSBD, 0x80000008, 0, 1, 24, OURS)\
    X(AMD_SSB_NO, 0x80000008, 0, 1, 26, OURS) X(BTC_NO, 0x80000008, 0, 1, 29, OURS)           \
    X(NO_NESTED_DATA_BP, 0x80000021, 0, 0, 0, OURS) X(LFENCE_RDTSC, 0x80000021, 0, 0, 2, OURS)\
    X(NULL_SEL_CLR_BASE, 0x80000021, 0, 0, 6, OURS) X(AUTOIBRS, 0x80000021, 0, 0, 8, OURS)    \
    X(SBPB, 0x80000021, 0, 0, 27, OURS) X(IBPB_BRTYPE, 0x80000021, 0, 0, 28, OURS)            \
    X(SRSO_NO, 0x80000021, 0, 0, 29, OURS) X(SRSO_USER_KERNEL_NO, 0x80000021, 0, 0, 30, OURS) \
    X(TSA_SQ_NO, 0x80000021, 0, 2, 1, OURS) X(TSA_L1_NO, 0x80000021, 0, 2, 2, OURS)
/* clang-format on */

enum cpu_provider { BY_OURS, BY_OURS_AMD, BY_OURS_INTEL, BY_OURS_AS_HOST, BY_HOST, BY_NEVER }; /* the last word of a row */

enum cpu_feature {
#define X(name, leaf, sub, reg, bit, who) FEAT_##name,
    CPU_FEATURES(X)
#undef X
        FEAT_COUNT
};

_Static_assert(FEAT_COUNT <= 4 * 64, "vcpu.features holds 256 bits");

static inline bool cpu_has(const struct vcpu *v, enum cpu_feature f)
{
    return v->features[f / 64] >> (f % 64) & 1;
}

/* KVM's own leaf 0x40000001, EAX: the paravirtual services that the machine around the vCPU has. */
#define CPUID_KVM_FEATURES                                                                 \
    (1u << 0 /* CLOCKSOURCE */ | 1u << 1 /* NOP_IO_DELAY */ | 1u << 3 /* CLOCKSOURCE2 */ | \
     1u << 4 /* ASYNC_PF */ | 1u << 5 /* STEAL_TIME */ | 1u << 6 /* PV_EOI */ |            \
     1u << 7 /* PV_UNHALT */ | 1u << 11 /* PV_SEND_IPI */ | 1u << 14 /* ASYNC_PF_INT */ |  \
     1u << 24 /* CLOCKSOURCE_STABLE */)

enum { CPUID_MODEL_MAX = 256 }; /* entries of a model: KVM_MAX_CPUID_ENTRIES */

int cpuid_create(
    struct vcpu *v); /* -ENOMEM. Until SET_CPUID2 all leaves are 0, all features allowed */
void cpuid_destroy(struct vcpu *v);

/* KVM_SET_CPUID2: replaces the model; derives v->features, amd, maxphyaddr, phys_reserved. -E2BIG,
 * -EINVAL (an address width that no paging mode has), leaving the old model. */
int cpuid_set(struct vcpu *v, const struct kvm_cpuid_entry2 *entries, unsigned n);
/* Do these entries say what cpuid_get() says now? */
bool cpuid_equal(const struct vcpu *v, const struct kvm_cpuid_entry2 *entries, unsigned n);
/* KVM_GET_CPUID2: as set, with the dynamic bits as they are now. Returns their number, or -E2BIG.
 */
int cpuid_get(const struct vcpu *v, struct kvm_cpuid_entry2 *entries, unsigned max);
/* KVM_GET_SUPPORTED_CPUID: number of entries, or -E2BIG. */
int cpuid_supported(struct kvm_cpuid_entry2 *entries, unsigned max);

bool cpuid_host_is_amd(void); /* by vendor, AMD or Hygon: that of the default model */

/* All components that may be offered. */
uint64_t cpuid_xcr0_supported(void);
/* Whether the client's model has PKRU where it lies in the XSAVE area, so that its images are to be believed. */
bool cpuid_client_places_pkru(const struct vcpu *v);
/* XCR0 bits that a guest with these features may set. */
uint64_t cpuid_xcr0_mask(const struct vcpu *v);

#endif
