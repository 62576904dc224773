/* KVM_CHECK_EXTENSION and KVM_ENABLE_CAP: what is offered, with the values of Linux on x86. */
#include <errno.h>
#include <unistd.h>

#include "cpu/msr.h"
#include "kvm/kvm.h"
#include "kvm/pv.h"

enum { HYPERCALL_EXITS_VALID = 1 << HC_MAP_GPA_RANGE };

#define QUIRKS                                                                                          \
    (KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_CD_NW_CLEARED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE |      \
     KVM_X86_QUIRK_OUT_7E_INC_RIP | KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT |                                \
     KVM_X86_QUIRK_FIX_HYPERCALL_INSN | KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS)
#define USER_MSR_REASONS                                                                                \
    (KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER)
#define DEBUG_VALID                                                                                     \
    (KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_USE_HW_BP |  \
     KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP | KVM_GUESTDBG_BLOCKIRQ)

/* Capabilities that are simply there. */
static const uint16_t present[] = {
    KVM_CAP_IRQCHIP, KVM_CAP_HLT, KVM_CAP_MMU_SHADOW_CACHE_CONTROL, KVM_CAP_USER_MEMORY, KVM_CAP_SET_TSS_ADDR,
    KVM_CAP_EXT_CPUID, KVM_CAP_CLOCKSOURCE, KVM_CAP_PIT, KVM_CAP_NOP_IO_DELAY,
    KVM_CAP_MP_STATE, KVM_CAP_SYNC_MMU, KVM_CAP_DESTROY_MEMORY_REGION_WORKS, KVM_CAP_USER_NMI,
    KVM_CAP_SET_GUEST_DEBUG, KVM_CAP_REINJECT_CONTROL, KVM_CAP_IRQ_INJECT_STATUS,
    KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, KVM_CAP_IRQFD, KVM_CAP_PIT2, KVM_CAP_SET_BOOT_CPU_ID,
    KVM_CAP_PIT_STATE2, KVM_CAP_IOEVENTFD, KVM_CAP_SET_IDENTITY_MAP_ADDR, KVM_CAP_INTERNAL_ERROR_DATA,
    KVM_CAP_VCPU_EVENTS, KVM_CAP_DEBUGREGS, KVM_CAP_X86_ROBUST_SINGLESTEP, KVM_CAP_ENABLE_CAP, KVM_CAP_XSAVE,
    KVM_CAP_XCRS, KVM_CAP_GET_TSC_KHZ, KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_KVMCLOCK_CTRL, KVM_CAP_SIGNAL_MSI,
    KVM_CAP_READONLY_MEM, KVM_CAP_IRQFD_RESAMPLE, KVM_CAP_EXT_EMUL_CPUID, KVM_CAP_ENABLE_CAP_VM,
    KVM_CAP_IOEVENTFD_NO_LENGTH, KVM_CAP_CHECK_EXTENSION_VM, KVM_CAP_DISABLE_QUIRKS, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_IOEVENTFD_ANY_LENGTH,
    KVM_CAP_VCPU_ATTRIBUTES, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_GET_MSR_FEATURES, KVM_CAP_MSR_PLATFORM_INFO,
    KVM_CAP_COALESCED_PIO, KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_LAST_CPU, KVM_CAP_STEAL_TIME, KVM_CAP_ASYNC_PF, KVM_CAP_ASYNC_PF_INT,
    KVM_CAP_X86_USER_SPACE_MSR, KVM_CAP_X86_MSR_FILTER, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_SREGS2,
    KVM_CAP_BINARY_STATS_FD, KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_CAP_SYS_ATTRIBUTES,
    KVM_CAP_SYSTEM_EVENT_DATA, KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_CAP_USER_MEMORY2,
    KVM_CAP_MEMORY_FAULT_INFO, KVM_CAP_VM_TYPES,
    KVM_CAP_IOAPIC_POLARITY_IGNORED,
};

int caps_processors(void)
{
    static _Atomic int counted;
    int n = counted;

    if (!n) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        n = online < 1 ? 1 : online > VCPUS_MAX ? VCPUS_MAX : (int)online;
        counted = n;
    }
    return n;
}

static int check_valued(uint64_t cap)
{
    switch (cap) {
    case KVM_CAP_NR_VCPUS: return caps_processors();
    case KVM_CAP_MAX_VCPUS: return VCPUS_MAX;
    case KVM_CAP_MAX_VCPU_ID: return VCPU_IDS_MAX;
    case KVM_CAP_NR_MEMSLOTS: return USER_SLOTS_MAX;
    case KVM_CAP_COALESCED_MMIO: return RING_PAGE;
    case KVM_CAP_IRQ_ROUTING: return ROUTING_MAX_ENTRIES;
    case KVM_CAP_MCE: return MCE_BANKS_MAX;
    case KVM_CAP_ADJUST_CLOCK: return KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
    case KVM_CAP_SYNC_REGS: return KVM_SYNC_X86_VALID_FIELDS;
    case KVM_CAP_X2APIC_API: return KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
    case KVM_CAP_X86_DISABLE_EXITS:
        return KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE | KVM_X86_DISABLE_EXITS_CSTATE;
    case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
        return KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    case KVM_CAP_SET_GUEST_DEBUG2: return DEBUG_VALID;
    case KVM_CAP_EXIT_HYPERCALL: return HYPERCALL_EXITS_VALID;
    case KVM_CAP_XSAVE2: return XSAVE2_BYTES;
    case KVM_CAP_DISABLE_QUIRKS2: return QUIRKS;
    default: return 0;
    }
}

int caps_check(const struct kvm_vm *vm, uint64_t cap)
{
    (void)vm; /* no value differs between the two descriptors */
    for (unsigned i = 0; i < sizeof(present) / sizeof(*present); i++)
        if (present[i] == cap)
            return 1;
    return check_valued(cap);
}

static int enable_split_irqchip(struct kvm_vm *vm, uint64_t pins)
{
    int err;

    pthread_mutex_lock(&vm->lock);
    err = irqchip_create_split(&vm->irq, pins, vm->vcpus != 0);
    pthread_mutex_unlock(&vm->lock);
    return err;
}

static int enable_x2apic_api(struct kvm_vm *vm, uint64_t flags)
{
    if (flags & ~(uint64_t)check_valued(KVM_CAP_X2APIC_API))
        return -EINVAL;
    irqchip_lock(&vm->irq);
    if (flags & KVM_X2APIC_API_USE_32BIT_IDS)
        vm->irq.x2apic_32bit_ids = true;
    if (flags & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)
        vm->irq.x2apic_no_broadcast_quirk = true;
    irqchip_unlock(&vm->irq);
    return 0;
}

/* Said once, and not below the number of the boot processor. KVM API, KVM_CAP_MAX_VCPU_ID */
static int set_max_vcpu_ids(struct kvm_vm *vm, uint64_t ids)
{
    int err = 0;

    if (ids > VCPU_IDS_MAX)
        return -EINVAL;
    pthread_mutex_lock(&vm->lock);
    if (vm->bsp_id > ids || (vm->max_vcpu_ids && vm->max_vcpu_ids != ids))
        err = -EINVAL;
    else
        vm->max_vcpu_ids = (uint32_t)ids;
    pthread_mutex_unlock(&vm->lock);
    return err;
}

/* KVM API 4.37 and chapter 7. -EINVAL: unknown, or bad arguments */
int caps_enable_vm(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    uint64_t arg = cap->args[0];

    if (cap->flags)
        return -EINVAL;
    switch (cap->cap) {
    case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
        if ((arg & ~(uint64_t)(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET)) ||
            ((arg & KVM_DIRTY_LOG_INITIALLY_SET) && !(arg & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)))
            return -EINVAL;
        vm->manual_dirty = arg;
        return 0;
    case KVM_CAP_DISABLE_QUIRKS2:
        if (arg & ~(uint64_t)QUIRKS)
            return -EINVAL;
        vm->disabled_quirks |= arg;
        return 0;
    case KVM_CAP_DISABLE_QUIRKS:
        vm->disabled_quirks |= arg;
        return 0;
    case KVM_CAP_SPLIT_IRQCHIP: return enable_split_irqchip(vm, arg);
    case KVM_CAP_X2APIC_API: return enable_x2apic_api(vm, arg);
    case KVM_CAP_X86_DISABLE_EXITS:
        if (arg & ~(uint64_t)KVM_X86_DISABLE_VALID_EXITS)
            return -EINVAL;
        vm->disabled_exits |= arg;
        return 0;
    case KVM_CAP_MSR_PLATFORM_INFO:
        vm->hides_platform_info = !arg;
        return 0;
    case KVM_CAP_EXCEPTION_PAYLOAD:
        vm->exception_payload = arg;
        return 0;
    case KVM_CAP_X86_TRIPLE_FAULT_EVENT:
        vm->triple_fault_event = arg;
        return 0;
    case KVM_CAP_X86_USER_SPACE_MSR:
        if (arg & ~(uint64_t)USER_MSR_REASONS)
            return -EINVAL;
        vm->user_msr_reasons = (uint32_t)arg;
        return 0;
    case KVM_CAP_EXIT_HYPERCALL:
        if (arg & ~(uint64_t)HYPERCALL_EXITS_VALID)
            return -EINVAL;
        vm->hypercall_exits = arg;
        return 0;
    case KVM_CAP_EXIT_ON_EMULATION_FAILURE: return arg & ~1ull ? -EINVAL : 0;
    case KVM_CAP_MAX_VCPU_ID: return set_max_vcpu_ids(vm, arg);
    case KVM_CAP_HALT_POLL: return 0;
    default: return -EINVAL;
    }
}

int caps_enable_vcpu(struct kvm_vcpu *kv, const struct kvm_enable_cap *cap)
{
    if (cap->flags)
        return -EINVAL;
    if (cap->cap == KVM_CAP_ENFORCE_PV_FEATURE_CPUID) {
        kv->enforce_pv = cap->args[0];
        return 0;
    }
    return -EINVAL;
}
