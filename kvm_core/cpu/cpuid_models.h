/* Named processor models, as restrictions of what KVM_GET_SUPPORTED_CPUID answers; for a VMM (by
 * way of kvm_core/models.py), not for the core. */
#ifndef KVMISH_CPU_CPUID_MODELS_H
#define KVMISH_CPU_CPUID_MODELS_H

#include <linux/kvm.h>

/* The n-th model's name, NULL beyond the last: host, x86-64-v2, x86-64-v3, qemu64. */
const char *cpuid_model_name(unsigned n);

/* Takes away from `entries` (from KVM_GET_SUPPORTED_CPUID) what the model does not have. The new
 * number of entries, -ENOENT for an unknown model, -ENOTSUP when the entries lack something that it
 * requires. */
int cpuid_model_apply(const char *name, struct kvm_cpuid_entry2 *entries, unsigned n);

#endif
