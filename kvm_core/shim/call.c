/* A call of the client's: in Linux its thread is the kernel's until the call ends. A signal's handler runs behind it, and may leave by
 * siglongjmp() or call the same vCPU; a thread that is cancelled has given back what the call held.
 *
 * So here signals that come meanwhile wait, blocked, and get the thread out of KVM_RUN; and cancellation is deferred (cancel.c).
 */
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvm/door.h"
#include "shim/shim.h"

static __thread struct call *here __attribute__((tls_model("initial-exec"))); /* a signal handler looks */

bool call_postpones(int sig, siginfo_t *info, ucontext_t *uc)
{
    struct call *c = here;
    sigset_t one;
    bool stays_pending;

    if (!c)
        return false;
    atomic_store(c->ends, true);
    stays_pending = kvmish_signal_arrived(sig);
    sigemptyset(&one);
    sigaddset(&one, sig);
    sigprocmask(SIG_BLOCK, &one, NULL);
    if (syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), sig, info))
        return false; /* no room in the queue */
    sigaddset(&uc->uc_sigmask, sig);
    if (!stays_pending) {
        if (!c->is_late)
            sigemptyset(&c->late);
        c->is_late = true;
        sigaddset(&c->late, sig);
    }
    return true;
}

static bool ends(void *flag) { return atomic_load((atomic_bool *)flag); }

int call_make(struct call *c, int fd, unsigned long req, uintptr_t arg)
{
    struct call *outer = here;
    int ret;

    here = c;
    atomic_signal_fence(memory_order_seq_cst);
    ret = (uint32_t)req == KVM_RUN ? kvmish_run(fd, arg, ends, c->ends) : kvmish_ioctl(fd, req, arg);
    atomic_signal_fence(memory_order_seq_cst);
    here = outer;
    return ret;
}

void call_end(struct call *c)
{
    if (c->is_late)
        sigprocmask(SIG_UNBLOCK, &c->late, NULL); /* their handlers run */
}
