/* The preload door: a program started with this library finds our /dev/kvm where it looks for the kernel's.
 *
 * Only what names /dev/kvm or one of our descriptors is touched; everything else goes on to the C library. Signal handlers are
 * wrapped (signals.c), since KVM_RUN must come back when one runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "kvm/door.h"
#include "shim/shim.h"

static pid_t self;

static void forked(void)
{
    self = getpid();
    kvmish_forked();
}

__attribute__((constructor)) static void start(void)
{
    self = getpid();
    pthread_atfork(NULL, NULL, forked);
}

/* A child of vfork() has our memory but a table of descriptors of its own: what it closes there is still open here. */
static bool is_vfork_child(void)
{
    return getpid() != self;
}

/* ---- open --------------------------------------------------------------------------------------------------- */

int open_device(int flags)
{
    int fd;

    take_faults();
    fd = flags & O_DIRECTORY ? -ENOTDIR : (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL) ? -EEXIST : kvmish_open();
    if (fd >= 0 && !(flags & O_CLOEXEC))
        syscall(SYS_fcntl, fd, F_SETFD, 0);
    return finish(fd);
}

/* Whoever wants a machine opens for reading and writing; only for them it is asked whether a link leads to the device. */
static int open_at(int dir, const char *path, int flags, mode_t mode)
{
    bool follow = !(flags & O_NOFOLLOW);
    int fd;

    if (path_is_device(dir, path, follow) || (follow && (flags & O_ACCMODE) == O_RDWR && link_is_device(dir, path)))
        return open_device(flags);
    fd = (int)syscall(SYS_openat, dir, path, flags, mode);
    return fd < 0 && errno == ENXIO && link_is_device(dir, path) ? open_device(flags) : fd; /* ENXIO: /proc/self/fd/N is ours */
}

/* The mode argument is there only with O_CREAT or O_TMPFILE. */
#define MODE(last)                                                                                      \
    mode_t mode = 0;                                                                                    \
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {                                          \
        va_list ap;                                                                                     \
        va_start(ap, last);                                                                             \
        mode = va_arg(ap, mode_t);                                                                      \
        va_end(ap);                                                                                     \
    }

EXPORT int open(const char *path, int flags, ...)
{
    MODE(flags)
    return open_at(AT_FDCWD, path, flags, mode);
}
EXPORT int open64(const char *path, int flags, ...)
{
    MODE(flags)
    return open_at(AT_FDCWD, path, flags, mode);
}
EXPORT int creat(const char *path, mode_t mode)
{
    return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
EXPORT int creat64(const char *path, mode_t mode)
{
    return creat(path, mode);
}
EXPORT int openat(int dir, const char *path, int flags, ...)
{
    MODE(flags)
    return open_at(dir, path, flags, mode);
}
EXPORT int openat64(int dir, const char *path, int flags, ...)
{
    MODE(flags)
    return open_at(dir, path, flags, mode);
}

/* What _FORTIFY_SOURCE makes of open() with two arguments. */
EXPORT int __open_2(const char *path, int flags)
{
    return open_at(AT_FDCWD, path, flags, 0);
}
EXPORT int __open64_2(const char *path, int flags)
{
    return open_at(AT_FDCWD, path, flags, 0);
}
EXPORT int __openat_2(int dir, const char *path, int flags)
{
    return open_at(dir, path, flags, 0);
}
EXPORT int __openat64_2(int dir, const char *path, int flags)
{
    return open_at(dir, path, flags, 0);
}

/* ---- descriptors ----------------------------------------------------------------------------------------------- */

/* Which the kernel answers for any file: Python's os.set_inheritable() is one. */
static bool is_of_any_file(unsigned long req)
{
    return req == FIOCLEX || req == FIONCLEX || req == FIONBIO || req == FIOASYNC;
}

EXPORT int ioctl(int fd, unsigned long req, ...)
{
    uintptr_t arg;
    va_list ap;

    va_start(ap, req);
    arg = va_arg(ap, uintptr_t);
    va_end(ap);
    if (is_of_any_file(req))
        return (int)syscall(SYS_ioctl, fd, req, arg);
    if (_IOC_TYPE(req) == KVMIO ? kvmish_owns(fd) || kvmish_recognise(fd) : kvmish_still_owns(fd))
        return finish(ioctl_of_client(fd, req, arg));
    return (int)syscall(SYS_ioctl, fd, req, arg);
}

EXPORT int close(int fd)
{
    if (kvmish_owns(fd) && !is_vfork_child())
        return finish(kvmish_close(fd));
    return (int)syscall(SYS_close, fd);
}

void closes(int fd)
{
    if (!is_vfork_child())
        kvmish_forget(fd);
}

static void copied(int fd, int copy)
{
    if (!(kvmish_owns(fd) || kvmish_owns(copy)) || is_vfork_child())
        return;
    if (kvmish_still_owns(fd))
        kvmish_dup(fd, copy);
    else
        kvmish_forget(copy);
}

EXPORT int dup(int fd)
{
    int copy = (int)syscall(SYS_dup, fd);

    if (copy >= 0)
        copied(fd, copy);
    return copy;
}

static int dup_to(int fd, int to, int flags, bool third)
{
    int copy = (int)(third ? syscall(SYS_dup3, fd, to, flags) : syscall(SYS_dup2, fd, to));

    if (copy >= 0 && fd != to)
        copied(fd, copy);
    return copy;
}

EXPORT int dup2(int fd, int to)
{
    return dup_to(fd, to, 0, false);
}
EXPORT int dup3(int fd, int to, int flags)
{
    return dup_to(fd, to, flags, true);
}

static int fcntl_common(int fd, int cmd, uintptr_t arg)
{
    int ret = (int)syscall(SYS_fcntl, fd, cmd, arg);

    if (ret >= 0 && (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC))
        copied(fd, ret);
    return ret;
}

EXPORT int fcntl(int fd, int cmd, ...)
{
    uintptr_t arg;
    va_list ap;

    va_start(ap, cmd);
    arg = va_arg(ap, uintptr_t);
    va_end(ap);
    return fcntl_common(fd, cmd, arg);
}
EXPORT int fcntl64(int fd, int cmd, ...)
{
    uintptr_t arg;
    va_list ap;

    va_start(ap, cmd);
    arg = va_arg(ap, uintptr_t);
    va_end(ap);
    return fcntl_common(fd, cmd, arg);
}

/* There is nothing to wait for. */
EXPORT int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    if (kvmish_still_owns(fd))
        return finish(-EPERM);
    if (kvmish_still_owns(epfd))
        return finish(-EINVAL);
    return (int)syscall(SYS_epoll_ctl, epfd, op, fd, event);
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
    int ret = (int)syscall(SYS_close_range, first, last, flags);

    if (ret || flags & (int)CLOSE_RANGE_CLOEXEC || is_vfork_child())
        return ret;
    for (unsigned fd = first; fd <= last && fd < FD_LIMIT; fd++)
        kvmish_forget((int)fd);
    return 0;
}

EXPORT void closefrom(int first)
{
    close_range(first < 0 ? 0 : (unsigned)first, ~0u, 0);
}

/* ---- memory that a machine has ------------------------------------------------------------------------------------- */

static bool changing(void *addr, size_t size)
{
    const struct iovec place = {addr, size};

    return kvmish_changing(&place, 1);
}

static void changed(void)
{
    int saved = errno;

    kvmish_changed();
    errno = saved;
}

EXPORT int munmap(void *addr, size_t size)
{
    bool held = changing(addr, size);
    int ret = (int)syscall(SYS_munmap, addr, size);

    if (held)
        changed();
    return ret;
}

EXPORT int mprotect(void *addr, size_t size, int prot)
{
    bool held = changing(addr, size);
    int ret = (int)syscall(SYS_mprotect, addr, size, prot);

    if (held)
        changed();
    return ret;
}

EXPORT void *mremap(void *addr, size_t size, size_t new_size, int flags, ...)
{
    struct iovec place[2] = {{addr, size}, {NULL, 0}};
    void *to = NULL, *at;
    va_list ap;
    bool held;

    va_start(ap, flags);
    if (flags & MREMAP_FIXED)
        place[1] = (struct iovec){to = va_arg(ap, void *), new_size};
    va_end(ap);
    held = kvmish_changing(place, 2);
    at = (void *)syscall(SYS_mremap, addr, size, new_size, flags, to);
    if (held)
        changed();
    return at;
}

/* ---- mmap: the coalesced ring in a vCPU's mapping is the VM's ------------------------------------------------------ */

EXPORT void *mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset)
{
    bool ours = !(flags & MAP_ANONYMOUS) && kvmish_still_owns(fd), held;
    void *at;

    if (ours && prot & PROT_EXEC) {
        errno = EPERM;
        return MAP_FAILED;
    }
    held = flags & MAP_FIXED && changing(addr, size);
    at = (void *)syscall(SYS_mmap, addr, size, prot, flags, fd, offset);
    if (held)
        changed();
    if (ours && at != MAP_FAILED)
        kvmish_mapped(fd, at, size, offset);
    return at;
}
EXPORT void *mmap64(void *addr, size_t size, int prot, int flags, int fd, off64_t offset)
{
    return mmap(addr, size, prot, flags, fd, offset);
}
