/* Threads that may be cancelled at any instruction (PTHREAD_CANCEL_ASYNCHRONOUS): in Linux a call ends before its thread does, and
 * gives back what it holds. So here the thread is cancelled after the ioctl.
 *
 * The C library sends nothing to a thread whose cancellation is deferred: who cancels it gets it out of KVM_RUN.
 */
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#include "kvm/door.h"
#include "shim/shim.h"

enum { THREADS = 1024 };

/* Threads in KVM_RUN which had been cancellable at any instruction. */
static struct inside {
    atomic_bool taken, cancelled;
    int vcpu;
    _Atomic pthread_t thread; /* 0: nobody's yet, or no more */
} inside[THREADS];

static struct inside *enter(int vcpu)
{
    for (unsigned i = 0; i < THREADS; i++) {
        struct inside *in = &inside[i];
        if (atomic_exchange(&in->taken, true))
            continue;
        in->vcpu = vcpu;
        atomic_store(&in->cancelled, false);
        atomic_store(&in->thread, pthread_self());
        return in;
    }
    return NULL; /* more than there is room for: cancelled when KVM_RUN ends by itself */
}

static void leave(void *place)
{
    struct inside *in = place;

    atomic_store(&in->thread, 0);
    atomic_store(&in->taken, false);
}

static int run(int vcpu, uintptr_t arg)
{
    struct inside *in = enter(vcpu);
    int ret;

    if (!in)
        return kvmish_ioctl(vcpu, KVM_RUN, arg);
    pthread_cleanup_push(leave, in);
    pthread_testcancel(); /* whoever cancels it from now on finds it here */
    ret = kvmish_run(vcpu, arg, &in->cancelled);
    pthread_cleanup_pop(1);
    return ret;
}

int ioctl_before_cancel(int fd, unsigned long req, uintptr_t arg)
{
    int type, ret;

    pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
    if (type == PTHREAD_CANCEL_DEFERRED)
        return kvmish_ioctl(fd, req, arg);
    ret = (uint32_t)req == KVM_RUN ? run(fd, arg) : kvmish_ioctl(fd, req, arg);
    pthread_setcanceltype(type, &type);
    return ret;
}

EXPORT int pthread_cancel(pthread_t thread)
{
    int ret = NEXT(pthread_cancel)(thread);

    for (struct inside *in = inside; !ret && in < inside + THREADS; in++)
        if (atomic_load(&in->thread) == thread) {
            atomic_store(&in->cancelled, true);
            kvmish_run_ends(in->vcpu);
        }
    return ret;
}
