/* kvmish-probe: what of this door works here, tried as a client would; kvmish doctor starts it behind the door. Prints what does not. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devfs/launch/processes.h"

enum { PAGE = 4096 };

static int fail(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    return 1;
}

int probe_main(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, memfd, event;
    void *private = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *shared;
    struct kvm_userspace_memory_region slot = {.memory_size = PAGE};
    struct kvm_ioeventfd io = {.addr = 1, .len = 1, .flags = KVM_IOEVENTFD_FLAG_PIO};

    if (kvm < 0 || ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        return fail("no /dev/kvm");
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm < 0 || ioctl(vm, KVM_CREATE_VCPU, 0) < 0)
        return fail("no virtual machine");
    memfd = memfd_create("probe", MFD_CLOEXEC);
    event = eventfd(0, EFD_CLOEXEC);
    if (memfd < 0 || event < 0 || ftruncate(memfd, PAGE) || private == MAP_FAILED)
        return fail("memory");
    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    slot.userspace_addr = (uintptr_t)shared;
    if (shared == MAP_FAILED || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot))
        return fail("guest memory of a memfd");
    io.fd = event;
    if (ioctl(vm, KVM_IOEVENTFD, &io))
        return fail("eventfds (pidfd_getfd)");
    slot = (struct kvm_userspace_memory_region){.slot = 1, .guest_phys_addr = PAGE, .memory_size = PAGE,
                                                .userspace_addr = (uintptr_t)private};
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot))
        return fail("private guest memory (ptrace)");
    return 0;
}
