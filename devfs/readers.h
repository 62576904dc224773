/* Threads that read requests from one source: as many as there are requests under way, and a few to spare. */
#ifndef KVMISH_DEVFS_READERS_H
#define KVMISH_DEVFS_READERS_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum reader_wait { READER_WORKS, READER_WAITS, READER_CALLED };

/* One thread. */
struct reader {
    struct readers *all;
    pid_t tid;
    int cpu;          /* it is pinned there, -1: nowhere */
    unsigned calls;   /* since the client's processor was looked at */
    _Atomic int wait; /* enum reader_wait */
    _Atomic bool slow; /* it gives way, and nobody can change that: its thread ends as soon as another one reads */
    struct reader *next;
    _Alignas(16) char buffer[]; /* readers.buffer_bytes */
};

struct readers {
    _Atomic int idle, count;
    _Atomic(struct reader *) only; /* NULL: all read */
    pthread_mutex_t lock;          /* what follows */
    pthread_cond_t all;
    struct reader *first;
    size_t buffer_bytes;
    bool follow; /* they are pinned to where their clients are, and a new one is not to stay where it was started */
    /* Takes one request and answers it. False: this thread shall end; it has said that it is busy, or there are no requests. */
    bool (*read)(void *owner, struct reader *r);
    void *owner;
};

enum { READER_STACK_BYTES = 1 << 20, READER_SIGNAL = SIGUSR1 };

/* Starts `first` of them, which go to this processor when they are there; -1: anywhere. -EAGAIN */
int readers_start(struct readers *s, int first, int cpu);
/* The calling thread becomes one, too: it is counted from expect() on, and reads in join() until it is one too many. False: too many. */
bool readers_expect(struct readers *s);
void readers_join(struct readers *s, int cpu);
/* Before work that may take long: leaves a reader for what comes meanwhile. */
void readers_busy(struct readers *s);
void readers_idle(struct readers *s);
/* A reader waits for a request between begin and end, which readers_only() cuts short by a signal: EINTR. */
void readers_wait_begin(struct reader *r);
void readers_wait_end(struct reader *r);
/* Before threads are started. -errno */
int readers_signal(void);
/* From now on only this one reads; the others wait aside, until all read again. */
void readers_only(struct reader *r);
void readers_all(struct readers *s);

#endif
