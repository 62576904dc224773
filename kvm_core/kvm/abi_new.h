/* What is not in every <linux/kvm.h> that we build with, from Linux 6.1's on: younger numbers, forgotten ones, and layouts that are
 * in none. */
#ifndef KVMISH_KVM_ABI_NEW_H
#define KVMISH_KVM_ABI_NEW_H

#include <linux/kvm.h>

#ifndef KVM_SET_USER_MEMORY_REGION2
struct kvm_userspace_memory_region2 {
    __u32 slot;
    __u32 flags;
    __u64 guest_phys_addr;
    __u64 memory_size;
    __u64 userspace_addr;
    __u64 guest_memfd_offset;
    __u32 guest_memfd;
    __u32 pad1;
    __u64 pad2[14];
};
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#endif
#ifndef KVM_MEM_GUEST_MEMFD
#define KVM_MEM_GUEST_MEMFD (1UL << 2)
#endif
#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2 231
#endif
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#define KVM_CAP_MEMORY_FAULT_INFO 232
#endif
#ifndef KVM_CAP_VM_TYPES
#define KVM_CAP_VM_TYPES 235
#endif
#ifndef KVM_TRACE_ENABLE /* newer headers have forgotten them */
#define KVM_TRACE_ENABLE _IOW(KVMIO, 0x06, __u64)
#define KVM_TRACE_PAUSE _IO(KVMIO, 0x07)
#define KVM_TRACE_DISABLE _IO(KVMIO, 0x08)
#endif

/* Of 32-bit programs: struct kvm_msr_filter with their pointers. */
struct kvm_msr_filter_range_compat {
    __u32 flags, nmsrs, base, bitmap;
};
struct kvm_msr_filter_compat {
    __u32 flags;
    struct kvm_msr_filter_range_compat ranges[KVM_MSR_FILTER_MAX_RANGES];
};
#define KVM_X86_SET_MSR_FILTER_COMPAT _IOW(KVMIO, 0xc6, struct kvm_msr_filter_compat)

struct kvm_memory_fault { /* in kvm_run's union, with KVM_EXIT_MEMORY_FAULT */
    __u64 flags, gpa, size;
};

#endif
