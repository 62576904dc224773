/* Threads that read requests from one source: as many as there are requests under way, and a few to spare. */
#ifndef KVMISH_DEVFS_READERS_H
#define KVMISH_DEVFS_READERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* One thread. */
struct reader {
    struct readers *all;
    void *buffer; /* readers.buffer_bytes of its own */
    pid_t tid;
    int cpu;        /* it is pinned there, -1: nowhere */
    unsigned calls; /* since the client's processor was looked at */
};

struct readers {
    _Atomic int idle, count;
    size_t buffer_bytes;
    /* Takes one request and answers it. False: this thread shall end; it has said that it is busy, or there are no requests. */
    bool (*read)(void *owner, struct reader *r);
    void *owner;
};

enum { READER_STACK_BYTES = 1 << 20 };

/* Starts `first` of them on this processor, -1: where the caller is. -EAGAIN */
int readers_start(struct readers *s, int first, int cpu);
/* The calling thread becomes one, too: it is counted from expect() on, and reads in join() until it is one too many. False: too many. */
bool readers_expect(struct readers *s);
void readers_join(struct readers *s);
/* Before work that may take long: leaves a reader for what comes meanwhile. */
void readers_busy(struct readers *s);
void readers_idle(struct readers *s);

#endif
