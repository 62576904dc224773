/* The hand's loop: the machine's birth, then requests of its worker in, changes to the client out. */
#include "devfs/hand.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
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
#include "devfs/proc.h"
#include "devfs/processor.h"
#include "devfs/quick.h"
#include "devfs/session.h"
#include "devfs/space.h"
#include "devfs/trace.h"
#include "kvm/kvm.h"

enum { MOURN_MAX = 64, MOURN_MS = 20, QUIET_MS = 50 };

struct hand {
    int socket, line, cpu;
    int broker, vm_file; /* while there is no client */
    struct session session; /* the worker's, for answers */
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

static struct gift gift_for(struct hand *h)
{
    return (struct gift){.t = &h->t, .tgid = h->tgid};
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
static int move_to(struct hand *h, const struct range *what, int file, const struct adopt_ops *ops)
{
    struct gift g = gift_for(h);
    int err;

    if (ftruncate(file, (off_t)what->bytes))
        return -errno;
    h->theirs = give(&g, file);
    give_end(&g);
    if (h->theirs < 0)
        return (int)h->theirs;
    err = adopt(h->t.tid, what, file, ops);
    trace_close(&h->t, (int)h->theirs);
    return err;
}

static int do_adopt(struct hand *h)
{
    const struct adopt_ops ops = {h, send_area, NULL, hold, let_go, replace};
    const struct range what = {(uintptr_t)h->q->a, (size_t)h->q->b, (uintptr_t)h->q->only};
    int file, err;

    if (!h->q->option)
        return adopt(h->q->tid, &what, -1, &ops);
    if (!h->t.stopped)
        return -EINVAL;
    file = memfd_create("kvmish-ram", MFD_CLOEXEC);
    if (file < 0)
        return -errno;
    err = move_to(h, &what, file, &ops);
    close(file);
    return err;
}

/* ---- the other requests ------------------------------------------------------------------------------------------------ */

static void follow(struct hand *h, int cpu)
{
    if (cpu != h->cpu)
        processor_pin(0, cpu);
    h->cpu = cpu;
}

static int identify(struct hand *h, pid_t tid)
{
    pid_t tgid = tid;
    int pidfd = (int)syscall(SYS_pidfd_open, tgid, 0);

    if (pidfd < 0) { /* only a group's first thread can be opened */
        tgid = proc_relative(tid, "Tgid");
        pidfd = tgid ? (int)syscall(SYS_pidfd_open, tgid, 0) : -1;
    }
    if (pidfd < 0)
        return -ESRCH;
    h->pidfd = pidfd;
    h->tgid = tgid;
    return 0;
}

/* What the first client would be the first to touch is in memory then: a fork has left every page to be copied. */
static void rehearse(struct hand *h)
{
    if (proc_relative(worker_pid, "Tgid") && !identify(h, worker_pid))
        close(h->pidfd);
    h->pidfd = -1;
    h->tgid = 0;
}

static int backing(const struct hand *h, int fd)
{
    struct fuse_backing_open b = {.fd = fd};
    int id = ioctl(h->session.dev, FUSE_BACKING_OPEN, &b);

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

/* Answers the worker's request at once: the thread that stop() has woken would tell its server first that it is interrupted. */
static int catch(struct hand *h, struct hand_reply *r)
{
    int err;

    follow(h, (int)h->q->a);
    err = stop(h, h->q->tid);
    if (err)
        return err;
    session_result(&h->session, (uint64_t)h->q->b, 0, NULL, 0);
    r->answered = 1;
    return trace_wait(&h->t, worker_gone);
}

static void resume(struct hand *h, long ret)
{
    trace_resume(&h->t, ret);
    note_death(h);
    flock(h->pidfd, LOCK_UN);
}

/* The file may be for reading only. */
static int give_file(struct hand *h, struct gift *g, int fd)
{
    char path[64];
    int again, given;

    if (fd < 0)
        return -EINVAL;
    if (!h->q->option)
        return (int)give(g, fd);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    again = open(path, O_RDONLY | O_CLOEXEC);
    if (again < 0)
        return -errno;
    given = (int)give(g, again);
    close(again);
    return given;
}

/* The worker goes on while we tidy up. */
static int do_give(struct hand *h, int fd, struct hand_reply *r)
{
    struct gift g = gift_for(h);

    r->ret = catch(h, r);
    if (r->ret)
        return packet_send(h->socket, r, sizeof(*r), -1);
    r->ret = give_file(h, &g, fd);
    if (packet_send(h->socket, r, sizeof(*r), -1))
        return -EIO;
    give_end(&g);
    return 0;
}

/* ---- the first transaction ---------------------------------------------------------------------------------------------- */

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* The worker learns whose it is, and starts; where the client's memory is it has to know later. */
static int introduce(struct hand *h, const struct create_vm *q)
{
    const struct hand_reply r = {.kind = HAND_DONE, .tgid = h->tgid, .tid = proc_dead(h->tgid) ? q->tid : 0,
                                 .cpu = q->cpu, .uid = q->uid, .gid = q->gid};
    int space, err;

    processor_pin(worker_pid, q->cpu); /* to wake another one takes longer than the worker has to wait for us */
    err = packet_send(h->socket, &r, sizeof(r), -1);
    if (err)
        return err;
    confine_aside(CAP_SYS_ADMIN, true); /* who opens pagemap with it sees physical addresses, and so would the worker */
    space = space_open(q->tid);
    confine_aside(CAP_SYS_ADMIN, false);
    if (space < 0)
        return space;
    err = packet_send(h->socket, "", 1, space);
    close(space);
    return err;
}

static int is_made(struct hand *h)
{
    int fd;

    if (packet_receive(h->socket, h->q, sizeof(*h->q), &fd) < (ssize_t)offsetof(struct hand_request, tid_list))
        return -EIO;
    close_one(&fd);
    return h->q->op == HAND_MADE ? (int)h->q->a : -EIO;
}

/* To the client's thread, which waits in KVM_CREATE_VM. -> its descriptor */
static int give_vm(struct hand *h)
{
    struct gift g = gift_for(h);
    int given, err = trace_wait(&h->t, worker_gone);

    if (err)
        return err;
    given = (int)give(&g, h->vm_file);
    give_end(&g);
    err = is_made(h);
    if (err && given >= 0)
        trace_close(&h->t, given);
    return err ? err : given;
}

/* KVM_CREATE_VM, as the broker passes it on; the broker lets the client go. */
static int birth(struct hand *h)
{
    struct create_vm q;
    int fd, given = -EIO;
    int32_t err;

    if (packet_receive(h->broker, &q, sizeof(q), &fd) != sizeof(q))
        return -EIO; /* it has ended */
    close_one(&fd);
    h->cpu = q.cpu; /* the broker has sent us there */
    err = identify(h, q.tid);
    if (!err)
        err = introduce(h, &q);
    if (!err)
        err = stop(h, q.tid);
    packet_send(h->broker, &err, sizeof(err), -1);
    if (!err) {
        given = give_vm(h);
        resume(h, given);
    }
    close_one(&h->vm_file);
    if (q.last)
        close_one(&h->broker);
    return given < 0 ? given : 0;
}

/* The worker is ready for a client. */
static int wait_client(struct hand *h, int vm_file)
{
    if (vm_file < 0 || h->vm_file >= 0 || h->broker < 0)
        return -EINVAL;
    h->vm_file = vm_file;
    return packet_send(h->broker, "", 1, -1);
}

/* ---- the loop ----------------------------------------------------------------------------------------------------------- */

/* *out: a descriptor for the worker. */
static int serve(struct hand *h, int fd, struct hand_reply *r, int *out)
{
    const struct client c = {.pid = h->tgid, .thread = h->q->tid};
    int eventfd;

    switch (h->q->op) {
    case HAND_BACKING: return backing(h, fd);
    case HAND_STOP: return catch(h, r);
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

/* A request that is there. -errno: there will be no more. */
static int serve_worker(struct hand *h)
{
    struct hand_reply r = {.kind = HAND_DONE};
    int fd, out = -1, err = 0;

    if (packet_receive(h->socket, h->q, sizeof(*h->q), &fd) < (ssize_t)offsetof(struct hand_request, tid_list))
        return -EIO;
    switch (h->q->op) {
    case HAND_READY: return wait_client(h, fd);
    case HAND_RESUME: resume(h, h->q->a); break;
    case HAND_GIVE: err = do_give(h, fd, &r); break;
    default:
        r.ret = serve(h, fd, &r, &out);
        err = packet_send(h->socket, &r, sizeof(r), out);
    }
    close_one(&fd);
    close_one(&out);
    return err;
}

/* The dead that we have traced are zombies until we take them up. */
static void bury(struct hand *h)
{
    for (unsigned i = 0; i < h->mourned; i++)
        if (waitpid(h->mourn[i], NULL, __WALL | WNOHANG))
            h->mourn[i--] = h->mourn[--h->mourned];
}

/* Until there is something to do. The broker starts another worker when it is rid of us: not while the machine is being set up. */
static void wait_request(struct hand *h, struct pollfd p[3])
{
    bool quiet;

    p[0] = (struct pollfd){h->socket, POLLIN, 0};
    p[1] = (struct pollfd){h->tgid ? -1 : h->broker, POLLIN, 0};
    p[2] = (struct pollfd){h->line, POLLIN, 0};
    do {
        bury(h);
        quiet = !poll(p, 3, h->mourned ? MOURN_MS : h->tgid && h->broker >= 0 ? QUIET_MS : -1);
        if (quiet)
            close_one(&h->broker);
    } while (quiet);
}

void hand_main(int socket, int line, int broker, int dev, pid_t worker)
{
    struct hand h = {.socket = socket, .line = line, .cpu = -1, .broker = broker, .vm_file = -1, .session = {.dev = dev}, .pidfd = -1};
    struct pollfd p[3];
    int status = 0, err = 0;
    sigset_t all;

    prctl(PR_SET_NAME, "kvmish-hand");
    worker_pid = worker;
    sigfillset(&all); /* SIGCHLD is waited for: see trace.c */
    sigprocmask(SIG_SETMASK, &all, NULL);
    h.q = confine_hand() ? NULL : calloc(1, sizeof(*h.q));
    rehearse(&h);
    while (h.q && !err) {
        wait_request(&h, p);
        if (p[2].revents & POLLIN)
            quick_restore(line, worker);
        err = p[0].revents ? serve_worker(&h) : p[1].revents ? birth(&h) : 0;
    }
    resume(&h, -EIO); /* the worker died between stop and resume */
    close(socket);
    close(dev);
    close_one(&h.vm_file);
    waitpid(worker, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}
