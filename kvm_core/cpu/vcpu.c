/* Birth and death of a vCPU: who allocates what, in which order, and what a failure undoes. */
#include <errno.h>
#include <stdlib.h>

#include "cpu/cpuid.h"
#include "cpu/msr.h"
#include "cpu/state.h"

int cpu_create(struct vcpu *v)
{
    int err = cpuid_create(v);

    if (!err)
        err = mmu_create(v);
    if (!err)
        err = codecache_create(v);
    if (!err)
        err = native_create(v);
    if (err) {
        cpu_destroy(v);
        return err;
    }
    msr_create(v);
    cpu_reset(v, false);
    return 0;
}

void cpu_destroy(struct vcpu *v)
{
    native_destroy(v);
    codecache_destroy(v);
    mmu_destroy(v);
    cpuid_destroy(v);
}
