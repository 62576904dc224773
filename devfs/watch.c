/* What a KVM_RUN under way must know of the client's thread that waits for it: pending signals, and its processor.
 *
 * FUSE tells of a signal once, and of none that the thread blocks. Calls for which that is not enough (KVM_SET_SIGNAL_MASK; a
 * debugger's or our own interruption that was no signal) are watched: a thread of ours looks at /proc every millisecond.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "devfs/proc.h"
#include "devfs/processor.h"
#include "devfs/signals.h"
#include "devfs/worker.h"

enum { TICK_NS = 1000000, LINGER_TICKS = 100, LONG_TICKS = 2, TRACED_TICKS = 30, FOLLOW_EVERY = 64, FAMILIAR = 8 };

/* Must KVM_RUN end? *traced: somebody is attached to the thread. */
static bool signal_waits(const struct call *c, bool *traced)
{
    struct signals s = {0};

    *traced = false;
    if (!signals_read(c->node->status, &s))
        return true; /* the thread has gone */
    *traced = s.traced;
    return signals_end_run(&s, c->running);
}

/* ---- the watching thread --------------------------------------------------------------------------------------------------- */

/* The processor of a reader that works alone is not ours: whoever runs there sends the client's thread to another one. */
static void step_aside(const struct reader *alone)
{
    if (alone && alone->cpu >= 0 && alone->cpu == sched_getcpu())
        processor_leave(0, alone->cpu);
}

/* With w->lock: -> is there still something to watch? */
static bool look(struct worker *w)
{
    bool any = quick_look(w), traced;
    cpu_set_t all;

    step_aside(w->quick.reader);
    for (struct call *c = w->calls; c; c = c->next) {
        if (!c->running)
            continue;
        if (c->watched && (signal_waits(c, &traced) || (traced && ++c->traced_ticks > TRACED_TICKS)))
            vcpu_interrupt(c->running); /* a hand lets go soon; a debugger that stays waits for its stop */
        any |= c->watched;
        if (!c->reader || c->reader->cpu < 0)
            continue;
        any = true;
        if (++c->ticks < LONG_TICKS)
            continue;
        memset(&all, 0xff, sizeof(all)); /* it computes: let it, where there is room */
        sched_setaffinity(c->reader->tid, sizeof(all), &all);
        c->reader->cpu = -1;
    }
    return any;
}

/* Who has the lock may be a reader that gives way, to others that compute: he would have us all wait. */
static void lock_calls(struct worker *w)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += TICK_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    if (!pthread_mutex_clocklock(&w->lock, CLOCK_MONOTONIC, &until))
        return;
    quick_lift(&w->quick);
    pthread_mutex_lock(&w->lock);
    quick_over(w);
}

static void *watch_thread(void *arg)
{
    const struct timespec tick = {0, TICK_NS};
    struct worker *w = arg;
    unsigned idle = 0;

    processor_any();
    for (;;) {
        lock_calls(w);
        idle = look(w) ? 0 : idle + 1;
        while (idle > LINGER_TICKS && !w->watch_again) {
            atomic_store(&w->watching, false);
            pthread_cond_wait(&w->watch_wake, &w->lock);
        }
        if (w->watch_again)
            idle = 0;
        w->watch_again = false;
        pthread_mutex_unlock(&w->lock);
        nanosleep(&tick, NULL);
    }
    return NULL;
}

/* The thread is started by the first call that needs it. */
bool watch_more(struct worker *w)
{
    pthread_t thread;

    if (atomic_load(&w->watching))
        return true;
    if (!w->watch_started && pthread_create(&thread, NULL, watch_thread, w))
        return false;
    w->watch_started = true;
    atomic_store(&w->watching, true);
    w->watch_again = true;
    pthread_cond_signal(&w->watch_wake);
    return true;
}

void watch_init(struct worker *w)
{
    pthread_cond_init(&w->watch_wake, NULL);
}

/* ---- at calls ------------------------------------------------------------------------------------------------------------------ */

/* The files in /proc of the thread that uses this node. */
static void know(struct call *c)
{
    struct worker *w = c->w;
    struct node *n = c->node;
    int status, stat;

    hand_lock(&w->hand);
    status = hand_proc(&w->hand, c->tid, PROC_STATUS);
    stat = hand_proc(&w->hand, c->tid, PROC_STAT);
    hand_unlock(&w->hand);
    pthread_mutex_lock(&w->lock);
    if (n->known) {
        close(n->status);
        close(n->stat);
    }
    n->known = c->tid;
    n->status = status;
    n->stat = stat;
    pthread_mutex_unlock(&w->lock);
}

/* Where the thread ran last. */
static int processor_of(const struct node *n)
{
    char text[1024];
    const char *at;
    ssize_t got = n->stat < 0 ? -1 : pread(n->stat, text, sizeof(text) - 1, 0);

    if (got <= 0)
        return -1;
    text[got] = 0;
    at = proc_stat_field(text, 39);
    return at ? atoi(at) : -1;
}

/* The reader goes where the client's thread is: to be woken on another processor costs four times as much. */
static void follow(struct call *c)
{
    int cpu = processor_of(c->node);

    if (cpu == c->reader->cpu || !processor_pin(0, cpu))
        return;
    c->reader->cpu = cpu;
    quick_moved(c->w);
}

void watch_call(struct call *c)
{
    struct node *n = c->node;
    bool traced, masked;

    if (n->known != c->tid && (++n->uses >= FAMILIAR || (c->running && c->running->has_sigmask))) {
        n->uses = 0;
        know(c);
    }
    if (n->known == c->tid && (c->reader->calls++ % FOLLOW_EVERY == 0 || c->reader->cpu < 0 || quick_apart(c)))
        follow(c);
    if (!c->running)
        return;
    masked = n->known == c->tid && c->running->has_sigmask;
    if (masked && signal_waits(c, &traced))
        vcpu_interrupt(c->running); /* it was pending before */
    if (!masked && c->reader->cpu < 0)
        return;
    pthread_mutex_lock(&c->w->lock);
    c->watched = masked;
    watch_more(c->w);
    pthread_mutex_unlock(&c->w->lock);
}

/* With w->lock: FUSE says that a signal has come; a tracer's interruption looks the same, and must not end KVM_RUN. */
void watch_interrupted(struct call *c)
{
    bool traced = false;

    if (c->node->known != c->tid || signal_waits(c, &traced) || !traced) {
        vcpu_interrupt(c->running);
        return;
    }
    c->watched = true;
    watch_more(c->w);
}
