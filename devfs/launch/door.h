/* The launcher door: a process that answers, for a program and its children, what they ask of /dev/kvm.
 *
 * The program runs under a filter (filter.c) by which the kernel lets us answer its system calls (seccomp_unotify(2)). Most are looked
 * at and go on as if nothing had been; those on /dev/kvm are ours.
 */
#ifndef KVMISH_DEVFS_LAUNCH_DOOR_H
#define KVMISH_DEVFS_LAUNCH_DOOR_H

#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "devfs/readers.h"
#include "devfs/trace.h"
#include "kvm/kvm.h"

struct door;

/* ---- filter.c: which system calls come to us -------------------------------------------------------------------------- */

enum watched_kind {
    WATCH_IOCTL, WATCH_OPEN, WATCH_OPEN_HOW, WATCH_ACCESS, WATCH_STAT, WATCH_STATX, WATCH_READLINK, WATCH_SIGNAL, WATCH_SIGRETURN
};

enum { LINK_ITSELF = 127 };

/* One of them; arguments by their place, -1: none. */
struct watched {
    int16_t number, number32; /* on x86-64, on i386; -1: not there */
    uint8_t kind;
    int8_t path, flags, out; /* flags: open's, or access's mode; out: a struct that is read or written */
    int8_t at; /* flags that may be AT_SYMLINK_NOFOLLOW; LINK_ITSELF: always so */
    struct {
        uint8_t arg;
        uint32_t mask, value;
    } when; /* only calls with (argument & mask) == value; mask 0: all */
};

/* The call of this architecture (AUDIT_ARCH_*), or NULL. */
const struct watched *watched_find(uint32_t arch, int number);
/* In the program's process, before it is started: -> the listener, -errno. -EBUSY: somebody listens already. */
int filter_install(void);

/* ---- serve.c: calls, from their arrival to their answer ------------------------------------------------------------- */

struct call {
    struct client client; /* first: what the core passes back to us */
    struct door *d;
    const struct watched *what;
    uint64_t id; /* of the notification */
    pid_t tid;
    uint64_t arg[6];

    struct kvm_vcpu *running; /* KVM_RUN */
    int status;               /* watch.c: its thread's file in /proc, or -1 */
    unsigned ticks;
    /* stop.c */
    bool stopped; /* answered before its end; its thread is stopped */
    struct tracee t;
    int gift[2]; /* descriptors that its process has from us for as long */
    unsigned gifts;
    struct call *next, **link;
};

/* What we know of a thread that calls. */
struct caller {
    pthread_mutex_t lock;
    pid_t tid, tgid;
    int fds; /* its /proc/TID/fd */
};

/* A file that memory of a client was moved to. */
struct ram {
    uint64_t dev, ino;
    int fd;
    pid_t tgid;
    enum { RAM_UNKNOWN, RAM_UNWANTED, RAM_WANTED } state; /* while it is swept */
};

struct lent;
enum { CALLERS = 1024, LENT_BUCKETS = 256, RAMS_MAX = 4096, RAMS_FEW = 16 };

struct door {
    int listener;
    struct readers readers;

    pthread_mutex_t lock; /* calls, lent, watching */
    struct call *calls;
    bool watching;
    unsigned haste; /* short ticks to come */
    pthread_cond_t watch_wake;

    /* objects.c */
    struct lent *lent[LENT_BUCKETS];
    uint64_t dev; /* of memfds */
    int system;   /* the file that /dev/kvm is */
    struct caller caller[CALLERS];

    /* memory.c */
    pthread_mutex_t moving; /* one client at a time is stopped and changed */
    pthread_mutex_t ram_lock;
    struct ram ram[RAMS_MAX];
    unsigned rams, sweep_at;
    /* An answer lets a thread of the client's run. Who exchanges its memory holds this for writing. */
    pthread_rwlock_t answers;
};

/* Serves the listener, by threads. */
int door_start(struct door *d);
/* >= 0 or -errno */
void call_answer(struct call *c, int64_t ret);
/* The system call is carried out as if we were not there. */
void call_continue(struct call *c);
/* Answered, with 0, but not at its end: that is call_end(). */
void call_answer_early(struct call *c);
void call_end(struct call *c);
/* Puts a descriptor into the client: its number there, -errno. fd stays ours. flags: O_CLOEXEC */
int call_give(const struct call *c, int fd, uint32_t flags);
/* Is its thread still there, waiting? */
bool call_alive(const struct call *c);

/* ---- objects.c: the client's descriptors ------------------------------------------------------------------------------ */

extern const struct client_ops lent_ops;
int objects_init(struct door *d);
/* What the descriptor in the call's first argument is: OBJECT_NONE, or with a reference of ours on *object. Fills in the client's
 * process; *foreign: it is not the one that made the machine. */
enum object_kind object_take(struct call *c, void **object, bool *foreign);
/* A new descriptor of /dev/kvm in the client, by open()'s flags. */
int object_open(struct call *c, uint64_t flags);

/* ---- spaces.c: what a machine belongs to ------------------------------------------------------------------------------------ */

struct space;
/* That of the process now, by any thread of it; NULL: out of memory. */
struct space *space_take(pid_t tgid, pid_t tid);
void space_put(struct space *s);
/* Is it the process's still? Not after execve(2). */
bool space_is_of(const struct space *s, pid_t tgid);

/* ---- memory.c: guest memory ---------------------------------------------------------------------------------------------- */

int memory_map(const struct client *client, uintptr_t addr, size_t bytes, uint8_t **host);
int memory_renew(const struct client *client, uintptr_t addr, size_t bytes, uint8_t *host, uintptr_t at);
/* Lets go of memory that no client maps any more. */
void memory_sweep(struct door *d);

/* ---- stop.c: a client's thread runs system calls of ours -------------------------------------------------------------------- */

/* Stops the call's thread, with these descriptors given to its process (c->gift). -EPERM: it is traced, or that is forbidden. Once in a
 * call; nobody else's thread is stopped until client_resume(). */
int client_stop(struct call *c, const int *gift, unsigned gifts);
/* It goes on, with the real result of its ioctl and without the descriptors. */
void client_resume(struct call *c, int ret);

/* ---- eventfd.c ---------------------------------------------------------------------------------------------------------------- */

int eventfd_take(const struct client *client, int fd, uint64_t *id);

/* ---- paths.c: calls with a path -------------------------------------------------------------------------------------------- */

void path_serve(struct call *c);

/* ---- walk.c: where they lead ------------------------------------------------------------------------------------------------- */

/* To /dev/kvm? dir: of the client's, as for openat(2). follow: the last name may be a link. resolve: as openat2(2) has it, or 0. */
bool path_leads_there(const struct call *c, int dir, const char *path, bool follow, uint64_t resolve);
/* Is its last name a link? Wrong where an absolute link in a chroot is on the way. */
bool path_is_link(const struct call *c, int dir, const char *path);

/* ---- restart.c: a return from a signal handler ------------------------------------------------------------------------------ */

void restart_serve(struct call *c);

/* ---- watch.c: signals end KVM_RUN ------------------------------------------------------------------------------------------- */

int watch_start(struct door *d);
void watch_call(struct call *c, struct kvm_vcpu *kv); /* at the start of KVM_RUN, and at its end */
void watch_end(struct call *c);
void watch_expect(struct door *d); /* a client is about to send a signal */

#endif
