/* One reader for a client's thread that calls again at once, as QEMU's does for each byte on a serial line.
 *
 * Who is woken while the one that wakes him still runs is put on an idle processor, if there is one: an answered client goes there, his
 * server must follow, and each time a processor has to be woken, which takes longer than the call. The scheduler counts a processor as
 * idle that runs nothing but SCHED_IDLE. So the reader answers with that policy: the client stays where it is, runs at once, and when
 * it waits for its next call the reader goes on, without having slept. Other readers would be woken for nothing meanwhile: they wait
 * aside.
 *
 * With SCHED_IDLE it would wait for whatever else runs there. So this ends as soon as a call takes long, needs the hand, another processor
 * of the guest is entered, or the watching thread finds that there was no call for a tick.
 */
#include "devfs/quick.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "devfs/confine.h"
#include "devfs/worker.h"

enum { SOON_NS = 1000000, AGAIN_NS = 20000, QUICK_NS = 200000, APART_NS = 15000, PAUSE = 4, PAUSE_MAX = 64, STREAK = 8, BUSY_TICKS = 3 };
/* Reader; watching thread, reader and client. */
enum { CALL_RUNS = 1, TICK_RUNS = 3 };

static const struct sched_param none = {0};

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- the hand's part: to leave SCHED_IDLE takes a right. sched(7) --------------------------------------------------------- */

int quick_line(int line[2])
{
    line[0] = line[1] = -1;
    if (!confine_may(CAP_SYS_NICE) || sched_getscheduler(0) != SCHED_OTHER) /* another policy is the administrator's */
        return 0;
    return pipe2(line, O_CLOEXEC | O_NONBLOCK) ? -errno : 0;
}

/* -> was there one? */
static bool restore_threads(pid_t process)
{
    char path[32];
    struct dirent *e;
    bool any = false;
    DIR *d;

    snprintf(path, sizeof(path), "/proc/%d/task", process);
    d = opendir(path);
    while (d && (e = readdir(d))) {
        pid_t tid = atoi(e->d_name);
        if (tid > 0 && sched_getscheduler(tid) == SCHED_IDLE)
            any |= !sched_setscheduler(tid, SCHED_OTHER, &none);
    }
    if (d)
        closedir(d);
    return any;
}

/* All threads, for those that the reader has started meanwhile have its policy: more readers, and the core's for timers and eventfds. */
void quick_restore(int line, pid_t worker)
{
    char asked[64];

    while (read(line, asked, sizeof(asked)) > 0)
        ;
    while (restore_threads(worker)) /* who was started by one of them before its turn came? */
        ;
}

/* ---- the worker's ------------------------------------------------------------------------------------------------------------ */

void quick_init(struct quick *q, int line)
{
    q->load = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    q->processors = (int)sysconf(_SC_NPROCESSORS_ONLN);
    q->line = q->load < 0 ? -1 : line;
}

bool quick_again(struct worker *w, pid_t tid)
{
    bool again;

    pthread_mutex_lock(&w->lock);
    again = w->quick.tid == tid && now_ns() - w->quick.ended < AGAIN_NS;
    pthread_mutex_unlock(&w->lock);
    return again;
}

/* Would others wait for a processor, and we for them? own: threads of this call that /proc/loadavg counts as running, too. */
static bool is_busy(const struct quick *q, int own)
{
    char text[64];
    ssize_t got = pread(q->load, text, sizeof(text) - 1, 0);
    int running = 0;

    text[got < 0 ? 0 : got] = 0;
    return sscanf(text, "%*s %*s %*s %d/", &running) != 1 || running - own >= q->processors;
}

/* The watching thread is there before: started afterwards it would give way, too. */
static void start(struct worker *w, struct reader *r)
{
    struct quick *q = &w->quick;

    q->streak = 0;
    if (is_busy(q, CALL_RUNS) || !watch_more(w) || sched_setscheduler(0, SCHED_IDLE, &none))
        return;
    q->reader = r;
    q->seen = q->calls;
    q->pause = PAUSE;
    q->busy = 0;
    readers_only(r);
}

void quick_over(struct worker *w)
{
    struct quick *q = &w->quick;

    q->streak = 0;
    if (!q->reader)
        return;
    if (!quick_lift(q)) {
        q->line = -1; /* nobody would do it the next time either: the hand has died */
        atomic_store(&q->reader->slow, true);
    }
    q->reader = NULL;
    readers_all(&w->session.readers);
}

bool quick_lift(const struct quick *q)
{
    return write(q->line, "", 1) == 1;
}

void quick_begin(struct call *c)
{
    struct quick *q = &c->w->quick;

    c->began = now_ns();
    c->waited = c->began - q->ended;
    if (c->waited < SOON_NS && (c->tid == q->tid || !c->running)) /* another thread's may come in between */
        return;
    quick_over(c->w);
    q->tid = c->tid;
}

void quick_end(struct call *c)
{
    struct quick *q = &c->w->quick;

    q->calls++;
    if (c->tid != q->tid)
        return;
    q->ended = now_ns();
    if (q->ended - c->began >= QUICK_NS)
        quick_over(c->w);
    else if (++q->streak >= STREAK && !q->reader && q->line >= 0)
        start(c->w, c->reader);
}

/* It has been waited for longer than a client takes that has not been woken on another processor; or it has work of its own, and is asked
 * less and less. */
bool quick_apart(struct call *c)
{
    struct quick *q = &c->w->quick;

    if (q->reader != c->reader || c->waited < APART_NS || q->calls - q->looked < q->pause)
        return false;
    q->looked = q->calls;
    q->pause = 2 * q->pause < PAUSE_MAX ? 2 * q->pause : PAUSE_MAX;
    return true;
}

void quick_moved(struct worker *w)
{
    w->quick.pause = PAUSE;
}

bool quick_look(struct worker *w)
{
    struct quick *q = &w->quick;

    if (!q->reader)
        return false;
    q->busy = is_busy(q, TICK_RUNS) ? q->busy + 1 : 0;
    if (q->busy >= BUSY_TICKS || q->calls == q->seen)
        quick_over(w);
    q->seen = q->calls;
    return q->reader;
}
