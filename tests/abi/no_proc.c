/* Where there is no /proc (a chroot) nothing says which eventfd a descriptor is: another one under a number that was an irqfd's is free. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "kvm/door.h"

static int vm;

static void expect(const char *what, int got, int want)
{
    if (got != want) {
        printf("%s: %d, wanted %d\n", what, got, want);
        exit(1);
    }
}

static int irqfd(int fd, unsigned gsi)
{
    struct kvm_irqfd q = {.fd = (uint32_t)fd, .gsi = gsi};

    return kvmish_ioctl(vm, KVM_IRQFD, (uintptr_t)&q);
}

int main(int argc, char **argv)
{
    int first = eventfd(0, 0), second = eventfd(0, 0), copy = dup(first);

    expect("directory", argc, 2);
    vm = kvmish_ioctl(kvmish_open(), KVM_CREATE_VM, 0);
    expect("KVM_CREATE_IRQCHIP", kvmish_ioctl(vm, KVM_CREATE_IRQCHIP, 0), 0);
    expect("chroot", chroot(argv[1]) || chdir("/"), 0);
    expect("the first", irqfd(first, 4), 0);
    expect("the first by another number", irqfd(copy, 5), -EBUSY);
    expect("dup2", dup2(second, first), first);
    expect("the second by the first's number", irqfd(first, 5), 0);
    expect("the second again", irqfd(second, 6), -EBUSY);
    return 0;
}
