/* Workers started ahead, so that KVM_CREATE_VM need not wait for a process and a mount; and their funerals. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devfs/hand.h"
#include "devfs/processor.h"
#include "devfs/slots.h"

enum { WORKERS_MAX = 4096, SOCKET_OF_WORKER = 3 };

struct child {
    pid_t pid;
    int pidfd, socket; /* -1: its machine is there */
    bool ready, taken; /* ready: it has said so */
};

static struct pool {
    pthread_mutex_t lock;
    pthread_t keeper;
    char path[4096];
    unsigned spares;
    int wake; /* eventfd: look again */
    bool stopping, started;
    struct child child[WORKERS_MAX];
    unsigned children;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = -1};

enum { ENVIRONMENT_MAX = 32 };

/* The kernel keeps a thread's struct rseq up to date whenever it has been preempted, as a reader is by each client that it answers. */
static char no_rseq[] = "GLIBC_TUNABLES=glibc.pthread.rseq=0";

/* Of our environment a worker gets what is meant for it. */
static void environment(char *of_worker[ENVIRONMENT_MAX])
{
    unsigned n = 0;

    of_worker[n++] = no_rseq;
    for (char **e = environ; *e && n < ENVIRONMENT_MAX - 1; e++)
        if (!strncmp(*e, "KVMISH_", 7))
            of_worker[n++] = *e;
    of_worker[n] = NULL;
}

static int spawn(const char *path, int socket, pid_t *pid)
{
    char *const argv[] = {"kvmish-worker", NULL};
    char *envp[ENVIRONMENT_MAX];
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none;
    int err;

    sigemptyset(&none);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&files, socket, SOCKET_OF_WORKER);
    posix_spawn_file_actions_addclosefrom_np(&files, SOCKET_OF_WORKER + 1);
    environment(envp);
    err = posix_spawn(pid, path, &files, &attr, argv, envp);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attr);
    return -err;
}

/* With the lock. */
static int add_spare(void)
{
    struct child c = {.pidfd = -1};
    int pair[2], err, high;

    if (pool.children == WORKERS_MAX)
        return -EAGAIN;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return -errno;
    high = fcntl(pair[1], F_DUPFD_CLOEXEC, 10); /* never 3: dup2() of a descriptor to itself would leave CLOEXEC */
    err = high < 0 ? -errno : spawn(pool.path, high, &c.pid);
    if (high >= 0)
        close(high);
    close(pair[1]);
    if (!err) {
        c.pidfd = (int)syscall(SYS_pidfd_open, c.pid, 0);
        c.socket = pair[0];
        pool.child[pool.children++] = c;
    } else {
        close(pair[0]);
    }
    return err;
}

static unsigned spare_count(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < pool.children; i++)
        n += !pool.child[i].taken;
    return n;
}

/* With the lock: takes up the dead. */
static void reap(void)
{
    for (unsigned i = 0; i < pool.children; i++) {
        struct child *c = &pool.child[i];
        if (waitpid(c->pid, NULL, WNOHANG) == 0)
            continue;
        if (c->socket >= 0)
            close(c->socket);
        close(c->pidfd);
        *c = pool.child[--pool.children];
        i--;
    }
}

/* Waits for "ready", an empty string; or else what went wrong is in `error`. */
static int await(int socket, char *error, size_t room)
{
    char text[256] = "a worker ended before it was ready";
    int fd;
    ssize_t n = packet_receive(socket, text, sizeof(text) - 1, &fd);

    if (fd >= 0)
        close(fd);
    if (n == 1 && !text[0])
        return 0;
    snprintf(error, room, "%s", text);
    return -EIO;
}

/* With the lock: what spares have said, which no client has to hear then. */
static void hear(void)
{
    char error[256];

    for (unsigned i = 0; i < pool.children; i++) {
        struct child *c = &pool.child[i];
        struct pollfd p = {c->socket, POLLIN, 0};
        if (c->taken || c->ready || poll(&p, 1, 0) <= 0)
            continue;
        if (await(c->socket, error, sizeof(error)))
            fprintf(stderr, "kvmish: %s\n", error);
        c->ready = true;
    }
}

/* With the lock: of those that have closed their end, which need no more of us. */
static void close_sockets(void)
{
    for (unsigned i = 0; i < pool.children; i++) {
        struct child *c = &pool.child[i];
        struct pollfd p = {c->socket, 0, 0};
        if (!c->taken || c->socket < 0 || poll(&p, 1, 0) <= 0)
            continue;
        close(c->socket);
        c->socket = -1;
    }
}

/* With the lock. A client whose machine is being made needs the processor more, unless the next client would find no worker. */
static bool need_spare(void)
{
    unsigned n = spare_count();
    bool making = false;

    for (unsigned i = 0; i < pool.children; i++)
        making |= pool.child[i].taken && pool.child[i].socket >= 0;
    return n < pool.spares && (!n || !making);
}

static void wake(void)
{
    uint64_t one = 1;

    if (write(pool.wake, &one, sizeof(one)) < 0)
        return;
}

static void *keep(void *arg)
{
    static struct pollfd p[2 * WORKERS_MAX + 1];
    unsigned n, failures = 0;
    uint64_t count;

    (void)arg;
    for (;;) {
        pthread_mutex_lock(&pool.lock);
        if (pool.stopping) {
            pthread_mutex_unlock(&pool.lock);
            return NULL;
        }
        reap();
        close_sockets();
        hear();
        while (need_spare() && failures < 3)
            failures = add_spare() ? failures + 1 : 0;
        p[0] = (struct pollfd){pool.wake, POLLIN, 0};
        for (n = 0; n < pool.children; n++) {
            const struct child *c = &pool.child[n];
            p[2 * n + 1] = (struct pollfd){c->pidfd, POLLIN, 0};
            p[2 * n + 2] = (struct pollfd){c->socket, c->taken || c->ready ? 0 : POLLIN, 0}; /* "ready"; its end */
        }
        pthread_mutex_unlock(&pool.lock);
        poll(p, 2 * n + 1, failures ? 1000 : -1);
        if (failures)
            failures--;
        if (p[0].revents && read(pool.wake, &count, sizeof(count)) < 0)
            continue;
    }
}

/* With the lock. */
static struct child *find_spare(void)
{
    for (unsigned i = 0; i < pool.children; i++)
        if (!pool.child[i].taken)
            return &pool.child[i];
    return NULL;
}

int pool_take(int cpu, bool *last)
{
    struct child *c;
    char error[256];
    int socket = -1, err = 0;
    bool ready = false;

    pthread_mutex_lock(&pool.lock);
    c = find_spare();
    if (!c) {
        err = add_spare();
        c = find_spare();
        wake(); /* to look after this one, too */
    }
    if (c) {
        c->taken = true;
        ready = c->ready;
        socket = fcntl(c->socket, F_DUPFD_CLOEXEC, 0);
        err = socket < 0 ? -errno : 0;
        processor_pin(c->pid, cpu); /* now: it is woken there then */
        *last = !spare_count();
    }
    pthread_mutex_unlock(&pool.lock);
    if (socket < 0)
        return err;
    err = ready ? 0 : await(socket, error, sizeof(error));
    if (!err)
        return socket;
    fprintf(stderr, "kvmish: KVM_CREATE_VM: %s\n", error);
    close(socket);
    return err;
}

int pool_start(const char *worker, unsigned spares, char *error, size_t room)
{
    sigset_t all, old;
    int err, socket;

    snprintf(pool.path, sizeof(pool.path), "%s", worker);
    pool.spares = spares;
    pool.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_lock(&pool.lock);
    err = pool.wake < 0 ? -errno : add_spare();
    socket = err ? -1 : pool.child[0].socket;
    pthread_mutex_unlock(&pool.lock);
    if (err) {
        snprintf(error, room, "%s: %s", worker, strerror(-err));
        return err;
    }
    err = await(socket, error, room);
    if (err)
        return err;
    pool.child[0].ready = true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = -pthread_create(&pool.keeper, NULL, keep, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pool.started = !err;
    return err;
}

void pool_stop(void)
{
    pthread_mutex_lock(&pool.lock);
    pool.stopping = true;
    pthread_mutex_unlock(&pool.lock);
    wake();
    if (pool.started)
        pthread_join(pool.keeper, NULL);
    for (unsigned i = 0; i < pool.children; i++) {
        struct child *c = &pool.child[i];
        if (!c->taken) {
            close(c->socket); /* without a client it ends now */
            waitpid(c->pid, NULL, 0);
        }
    }
}
