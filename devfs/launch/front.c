/* The front: the process that was called. It stands for the program, which is not its child: signals that come here go there, its
 * stops and its end come back and are the front's own. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devfs/hand.h"
#include "devfs/launch/processes.h"

enum { CANNOT = 2 };

static int say(const char *what, int err)
{
    fprintf(stderr, "kvmish: %s: %s\n", what, strerror(err));
    return CANNOT;
}

/* As a shell sees a program that a signal ended. */
static int die_of(int sig)
{
    const struct rlimit none = {0, 0};
    sigset_t one;

    setrlimit(RLIMIT_CORE, &none); /* it has left one itself */
    signal(sig, SIG_DFL);
    raise(sig);
    sigemptyset(&one);
    sigaddset(&one, sig);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
    return 128 + sig;
}

struct others {
    pid_t door, keeper, program;
};

/* -1: it goes on. */
static int take_news(const struct news *n, struct others *o)
{
    switch (n->kind) {
    case NEWS_PARENT: o->keeper = n->value; return -1;
    case NEWS_PROGRAM: o->program = n->value; return -1;
    case NEWS_NO_FILTER:
        if (n->value == EBUSY)
            return say("--door seccomp inside of another such door, or of a container manager that listens, too", EBUSY);
        if (n->value == EINVAL)
            return say("--door seccomp needs Linux 5.19", EINVAL);
        return say("--door seccomp: seccomp(2) with a listener is refused here", n->value);
    case NEWS_NO_EXEC: return say("the program cannot be started", n->value);
    case NEWS_LAST:
        while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) /* nobody else may be there to bury our processes */
            ;
        break;
    default: break;
    }
    return WIFSIGNALED(n->value) ? die_of(WTERMSIG(n->value)) : WEXITSTATUS(n->value);
}

static void door_ended(pid_t door)
{
    int status;

    if (waitpid(door, &status, WNOHANG) == door && WIFSIGNALED(status))
        fprintf(stderr, "kvmish: the process that is /dev/kvm was ended by a signal (%s): from now on the program gets \"%s\" for it, "
                        "and for every file that it opens\n", strsignal(WTERMSIG(status)), strerror(ENOSYS));
}

/* From a terminal a signal comes to the whole foreground group: the program has it already. So it has what the keeper sends. */
static void pass_on(const struct signalfd_siginfo *s, const struct others *o)
{
    if (s->ssi_signo == SIGCHLD)
        door_ended(o->door);
    else if (s->ssi_code <= 0 && (pid_t)s->ssi_pid != o->keeper)
        kill(o->program, (int)s->ssi_signo);
}

int front_main(pid_t door, int news)
{
    struct signalfd_siginfo s;
    struct news n;
    struct others o = {.door = door};
    int status = -1, fd, signals;
    struct pollfd p[2] = {{.fd = news, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
    sigset_t all;

    prctl(PR_SET_CHILD_SUBREAPER, 1);
    sigfillset(&all);
    signals = signalfd(-1, &all, SFD_CLOEXEC);
    if (signals < 0)
        return say("signalfd", errno);
    while (status < 0) {
        if (poll(p, 2, -1) < 0)
            continue;
        if (p[1].revents && read(p[1].fd, &s, sizeof(s)) == sizeof(s))
            pass_on(&s, &o);
        if (!p[0].revents)
            continue;
        if (packet_receive(news, &n, sizeof(n), &fd) != sizeof(n))
            return say("the program's parent process has gone", ECHILD);
        status = take_news(&n, &o);
        if (o.program)
            p[1].fd = signals; /* before there is a program they wait for it */
    }
    return status;
}
