/* One clock and one ordered set of deadlines per VM: a test drives every device timer by hand. */
#ifndef KVMISH_IRQ_TIMER_H
#define KVMISH_IRQ_TIMER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where time comes from. A zero-filled clock is CLOCK_MONOTONIC; a fake one stands still until
 * advanced. */
struct clock {
    bool fake;
    uint64_t fake_now_ns;
};

struct timer;
typedef void (*timer_fn)(struct timer *timer, void *arg);

/* A deadline, embedded in its owner. All fields but fire and arg belong to struct timers. */
struct timer {
    timer_fn fire;
    void *arg;
    uint64_t when_ns;
    uint64_t period_ns; /* 0: one shot */
    size_t slot;        /* 1-based place in the heap, 0 when idle */
};

/*
 * The deadlines of one VM. They are guarded by the lock given at init (the irqchip lock): every
 * function below except timers_init, timers_advance and timers_destroy is called with it held, and
 * callbacks run with it held. Therefore no callback can be running when timer_cancel is called or
 * has returned.
 */
struct timers {
    pthread_mutex_t *lock;
    struct clock *clock;
    struct timer **heap; /* heap[0] is the earliest */
    size_t used, capacity;
    pthread_cond_t wake;
    pthread_t thread;
    bool started, stopping;
    uint64_t sleeping_until_ns; /* what the thread waits for; 0 while it is awake */
};

/* What a thread of the core does first, where it must not stay like the one that started it; or NULL. */
extern void (*thread_began)(void);

void timer_init(struct timer *timer, timer_fn fire, void *arg);

/* clock NULL: CLOCK_MONOTONIC. 0 or -errno. */
int timers_init(struct timers *timers, pthread_mutex_t *lock, struct clock *clock);

/* Stops and joins the thread; armed timers are forgotten. Call without the lock. */
void timers_destroy(struct timers *timers);

/* Room for count timers, so that arming them cannot fail for memory. -ENOMEM. */
int timers_reserve(struct timers *timers, size_t count);

uint64_t timers_now_ns(const struct timers *timers);

/*
 * Fires at the absolute time when_ns, then every period_ns if that is not 0; missed periods
 * collapse into one call. Arming again moves the deadline. Starts the thread on first use. 0,
 * -ENOMEM or -EAGAIN (no thread to be had).
 */
int timer_arm(struct timers *timers, struct timer *timer, uint64_t when_ns, uint64_t period_ns);
int timer_after_ns(struct timers *timers, struct timer *timer, uint64_t delay_ns);
void timer_cancel(struct timers *timers, struct timer *timer);
static inline bool timer_armed(const struct timer *timer)
{
    return timer->slot != 0;
}

/* Fake clock only: moves time forward, firing what falls due in order, each at its own time. Takes
 * the lock. */
void timers_advance(struct timers *timers, uint64_t delta_ns);

#endif
