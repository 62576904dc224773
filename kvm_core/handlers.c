/* Signal handlers in a process whose core nobody has preloaded. KVM_RUN must return EINTR when one runs, and EFAULT for guest memory that
 * is gone. Unlike shim/signals.c this sees nobody install a handler: what is in force is asked of the kernel.
 */
#include "handlers.h"

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

static struct slot {
    struct sigaction action[2]; /* the one in force and the one before: a handler that is starting may still read it */
    _Atomic unsigned current;
    bool taken;
} client[_NSIG];
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

static void wrapper(int sig, siginfo_t *info, void *context)
{
    struct slot *s = &client[sig];
    const struct sigaction *a = &s->action[atomic_load(&s->current)];
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

static bool is_wrapped(const struct sigaction *a)
{
    return (a->sa_flags & SA_SIGINFO) && a->sa_sigaction == wrapper;
}

/* Faults are taken once: a handler that comes later may go on to the one that it found, ours. */
static bool is_wanted(int sig, const struct sigaction *a)
{
    return is_fault(sig) ? !client[sig].taken : is_handler(a);
}

/* Another thread may install one at any time: what was replaced is what counts. */
static void wrap(int sig, struct sigaction now)
{
    struct slot *s = &client[sig];
    struct sigaction ours, was;

    while (!is_wrapped(&now)) {
        unsigned other = !atomic_load(&s->current);
        s->action[other] = ours = now;
        ours.sa_sigaction = wrapper;
        ours.sa_flags |= SA_SIGINFO | (is_fault(sig) ? SA_ONSTACK : 0);
        atomic_store(&s->current, other);
        sigaction(sig, is_wanted(sig, &now) ? &ours : &now, &was);
        if (is_wrapped(&was) || was.sa_sigaction == now.sa_sigaction)
            break;
        now = was;
    }
    s->taken = true;
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
    for (int sig = 1; sig < _NSIG; sig++) {
        if (sigaction(sig, NULL, &now) || is_wrapped(&now) || !is_wanted(sig, &now))
            continue;
        wrap(sig, now);
        atomic_fetch_add(&found, is_handler(&now));
    }
    pthread_mutex_unlock(&lock);
    return handlers_found();
}
