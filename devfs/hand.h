/* The hand: the small privileged process beside each VM. It touches the client where only ptrace(2) and its like reach, so
 * that the worker, which runs the guest, needs no such right.
 *
 * Requests and replies are packets on a socket pair, one transaction at a time (hand_lock). A transaction that changes the
 * client begins with STOP or GIVE, which answer the client's ioctl and catch its thread on the way out, and ends with RESUME.
 *
 * The first transaction is the machine's birth, and the hand's own: the broker asks it, the worker makes the VM meanwhile.
 */
#ifndef KVMISH_DEVFS_HAND_H
#define KVMISH_DEVFS_HAND_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "devfs/adopt.h"
#include "devfs/mapping.h"

enum hand_op {
    HAND_BACKING = 1, /* fd: to be the pages of a vCPU's file; -> its number in the FUSE session */
    HAND_READY,       /* fd: the VM's file. The reply comes when there is a client: who; then a byte with fd of its address space */
    HAND_MADE,        /* a: -errno, has become of the VM for that client. No reply */
    HAND_STOP,        /* tid, a: its processor, b: its FUSE request */
    HAND_GIVE,        /* the same, and fd, option: reopen read-only; -> the client's descriptor */
    HAND_EVENTFD,     /* tid, a: the client's descriptor; -> fd, id */
    HAND_ADOPT,       /* tid; a, b, only: struct range; tids: threads that cannot run. Replies: areas, then one that has no fd */
    HAND_RESUME,      /* a: what the client's ioctl returns. No reply */
    HAND_PROC,        /* tid, a: enum hand_proc; -> fd of that file in /proc */
    HAND_PARKED,      /* answers an ASK of the hand's in the middle of HAND_ADOPT: tids */
};

enum hand_proc { PROC_STAT, PROC_STATUS };
enum { HAND_TIDS_MAX = 2048 };

struct hand_request {
    int32_t op, tid;
    int64_t a, b, only;
    uint32_t option; /* of HAND_ADOPT: the client's thread is stopped, private memory can be replaced */
    uint32_t tids;
    int32_t tid_list[HAND_TIDS_MAX];
};

enum { HAND_DONE, HAND_AREA, HAND_ASK };

struct hand_reply {
    int32_t kind; /* HAND_* above */
    int32_t ret;  /* -errno */
    uint64_t id;
    struct area area; /* in the file that comes along */
    uint32_t answered; /* STOP, GIVE: the client's ioctl is, so that RESUME has to follow whatever ret is */
    /* READY */
    int32_t tgid, cpu;
    int32_t tid; /* not 0: of this thread, for the process's first one has ended */
    uint32_t uid, gid;
};

/* From the broker; its answer, an int32_t, lets it answer the client. */
struct create_vm {
    int32_t tid, cpu; /* where the client is: to wake somebody on another processor takes longer than most of what he does */
    uint32_t uid, gid;
    uint32_t last; /* nobody is left to serve the next client: another worker has to be started as soon as this machine is there */
};

/* ---- in the hand ------------------------------------------------------------------------------------------------- */

struct hand;
/* line: quick.h. Serves the worker, its child, until that is gone; or the broker, while there is no client. */
void hand_main(int socket, int line, int broker, int dev, pid_t worker) __attribute__((noreturn));

/* ---- in the worker ------------------------------------------------------------------------------------------------ */

struct hand_link {
    int socket;
    pthread_mutex_t lock;
};

void hand_lock(struct hand_link *h);
void hand_unlock(struct hand_link *h);
/* All of these with the lock held; -errno, -EIO when the hand is gone. */
int hand_backing(struct hand_link *h, int fd);
int hand_ready(struct hand_link *h, int vm_file, struct hand_reply *who);
int hand_space(struct hand_link *h, int *space); /* afterwards */
int hand_made(struct hand_link *h, int ret);
int hand_stop(struct hand_link *h, pid_t tid, uint64_t unique, bool *answered);
int hand_give(struct hand_link *h, pid_t tid, uint64_t unique, int fd, bool read_only, bool *answered);
int hand_resume(struct hand_link *h, int ret);
int hand_eventfd(struct hand_link *h, pid_t tid, int fd, uint64_t *id);
int hand_proc(struct hand_link *h, pid_t tid, enum hand_proc which);
/* list(): fills in the threads that are inside ioctls of ours. area(): takes over fd. */
int hand_adopt(struct hand_link *h, pid_t tid, const struct range *what, bool convert,
               unsigned (*list)(void *owner, int32_t *tids, unsigned room),
               int (*area)(void *owner, const struct hand_reply *r, int fd), void *owner);

/* ---- packets, both sides ------------------------------------------------------------------------------------------- */

/* fd -1: none. receive: bytes, 0 at the end, -errno; *fd is the descriptor that came along, or -1. */
int packet_send(int socket, const void *data, size_t bytes, int fd);
ssize_t packet_receive(int socket, void *data, size_t bytes, int *fd);

#endif
