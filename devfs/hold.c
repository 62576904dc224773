/* All threads of a client stand still while its memory is exchanged under them. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "devfs/hand.h"
#include "devfs/trace.h"

enum { TURN_NS = 1000000, TURNS = 2000, ASK_EVERY = 4 };

static bool dead(pid_t tgid, pid_t tid)
{
    char path[64], line[256], *state;
    FILE *f;
    bool gone = true;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", tgid, tid);
    f = fopen(path, "re");
    if (!f)
        return true;
    if (fgets(line, sizeof(line), f) && (state = strrchr(line, ')')))
        gone = state[1] && (state[2] == 'Z' || state[2] == 'X');
    fclose(f);
    return gone;
}

static int add(struct holding *h, pid_t tid)
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

static bool is_held(const struct holding *h, pid_t tid)
{
    for (unsigned i = 0; i < h->count; i++)
        if (h->tid[i] == tid)
            return true;
    return false;
}

/* Seizes what is not yet; -> how many were new. */
static int seize_new(struct holding *h, pid_t tgid, pid_t except, bool (*parked)(void *, pid_t), void *owner)
{
    char path[64];
    struct dirent *e;
    int found = 0, err = 0;
    DIR *d;

    snprintf(path, sizeof(path), "/proc/%d/task", tgid);
    d = opendir(path);
    if (!d)
        return -ESRCH;
    while (!err && (e = readdir(d))) {
        pid_t tid = atoi(e->d_name);
        if (tid <= 0 || tid == except || is_held(h, tid) || parked(owner, tid))
            continue;
        err = trace_hold(tid);
        if (err == -ESRCH || (err == -EPERM && dead(tgid, tid))) {
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

static int wait_all(struct holding *h, bool (*parked)(void *, pid_t), int (*ask)(void *), void *owner)
{
    for (unsigned n = 0; n < TURNS; n++) {
        unsigned waiting = 0;
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
            h->stopped[i] = r;
            if (!r && !parked(owner, h->tid[i]))
                waiting++;
        }
        if (!waiting)
            return 0;
        turn();
        if (n % ASK_EVERY == ASK_EVERY - 1 && ask(owner)) /* it may have come into an ioctl of ours meanwhile */
            return -EIO;
    }
    return -EBUSY;
}

int hold_others(struct holding *h, pid_t tgid, pid_t except, bool (*parked)(void *owner, pid_t tid),
                int (*ask)(void *owner), void *owner)
{
    int found, err = 0;

    do {
        found = seize_new(h, tgid, except, parked, owner);
        if (found > 0)
            err = wait_all(h, parked, ask, owner);
    } while (found > 0 && !err);
    return err ? err : found;
}

void hold_release(struct holding *h, struct holding *late)
{
    for (unsigned i = 0; i < h->count; i++) {
        if (h->stopped[i])
            trace_release(h->tid[i]);
        else
            add(late, h->tid[i]);
    }
    free(h->tid);
    free(h->stopped);
    memset(h, 0, sizeof(*h));
}

void hold_reap(struct holding *late)
{
    for (unsigned i = 0; i < late->count; i++) {
        int r = trace_held(late->tid[i]);
        if (!r)
            continue;
        if (r > 0)
            trace_release(late->tid[i]);
        late->tid[i--] = late->tid[--late->count];
    }
}
