/* Is a path the device's? Mostly it is spelled /dev/kvm. Others lead there: from another directory, by way of links.
 *
 * What is called kvm is looked at closely: where it is, the kernel says of its directory alone, so that the host need not have a device,
 * and has nobody open it. A link to it by another name is looked for only where that is cheap beside the call itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kvm/door.h"
#include "shim/shim.h"

enum { LINKS_MAX = 40 /* the kernel's */, PAGE = 4096 };

static const char device[] = "/dev/kvm", name[] = "kvm";

/* ---- text that may not be there -------------------------------------------------------------------------------------- */

/* Before it refuses such a `how` the kernel reads the set, eight bytes, without a lock: process_vm_readv takes that of the address space,
 * and threads that open files would wait for one another. */
static bool is_readable(uintptr_t at)
{
    uintptr_t set = at & ~(uintptr_t)7;

    return set && (!syscall(SYS_rt_sigprocmask, -1, set, NULL, 8) || errno != EFAULT); /* NULL is no set to it */
}

/* Its bytes without the 0, as open(2) reads them; -1: it ends where nothing can be read, or is too long. The kernel refuses it. */
static ssize_t length(const char *path)
{
    ssize_t n = 0;

    while (n < PATH_MAX) {
        size_t left = PAGE - (uintptr_t)(path + n) % PAGE, found;
        if (!is_readable((uintptr_t)(path + n)))
            return -1;
        found = strnlen(path + n, left);
        n += (ssize_t)found;
        if (found < left)
            return n < PATH_MAX ? n : -1;
    }
    return -1;
}

/* ---- where it leads ---------------------------------------------------------------------------------------------------- */

static int open_directory(int dir, const char *path)
{
    return (int)syscall(SYS_openat, dir, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static bool is_directory(int fd, const char *path)
{
    struct stat here, there;

    return !fstat(fd, &here) && !syscall(SYS_newfstatat, AT_FDCWD, path, &there, 0) && here.st_dev == there.st_dev &&
           here.st_ino == there.st_ino;
}

/* A link in /proc to a descriptor of ours, which the kernel cannot open again. */
static bool is_own_descriptor(int parent, const char *last)
{
    struct statfs fs;

    return !fstatfs(parent, &fs) && fs.f_type == PROC_SUPER_MAGIC && kvmish_is_system(atoi(last)) &&
           (is_directory(parent, "/proc/self/fd") || is_directory(parent, "/proc/thread-self/fd"));
}

struct walk {
    int dir; /* what `path` begins at */
    char path[PATH_MAX];
};

static void go_to(struct walk *w, int dir, int from)
{
    if (w->dir != from)
        syscall(SYS_close, w->dir);
    w->dir = dir;
}

/* The last name of w->path, which loses it: what is left is the directory. False: no file has such a long one. */
static bool cut(struct walk *w, char last[NAME_MAX + 1])
{
    char *slash = strrchr(w->path, '/'), *from = slash ? slash + 1 : w->path;
    size_t bytes = strlen(from);

    if (bytes > NAME_MAX)
        return false;
    memcpy(last, from, bytes + 1);
    memcpy(from, slash ? "" : ".", slash ? 1 : 2);
    return true;
}

/* One step: 1 or 0 when it is known, -1: it is a link, and w goes on from there. */
static int step(struct walk *w, int from, bool follow)
{
    char last[NAME_MAX + 1], first = *w->path;
    ssize_t n;
    int dir;

    if (!cut(w, last))
        return 0;
    dir = open_directory(first == '/' ? AT_FDCWD : w->dir, w->path);
    if (dir < 0)
        return 0;
    go_to(w, dir, from);
    if (!strcmp(last, name) && is_directory(dir, "/dev"))
        return 1;
    n = follow ? syscall(SYS_readlinkat, dir, last, w->path, sizeof(w->path)) : -1;
    if (n <= 0 || n == sizeof(w->path))
        return 0;
    if (is_own_descriptor(dir, last))
        return 1;
    w->path[n] = 0;
    return -1;
}

/* Its path has memory of its own: a signal handler or a thread that asks of another file may have little stack. */
static bool leads_there(int dir, const char *path, size_t bytes, bool follow)
{
    int before = errno, known = -1;
    struct walk *w = (void *)syscall(SYS_mmap, NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (w != MAP_FAILED) {
        w->dir = dir;
        memcpy(w->path, path, bytes + 1);
        for (unsigned n = 0; n < LINKS_MAX && known < 0; n++)
            known = step(w, dir, follow);
        go_to(w, dir, dir);
        syscall(SYS_munmap, w, sizeof(*w));
    }
    errno = before;
    return known == 1;
}

/* ---- what is asked ------------------------------------------------------------------------------------------------------- */

bool path_is_device(int dir, const char *path, bool follow)
{
    int before = errno;
    ssize_t n = length(path);

    errno = before;
    if (n < (ssize_t)sizeof(name) - 1 || memcmp(path + n - (sizeof(name) - 1), name, sizeof(name)))
        return false;
    if (n == (ssize_t)sizeof(device) - 1 && !memcmp(path, device, sizeof(device)))
        return true;
    if (n > (ssize_t)sizeof(name) - 1 && path[n - (ssize_t)sizeof(name)] != '/')
        return false;
    return leads_there(dir, path, (size_t)n, follow);
}

bool path_is_empty(const char *path)
{
    int before = errno;
    bool is = !path || !length(path);

    errno = before;
    return is;
}

bool link_is_device(int dir, const char *path)
{
    int before = errno;
    char byte;
    ssize_t n = syscall(SYS_readlinkat, dir, path, &byte, 1) == 1 ? length(path) : -1;

    errno = before;
    return n > 0 && leads_there(dir, path, (size_t)n, true);
}
