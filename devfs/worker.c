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
#include "devfs/processor.h"
#include "devfs/worker.h"

enum { BROKER = 3 };

static int fail(int broker, int err, const char *what)
{
    char line[160];

    snprintf(line, sizeof(line), "%s: %s", what, strerror(-err));
    packet_send(broker, line, strlen(line) + 1, -1); /* instead of "ready" */
    return 1;
}

/* The client's KVM_CREATE_VM, while the hand gives it the file. */
static int create(struct worker *w)
{
    struct call c = {.client = {.pid = w->client, .thread = w->reachable, .ops = &foreign_ops}, .w = w};

    return object_ioctl(OBJECT_SYSTEM, NULL, &c.client, KVM_CREATE_VM, 0);
}

static int serve(struct worker *w)
{
    struct hand_reply who;
    int err = hand_ready(&w->hand, w->ahead.vm_file, &who);

    if (err)
        return 0; /* the broker has ended */
    close(w->ahead.vm_file);
    w->ahead.vm_file = -1;
    w->client = who.tgid;
    w->reachable = who.tid;
    err = confine_worker(&who);
    if (!err)
        err = create(w);
    if (!err)
        err = hand_space(&w->hand, &w->space);
    if (!err)
        err = session_start(&w->session);
    if (!err)
        err = readers_start(&w->session.readers, 1, who.cpu);
    if (hand_made(&w->hand, err) || err)
        return 1;
    readers_join(&w->session.readers, who.cpu);
    for (;;)
        pause();
}

static int worker_main(struct session session, int hand, int line, int broker)
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
    w.self = getpid();
    pthread_mutex_init(&w.hand.lock, NULL);
    pthread_mutex_init(&w.lock, NULL);
    thread_began = processor_any;
    watch_init(&w);
    quick_init(&w.quick, line);
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&w.answers, &attr);
    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGTERM);
    sigdelset(&all, READER_SIGNAL);
    sigprocmask(SIG_SETMASK, &all, NULL);
    mallopt(M_ARENA_MAX, 1); /* threads come and go */
    host_tsc_khz();          /* measures it, once */
    caps_processors();       /* counts them, once */
    err = mapping_guard();
    if (!err)
        err = readers_signal();
    if (!err)
        err = opener_init(&w);
    if (!err)
        err = confine_root();
    if (!err)
        err = session_init(&w.session);
    if (!err)
        err = ahead_prepare(&w);
    if (!err)
        err = confine_ahead(session.mount);
    if (err == -EOPNOTSUPP)
        return fail(broker, err, "this kernel's FUSE has no passthrough (Linux 6.9 and later)");
    if (err)
        return fail(broker, err, "FUSE session");
    close(broker); /* it is the hand's to say that we are ready */
    return serve(&w);
}

int main(void)
{
    struct session session = {.dev = -1, .mount = -1};
    int pair[2], line[2], err = session_mount(&session);
    pid_t pid;

    if (err)
        return fail(BROKER, err, session.dev < 0 ? "/dev/fuse" : "mounting a FUSE session");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return fail(BROKER, -errno, "socketpair");
    err = quick_line(line);
    if (err)
        return fail(BROKER, err, "pipe");
    setsid();
    pid = fork();
    if (pid < 0)
        return fail(BROKER, -errno, "fork");
    if (!pid) {
        close(pair[0]);
        close(line[0]);
        return worker_main(session, pair[1], line[1], BROKER);
    }
    close(pair[1]);
    close(line[1]);
    close(session.mount);
    hand_main(pair[0], line[0], BROKER, session.dev, pid);
}
