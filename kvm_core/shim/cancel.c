/* Threads that may be cancelled at any instruction (PTHREAD_CANCEL_ASYNCHRONOUS) are so behind their ioctl, as in Linux.
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
    atomic_bool taken, ends;
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
        atomic_store(&in->ends, false);
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

static int run(struct call *c, int vcpu, uintptr_t arg)
{
    struct inside *in = enter(vcpu);
    int ret;

    if (!in)
        return call_make(c, vcpu, KVM_RUN, arg);
    c->ends = &in->ends;
    pthread_cleanup_push(leave, in);
    pthread_testcancel(); /* whoever cancels it from now on finds it here */
    ret = call_make(c, vcpu, KVM_RUN, arg);
    pthread_cleanup_pop(1);
    return ret;
}

int ioctl_of_client(int fd, unsigned long req, uintptr_t arg)
{
    struct call c;
    int type, ret;

    c.own = c.is_late = false;
    c.ends = &c.own;
    pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
    if (type == PTHREAD_CANCEL_ASYNCHRONOUS && (uint32_t)req == KVM_RUN)
        ret = run(&c, fd, arg);
    else
        ret = call_make(&c, fd, req, arg);
    call_end(&c);
    if (type == PTHREAD_CANCEL_ASYNCHRONOUS)
        pthread_setcanceltype(type, &type);
    return ret;
}

EXPORT int pthread_cancel(pthread_t thread)
{
    int ret = NEXT(pthread_cancel)(thread);

    for (struct inside *in = inside; !ret && in < inside + THREADS; in++)
        if (atomic_load(&in->thread) == thread) {
            atomic_store(&in->ends, true);
            kvmish_run_ends(in->vcpu);
        }
    return ret;
}
