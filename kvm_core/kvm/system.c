/* ioctls of the descriptor of /dev/kvm itself. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/kvm.h"

/* What Linux lists: MOVBE and RDPID, which it executes for processors without them. KVM API 4.88 */
static int cpuid_emulated(struct kvm_cpuid_entry2 *entries)
{
    static const struct kvm_cpuid_entry2 emulated[] = {
        {.function = 0, .eax = 7},
        {.function = 1, .ecx = 1 << 22},
        {.function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ecx = 1 << 22},
    };

    memcpy(entries, emulated, sizeof(emulated));
    return sizeof(emulated) / sizeof(*emulated);
}

/* Of KVM_GET_EMULATED_CPUID alone Linux looks at what the list has before: its padding is kept for something that may come. */
static bool cpuid_is_clean(const struct client *c, uintptr_t arg, uint32_t nent)
{
    bool clean = true;

    for (uint32_t i = 0; i < nent && clean; i++) {
        struct kvm_cpuid_entry2 e;
        clean = !client_read(c, &e, arg + sizeof(struct kvm_cpuid2) + i * sizeof(e), sizeof(e)) &&
                !(e.padding[0] | e.padding[1] | e.padding[2]);
    }
    return clean;
}

static int cpuid_get_supported(const struct client *c, uintptr_t arg, bool emulated)
{
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 *entries;
    int n, err = GET(c, head, arg);

    if (err)
        return err;
    if (head.nent < 1)
        return -E2BIG;
    if (head.nent > CPUID_MAX)
        head.nent = CPUID_MAX;
    if (emulated && !cpuid_is_clean(c, arg, head.nent))
        return -EINVAL;
    entries = calloc(CPUID_MAX, sizeof(*entries));
    if (!entries)
        return -ENOMEM;
    n = emulated ? cpuid_emulated(entries) : cpuid_supported(entries, CPUID_MAX);
    if (n < 0 || (unsigned)n + emulated > head.nent) { /* Linux wants room for the one that it does not find, 0x80000000 */
        err = -E2BIG;
    } else {
        head.nent = (uint32_t)n;
        err = client_write(c, arg + sizeof(head), entries, (size_t)n * sizeof(*entries));
        if (!err)
            err = PUT(c, arg, head);
    }
    free(entries);
    return err;
}

/* KVM_GET_DEVICE_ATTR on the system descriptor: group 0, KVM_X86_XCOMP_GUEST_SUPP */
static int system_attr(const struct client *c, unsigned long req, uintptr_t arg)
{
    struct kvm_device_attr a;
    uint64_t xcr0 = cpuid_xcr0_supported();
    int err = GET(c, a, arg);

    if (err)
        return err;
    if (a.group || a.attr != KVM_X86_XCOMP_GUEST_SUPP)
        return -ENXIO;
    return req == KVM_HAS_DEVICE_ATTR ? 0 : PUT(c, a.addr, xcr0);
}

int system_ioctl(const struct client *c, unsigned long req, uintptr_t arg)
{
    uint64_t value;

    switch (req) {
    case KVM_GET_API_VERSION: return arg ? -EINVAL : KVM_API_VERSION;
    case KVM_CREATE_VM: return vm_create(c, arg);
    case KVM_CHECK_EXTENSION: return caps_check(NULL, arg);
    case KVM_GET_VCPU_MMAP_SIZE: return arg ? -EINVAL : VCPU_MAP_BYTES;
    case KVM_GET_SUPPORTED_CPUID: return cpuid_get_supported(c, arg, false);
    case KVM_GET_EMULATED_CPUID: return cpuid_get_supported(c, arg, true);
    case KVM_GET_MSR_INDEX_LIST: return msrs_get_index_list(c, arg, false);
    case KVM_GET_MSR_FEATURE_INDEX_LIST: return msrs_get_index_list(c, arg, true);
    case KVM_GET_MSRS: return msrs_get_system(c, arg);
    case KVM_X86_GET_MCE_CAP_SUPPORTED:
        value = MCG_CAP_SUPPORTED;
        return PUT(c, arg, value);
    case KVM_GET_DEVICE_ATTR:
    case KVM_HAS_DEVICE_ATTR: return system_attr(c, req, arg);
    case KVM_TRACE_ENABLE:
    case KVM_TRACE_PAUSE:
    case KVM_TRACE_DISABLE: return -EOPNOTSUPP;
    default: return -EINVAL;
    }
}
