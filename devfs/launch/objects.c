/* The client's descriptors: which object each is, and when the last one of an object is gone.
 *
 * Each is a memfd, known again by its inode, so that dup, fork and SCM_RIGHTS need nothing of us. What the client gets is an open file
 * description of its own with a lock on it (flock(2)). The kernel drops the lock with the last reference to that description, in whatever
 * process, a mapping included; a thread of ours waits for that on another description.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devfs/launch/door.h"
#include "devfs/mapping.h"
#include "devfs/proc.h"

enum { STACK = 64 << 10 };

struct lent {
    struct door *d;
    ino_t ino;
    enum object_kind kind;
    void *object; /* NULL: it has not been given, after all */
    struct space *space; /* whose it is; NULL: everybody's */
    int fd; /* ours */
    struct lent *next;
};

/* ---- files --------------------------------------------------------------------------------------------------------------- */

/* A file that nothing can be written to; a vCPU's is the core's. */
static int make_file(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), err;

    if (fd < 0)
        return -errno;
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)) {
        err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

/* Another open file description of the same file. */
static int open_again(int fd, int flags)
{
    char path[64];
    int again;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    again = open(path, flags | O_CLOEXEC);
    return again < 0 ? -errno : again;
}

/* ---- the table ------------------------------------------------------------------------------------------------------------ */

static struct lent **bucket(struct door *d, ino_t ino)
{
    return &d->lent[ino % LENT_BUCKETS];
}

static struct lent *lent_add(struct door *d, enum object_kind kind, void *object, int fd, const struct call *c)
{
    struct space *space = c ? space_take(c->client.pid, c->tid) : NULL;
    struct lent *l = calloc(1, sizeof(*l)), **b;
    struct stat st;

    if (!l || (c && !space) || fstat(fd, &st)) {
        if (space)
            space_put(space);
        free(l);
        return NULL;
    }
    *l = (struct lent){.d = d, .ino = st.st_ino, .kind = kind, .object = object, .space = space, .fd = fd};
    b = bucket(d, l->ino);
    pthread_mutex_lock(&d->lock);
    l->next = *b;
    *b = l;
    pthread_mutex_unlock(&d->lock);
    return l;
}

static void lent_remove(struct lent *l)
{
    struct lent **p = bucket(l->d, l->ino);

    pthread_mutex_lock(&l->d->lock);
    while (*p != l)
        p = &(*p)->next;
    *p = l->next;
    pthread_mutex_unlock(&l->d->lock);
}

static void lent_free(struct lent *l)
{
    if (l->space)
        space_put(l->space);
    free(l);
}

static void *await_last(void *arg)
{
    struct lent *l = arg;

    while (flock(l->fd, LOCK_EX) && errno == EINTR)
        ;
    lent_remove(l);
    close(l->fd);
    if (l->object)
        object_put(l->kind, l->object);
    memory_sweep(l->d);
    lent_free(l);
    return NULL;
}

static int start_waiting(struct lent *l)
{
    pthread_attr_t attr;
    pthread_t thread;
    int err;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK);
    err = -pthread_create(&thread, &attr, await_last, l);
    pthread_attr_destroy(&attr);
    return err;
}

/* ---- client_ops ------------------------------------------------------------------------------------------------------------- */

static struct call *call_of(const struct client *c)
{
    return (struct call *)c;
}

/* ours: a description of our own for await_last(), which closes it. */
static int lend(struct call *c, enum object_kind kind, void *object, int ours)
{
    int theirs = open_again(ours, O_RDWR), number;
    struct lent *l = NULL;

    if (theirs >= 0 && !flock(theirs, LOCK_EX))
        l = lent_add(c->d, kind, object, ours, c);
    if (!l || start_waiting(l)) {
        if (l) {
            lent_remove(l);
            lent_free(l);
        }
        close(ours);
        if (theirs >= 0)
            close(theirs);
        return theirs < 0 ? theirs : -ENOMEM;
    }
    number = call_give(c, theirs, O_CLOEXEC);
    if (number < 0) {
        pthread_mutex_lock(&c->d->lock);
        l->object = NULL; /* the core keeps it */
        pthread_mutex_unlock(&c->d->lock);
    }
    close(theirs);
    return number;
}

static int install(const struct client *client, enum object_kind kind, void *object, int map_fd)
{
    int ours = map_fd >= 0 ? open_again(map_fd, O_RDWR) : make_file("kvm-vm");

    return ours < 0 ? ours : lend(call_of(client), kind, object, ours);
}

static int give(const struct client *client, int fd)
{
    int again = open_again(fd, O_RDONLY), number;

    if (again < 0)
        return again;
    number = call_give(call_of(client), again, O_CLOEXEC);
    close(again);
    return number;
}

const struct client_ops lent_ops = {install, give, eventfd_take, memory_map, mapping_free, memory_renew};

/* ---- callers ---------------------------------------------------------------------------------------------------------------- */

static void know(struct caller *k, pid_t tid)
{
    char path[64];

    if (k->tid && k->fds >= 0)
        close(k->fds);
    snprintf(path, sizeof(path), "/proc/%d/fd", tid);
    k->fds = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    k->tid = tid;
    k->tgid = proc_relative(tid, "Tgid");
}

/* What its descriptor is; its process on the way. A directory of /proc outlives its thread, but is empty then. */
static bool look_up(struct call *c, struct stat *st)
{
    struct caller *k = &c->d->caller[(unsigned)c->tid % CALLERS];
    char name[16];
    bool fresh = false, found;

    snprintf(name, sizeof(name), "%d", (int)c->arg[0]);
    pthread_mutex_lock(&k->lock);
    if (k->tid != c->tid) {
        know(k, c->tid);
        fresh = true;
    }
    found = k->fds >= 0 && !fstatat(k->fds, name, st, 0);
    if (!found && !fresh) { /* or the number of the thread is a new one's */
        know(k, c->tid);
        found = k->fds >= 0 && !fstatat(k->fds, name, st, 0);
    }
    c->client.pid = k->tgid;
    pthread_mutex_unlock(&k->lock);
    return found && c->client.pid;
}

enum object_kind object_take(struct call *c, void **object, bool *foreign)
{
    enum object_kind kind = OBJECT_NONE;
    struct lent *l;
    struct stat st;

    if (!look_up(c, &st) || st.st_dev != c->d->dev)
        return OBJECT_NONE;
    pthread_mutex_lock(&c->d->lock);
    for (l = *bucket(c->d, st.st_ino); l; l = l->next)
        if (l->ino == st.st_ino && (l->object || l->kind == OBJECT_SYSTEM))
            break;
    if (l) {
        kind = l->kind;
        *object = l->object;
        *foreign = l->space && !space_is_of(l->space, c->client.pid);
        if (kind != OBJECT_SYSTEM)
            vm_get(kind == OBJECT_VM ? l->object : ((struct kvm_vcpu *)l->object)->vm);
    }
    pthread_mutex_unlock(&c->d->lock);
    return kind;
}

int object_open(struct call *c, uint64_t flags)
{
    int fd = open_again(c->d->system, (int)flags & (O_ACCMODE | O_NONBLOCK)), number;

    if (fd < 0)
        return fd;
    number = call_give(c, fd, (uint32_t)flags & O_CLOEXEC);
    close(fd);
    return number;
}

int objects_init(struct door *d)
{
    struct stat st;

    for (unsigned i = 0; i < CALLERS; i++)
        pthread_mutex_init(&d->caller[i].lock, NULL);
    d->system = make_file("kvm");
    if (d->system < 0)
        return d->system;
    if (fstat(d->system, &st))
        return -errno;
    d->dev = st.st_dev;
    return lent_add(d, OBJECT_SYSTEM, NULL, d->system, NULL) ? 0 : -ENOMEM;
}
