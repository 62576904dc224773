/* KVM's paravirtual interface: numbers and layouts of Linux's Documentation/virt/kvm/x86/{msr,hypercalls}.rst. */
#ifndef KVMISH_KVM_PV_H
#define KVMISH_KVM_PV_H

#include <stdbool.h>
#include <stdint.h>

enum {
    MSR_KVM_WALL_CLOCK = 0x11,
    MSR_KVM_SYSTEM_TIME = 0x12,
    MSR_KVM_WALL_CLOCK_NEW = 0x4b564d00,
    MSR_KVM_SYSTEM_TIME_NEW = 0x4b564d01,
    MSR_KVM_ASYNC_PF_EN = 0x4b564d02,
    MSR_KVM_STEAL_TIME = 0x4b564d03,
    MSR_KVM_PV_EOI_EN = 0x4b564d04,
    MSR_KVM_POLL_CONTROL = 0x4b564d05,
    MSR_KVM_ASYNC_PF_INT = 0x4b564d06,
    MSR_KVM_ASYNC_PF_ACK = 0x4b564d07
};

struct pv_time { /* pvclock_vcpu_time_info */
    uint32_t version; /* odd while it changes */
    uint32_t pad0;
    uint64_t tsc_timestamp;
    uint64_t system_time_ns;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags; /* PV_TIME_* */
    uint8_t pad[2];
} __attribute__((packed));
enum { PV_TIME_STABLE = 1, PV_TIME_GUEST_STOPPED = 2 };

struct pv_wall_clock { /* pvclock_wall_clock: UTC at system time 0 */
    uint32_t version, sec, nsec;
} __attribute__((packed));

struct pv_steal { /* kvm_steal_time */
    uint64_t steal_ns;
    uint32_t version, flags;
    uint8_t preempted, pad8[3];
    uint32_t pad[11];
} __attribute__((packed));
_Static_assert(sizeof(struct pv_steal) == 64 && sizeof(struct pv_time) == 32, "guest ABI");

enum {
    HC_VAPIC_POLL_IRQ = 1,
    HC_KICK_CPU = 5,
    HC_SEND_IPI = 10,
    HC_SCHED_YIELD = 11,
    HC_MAP_GPA_RANGE = 12
};
enum pv_feature { /* bits of CPUID 0x40000001 EAX */
    PV_CLOCK = 0,
    PV_CLOCK2 = 3,
    PV_ASYNC_PF = 4,
    PV_STEAL = 5,
    PV_EOI = 6,
    PV_UNHALT = 7,
    PV_SEND_IPI = 11,
    PV_POLL_CONTROL = 12,
    PV_SCHED_YIELD = 13,
    PV_ASYNC_PF_INT = 14
};
struct kvm_vcpu;
struct kvm_cpuid_entry2;
/* Of the features in these leaves; NULL: there is none. */
struct kvm_cpuid_entry2 *pv_leaf(struct kvm_cpuid_entry2 *entries, unsigned n);
bool pv_has(const struct kvm_vcpu *kv, enum pv_feature feature);

enum { PV_EPERM = 1, PV_EINVAL = 22, PV_ENOSYS = 1000 };

#endif
