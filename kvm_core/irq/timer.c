/* Deadlines in a binary heap, fired by one thread per VM (or by hand, under a fake clock). */
#define _GNU_SOURCE
#include "timer.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#define TIMER_SLACK_NS                                                                             \
    1000ul /* the default of 50 us would add to each deadline; prctl(2) PR_SET_TIMERSLACK */

void (*thread_began)(void);

static uint64_t clock_now_ns(const struct clock *clock)
{
    struct timespec now;

    if (clock && clock->fake)
        return clock->fake_now_ns;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t timers_now_ns(const struct timers *timers)
{
    return clock_now_ns(timers->clock);
}

void timer_init(struct timer *timer, timer_fn fire, void *arg)
{
    memset(timer, 0, sizeof(*timer));
    timer->fire = fire;
    timer->arg = arg;
}

static void heap_put(struct timers *timers, size_t index, struct timer *timer)
{
    timers->heap[index] = timer;
    timer->slot = index + 1;
}

static void heap_up(struct timers *timers, size_t index)
{
    struct timer *timer = timers->heap[index];

    while (index > 0) {
        size_t parent = (index - 1) / 2;

        if (timers->heap[parent]->when_ns <= timer->when_ns)
            break;
        heap_put(timers, index, timers->heap[parent]);
        index = parent;
    }
    heap_put(timers, index, timer);
}

static void heap_down(struct timers *timers, size_t index)
{
    struct timer *timer = timers->heap[index];

    for (;;) {
        size_t child = 2 * index + 1;

        if (child >= timers->used)
            break;
        if (child + 1 < timers->used &&
            timers->heap[child + 1]->when_ns < timers->heap[child]->when_ns)
            child++;
        if (timers->heap[child]->when_ns >= timer->when_ns)
            break;
        heap_put(timers, index, timers->heap[child]);
        index = child;
    }
    heap_put(timers, index, timer);
}

static void heap_remove(struct timers *timers, struct timer *timer)
{
    size_t index = timer->slot - 1;
    struct timer *last = timers->heap[--timers->used];

    timer->slot = 0;
    if (last == timer)
        return;
    heap_put(timers, index, last);
    heap_up(timers, index);
    heap_down(timers, last->slot - 1);
}

/* Fires the earliest timer, which is due. */
static void fire_first(struct timers *timers, uint64_t now_ns)
{
    struct timer *timer = timers->heap[0];

    if (timer->period_ns) {
        timer->when_ns += (1 + (now_ns - timer->when_ns) / timer->period_ns) * timer->period_ns;
        heap_down(timers, 0);
    } else {
        heap_remove(timers, timer);
    }
    timer->fire(timer, timer->arg);
}

static struct timespec to_timespec(uint64_t ns)
{
    struct timespec at = {.tv_sec = (time_t)(ns / 1000000000u),
                          .tv_nsec = (long)(ns % 1000000000u)};

    return at;
}

static void *timer_thread(void *arg)
{
    struct timers *timers = arg;

    if (thread_began)
        thread_began();
    prctl(PR_SET_NAME, "kvmish-timer");
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    pthread_mutex_lock(timers->lock);
    while (!timers->stopping) {
        uint64_t now_ns = timers_now_ns(timers);
        struct timespec until;

        if (timers->used && timers->heap[0]->when_ns <= now_ns) {
            fire_first(timers, now_ns);
            continue;
        }
        timers->sleeping_until_ns = timers->used ? timers->heap[0]->when_ns : UINT64_MAX;
        if (timers->used) {
            until = to_timespec(timers->sleeping_until_ns);
            pthread_cond_timedwait(&timers->wake, timers->lock, &until);
        } else {
            pthread_cond_wait(&timers->wake, timers->lock);
        }
        timers->sleeping_until_ns = 0;
    }
    pthread_mutex_unlock(timers->lock);
    return NULL;
}

/* The thread takes no signals: they are the client's. */
static int start_thread(struct timers *timers)
{
    sigset_t all, old;
    int err;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(&timers->thread, NULL, timer_thread, timers);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err)
        return -err;
    timers->started = true;
    return 0;
}

int timers_init(struct timers *timers, pthread_mutex_t *lock, struct clock *clock)
{
    pthread_condattr_t attr;
    int err;

    memset(timers, 0, sizeof(*timers));
    timers->lock = lock;
    timers->clock = clock;
    err = pthread_condattr_init(&attr);
    if (err)
        return -err;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    err = pthread_cond_init(&timers->wake, &attr);
    pthread_condattr_destroy(&attr);
    return -err;
}

void timers_destroy(struct timers *timers)
{
    pthread_mutex_lock(timers->lock);
    timers->stopping = true;
    pthread_cond_signal(&timers->wake);
    pthread_mutex_unlock(timers->lock);
    if (timers->started)
        pthread_join(timers->thread, NULL);
    pthread_cond_destroy(&timers->wake);
    for (size_t i = 0; i < timers->used; i++)
        timers->heap[i]->slot = 0;
    free(timers->heap);
    timers->heap = NULL;
    timers->used = timers->capacity = 0;
}

int timers_reserve(struct timers *timers, size_t count)
{
    struct timer **heap;

    if (count <= timers->capacity)
        return 0;
    count = count < 8 ? 8 : count + count / 2;
    heap = realloc(timers->heap, count * sizeof(*heap));
    if (!heap)
        return -ENOMEM;
    timers->heap = heap;
    timers->capacity = count;
    return 0;
}

int timer_arm(struct timers *timers, struct timer *timer, uint64_t when_ns, uint64_t period_ns)
{
    bool real = !(timers->clock && timers->clock->fake);
    int err;

    if (timer->slot) {
        timer->when_ns = when_ns;
        heap_up(timers, timer->slot - 1);
        heap_down(timers, timer->slot - 1);
    } else {
        err = timers_reserve(timers, timers->used + 1);
        if (err)
            return err;
        timer->when_ns = when_ns;
        timers->heap[timers->used++] = timer;
        heap_up(timers, timers->used - 1);
    }
    timer->period_ns = period_ns;
    if (real && !timers->started && !timers->stopping)
        return start_thread(timers);
    if (timers->sleeping_until_ns && when_ns < timers->sleeping_until_ns) {
        timers->sleeping_until_ns = when_ns;
        pthread_cond_signal(&timers->wake);
    }
    return 0;
}

int timer_after_ns(struct timers *timers, struct timer *timer, uint64_t delay_ns)
{
    uint64_t now_ns = timers_now_ns(timers);

    return timer_arm(timers, timer, delay_ns > UINT64_MAX - now_ns ? UINT64_MAX : now_ns + delay_ns,
                     0);
}

void timer_cancel(struct timers *timers, struct timer *timer)
{
    if (timer->slot)
        heap_remove(timers, timer);
}

void timers_advance(struct timers *timers, uint64_t delta_ns)
{
    uint64_t end_ns;

    pthread_mutex_lock(timers->lock);
    end_ns = timers->clock->fake_now_ns + delta_ns;
    while (timers->used && timers->heap[0]->when_ns <= end_ns) {
        uint64_t due_ns = timers->heap[0]->when_ns;

        if (due_ns > timers->clock->fake_now_ns)
            timers->clock->fake_now_ns = due_ns;
        fire_first(timers, timers->clock->fake_now_ns);
    }
    timers->clock->fake_now_ns = end_ns;
    pthread_mutex_unlock(timers->lock);
}
