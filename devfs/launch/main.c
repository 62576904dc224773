/* kvmish-launch FILE ARGV0 ARG...: runs a program with a /dev/kvm of ours, by seccomp user notification. `kvmish exec` starts it.
 *
 * It needs no right: no root, no FUSE, no mount. processes.h says which processes there are; this one becomes the front, its child
 * the door.
 */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devfs/hand.h"
#include "devfs/launch/door.h"
#include "devfs/launch/processes.h"
#include "devfs/mapping.h"

enum { NEWS_FRONT, NEWS_KEEPER, LISTENER_DOOR, LISTENER_PROGRAM, SOCKETS };

/* Until the last process under the filter has ended. The front may end before. */
static void wait_for_the_last(const struct door *d, pid_t front)
{
    struct pollfd p[2] = {{.fd = d->listener}, {.fd = (int)syscall(SYS_pidfd_open, front, 0), .events = POLLIN}};

    while (!(p[0].revents & POLLHUP)) {
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return;
        if (p[1].revents) {
            leave_files(STDERR_FILENO); /* somebody may wait for the end of what it wrote there */
            close(p[1].fd);
            p[1].fd = -1;
        }
    }
}

/* Who takes over this process, which runs the guests, gains no right by what he executes; guests are in nobody's core dump. More
 * would be for show: it can trace the program, which has all rights of its user. */
static int confine(void)
{
    const struct rlimit none = {0, 0};

    return setrlimit(RLIMIT_CORE, &none) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static int door_main(int socket, pid_t front)
{
    static struct door d;
    struct rlimit files;
    char byte;
    int err;

    prctl(PR_SET_NAME, "kvmish-door");
    leave_files(STDOUT_FILENO);
    setpgid(0, 0);
    if (chdir("/") || confine())
        return 1;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (packet_receive(socket, &byte, 1, &d.listener) != 1 || d.listener < 0)
        return 1; /* the front knows why */
    close(socket);
    mallopt(M_ARENA_MAX, 2); /* threads come and go */
    err = mapping_guard();
    if (!err)
        err = door_start(&d);
    if (err) {
        fprintf(stderr, "kvmish: no /dev/kvm for the program: %s\n", strerror(-err));
        return 1;
    }
    wait_for_the_last(&d, front);
    return 0;
}

/* All signals but our own faults, for good: front, door and keeper look at theirs when they like. */
static void block_signals(sigset_t *before)
{
    sigset_t all;

    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigprocmask(SIG_SETMASK, &all, before);
}

static int become_door(const int s[SOCKETS], char *const argv[], const sigset_t *mask, pid_t front)
{
    pid_t keeper;

    close(s[NEWS_FRONT]);
    keeper = fork();
    if (keeper < 0)
        return 1;
    if (!keeper) {
        close(s[LISTENER_DOOR]);
        return keeper_main(s[NEWS_KEEPER], s[LISTENER_PROGRAM], argv + 2, argv[1], mask, front);
    }
    close(s[NEWS_KEEPER]);
    close(s[LISTENER_PROGRAM]);
    return door_main(s[LISTENER_DOOR], front);
}

int main(int argc, char **argv)
{
    int s[SOCKETS];
    sigset_t before;
    pid_t door, front = getpid();

    if (argc == 1 && !strcmp(argv[0], "kvmish-probe"))
        return probe_main();
    if (argc < 3) {
        fprintf(stderr, "usage: kvmish-launch FILE ARGV0 [ARGUMENT...]\n");
        return 2;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s + LISTENER_DOOR)) {
        perror("kvmish: socketpair");
        return 2;
    }
    block_signals(&before);
    door = fork();
    if (door < 0) {
        perror("kvmish: fork");
        return 2;
    }
    if (!door)
        return become_door(s, argv, &before, front);
    close(s[NEWS_KEEPER]);
    close(s[LISTENER_DOOR]);
    close(s[LISTENER_PROGRAM]);
    return front_main(door, s[NEWS_FRONT]);
}
