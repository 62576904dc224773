/* Guest memory of a client elsewhere: which files its pages are in, and memory that is in none moved into one. */
#ifndef KVMISH_DEVFS_ADOPT_H
#define KVMISH_DEVFS_ADOPT_H

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "devfs/mapping.h"

/* adopt.c */
struct adopt_ops {
    void *owner;
    /* One area of it, in the file fd, with the client's rights. */
    int (*area)(void *owner, const struct area *a, int fd);
    /* A descriptor of the file that has this device and inode, if we know it, or -ENOENT. May be NULL. */
    int (*known)(void *owner, uint64_t dev, uint64_t ino);
    /* Every thread of the client but the stopped one stands still after it, -EBUSY; let_go ends that. */
    int (*hold)(void *owner);
    void (*let_go)(void *owner);
    /* Maps `file` from a->offset into the client, at addr, instead of what is there. */
    int (*replace)(void *owner, uintptr_t addr, const struct area *a);
};
/* What of a client: */
struct range {
    uintptr_t addr;
    size_t bytes;
    uintptr_t only; /* as far as it belongs to the mapping at this address; 0: all of it */
};
/* tid: any thread of the client's. file: what memory that cannot be shared is moved to, as long as the range; -1: nothing may be
 * moved, and -EAGAIN when something must be. */
int adopt(pid_t tid, const struct range *what, int file, const struct adopt_ops *ops);

/* mapped.c: a descriptor of the file of a shared mapping, for reading or reading and writing. -ENXIO: it has no name and nobody has
 * it open; -EACCES, -EFAULT: it is gone meanwhile */
struct mapped {
    uintptr_t start, end;
    uint64_t dev, ino;
    bool write;
    const char *name; /* as /proc/PID/maps has it */
};
int mapped_open(pid_t tid, const struct mapped *m);

/* hold.c */
struct hold {
    pid_t tgid, except;
    bool (*parked)(void *owner, pid_t tid); /* in a call of ours, whose answer waits for us: needs no holding */
    int (*ask)(void *owner);                /* renews what parked() knows; may be NULL */
    void *owner;
    /* hold.c's own */
    pthread_t thread;
    sem_t done, release;
    bool started;
    int result;
};
/* No thread of tgid but `except` runs after it. -EBUSY, -EPERM; hold_end() in any case. */
int hold_start(struct hold *h);
void hold_end(struct hold *h);

#endif
