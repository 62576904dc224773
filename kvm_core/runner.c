/* KVM_RUN for clients in Python: what needs no device is answered here. See runner.h. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <sys/ioctl.h>

#include "kvm/door.h"
#include "runner.h"

typedef int ioctl_call(int fd, unsigned long request, uintptr_t arg);

static int device_ioctl(int fd, unsigned long request, uintptr_t arg)
{
    int r = ioctl(fd, request, arg);

    return r < 0 ? -errno : r;
}

static bool answered(struct kvm_run *run, const uint32_t *answers, unsigned count)
{
    if (run->exit_reason != KVM_EXIT_IO || run->io.direction != KVM_EXIT_IO_IN || run->io.size != 1 || run->io.count != 1)
        return false;
    for (unsigned i = 0; i < count; i++) {
        uint32_t answer = __atomic_load_n(&answers[i], __ATOMIC_ACQUIRE);
        if ((answer & ANSWER_STANDS) && answer >> 16 == run->io.port) {
            ((uint8_t *)run)[run->io.data_offset] = (uint8_t)answer;
            return true;
        }
    }
    return false;
}

static int enter(ioctl_call *call, int fd, struct kvm_run *run, const uint32_t *answers, unsigned count)
{
    int r;

    do
        r = call(fd, KVM_RUN, 0);
    while (!r && answered(run, answers, count));
    return r;
}

int runner_direct(int fd, struct kvm_run *run, const uint32_t *answers, unsigned count)
{
    return enter(kvmish_ioctl, fd, run, answers, count);
}

int runner_device(int fd, struct kvm_run *run, const uint32_t *answers, unsigned count)
{
    return enter(device_ioctl, fd, run, answers, count);
}
