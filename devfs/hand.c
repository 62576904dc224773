/* The hand's loop: requests of its worker in, changes to the client out. */
#include "devfs/hand.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devfs/adopt.h"
#include "devfs/confine.h"
#include "devfs/fuse_abi.h"
#include "devfs/give.h"
#include "devfs/space.h"
#include "devfs/trace.h"
#include "kvm/kvm.h"

enum { MOURN_MAX = 64, MOURN_MS = 20 };

struct hand {
    int socket, dev, cpu;
    pid_t tgid;
    int pidfd;
    struct tracee t;
    struct hold hold;
    long theirs; /* the client's descriptor of the file that its memory is moved to */
    pid_t mourn[MOURN_MAX]; /* died while we had them; they wait for other threads of theirs, then for us */
    unsigned mourned;
    struct hand_request *q; /* the request under way; its list is renewed by ASK */
};

static pid_t worker_pid;

static bool worker_gone(void)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)worker_pid, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid == worker_pid;
}

static int open_proc(const struct hand *h, pid_t tid, int64_t which)
{
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", h->tgid, tid, which == PROC_STAT ? "stat" : "status");
    fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static long give_client(struct hand *h, int fd)
{
    return give(&h->t, h->tgid, h->pidfd, fd);
}

/* ---- HAND_ADOPT ------------------------------------------------------------------------------------------------------ */

static int send_area(void *owner, const struct area *a, int fd)
{
    struct hand *h = owner;
    struct hand_reply r = {.kind = HAND_AREA, .area = *a};

    return packet_send(h->socket, &r, sizeof(r), fd);
}

static bool is_parked(void *owner, pid_t tid)
{
    const struct hand_request *q = ((struct hand *)owner)->q;

    for (unsigned i = 0; i < q->tids && i < HAND_TIDS_MAX; i++)
        if (q->tid_list[i] == tid)
            return true;
    return false;
}

static int ask_parked(void *owner)
{
    struct hand *h = owner;
    struct hand_reply r = {.kind = HAND_ASK};
    int fd;

    if (packet_send(h->socket, &r, sizeof(r), -1) ||
        packet_receive(h->socket, h->q, sizeof(*h->q), &fd) < (ssize_t)offsetof(struct hand_request, tid_list))
        return -EIO;
    if (fd >= 0)
        close(fd);
    return 0;
}

static int hold(void *owner)
{
    struct hand *h = owner;

    h->hold = (struct hold){.tgid = h->tgid, .except = h->t.tid, .parked = is_parked, .ask = ask_parked, .owner = h};
    return hold_start(&h->hold);
}

static void let_go(void *owner)
{
    hold_end(&((struct hand *)owner)->hold);
}

static int replace(void *owner, uintptr_t addr, const struct area *a)
{
    struct hand *h = owner;
    long r = trace_map(&h->t, addr, a->bytes, a->prot, (int)h->theirs, a->offset);

    return r < 0 ? (int)r : 0;
}

/* The client gets a descriptor of what its memory is moved to, for as long as that takes. */
static int move_to(struct hand *h, int file, const struct adopt_ops *ops)
{
    size_t bytes = (size_t)h->q->b;
    int err;

    if (ftruncate(file, (off_t)bytes))
        return -errno;
    h->theirs = give_client(h, file);
    if (h->theirs < 0)
        return (int)h->theirs;
    err = adopt(h->tgid, (uintptr_t)h->q->a, bytes, file, ops);
    trace_close(&h->t, (int)h->theirs);
    return err;
}

static int do_adopt(struct hand *h)
{
    const struct adopt_ops ops = {h, send_area, NULL, hold, let_go, replace};
    int file, err;

    if (!h->q->convert)
        return adopt(h->tgid, (uintptr_t)h->q->a, (size_t)h->q->b, -1, &ops);
    if (!h->t.stopped)
        return -EINVAL;
    file = memfd_create("kvmish-ram", MFD_CLOEXEC);
    if (file < 0)
        return -errno;
    err = move_to(h, file, &ops);
    close(file);
    return err;
}

/* ---- the other requests ------------------------------------------------------------------------------------------------ */

static void follow(struct hand *h, int cpu)
{
    if (cpu != h->cpu)
        be_on_processor(cpu);
    h->cpu = cpu;
}

/* A number of /proc/TID/status behind this name, which is at the beginning of a line. */
static unsigned number_in(const char *status, const char *name, unsigned otherwise)
{
    const char *at = strstr(status, name);

    return at ? (unsigned)strtoul(at + strlen(name), NULL, 10) : otherwise;
}

static int identify(struct hand *h, pid_t tid, struct hand_reply *r)
{
    char path[64], status[2048];
    ssize_t got = -1;
    int fd;

    if (h->tgid)
        return -EBUSY;
    snprintf(path, sizeof(path), "/proc/%d/status", tid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        got = read(fd, status, sizeof(status) - 1);
        close(fd);
    }
    if (got <= 0)
        return -ESRCH;
    status[got] = 0;
    r->tgid = (pid_t)number_in(status, "\nTgid:", 0);
    r->uid = number_in(status, "\nUid:", ~0u);
    r->gid = number_in(status, "\nGid:", ~0u);
    h->pidfd = r->tgid ? (int)syscall(SYS_pidfd_open, r->tgid, 0) : -1;
    if (h->pidfd < 0)
        return -ESRCH;
    h->tgid = r->tgid;
    return 0;
}

/* What the first client would be the first to touch is in memory then: a fork has left every page to be copied. */
static void rehearse(struct hand *h)
{
    struct hand_reply r;

    if (!identify(h, worker_pid, &r))
        close(h->pidfd);
    h->pidfd = -1;
    h->tgid = 0;
}

static int give_file(struct hand *h, bool read_only, int fd)
{
    char path[64];
    int again, r;

    if (fd < 0)
        return -EINVAL;
    if (!read_only)
        return (int)give_client(h, fd);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    again = open(path, O_RDONLY | O_CLOEXEC);
    if (again < 0)
        return -errno;
    r = (int)give_client(h, again);
    close(again);
    return r;
}

static int backing(const struct hand *h, int fd)
{
    struct fuse_backing_open b = {.fd = fd};
    int id = ioctl(h->dev, FUSE_BACKING_OPEN, &b);

    return id < 0 ? -errno : id;
}

static void note_death(struct hand *h)
{
    if (h->t.died && h->mourned < MOURN_MAX)
        h->mourn[h->mourned++] = h->t.died;
    h->t.died = 0;
}

/* One hand at a time changes a client, or two would wait for threads that the other has. The lock is on the inode of the
 * process, which pidfds share since Linux 6.9. */
static int stop(struct hand *h, pid_t tid)
{
    int err;

    if (h->t.tid || h->pidfd < 0)
        return -EBUSY;
    if (syscall(SYS_tgkill, h->tgid, tid, 0) && errno != EPERM)
        return -ESRCH; /* no thread of the client's */
    if (flock(h->pidfd, LOCK_EX))
        return -errno;
    err = trace_seize(&h->t, tid);
    if (err) {
        note_death(h);
        flock(h->pidfd, LOCK_UN);
    }
    return err;
}

static int stopped(struct hand *h)
{
    return h->t.stopped ? 0 : h->t.tid ? trace_wait(&h->t, worker_gone) : -ESRCH;
}

static void resume(struct hand *h, long ret)
{
    trace_resume(&h->t, ret);
    note_death(h);
    flock(h->pidfd, LOCK_UN);
}

/* *out: a descriptor for the worker. */
static int serve(struct hand *h, int fd, struct hand_reply *r, int *out)
{
    const struct client c = {.pid = h->tgid};
    int eventfd, err;

    switch (h->q->op) {
    case HAND_CLIENT:
        follow(h, (int)h->q->a);
        err = identify(h, h->q->tid, r);
        if (!err)
            *out = space_open(h->tgid);
        return err;
    case HAND_BACKING: return backing(h, fd);
    case HAND_STOP: follow(h, (int)h->q->a); return stop(h, h->q->tid);
    case HAND_STOPPED: return stopped(h);
    case HAND_GIVE:
        err = stopped(h);
        return err ? err : give_file(h, h->q->a != 0, fd);
    case HAND_RESUME: resume(h, h->q->a); return 0;
    case HAND_EVENTFD:
        eventfd = client_dup_eventfd(&c, (int)h->q->a, &r->id);
        *out = eventfd;
        return eventfd < 0 ? eventfd : 0;
    case HAND_PROC:
        *out = open_proc(h, h->q->tid, h->q->a);
        return *out < 0 ? *out : 0;
    case HAND_ADOPT: return do_adopt(h);
    default: return -EINVAL;
    }
}

/* Until a request comes. The dead that we have traced are zombies until we take them up. */
static void wait_request(struct hand *h)
{
    struct pollfd p = {h->socket, POLLIN, 0};

    do {
        for (unsigned i = 0; i < h->mourned; i++)
            if (waitpid(h->mourn[i], NULL, __WALL | WNOHANG))
                h->mourn[i--] = h->mourn[--h->mourned];
    } while (!poll(&p, 1, h->mourned ? MOURN_MS : -1));
}

void hand_main(int socket, int dev, pid_t worker)
{
    struct hand h = {.socket = socket, .dev = dev, .cpu = -1, .pidfd = -1};
    int fd, status = 0;
    sigset_t all;

    prctl(PR_SET_NAME, "kvmish-hand");
    worker_pid = worker;
    sigfillset(&all); /* SIGCHLD is waited for: see trace.c */
    sigprocmask(SIG_SETMASK, &all, NULL);
    h.q = confine_hand() ? NULL : calloc(1, sizeof(*h.q));
    rehearse(&h);
    while (h.q) {
        struct hand_reply r = {.kind = HAND_DONE};
        int out = -1;
        wait_request(&h);
        if (packet_receive(socket, h.q, sizeof(*h.q), &fd) < (ssize_t)offsetof(struct hand_request, tid_list))
            break;
        r.ret = serve(&h, fd, &r, &out);
        if (fd >= 0)
            close(fd);
        if (packet_send(socket, &r, sizeof(r), out))
            break;
        if (out >= 0)
            close(out);
    }
    resume(&h, -EIO); /* the worker died between stop and resume */
    close(socket);
    close(dev);
    waitpid(worker, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}
