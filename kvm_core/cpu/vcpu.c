/* Birth and death of a vCPU: who allocates what, in which order, and what a failure undoes. */
#include <errno.h>
#include <stdlib.h>

#include "cpu/cpuid.h"
#include "cpu/msr.h"
#include "cpu/native.h"
#include "cpu/state.h"
#include "isa/codecache.h"

int cpu_create(struct vcpu *v)
{
    if (cpuid_create(v) || mmu_create(v) || codecache_create(v) || native_create(v)) {
        cpu_destroy(v);
        return -ENOMEM;
    }
    msr_create(v);
    cpu_reset(v, false);
    return 0;
}

void cpu_destroy(struct vcpu *v)
{
    if (v->translator)
        v->translator->destroy(v);
    native_destroy(v);
    codecache_destroy(v);
    mmu_destroy(v);
    cpuid_destroy(v);
}
