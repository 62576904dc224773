/* All threads of a client stand still while its memory is exchanged under them.
 *
 * A thread of ours seizes them and ends to let them go: the kernel then detaches what it traced, stopped or not. A thread that
 * waits in an ioctl of ours need not have stopped: it will before it runs any code of the client's again.
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "devfs/adopt.h"
#include "devfs/proc.h"
#include "devfs/trace.h"

enum { TURN_NS = 1000000, PATIENCE_S = 4, ASK_EVERY = 4 };

struct held { /* the threads */
    pid_t *tid;
    bool *stopped;
    unsigned count, room;
};

static int add(struct held *h, pid_t tid)
{
    if (h->count == h->room) {
        unsigned room = h->room ? 2 * h->room : 16;
        pid_t *tids = realloc(h->tid, room * sizeof(*tids));
        bool *stopped;
        if (!tids)
            return -ENOMEM;
        h->tid = tids;
        stopped = realloc(h->stopped, room * sizeof(*stopped));
        if (!stopped)
            return -ENOMEM;
        h->stopped = stopped;
        h->room = room;
    }
    h->stopped[h->count] = false;
    h->tid[h->count++] = tid;
    return 0;
}

static bool is_held(const struct held *h, pid_t tid)
{
    for (unsigned i = 0; i < h->count; i++)
        if (h->tid[i] == tid)
            return true;
    return false;
}

/* Does it wait in an ioctl of a file of ours, of whatever VM? By its name: to ask the file itself could wait, too. */
static bool in_our_ioctl(pid_t tid)
{
    char path[64], line[256], *name;
    long number = -1;
    ssize_t n;
    unsigned fd = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/syscall", tid);
    f = fopen(path, "re");
    if (!f)
        return false;
    if (!fgets(line, sizeof(line), f) || sscanf(line, "%ld 0x%x", &number, &fd) != 2)
        number = -1;
    fclose(f);
    snprintf(path, sizeof(path), "/proc/%d/fd/%u", tid, fd);
    n = trace_is_ioctl(number) ? readlink(path, line, sizeof(line) - 1) : 0;
    if (n <= 0)
        return false;
    line[n] = 0;
    name = strrchr(line, '/');
    return name && (!strcmp(name, "/kvm") || !strncmp(name, "/kvm-v", 6));
}

/* Seizes what is not yet; -> how many were new. */
static int seize_new(struct held *h, const struct hold *what)
{
    char path[64];
    struct dirent *e;
    int found = 0, err = 0;
    DIR *d;

    snprintf(path, sizeof(path), "/proc/%d/task", what->tgid);
    d = opendir(path);
    if (!d)
        return -ESRCH;
    while (!err && (e = readdir(d))) {
        pid_t tid = atoi(e->d_name);
        if (tid <= 0 || tid == what->except || is_held(h, tid) || what->parked(what->owner, tid))
            continue;
        err = trace_hold(tid);
        if (err == -ESRCH || (err == -EPERM && proc_dead(tid))) {
            err = 0;
        } else if (!err) {
            err = add(h, tid);
            found++;
        }
    }
    closedir(d);
    return err ? err : found;
}

static void turn(void)
{
    struct timespec ts = {0, TURN_NS};
    sigset_t child;

    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigtimedwait(&child, NULL, &ts);
}

/* How many of them may still run. */
static unsigned count_running(struct held *h, const struct hold *what, bool look)
{
    unsigned running = 0;

    for (unsigned i = 0; i < h->count; i++) {
        int r;
        if (h->stopped[i])
            continue;
        r = trace_held(h->tid[i]);
        if (r < 0) { /* dead */
            h->count--;
            h->tid[i] = h->tid[h->count];
            h->stopped[i] = h->stopped[h->count];
            i--;
            continue;
        }
        h->stopped[i] = r || (look && in_our_ioctl(h->tid[i]));
        if (!h->stopped[i] && !what->parked(what->owner, h->tid[i]))
            running++;
    }
    return running;
}

static int wait_all(struct held *h, const struct hold *what)
{
    struct timespec start, now;

    clock_gettime(CLOCK_MONOTONIC, &start);
    for (unsigned n = 0;; n++) {
        if (!count_running(h, what, n > 1))
            return 0;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - start.tv_sec > PATIENCE_S)
            return -EBUSY;
        turn();
        if (what->ask && n % ASK_EVERY == ASK_EVERY - 1 && what->ask(what->owner)) /* it may be in an ioctl of ours by now */
            return -EIO;
    }
}

static void *hold_thread(void *arg)
{
    struct hold *h = arg;
    struct held held = {0};
    int found, err = 0;

    do {
        found = seize_new(&held, h);
        if (found > 0)
            err = wait_all(&held, h);
    } while (found > 0 && !err);
    h->result = err ? err : found;
    sem_post(&h->done);
    while (sem_wait(&h->release))
        ;
    free(held.tid);
    free(held.stopped);
    return NULL;
}

int hold_start(struct hold *h)
{
    int err;

    sem_init(&h->done, 0, 0);
    sem_init(&h->release, 0, 0);
    err = -pthread_create(&h->thread, NULL, hold_thread, h);
    if (err)
        return err;
    h->started = true;
    while (sem_wait(&h->done))
        ;
    return h->result;
}

void hold_end(struct hold *h)
{
    if (!h->started)
        return;
    sem_post(&h->release);
    pthread_join(h->thread, NULL);
    sem_destroy(&h->done);
    sem_destroy(&h->release);
    h->started = false;
}
