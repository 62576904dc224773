/* What a worker does before it has a client: that one would wait for it. */
#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>

#include "devfs/worker.h"

static int rehearse_install(const struct client *c, enum object_kind kind, void *object, int map_fd)
{
    (void)map_fd;
    if (kind != OBJECT_VM)
        return -ECANCELED; /* the vCPU is destroyed */
    *(void **)(void *)(c + 1) = object;
    return 0;
}

/* A VM with a vCPU for nobody: code and tables that its first would be the first to touch are in memory then. */
static int rehearse(void)
{
    static const struct client_ops ops = {.install = rehearse_install};
    struct {
        struct client client;
        void *vm;
    } nobody = {.client = {1, &ops}};
    int err = object_ioctl(OBJECT_SYSTEM, NULL, &nobody.client, KVM_CREATE_VM, 0);

    if (!err)
        err = object_ioctl(OBJECT_VM, nobody.vm, &nobody.client, KVM_CREATE_VCPU, 0);
    if (nobody.vm)
        object_put(OBJECT_VM, nobody.vm);
    return err == -ECANCELED ? 0 : err;
}

static void *nothing(void *unused)
{
    return unused;
}

/* The C library keeps its stack for the next thread. */
static int rehearse_thread(size_t stack_bytes)
{
    pthread_attr_t attr;
    pthread_t thread;
    int err;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, stack_bytes);
    err = -pthread_create(&thread, &attr, nothing, NULL);
    pthread_attr_destroy(&attr);
    return err ? err : -pthread_join(thread, NULL);
}

static int open_next(struct worker *w, enum object_kind kind, int backing, unsigned *number)
{
    int added = node_add(w, kind, NULL, backing);

    if (added < 0)
        return added;
    *number = (unsigned)added;
    return node_open(w, *number);
}

/* The files of the VM and of its first vCPU, which have no objects yet. */
static int open_files(struct worker *w)
{
    struct ahead *a = &w->ahead;
    int backing = a->map_fd = vcpu_ahead();

    if (backing >= 0)
        backing = hand_backing(&w->hand, a->map_fd);
    if (backing < 0)
        return backing;
    a->vm_file = open_next(w, OBJECT_VM, 0, &a->vm);
    if (a->vm_file < 0)
        return a->vm_file;
    a->vcpu_file = open_next(w, OBJECT_VCPU, backing, &a->vcpu);
    return a->vcpu_file < 0 ? a->vcpu_file : 0;
}

int ahead_prepare(struct worker *w)
{
    int err = rehearse();

    if (!err)
        err = open_files(w);
    if (!err)
        err = opener_renew(w); /* to become somebody else is only one thread's */
    return err ? err : rehearse_thread(READER_STACK_BYTES);
}

static bool same_file(int a, int b)
{
    struct stat x, y;

    return !fstat(a, &x) && !fstat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int ahead_take(struct worker *w, int map_fd, unsigned *number)
{
    struct ahead *a = &w->ahead;
    int file = -1;

    pthread_mutex_lock(&w->lock);
    if (a->vcpu_file >= 0 && same_file(a->map_fd, map_fd)) {
        file = a->vcpu_file;
        *number = a->vcpu;
        a->vcpu_file = -1;
    }
    pthread_mutex_unlock(&w->lock);
    return file;
}
