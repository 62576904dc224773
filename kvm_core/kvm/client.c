/* The accessor of client memory and descriptors: what copy_from_user and fdget are to the kernel.
 *
 * In process the copy still goes through process_vm_readv on ourselves, so that a bad pointer gives EFAULT and not a signal;
 * but for what lies on the caller's stack, as the arguments of frequent ioctls do.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kvm/kvm.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL /* Linux 6.9 */
#endif

static pid_t client_pid(const struct client *c)
{
    return c->thread ? c->thread : c->pid ? c->pid : getpid();
}

struct stack {
    uintptr_t low, end; /* both 0 when the C library cannot tell */
    bool asked;
};

static const struct stack *stack_of_thread(void)
{
    static __thread struct stack stack; /* a thread's, as nothing of a vCPU's may be */
    pthread_attr_t attr;
    void *low;
    size_t bytes;

    if (stack.asked)
        return &stack;
    stack.asked = true;
    if (!pthread_getattr_np(pthread_self(), &attr)) {
        if (!pthread_attr_getstack(&attr, &low, &bytes))
            stack.low = (uintptr_t)low, stack.end = (uintptr_t)low + bytes;
        pthread_attr_destroy(&attr);
    }
    return &stack;
}

/* In the part of the stack that is in use, which is mapped. */
static bool on_stack(const struct client *c, uintptr_t at, size_t n)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);

    if (c->pid || at < here)
        return false;
    const struct stack *s = stack_of_thread();
    return here >= s->low && at < s->end && n <= s->end - at;
}

static bool came_along(const struct payload *p, uintptr_t at, size_t n)
{
    return p && at >= p->at && at - p->at <= p->in && n <= p->in - (at - p->at);
}

/* Without a gap behind what was written before: between two parts is what other threads of the client's may change. */
static bool goes_back(const struct payload *p, uintptr_t at, size_t n)
{
    return p && at >= p->at && at - p->at <= p->out && n <= p->room - (at - p->at);
}

int client_read(const struct client *c, void *to, uintptr_t from, size_t n)
{
    struct iovec local = {to, n}, remote = {(void *)from, n};
    ssize_t got;

    if (!n)
        return 0;
    if (came_along(c->payload, from, n)) {
        memcpy(to, c->payload->data + (from - c->payload->at), n);
        return 0;
    }
    if (on_stack(c, from, n)) {
        memcpy(to, (const void *)from, n);
        return 0;
    }
    got = process_vm_readv(client_pid(c), &local, 1, &remote, 1, 0);
    if (got < 0 && (errno == ENOSYS || errno == EPERM) && !c->pid && from) {
        memcpy(to, (const void *)from, n); /* forbidden by a seccomp filter */
        return 0;
    }
    return got == (ssize_t)n ? 0 : got < 0 && errno == EPERM ? -EPERM : -EFAULT;
}

int client_write(const struct client *c, uintptr_t to, const void *from, size_t n)
{
    struct iovec local = {(void *)from, n}, remote = {(void *)to, n};
    ssize_t put;

    if (!n)
        return 0;
    if (goes_back(c->payload, to, n)) {
        size_t offset = to - c->payload->at;
        memcpy(c->payload->data + offset, from, n);
        if (c->payload->out < offset + n)
            c->payload->out = offset + n;
        return 0;
    }
    if (on_stack(c, to, n)) {
        memcpy((void *)to, from, n);
        return 0;
    }
    put = process_vm_writev(client_pid(c), &local, 1, &remote, 1, 0);
    if (put < 0 && (errno == ENOSYS || errno == EPERM) && !c->pid && to) {
        memcpy((void *)to, from, n);
        return 0;
    }
    return put == (ssize_t)n ? 0 : -EFAULT;
}

void *client_read_array(const struct client *c, uintptr_t from, size_t count, size_t size, int *error)
{
    void *array = calloc(count ? count : 1, size);

    *error = array ? client_read(c, array, from, count * size) : -ENOMEM;
    if (*error) {
        free(array);
        return NULL;
    }
    return array;
}

int client_dup(const struct client *c, int fd)
{
    int copy, pidfd;

    if (!c->pid) {
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        return copy < 0 ? -errno : copy;
    }
    pidfd = (int)syscall(SYS_pidfd_open, client_pid(c), PIDFD_THREAD); /* its table may be its own */
    if (pidfd < 0)
        pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    if (pidfd < 0)
        return -errno;
    copy = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    if (copy < 0)
        copy = -errno;
    close(pidfd);
    return copy;
}

/* The kernel's number of an eventfd (fdinfo, since Linux 5.2), 0 if unknown. This thread's table may be its own, as the client's. */
static uint64_t eventfd_id(int fd)
{
    char path[64], line[128];
    unsigned long long id;
    uint64_t known = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/thread-self/fdinfo/%d", fd);
    f = fopen(path, "re");
    if (!f)
        return 0;
    while (!known && fgets(line, sizeof(line), f))
        if (sscanf(line, "eventfd-id: %llu", &id) == 1)
            known = id + 1;
    fclose(f);
    return known;
}

int client_eventfd(const struct client *c, int fd, uint64_t *id)
{
    return c->ops->take_eventfd(c, fd, id);
}

/* What eventfd_id() of another thread reads just now, under a number that the client has closed. */
static bool is_own_look(const char *target)
{
    char prefix[32];
    int n = snprintf(prefix, sizeof(prefix), "/proc/%d/task/", getpid());

    return !strncmp(target, prefix, (size_t)n) && strstr(target, "/fdinfo/");
}

int client_eventfd_of(int copy, int fd, uint64_t *id)
{
    char path[64], target[64];
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", copy);
    n = readlink(path, target, sizeof(target) - 1);
    target[n < 0 ? 0 : n] = 0;
    if (n > 0 && !strstr(target, "[eventfd]")) {
        close(copy);
        return is_own_look(target) ? -EBADF : -EINVAL;
    }
    *id = eventfd_id(copy);
    if (!*id)
        *id = ~(uint64_t)fd;
    return copy;
}

int client_dup_eventfd(const struct client *c, int fd, uint64_t *id)
{
    int copy = client_dup(c, fd);

    return copy < 0 ? copy : client_eventfd_of(copy, fd, id);
}
