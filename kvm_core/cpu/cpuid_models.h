/* Named processor models, as restrictions of what KVM_GET_SUPPORTED_CPUID answers; for a VMM, not
 * for the core. */
#ifndef KVMISH_CPU_CPUID_MODELS_H
#define KVMISH_CPU_CPUID_MODELS_H

#include <linux/kvm.h>

/* The n-th model's name, NULL beyond the last: host, x86-64-v2, x86-64-v3, qemu64. */
const char *cpuid_model_name(unsigned n);

/* Takes away from `entries` (from KVM_GET_SUPPORTED_CPUID) what the model does not have. The new
 * number of entries, -ENOENT for an unknown model, -ENOTSUP when the entries lack something that it
 * requires. */
int cpuid_model_apply(const char *name, struct kvm_cpuid_entry2 *entries, unsigned n);

/* Writes the topology of one socket with `cpus` cores of one thread into the entries of the
 * processor with this APIC id. The new number of entries, or -E2BIG. */
int cpuid_topology(struct kvm_cpuid_entry2 *entries, unsigned n, unsigned max, unsigned apic_id,
                   unsigned cpus);

#endif
