/* Descriptors of clients in this process: which number stands for which object.
 *
 * The table is read by every ioctl of the client, so it is lock-free: entries are struct file of a pool that is never
 * returned to the allocator, and a reference is taken only while its count is not zero.
 */
#include "kvm/files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvm/door.h"

enum { FILES_MAX = 65536 };

static _Atomic(struct file *) table[FILES_MAX];
static struct file *pool;
static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
_Atomic unsigned process_generation = 1;

/* What is ours bears a mark that execve(2) leaves, and sockets: the signal of I/O that never comes (fcntl(2), F_SETSIG). */
static int mark_of(enum object_kind kind) { return 60 + (int)kind; }

/* Guest memory of a client in this process is where it is. */
static int map_self(const struct client *c, uintptr_t addr, size_t size_bytes, uint8_t **host)
{
    (void)c;
    backing_widen(addr, size_bytes);
    *host = (uint8_t *)addr;
    return 0;
}

static void unmap_self(uint8_t *host, size_t size_bytes)
{
    (void)host;
    (void)size_bytes;
}

static const struct client_ops self_ops = {file_install, stats_open_again, client_dup_eventfd, map_self, unmap_self, NULL};
const struct client client_self = {.ops = &self_ops};

static struct file *pool_take(void)
{
    struct file *f;

    pthread_mutex_lock(&pool_lock);
    f = pool;
    if (f)
        pool = f->next;
    pthread_mutex_unlock(&pool_lock);
    return f ? f : calloc(1, sizeof(*f));
}

void object_put(enum object_kind kind, void *object)
{
    if (kind == OBJECT_VM)
        vm_put(object);
    else if (kind == OBJECT_VCPU)
        vm_put(((struct kvm_vcpu *)object)->vm);
}

struct file *file_get(int fd)
{
    struct file *f;
    int refs;

    if (fd < 0 || fd >= FILES_MAX)
        return NULL;
    f = atomic_load(&table[fd]);
    if (!f)
        return NULL;
    refs = atomic_load(&f->refs);
    do {
        if (!refs)
            return NULL;
    } while (!atomic_compare_exchange_weak(&f->refs, &refs, refs + 1));
    if (atomic_load(&table[fd]) == f)
        return f;
    file_put(f);
    return NULL;
}

void file_put(struct file *f)
{
    if (atomic_fetch_sub(&f->refs, 1) != 1)
        return;
    if (f->generation == atomic_load(&process_generation)) /* or else its threads and waiters are the parent's: it stays */
        object_put(f->kind, f->object);
    pthread_mutex_lock(&pool_lock);
    f->next = pool;
    pool = f;
    pthread_mutex_unlock(&pool_lock);
}

static void enter(int fd, struct file *f, enum object_kind kind, void *object, unsigned generation)
{
    f->kind = kind;
    f->object = object;
    f->generation = generation;
    atomic_store(&f->refs, 1);
    f = atomic_exchange(&table[fd], f);
    if (f) /* its number was closed behind our back */
        file_put(f);
}

int file_install(const struct client *c, enum object_kind kind, void *object, int map_fd)
{
    /* An epoll instance is as little of a file as KVM's own: nothing to read, write, map or open again. */
    int fd = map_fd < 0 ? epoll_create1(EPOLL_CLOEXEC) : fcntl(map_fd, F_DUPFD_CLOEXEC, 0);
    struct file *f;

    (void)c;
    if (fd < 0)
        return -errno;
    f = fd < FILES_MAX ? pool_take() : NULL;
    if (!f) {
        close(fd);
        return fd < FILES_MAX ? -ENOMEM : -EMFILE;
    }
    fcntl(fd, F_SETSIG, mark_of(kind));
    enter(fd, f, kind, object, atomic_load(&process_generation));
    return fd;
}

static bool is_a(int fd, const char *file)
{
    char path[64], target[64];
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
    n = readlink(path, target, sizeof(target) - 1);
    target[n < 0 ? 0 : n] = 0;
    return !strncmp(target, file, strlen(file));
}

/* A VM's or the system's is the open file that kcmp(2) says, which a container may forbid; a vCPU's, the only one of its file. */
static bool is_same(int fd, int known, enum object_kind kind)
{
    pid_t us = (pid_t)syscall(SYS_gettid);
    struct stat a, b;

    if (kind == OBJECT_VCPU)
        return !fstat(fd, &a) && !fstat(known, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
    return !syscall(SYS_kcmp, us, us, KCMP_FILE, fd, known);
}

/* A descriptor of this process that has been a while under way: by a socket, another process, pidfd_getfd(2). */
static bool has_come_back(int fd, enum object_kind kind)
{
    for (int known = 0; known < FILES_MAX; known++) {
        struct file *f = file_get(known);
        bool same = f && f->kind == kind && f->object && is_same(fd, known, kind);
        if (f)
            file_put(f);
        if (same)
            kvmish_dup(known, fd);
        if (same && kvmish_owns(fd))
            return true;
    }
    return false;
}

bool kvmish_recognise(int fd)
{
    int before = errno, mark = fcntl(fd, F_GETSIG);
    struct file *f = NULL;

    for (enum object_kind kind = OBJECT_VM; kind <= OBJECT_VCPU; kind++)
        if (mark == mark_of(kind) && has_come_back(fd, kind)) {
            errno = before;
            return true;
        }
    for (enum object_kind kind = OBJECT_SYSTEM; kind <= OBJECT_VCPU && !f; kind++)
        if (mark == mark_of(kind) && fd < FILES_MAX && is_a(fd, kind == OBJECT_VCPU ? "/memfd:kvm-vcpu" : "anon_inode:[eventpoll]") &&
            (f = pool_take()))
            enter(fd, f, kind, NULL, 0);
    errno = before;
    return f;
}

bool kvmish_owns(int fd)
{
    return fd >= 0 && fd < FILES_MAX && atomic_load_explicit(&table[fd], memory_order_relaxed);
}

/* Nothing is forgotten: a thread with a table of its own, or a child of vfork(), may be who asks. */
static bool is_still(int fd, enum object_kind *kind)
{
    struct file *f = kvmish_owns(fd) ? file_get(fd) : NULL;
    int before = errno;

    if (!f)
        return false;
    *kind = f->kind;
    file_put(f);
    int mark = fcntl(fd, F_GETSIG);
    bool is = mark < 0 ? errno != EBADF : mark == mark_of(*kind); /* who is forbidden to ask could not mark it either */
    errno = before;
    return is;
}

bool kvmish_still_owns(int fd)
{
    enum object_kind kind;

    return is_still(fd, &kind);
}

bool kvmish_is_system(int fd)
{
    enum object_kind kind;

    return is_still(fd, &kind) && kind == OBJECT_SYSTEM;
}

void kvmish_forget(int fd)
{
    struct file *f;

    if (!kvmish_owns(fd))
        return;
    f = atomic_exchange(&table[fd], NULL);
    if (f)
        file_put(f);
}

int kvmish_close(int fd)
{
    struct file *f;
    int ret;

    if (!kvmish_owns(fd))
        return -EBADF;
    f = atomic_exchange(&table[fd], NULL);
    if (!f)
        return -EBADF;
    ret = close(fd) ? -errno : 0; /* EBADF: it was closed behind our back */
    file_put(f);
    return ret;
}

void kvmish_dup(int fd, int newfd)
{
    struct file *f = file_get(fd);

    if (newfd < 0 || fd == newfd) {
        if (f)
            file_put(f);
        return;
    }
    kvmish_forget(newfd);
    if (!f)
        return;
    if (newfd < FILES_MAX)
        atomic_store(&table[newfd], f);
    else
        file_put(f);
}

void kvmish_mapped(int fd, void *addr, size_t size_bytes, long offset)
{
    struct file *f = file_get(fd);
    struct kvm_vcpu *kv;
    long at = RING_PAGE * KVM_PAGE - offset;

    if (!f)
        return;
    kv = f->object;
    if (f->kind == OBJECT_VCPU && kv && kv->index && offset >= 0 && at >= 0 && size_bytes >= (size_t)at + KVM_PAGE)
        mmap((char *)addr + at, KVM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, kv->vm->vcpu[0]->fd,
             RING_PAGE * KVM_PAGE);
    file_put(f);
}

void kvmish_forked(void)
{
    atomic_fetch_add(&process_generation, 1);
    running_forked();
    backing_forked();
    pthread_mutex_init(&pool_lock, NULL); /* a thread that is not here may have held it */
}
