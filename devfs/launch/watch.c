/* Signals end KVM_RUN. The kernel does not tell us of a signal for a thread that waits for our answer, so we look, every few
 * milliseconds, more seldom while all vCPUs are halted, and more often when a client has just asked for a signal to be sent.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "devfs/launch/door.h"
#include "devfs/signals.h"

enum { TICK_NS = 4000000, HALTED_TICK_NS = 16000000, HASTE_NS = 30000, HASTE_TURNS = 30, LINGER_TICKS = 25, TRACED_TICKS = 8 };

static int open_status(pid_t tgid, pid_t tid)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/task/%d/status", tgid, tid);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* Are the other threads of its process stopped? Then it, too, has to come out to be. */
static bool process_stopped(const struct call *c)
{
    struct signals s = {0};
    int fd;

    if (c->tid == c->client.pid)
        return false; /* a signal that it has not taken up waits for it */
    fd = open_status(c->client.pid, c->client.pid);
    if (fd < 0)
        return false;
    if (!signals_read(fd, &s))
        s.state = 0;
    close(fd);
    return s.state == 'T';
}

/* Must KVM_RUN end? */
static bool is_over(struct call *c)
{
    struct signals s = {0};

    if (!call_alive(c))
        return true;
    if (c->status < 0)
        c->status = open_status(c->client.pid, c->tid);
    if (!signals_read(c->status, &s))
        return true; /* the thread has gone */
    if (signals_end_run(&s, c->running))
        return true;
    c->ticks++;
    return (s.traced && c->ticks % TRACED_TICKS == 0) /* a debugger waits for its stop */ ||
           (c->ticks % TRACED_TICKS == 1 && process_stopped(c));
}

/* With the lock: -> how long it may be until the next look; 0: there is nothing to watch. */
static long look(struct door *d)
{
    long ns = 0;

    for (struct call *c = d->calls; c; c = c->next) {
        if (!c->running)
            continue;
        if (is_over(c))
            vcpu_interrupt(c->running);
        if (!atomic_load(&c->running->waiting))
            ns = TICK_NS;
        else if (!ns)
            ns = HALTED_TICK_NS;
    }
    return ns;
}

static void pause_ns(struct door *d, long ns)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += ns;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    pthread_cond_timedwait(&d->watch_wake, &d->lock, &t);
}

static void *watch_thread(void *arg)
{
    struct door *d = arg;
    unsigned idle = 0;

    pthread_mutex_lock(&d->lock);
    for (;;) {
        long ns = look(d);
        idle = ns ? 0 : idle + 1;
        if (idle > LINGER_TICKS) {
            d->watching = false;
            pthread_cond_wait(&d->watch_wake, &d->lock);
            d->watching = true;
            idle = 0;
        } else if (d->haste) {
            d->haste--;
            pause_ns(d, HASTE_NS);
        } else {
            pause_ns(d, ns ? ns : TICK_NS);
        }
    }
    return NULL;
}

int watch_start(struct door *d)
{
    pthread_condattr_t attr;
    pthread_t thread;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&d->watch_wake, &attr);
    d->watching = true;
    return -pthread_create(&thread, NULL, watch_thread, d);
}

/* With KVM_SET_SIGNAL_MASK a signal may have waited before. */
void watch_call(struct call *c, struct kvm_vcpu *kv)
{
    struct door *d = c->d;

    pthread_mutex_lock(&d->lock);
    c->running = kv;
    if (!d->watching)
        pthread_cond_signal(&d->watch_wake);
    if (kv->has_sigmask && is_over(c))
        vcpu_interrupt(kv);
    pthread_mutex_unlock(&d->lock);
}

/* What came too late to end it is not for the next one. */
void watch_end(struct call *c)
{
    pthread_mutex_lock(&c->d->lock);
    atomic_store(&c->running->signalled, 0);
    c->running = NULL;
    pthread_mutex_unlock(&c->d->lock);
    if (c->status >= 0)
        close(c->status);
}

void watch_expect(struct door *d)
{
    pthread_mutex_lock(&d->lock);
    if (d->watching) {
        d->haste = HASTE_TURNS;
        pthread_cond_signal(&d->watch_wake);
    }
    pthread_mutex_unlock(&d->lock);
}
