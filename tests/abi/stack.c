/* An ioctl's argument on the caller's stack: copied where all of it is stack, EFAULT where it runs over the stack's end. */
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "kvm/door.h"

enum { STACK_BYTES = 1 << 20, PAGE_BYTES = 4096 };

static int vm;
static uint8_t *end;

static void expect(const char *what, int got, int want)
{
    if (got != want) {
        printf("%s: %d, wanted %d\n", what, got, want);
        exit(1);
    }
}

static void *calls(void *unused)
{
    struct kvm_clock_data clock = {.pad = {~0u}};

    expect("on the stack", kvmish_ioctl(vm, KVM_GET_CLOCK, (uintptr_t)&clock), 0);
    expect("written", clock.pad[0] == 0 && clock.clock != 0, 1);
    expect("over its end, read", kvmish_ioctl(vm, KVM_SET_CLOCK, (uintptr_t)(end - 4)), -EFAULT);
    expect("over its end, written", kvmish_ioctl(vm, KVM_GET_CLOCK, (uintptr_t)(end - 4)), -EFAULT);
    expect("behind it", kvmish_ioctl(vm, KVM_GET_CLOCK, (uintptr_t)end), -EFAULT);
    expect("below it", kvmish_ioctl(vm, KVM_GET_CLOCK, (uintptr_t)(end - STACK_BYTES)), 0);
    return unused;
}

int main(void)
{
    uint8_t *stack = mmap(NULL, STACK_BYTES + PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_attr_t attr;
    pthread_t thread;

    end = stack + STACK_BYTES;
    munmap(end, PAGE_BYTES);
    vm = kvmish_ioctl(kvmish_open(), KVM_CREATE_VM, 0);
    expect("KVM_CREATE_VM", vm >= 0, 1);
    pthread_attr_init(&attr);
    pthread_attr_setstack(&attr, stack, STACK_BYTES);
    expect("thread", pthread_create(&thread, &attr, calls, NULL), 0);
    pthread_join(thread, NULL);
    return 0;
}
