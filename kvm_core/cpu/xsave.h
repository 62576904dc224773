/* Layout of the XSAVE area that the processor offers, and state in and out of it.
 *
 * CPUID leaf 0xD is answered from here: this is the layout, whatever the client says of it. PKRU needs nothing of the
 * host; it lies where the host has it, else where Intel's processors do (docs/decisions/010).
 */
#ifndef KVMISH_CPU_XSAVE_H
#define KVMISH_CPU_XSAVE_H

#include "cpu/cpu.h"

enum { /* components; SDM vol. 1, 13.1 */
    XSAVE_X87 = 1 << 0, XSAVE_SSE = 1 << 1, XSAVE_AVX = 1 << 2, XSAVE_PKRU = 1 << 9,
    XSAVE_COMPONENTS = XSAVE_X87 | XSAVE_SSE | XSAVE_AVX | XSAVE_PKRU
};

enum { /* bytes */
    XSAVE_LEGACY_BYTES = 512, XSAVE_HEADER_BYTES = 64, XSAVE_MIN_BYTES = 576,
    XSAVE_AVX_OFFSET = 576, XSAVE_AVX_BYTES = 256,
    XSAVE_PKRU_DEFAULT_OFFSET = 2688, XSAVE_PKRU_BYTES = 8,
    XSAVE_MAX_BYTES = 4096 /* struct kvm_xsave */
};

enum { MXCSR_VALID = 0xffff, MXCSR_DEFAULT = 0x1f80 };

/* PKRU in the standard format. */
uint32_t xsave_pkru_offset(void);

/* XINUSE as XGETBV(1) and XSAVEOPT see it: SSE also when MXCSR is not at its default. */
uint64_t xsave_in_use(const struct vcpu *v);

/* KVM_GET_FPU, KVM_SET_FPU; -EINVAL on reserved bits of MXCSR. */
struct kvm_fpu;
void fpu_export(const struct vcpu *v, struct kvm_fpu *fpu);
int fpu_import(struct vcpu *v, const struct kvm_fpu *fpu);

/* The conditions of any SSE / AVX instruction: #UD, #NM. */
static inline void sse_check(struct vcpu *v)
{
    if ((v->cr0 & CR0_EM) || !(v->cr4 & CR4_OSFXSR))
        cpu_fault(v, VEC_UD);
    if (v->cr0 & CR0_TS)
        cpu_fault(v, VEC_NM);
}
static inline void avx_check(struct vcpu *v)
{
    if (v->mode < MODE_PROT || !(v->cr4 & CR4_OSXSAVE) || (v->xcr0 & 6) != 6)
        cpu_fault(v, VEC_UD);
    if (v->cr0 & CR0_TS)
        cpu_fault(v, VEC_NM);
}

#endif
