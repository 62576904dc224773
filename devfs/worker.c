/* kvmish-worker: the process of one VM. Started ahead by the broker, with a socket to it as descriptor 3.
 *
 * It mounts its session, becomes two processes, hand and worker, and waits to be given a client. It ends when the client has closed
 * the last descriptor of the VM, or when it has none yet and the broker ends.
 */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devfs/confine.h"
#include "devfs/mapping.h"
#include "devfs/worker.h"

enum { BROKER = 3 };

static int fail(int broker, int err, const char *what)
{
    char line[160];

    snprintf(line, sizeof(line), "%s: %s", what, strerror(-err));
    packet_send(broker, line, strlen(line) + 1, -1); /* instead of "ready" */
    return 1;
}

/* The client's KVM_CREATE_VM, as the broker passes it on. The answer to the broker lets it answer the client. */
static void create(struct worker *w, const struct create_vm *q)
{
    struct call c = {0};

    call_begin(&c, w, 0, q->tid);
    call_end(&c, object_ioctl(OBJECT_SYSTEM, NULL, &c.client, KVM_CREATE_VM, (uintptr_t)q->type));
}

static int serve(struct worker *w)
{
    struct hand_reply who;
    struct create_vm q;
    int fd, err;

    if (packet_send(w->broker, "", 1, -1))
        return 1;
    if (packet_receive(w->broker, &q, sizeof(q), &fd) != sizeof(q))
        return 0; /* the broker has ended */
    be_on_processor(q.cpu);
    hand_lock(&w->hand);
    err = hand_client(&w->hand, q.tid, &who, &w->space);
    hand_unlock(&w->hand);
    w->client = who.tgid;
    if (!err)
        err = confine_worker(&who);
    if (!err)
        err = opener_start(w);
    if (!err)
        err = session_start(&w->session);
    if (err) {
        packet_send(w->broker, &err, sizeof(err), -1);
        return 1;
    }
    create(w, &q);
    close(w->broker);
    w->broker = -1;
    exit_if_last(w); /* it has failed, or is over already */
    readers_join(&w->session.readers);
    for (;;)
        pause();
}

/* ---- ahead of the client ----------------------------------------------------------------------------------------------- */

static int rehearse_install(const struct client *c, enum object_kind kind, void *object, int map_fd)
{
    (void)map_fd;
    if (kind != OBJECT_VM)
        return -ECANCELED; /* the vCPU is destroyed */
    *(void **)(void *)(c + 1) = object;
    return 0;
}

/* A VM with a vCPU for nobody: code and tables that its first would be the first to touch are in memory then. */
static int rehearse(void)
{
    static const struct client_ops ops = {.install = rehearse_install};
    struct {
        struct client client;
        void *vm;
    } nobody = {.client = {1, &ops}};
    int err = object_ioctl(OBJECT_SYSTEM, NULL, &nobody.client, KVM_CREATE_VM, 0);

    if (!err)
        err = object_ioctl(OBJECT_VM, nobody.vm, &nobody.client, KVM_CREATE_VCPU, 0);
    if (nobody.vm)
        object_put(OBJECT_VM, nobody.vm);
    return err == -ECANCELED ? vcpu_ahead() : err;
}

static void *nothing(void *unused)
{
    return unused;
}

/* The C library keeps its stack for the next thread. */
static int rehearse_thread(size_t stack_bytes)
{
    pthread_attr_t attr;
    pthread_t thread;
    int err;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, stack_bytes);
    err = -pthread_create(&thread, &attr, nothing, NULL);
    pthread_attr_destroy(&attr);
    return err ? err : -pthread_join(thread, NULL);
}

static int worker_main(struct session session, int hand)
{
    static struct worker w;
    pthread_rwlockattr_t attr;
    sigset_t all;
    int err;

    prctl(PR_SET_NAME, "kvmish-vm");
    w.session = session;
    w.session.serve = worker_serve;
    w.session.owner = &w;
    w.hand.socket = hand;
    w.broker = BROKER;
    w.self = getpid();
    pthread_mutex_init(&w.hand.lock, NULL);
    pthread_mutex_init(&w.lock, NULL);
    watch_init(&w);
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&w.answers, &attr);
    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGTERM);
    sigprocmask(SIG_SETMASK, &all, NULL);
    mallopt(M_ARENA_MAX, 1); /* threads come and go */
    host_tsc_khz();          /* measures it, once */
    err = mapping_guard();
    if (!err)
        err = opener_init(&w);
    if (!err)
        err = confine_root();
    if (!err)
        err = session_init(&w.session);
    if (!err)
        err = rehearse();
    if (!err)
        err = rehearse_thread(READER_STACK_BYTES);
    if (!err)
        err = rehearse_thread(OPENER_STACK_BYTES);
    if (!err)
        err = confine_ahead(session.mount);
    if (err == -EOPNOTSUPP)
        return fail(BROKER, err, "this kernel's FUSE has no passthrough (Linux 6.9 and later)");
    return err ? fail(BROKER, err, "FUSE session") : serve(&w);
}

int main(void)
{
    struct session session = {.dev = -1, .mount = -1};
    int pair[2], err = session_mount(&session);
    pid_t pid;

    if (err)
        return fail(BROKER, err, session.dev < 0 ? "/dev/fuse" : "mounting a FUSE session");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return fail(BROKER, -errno, "socketpair");
    setsid();
    pid = fork();
    if (pid < 0)
        return fail(BROKER, -errno, "fork");
    if (!pid) {
        close(pair[0]);
        return worker_main(session, pair[1]);
    }
    close(pair[1]);
    close(BROKER);
    close(session.mount);
    hand_main(pair[0], session.dev, pid);
}
