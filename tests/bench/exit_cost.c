/* Times an I/O exit: a real-mode guest that only does `out dx, al`, run by KVM_RUN until N exits have come.
 * Usage: exit_cost direct|PATH N. Prints nanoseconds an exit. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kvm/door.h"

static bool direct;

static int call(int fd, unsigned long request, void *argument) {
    int result = direct ? kvmish_ioctl(fd, request, (uintptr_t)argument) : ioctl(fd, request, argument);
    if (result < 0) {
        fprintf(stderr, "exit_cost: request %#lx failed (%d)\n", request, result);
        exit(1);
    }
    return result;
}

static double now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    direct = strcmp(argv[1], "direct") == 0;
    long exits = atol(argv[2]);
    int kvm = direct ? kvmish_open() : open(argv[1], O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        fprintf(stderr, "exit_cost: cannot open %s\n", argv[1]);
        return 1;
    }
    int vm = call(kvm, KVM_CREATE_VM, NULL);
    unsigned char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {
        .memory_size = 4096, .guest_phys_addr = 4096, .userspace_addr = (uintptr_t)memory};
    call(vm, KVM_SET_USER_MEMORY_REGION, &region);
    memcpy(memory, "\xee\xeb\xfd", 3); /* 1: out dx, al; jmp 1b */
    int vcpu = call(vm, KVM_CREATE_VCPU, NULL);
    size_t size = (size_t)call(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
    struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    struct kvm_sregs sregs;
    call(vcpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    call(vcpu, KVM_SET_SREGS, &sregs);
    struct kvm_regs regs = {.rip = 4096, .rflags = 2, .rdx = 0x10};
    call(vcpu, KVM_SET_REGS, &regs);
    double start = now_ns();
    for (long i = 0; i < exits; i++) {
        call(vcpu, KVM_RUN, NULL);
        if (run->exit_reason != KVM_EXIT_IO) {
            fprintf(stderr, "exit_cost: exit reason %u\n", run->exit_reason);
            return 1;
        }
    }
    printf("%.1f\n", (now_ns() - start) / (double)exits);
    return 0;
}
