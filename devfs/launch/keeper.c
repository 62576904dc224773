/* The keeper: the parent of the program, and of all orphans that it leaves. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devfs/hand.h"
#include "devfs/launch/door.h"
#include "devfs/launch/processes.h"

static void tell(int news, enum news_kind kind, int value)
{
    struct news n = {kind, value};

    packet_send(news, &n, sizeof(n), -1);
}

/* The program's process, until it is the program. `mask`: the signals that our caller had blocked. */
static void be_program(int news, int listener, char *const argv[], const char *path, const sigset_t *mask)
{
    int fd = filter_install();

    if (fd < 0)
        tell(news, NEWS_NO_FILTER, -fd);
    else if (packet_send(listener, "l", 1, fd))
        tell(news, NEWS_NO_FILTER, EIO);
    else {
        close(fd);
        sigprocmask(SIG_SETMASK, mask, NULL);
        execv(path, argv);
        tell(news, NEWS_NO_EXEC, errno);
    }
    _exit(127);
}

/* The front is stopped, and goes on, as the program does: by us, for who is stopped learns of nothing; in this order, as a front that
 * stopped itself when it is told might do so after the program goes on. */
static void stop_or_go_on(int front, int status)
{
    syscall(SYS_pidfd_send_signal, front, WIFSTOPPED(status) ? SIGSTOP : SIGCONT, NULL, 0);
}

/* What is told of the program's end waits until it is known whether it was the last. False: there is nobody left. */
static bool reap(int news, int front, pid_t program, bool *ended)
{
    int status, end = 0;
    bool ends = false, left;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED)) > 0) {
        if (pid != program)
            continue;
        ends = WIFEXITED(status) || WIFSIGNALED(status);
        if (ends)
            end = status;
        else
            stop_or_go_on(front, status);
    }
    left = !pid || errno != ECHILD;
    if (ends)
        tell(news, left ? NEWS_END : NEWS_LAST, end);
    *ended |= ends;
    return left;
}

void leave_files(int up_to)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (int fd = 0; null >= 0 && fd <= up_to; fd++)
        dup2(null, fd);
    if (null > up_to)
        close(null);
}

int keeper_main(int news, int listener, char *const argv[], const char *path, const sigset_t *mask, pid_t front)
{
    int front_fd = (int)syscall(SYS_pidfd_open, front, 0);
    struct pollfd p[2] = {{.fd = news, .events = POLLIN}, {.events = POLLIN}};
    struct signalfd_siginfo s;
    bool ended = false;
    sigset_t child;
    pid_t program;

    prctl(PR_SET_NAME, "kvmish-keeper");
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    program = fork();
    if (!program)
        be_program(news, listener, argv, path, mask);
    close(listener);
    leave_files(STDERR_FILENO);
    setpgid(0, 0); /* the terminal's signals are for the program */
    tell(news, NEWS_PARENT, getpid());
    tell(news, NEWS_PROGRAM, program);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    p[1].fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    do {
        poll(p, 2, -1);
        if (p[1].revents && read(p[1].fd, &s, sizeof(s)) < 0 && errno != EAGAIN)
            break;
        if (p[0].revents) { /* the front has gone */
            if (!ended)
                kill(program, SIGKILL);
            p[0].fd = -1;
        }
    } while (reap(news, front_fd, program, &ended));
    return 0;
}
