/* Model-specific registers of the processor proper; msr_read() and msr_write() are in cpu.h. */
#ifndef KVMISH_CPU_MSR_H
#define KVMISH_CPU_MSR_H

#include "cpu/cpu.h"

enum { MCE_BANKS_MAX = 32 };

void msr_create(struct vcpu *v); /* the values that no reset changes */

/* KVM_GET_MSR_INDEX_LIST and KVM_GET_MSR_FEATURE_INDEX_LIST, without the machine's (APIC,
 * kvmclock): number of indices; at most `max` are stored. */
unsigned msr_index_list(uint32_t *index, unsigned max);
unsigned msr_feature_list(uint32_t *index, unsigned max);
/* KVM_GET_MSRS on the system descriptor: 0, or -1 when not a feature MSR. */
int msr_feature(uint32_t index, uint64_t *value);

/* Canonical by the widest linear address that the processor has, whatever CR4.LA57 is: what the
 * bases in MSRs and descriptor tables must be. SDM vol. 1, 3.3.7.1 */
bool msr_canonical(const struct vcpu *v, uint64_t address);

/* KVM_X86_SETUP_MCE. mcg_cap: bank count in bits 7:0. -EINVAL */
int msr_setup_mce(struct vcpu *v, uint64_t mcg_cap);

#endif
