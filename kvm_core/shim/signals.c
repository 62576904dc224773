/* Signal handlers of the client, wrapped: KVM_RUN must return EINTR before each of them, and the kernel does not know of it.
 *
 * What the client asked for is kept and reported back as if there were no wrapper.
 */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "kvm/door.h"
#include "shim/shim.h"

enum { SIGNALS = _NSIG };

static struct slot {
    struct sigaction action[2]; /* the one in force and the one before: a handler that is starting may still read it */
    _Atomic unsigned current;
} client[SIGNALS];
static atomic_flag busy = ATOMIC_FLAG_INIT;
static atomic_bool taken; /* take_faults() */

typedef int sigaction_fn(int, const struct sigaction *, struct sigaction *);

static sigaction_fn *real_sigaction(void)
{
    static _Atomic(sigaction_fn *) fn;

    if (!atomic_load(&fn))
        atomic_store(&fn, (sigaction_fn *)dlsym(RTLD_NEXT, "sigaction"));
    return atomic_load(&fn);
}

static bool is_handler(const struct sigaction *a)
{
    return (a->sa_flags & SA_SIGINFO) || (a->sa_handler != SIG_DFL && a->sa_handler != SIG_IGN);
}

/* May it be ours to see? Guest memory that is not there, a CPUID of the program's. */
static bool is_fault(int sig) { return sig == SIGSEGV || sig == SIGBUS || sig == SIGILL; }

/* The program has no handler for it. What was a fault comes again at once, and ends it; so does what was sent, behind us. */
static void as_without(int sig, const struct sigaction *a, const siginfo_t *info)
{
    struct sigaction none = {.sa_handler = SIG_DFL};

    if (info->si_code <= 0 && a->sa_handler == SIG_IGN)
        return;
    real_sigaction()(sig, &none, NULL);
    if (info->si_code <= 0)
        syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), sig);
}

static void wrapper(int sig, siginfo_t *info, void *context)
{
    struct slot *s = &client[sig];
    const struct sigaction *a = &s->action[atomic_load(&s->current)];
    int saved = errno;

    if (is_fault(sig) && info->si_code > 0 &&
        (sig == SIGILL ? cpuid_answer(context) : kvmish_fault((uintptr_t)info->si_addr, context)))
        return;
    if (!is_handler(a)) {
        as_without(sig, a, info);
        return;
    }
    if (a->sa_flags & SA_RESETHAND) { /* of which the kernel knows no more */
        kvmish_signal_arrived(sig);
    } else if (call_postpones(sig, info, context)) {
        errno = saved;
        return;
    }
    errno = saved;
    if (a->sa_flags & SA_SIGINFO)
        a->sa_sigaction(sig, info, context);
    else
        a->sa_handler(sig);
}

static int install(int sig, const struct sigaction *act, struct sigaction *old)
{
    struct slot *s = &client[sig];
    unsigned was = atomic_load(&s->current);
    struct sigaction ours, before = {0};
    int ret;

    if (act && (is_handler(act) || (is_fault(sig) && atomic_load(&taken)))) {
        s->action[!was] = *act;
        ours = *act;
        ours.sa_sigaction = wrapper;
        ours.sa_flags |= SA_SIGINFO;
        atomic_store(&s->current, !was);
        ret = real_sigaction()(sig, &ours, &before);
        if (ret)
            atomic_store(&s->current, was);
    } else {
        ret = real_sigaction()(sig, act, &before);
    }
    if (!ret && old)
        *old = before.sa_sigaction == wrapper ? s->action[was] : before;
    return ret;
}

EXPORT int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
    sigset_t all, mask;
    struct sigaction copy;
    int ret;

    if (sig <= 0 || sig >= SIGNALS)
        return real_sigaction()(sig, act, old);
    if (act)
        copy = *act; /* may be the same memory as old */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &mask);
    while (atomic_flag_test_and_set(&busy))
        ;
    ret = install(sig, act ? &copy : NULL, old);
    atomic_flag_clear(&busy);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    return ret;
}

void take_faults(void)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL};
    struct sigaction now;

    if (atomic_exchange(&taken, true))
        return;
    for (unsigned i = 0; i < 3; i++)
        if (!sigaction(faults[i], NULL, &now) && !is_handler(&now))
            sigaction(faults[i], &now, NULL);
}

static sighandler_t simple(int sig, sighandler_t handler, int flags)
{
    struct sigaction act, old;

    memset(&act, 0, sizeof(act));
    act.sa_handler = handler;
    act.sa_flags = flags;
    if (handler == SIG_ERR) {
        errno = EINVAL;
        return SIG_ERR;
    }
    if (!(flags & SA_NODEFER))
        sigaddset(&act.sa_mask, sig);
    return sigaction(sig, &act, &old) ? SIG_ERR : old.sa_handler;
}

EXPORT sighandler_t signal(int sig, sighandler_t handler)
{
    return simple(sig, handler, SA_RESTART);
}
sighandler_t bsd_signal(int sig, sighandler_t handler);
EXPORT sighandler_t bsd_signal(int sig, sighandler_t handler)
{
    return simple(sig, handler, SA_RESTART);
}
EXPORT sighandler_t sysv_signal(int sig, sighandler_t handler)
{
    return simple(sig, handler, SA_RESETHAND | SA_NODEFER);
}
EXPORT sighandler_t __sysv_signal(int sig, sighandler_t handler)
{
    return simple(sig, handler, SA_RESETHAND | SA_NODEFER);
}
