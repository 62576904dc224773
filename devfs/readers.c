/* Threads that read requests: started when one is taken up and nobody would be left to wait, ended when too many wait. */
#include "devfs/readers.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "devfs/processor.h"

/* IDLE_MAX is more than are started by far: who has been answered asks again while his reader is still on its way back, and would have a
 * thread started and one ended for each of his calls. */
enum { READERS_MAX = 4096, IDLE_MAX = 8 };

/* Is this reader one too many? Then it no longer counts: of several that ask at once, only so many may go. */
static bool dismissed(struct readers *s)
{
    int idle = atomic_load_explicit(&s->idle, memory_order_relaxed);

    while (idle > IDLE_MAX)
        if (atomic_compare_exchange_weak(&s->idle, &idle, idle - 1))
            return true;
    return false;
}

void readers_join(struct readers *s)
{
    struct reader r = {.all = s, .buffer = malloc(s->buffer_bytes), .tid = gettid(), .cpu = processor_only()};

    while (r.buffer && !dismissed(s) && s->read(s->owner, &r))
        ;
    free(r.buffer);
    atomic_fetch_sub(&s->count, 1);
}

static void *read_loop(void *s)
{
    readers_join(s);
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

static int start_reader(struct readers *s, int cpu)
{
    pthread_attr_t attr;
    cpu_set_t one;
    pthread_t thread;
    int err;

    if (!readers_expect(s))
        return -EAGAIN;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, READER_STACK_BYTES);
    if (cpu >= 0) {
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_attr_setaffinity_np(&attr, sizeof(one), &one);
    }
    err = -pthread_create(&thread, &attr, read_loop, s);
    pthread_attr_destroy(&attr);
    if (err) {
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
