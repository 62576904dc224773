/* Threads that read requests: started when one is taken up and nobody would be left to wait, ended when too many wait. */
#include "devfs/readers.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "devfs/processor.h"

/* IDLE_MAX is more than are started by far: who has been answered asks again while his reader is still on its way back, and would have a
 * thread started and one ended for each of his calls. */
enum { READERS_MAX = 4096, IDLE_MAX = 8 };

/* Is this reader one too many? Then it no longer counts: of several that ask at once, only so many may go. */
static bool dismissed(struct reader *r)
{
    struct readers *s = r->all;
    int idle = atomic_load_explicit(&s->idle, memory_order_relaxed);

    while (idle > (atomic_load(&r->slow) ? 1 : IDLE_MAX))
        if (atomic_compare_exchange_weak(&s->idle, &idle, idle - 1))
            return true;
    return false;
}

/* ---- one alone ---------------------------------------------------------------------------------------------------------- */

static void called(int sig)
{
    (void)sig;
}

int readers_signal(void)
{
    const struct sigaction a = {.sa_handler = called, .sa_flags = SA_ONSTACK}; /* it must not restart the read */

    return sigaction(READER_SIGNAL, &a, NULL) ? -errno : 0;
}

void readers_wait_begin(struct reader *r)
{
    atomic_store(&r->wait, READER_WAITS);
}

/* A signal that comes too late must not come into what follows. */
void readers_wait_end(struct reader *r)
{
    if (atomic_exchange(&r->wait, READER_WORKS) != READER_CALLED)
        return;
    pthread_mutex_lock(&r->all->lock); /* it has been sent then */
    pthread_mutex_unlock(&r->all->lock);
    sched_yield(); /* and comes on the way out of the kernel */
}

static bool is_aside(const struct reader *r)
{
    const struct reader *only = atomic_load(&r->all->only);

    return only && only != r;
}

static void wait_aside(struct reader *r)
{
    struct readers *s = r->all;

    pthread_mutex_lock(&s->lock);
    while (is_aside(r))
        pthread_cond_wait(&s->all, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

void readers_only(struct reader *r)
{
    struct readers *s = r->all;
    int waits;

    pthread_mutex_lock(&s->lock);
    atomic_store(&s->only, r);
    for (struct reader *o = s->first; o; o = o->next) {
        waits = READER_WAITS;
        if (o != r && atomic_compare_exchange_strong(&o->wait, &waits, READER_CALLED))
            tgkill(getpid(), o->tid, READER_SIGNAL);
    }
    pthread_mutex_unlock(&s->lock);
}

void readers_all(struct readers *s)
{
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->only, NULL);
    pthread_cond_broadcast(&s->all);
    pthread_mutex_unlock(&s->lock);
}

/* ---- threads --------------------------------------------------------------------------------------------------------------- */

static void enlist(struct reader *r)
{
    pthread_mutex_lock(&r->all->lock);
    r->next = r->all->first;
    r->all->first = r;
    pthread_mutex_unlock(&r->all->lock);
}

static void unlist(struct reader *r)
{
    struct reader **link = &r->all->first;

    pthread_mutex_lock(&r->all->lock);
    while (*link != r)
        link = &(*link)->next;
    *link = r->next;
    pthread_mutex_unlock(&r->all->lock);
}

static struct reader *new_reader(struct readers *s, int cpu)
{
    struct reader *r = malloc(sizeof(*r) + s->buffer_bytes);

    if (r)
        *r = (struct reader){.all = s, .cpu = cpu};
    return r;
}

/* To its processor it goes last: there others wait for it, and others work, while it comes into being. */
static void read_on(struct reader *r)
{
    struct readers *s = r->all;

    r->tid = gettid();
    enlist(r);
    if (!processor_pin(0, r->cpu))
        r->cpu = -1;
    while (atomic_load(&s->only) == r || !dismissed(r)) {
        if (is_aside(r))
            wait_aside(r);
        else if (!s->read(s->owner, r))
            break;
    }
    unlist(r);
    free(r);
    atomic_fetch_sub(&s->count, 1);
}

void readers_join(struct readers *s, int cpu)
{
    struct reader *r = new_reader(s, cpu);

    if (r)
        read_on(r);
    else
        atomic_fetch_sub(&s->count, 1);
}

static void *read_loop(void *reader)
{
    const struct reader *r = reader;

    if (r->all->follow && r->cpu < 0)
        processor_any();
    read_on(reader);
    return NULL;
}

bool readers_expect(struct readers *s)
{
    if (atomic_fetch_add(&s->count, 1) >= READERS_MAX) {
        atomic_fetch_sub(&s->count, 1);
        return false;
    }
    atomic_fetch_add(&s->idle, 1);
    return true;
}

static int start_thread(struct reader *r)
{
    pthread_attr_t attr;
    pthread_t thread;
    int err;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, READER_STACK_BYTES);
    err = -pthread_create(&thread, &attr, read_loop, r);
    pthread_attr_destroy(&attr);
    return err;
}

static int start_reader(struct readers *s, int cpu)
{
    struct reader *r;
    int err;

    if (!readers_expect(s))
        return -EAGAIN;
    r = new_reader(s, cpu);
    err = r ? start_thread(r) : -ENOMEM;
    if (err) {
        free(r);
        atomic_fetch_sub(&s->idle, 1);
        atomic_fetch_sub(&s->count, 1);
    }
    return err;
}

int readers_start(struct readers *s, int first, int cpu)
{
    int err = 0;

    while (first-- > 0 && !err)
        err = start_reader(s, cpu);
    return err;
}

void readers_busy(struct readers *s)
{
    if (atomic_fetch_sub(&s->idle, 1) == 1)
        start_reader(s, -1);
}

void readers_idle(struct readers *s)
{
    atomic_fetch_add(&s->idle, 1);
}
