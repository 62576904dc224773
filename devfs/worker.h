/* The worker: one VM, served to one client through a FUSE session of its own. */
#ifndef KVMISH_DEVFS_WORKER_H
#define KVMISH_DEVFS_WORKER_H

#include <pthread.h>
#include <stdatomic.h>

#include "devfs/hand.h"
#include "devfs/quick.h"
#include "devfs/session.h"
#include "kvm/kvm.h"

enum { NODES_MAX = VCPUS_MAX + 16, ROOT_NODE = FUSE_ROOT_ID, FIRST_NODE = FUSE_ROOT_ID + 1 };

/* A file of the session: an object of the VM. */
struct node {
    enum object_kind kind;
    void *object; /* NULL: nobody was given it */
    int backing;  /* the session's number for the pages that can be mapped, 0: none */
    /* watch.c: the client's thread that calls here most */
    pid_t known;
    int status, stat; /* its files in /proc */
    unsigned uses;    /* by others since */
};

struct worker;

/* An ioctl under way. */
struct call {
    struct client client; /* first: what the core passes back to us */
    struct worker *w;
    struct payload payload;
    uint64_t unique; /* of the FUSE request */
    pid_t tid;
    struct node *node;
    struct reader *reader;    /* whose thread this is */
    struct kvm_vcpu *running; /* KVM_RUN */
    int64_t began, waited; /* quick.c: ns; since the last one was answered */
    bool watched;
    unsigned ticks; /* since its start, while its reader is pinned */
    unsigned traced_ticks;
    bool stopped; /* answered before its end; the client's thread is stopped and we have hand.lock */
    struct call *next, **link;
};

struct worker {
    struct session session;
    struct hand_link hand;
    struct opener {
        int ours, theirs; /* packets; theirs is -1 once the thread has a table of its own */
        pthread_mutex_t lock;
        pthread_t thread;
        bool started;
    } opener;
    struct ahead {
        int map_fd;             /* what the first vCPU's file is made of */
        int vm_file, vcpu_file; /* -1: somebody has it now */
        unsigned vm, vcpu;      /* their nodes */
    } ahead;
    pid_t self, client; /* thread groups */
    pid_t reachable;    /* the thread by which the client's memory is, when its first one had ended before; or 0 */
    int space;          /* the client's: devfs/space.h */

    pthread_mutex_t lock; /* calls, nodes */
    struct call *calls;
    struct node node[NODES_MAX];
    unsigned nodes;
    _Atomic int handles; /* open files of the client's */

    struct quick quick;
    _Atomic bool watching;
    bool watch_started, watch_again;
    pthread_cond_t watch_wake;

    /* An answer lets a thread of the client's run. Who exchanges its memory holds this for writing. */
    pthread_rwlock_t answers;
};

/* objects.c: FUSE requests of any kind */
void worker_serve(struct session *s, struct reader *r, const struct fuse_in_header *h, void *body);
/* A new file; its number, or -ENFILE. */
int node_add(struct worker *w, enum object_kind kind, void *object, int backing);
/* NULL: it stays as a name without an object; numbers are not used again. */
void node_set(struct worker *w, unsigned number, void *object);
int node_open(struct worker *w, unsigned number);

/* opener.c. open: a file of the session by its name, -errno; the first one starts the thread. renew: that ends; another may follow. */
enum { OPEN_NAME_BYTES = 32 };
int opener_init(struct worker *w);
int opener_renew(struct worker *w);
int opener_open(struct worker *w, const char *name);

/* ahead.c. prepare: before the worker has a client and readers. take: the file of the vCPU that is mapped like map_fd, or -1. */
int ahead_prepare(struct worker *w);
int ahead_take(struct worker *w, int map_fd, unsigned *number);

/* call.c */
extern const struct client_ops foreign_ops;
void call_begin(struct call *c, struct worker *w, uint64_t unique, pid_t tid);
void call_end(struct call *c, int ret);
/* The hand's lock, for what takes the hand long. */
void call_ask(struct call *c);
/* A signal for the client's thread: ends KVM_RUN. False: no such call. */
bool call_interrupt(struct worker *w, uint64_t unique);

/* watch.c */
void watch_init(struct worker *w);
void watch_call(struct call *c);        /* at its start */
bool watch_more(struct worker *w);      /* with w->lock: look every tick; false: there is no thread to do it */
void watch_interrupted(struct call *c); /* FUSE_INTERRUPT for KVM_RUN; with w->lock */

/* memory.c: guest memory of the client, mapped here */
int memory_map(struct call *c, uintptr_t addr, size_t bytes, uint8_t **host);
int memory_renew(struct call *c, uintptr_t addr, size_t bytes, uint8_t *host, uintptr_t at);
/* Answers the client's thread and waits for it to be stopped; the hand's lock is ours until call_end(). */
int call_stop(struct call *c);
unsigned call_list(void *worker, int32_t *tids, unsigned room);

#endif
