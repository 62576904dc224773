/* The worker: one VM, served to one client through a FUSE session of its own. */
#ifndef KVMISH_DEVFS_WORKER_H
#define KVMISH_DEVFS_WORKER_H

#include <pthread.h>
#include <stdatomic.h>

#include "devfs/hand.h"
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
    uint64_t unique; /* of the FUSE request; 0: it came by the broker */
    pid_t tid;
    struct node *node;
    struct reader *reader;    /* whose thread this is */
    struct kvm_vcpu *running; /* KVM_RUN */
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
    } opener;
    int broker;      /* packets */
    pid_t self, client; /* thread groups */
    int space;          /* the client's: devfs/space.h */

    pthread_mutex_t lock; /* calls, nodes */
    struct call *calls;
    struct node node[NODES_MAX];
    unsigned nodes;
    _Atomic int handles; /* open files of the client's */

    _Atomic bool watching;
    bool watch_started, watch_more;
    pthread_cond_t watch_wake;

    /* An answer lets a thread of the client's run. Who exchanges its memory holds this for writing. */
    pthread_rwlock_t answers;
};

/* objects.c: FUSE requests of any kind */
void worker_serve(struct session *s, struct reader *r, const struct fuse_in_header *h, void *body);
/* Ends the process when the client has nothing of it any more. */
void exit_if_last(struct worker *w);
/* A new file; its number, or -ENFILE. */
int node_add(struct worker *w, enum object_kind kind, void *object, int backing);
void node_forget(struct worker *w, unsigned number);
int node_open(struct worker *w, unsigned number);

/* opener.c. init before confine_worker(), start behind it; open: a file of the session by its name, -errno. The first open
 * waits for the thread to be ready. */
enum { OPEN_NAME_BYTES = 32, OPENER_STACK_BYTES = 64 << 10 };
int opener_init(struct worker *w);
int opener_start(struct worker *w);
int opener_open(struct worker *w, const char *name);

/* call.c */
extern const struct client_ops foreign_ops;
void call_begin(struct call *c, struct worker *w, uint64_t unique, pid_t tid);
void call_end(struct call *c, int ret);
/* A signal for the client's thread: ends KVM_RUN. False: no such call. */
bool call_interrupt(struct worker *w, uint64_t unique);

/* watch.c */
void watch_init(struct worker *w);
void watch_call(struct call *c);        /* at its start */
void watch_interrupted(struct call *c); /* FUSE_INTERRUPT for KVM_RUN; with w->lock */

/* memory.c: guest memory of the client, mapped here */
int memory_map(struct call *c, uintptr_t addr, size_t bytes, uint8_t **host);
/* Answers the client's thread and waits for it to be stopped; the hand's lock is ours until call_end(). */
int call_stop(struct call *c);
unsigned call_list(void *worker, int32_t *tids, unsigned room);

/* The packet from broker to worker, and its answer: an int. */
struct create_vm {
    int32_t tid, cpu; /* where the client is: to wake somebody on another processor takes longer than most of what he does */
    uint64_t type;
};

#endif
