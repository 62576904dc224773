/* Signal handlers in a process whose core nobody has preloaded. KVM_RUN must return EINTR when one runs, and EFAULT for guest memory that
 * is gone. Unlike shim/signals.c this sees nobody install a handler: what is in force is asked of the kernel.
 */
#include "signals.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "kvm/door.h"

/* A handler that comes later may keep the one that it has found, ours, to go on to it or to put it back, as Python's faulthandler does. So
 * a wrapper of a signal stands for the same handler for good, and another handler gets another one; what finds none left has none. */
enum { WRAPPERS = 4 };

static struct slot {
    struct sigaction action; /* the client's */
    bool taken;
} client[WRAPPERS][_NSIG];
static _Atomic unsigned found;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static bool is_fault(int sig) { return sig == SIGSEGV || sig == SIGBUS; }

static bool is_handler(const struct sigaction *a)
{
    return (a->sa_flags & SA_SIGINFO) || (a->sa_handler != SIG_DFL && a->sa_handler != SIG_IGN);
}

/* It has no handler of the client's. What was a fault comes again at once, and ends the process; so does what was sent, behind us. */
static void as_without(int sig, const struct sigaction *a, const siginfo_t *info)
{
    if (info->si_code <= 0 && a->sa_handler == SIG_IGN)
        return;
    signal(sig, SIG_DFL);
    if (info->si_code <= 0)
        syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), sig);
}

/* It is blocked outside of KVM_RUN (KVM_SET_SIGNAL_MASK), and there its handler will run: so it waits. False: it cannot. */
static bool put_back(int sig, siginfo_t *info, ucontext_t *uc)
{
    sigset_t one;

    sigemptyset(&one);
    sigaddset(&one, sig);
    pthread_sigmask(SIG_BLOCK, &one, NULL);
    if (syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), sig, info))
        return false;
    sigaddset(&uc->uc_sigmask, sig);
    return true;
}

static void arrived(const struct sigaction *a, int sig, siginfo_t *info, void *context)
{
    int saved = errno;

    if (is_fault(sig) && info->si_code > 0 && kvmish_fault((uintptr_t)info->si_addr, context))
        return;
    if (!is_handler(a)) {
        as_without(sig, a, info);
        return;
    }
    bool waits = kvmish_signal_arrived(sig) && put_back(sig, info, context);
    errno = saved;
    if (waits)
        return;
    if (a->sa_flags & SA_SIGINFO)
        a->sa_sigaction(sig, info, context);
    else
        a->sa_handler(sig);
}

static void wrapper_0(int sig, siginfo_t *info, void *context) { arrived(&client[0][sig].action, sig, info, context); }
static void wrapper_1(int sig, siginfo_t *info, void *context) { arrived(&client[1][sig].action, sig, info, context); }
static void wrapper_2(int sig, siginfo_t *info, void *context) { arrived(&client[2][sig].action, sig, info, context); }
static void wrapper_3(int sig, siginfo_t *info, void *context) { arrived(&client[3][sig].action, sig, info, context); }

static void (*const wrapper[WRAPPERS])(int, siginfo_t *, void *) = {wrapper_0, wrapper_1, wrapper_2, wrapper_3};

static bool is_wrapped(const struct sigaction *a)
{
    for (unsigned n = 0; n < WRAPPERS; n++)
        if ((a->sa_flags & SA_SIGINFO) && a->sa_sigaction == wrapper[n])
            return true;
    return false;
}

static bool is_same(const struct sigaction *a, const struct sigaction *b)
{
    return a->sa_sigaction == b->sa_sigaction && !((a->sa_flags ^ b->sa_flags) & SA_SIGINFO);
}

/* In its wrapper; as it is when it wants none, or none is left. */
static struct sigaction wrapped(int sig, const struct sigaction *a)
{
    struct sigaction ours = *a;

    if (is_wrapped(a) || !(is_fault(sig) || is_handler(a)))
        return ours;
    for (unsigned n = 0; n < WRAPPERS; n++) {
        struct slot *s = &client[n][sig];
        if (s->taken && !is_same(&s->action, a))
            continue;
        if (!s->taken)
            *s = (struct slot){*a, true};
        ours.sa_sigaction = wrapper[n];
        ours.sa_flags |= SA_SIGINFO | (is_fault(sig) ? SA_ONSTACK : 0);
        break;
    }
    return ours;
}

/* Another thread may install one at any time: what was replaced is what counts. */
static void wrap(int sig, struct sigaction now)
{
    struct sigaction there = now, put = wrapped(sig, &now), was;

    if (is_same(&put, &now))
        return;
    while (!sigaction(sig, &put, &was) && !is_same(&was, &there)) {
        there = put;
        now = was;
        put = wrapped(sig, &now);
    }
    atomic_fetch_add(&found, is_handler(&now));
}

void handlers_forked(void)
{
    pthread_mutex_init(&lock, NULL); /* a thread that is not here may have held it */
}

unsigned handlers_found(void) { return atomic_load(&found); }

unsigned handlers_wrap(void)
{
    struct sigaction now;

    pthread_mutex_lock(&lock);
    for (int sig = 1; sig < _NSIG; sig++)
        if (!sigaction(sig, NULL, &now))
            wrap(sig, now);
    pthread_mutex_unlock(&lock);
    return handlers_found();
}
