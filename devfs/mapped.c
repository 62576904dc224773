/* The file of a shared mapping of another process: as the kernel shows it to those who may ask, or by a descriptor or a name that
 * the process has of it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "devfs/adopt.h"

static int mode(const struct mapped *m)
{
    return (m->write ? O_RDWR : O_RDONLY) | O_CLOEXEC;
}

static bool is_it(const struct mapped *m, const struct stat *st)
{
    return st->st_dev == m->dev && st->st_ino == m->ino;
}

/* As /proc/PID/maps has it, which on some file systems (overlayfs, btrfs) is not what stat says. */
static bool is_it_mapped(const struct mapped *m, int fd)
{
    void *at = mmap(NULL, 1, PROT_NONE, MAP_SHARED, fd, 0);
    unsigned long start, end = 0, ino;
    bool found = false, same = false;
    unsigned major, minor;
    char line[512];
    FILE *f;

    if (at == MAP_FAILED)
        return false;
    f = fopen("/proc/self/maps", "re");
    while (f && !found && fgets(line, sizeof(line), f)) {
        found = sscanf(line, "%lx-%lx %*s %*x %x:%x %lu", &start, &end, &major, &minor, &ino) == 5 && start == (uintptr_t)at;
        same = found && makedev(major, minor) == m->dev && ino == m->ino;
    }
    if (f)
        fclose(f);
    munmap(at, found ? end - start : 1);
    return same;
}

/* Since we have looked another file may have taken its place, or its name or number: one that the process may not write to. */
static int still(const struct mapped *m, int fd)
{
    struct stat st;

    if (fd < 0 || (!fstat(fd, &st) && is_it(m, &st)) || is_it_mapped(m, fd))
        return fd;
    close(fd);
    return -EFAULT;
}

/* /proc/PID/map_files needs CAP_CHECKPOINT_RESTORE. */
static int by_range(pid_t tid, const struct mapped *m)
{
    char path[96];
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", tid, m->start, m->end);
    fd = open(path, mode(m));
    return fd < 0 ? -errno : fd;
}

static int by_descriptor(pid_t tid, const struct mapped *m)
{
    char path[64];
    struct dirent *e;
    struct stat st;
    int fd = -ENXIO;
    DIR *d;

    snprintf(path, sizeof(path), "/proc/%d/fd", tid);
    d = opendir(path);
    if (!d)
        return -errno;
    while (fd < 0 && (e = readdir(d)))
        if (*e->d_name != '.' && !fstatat(dirfd(d), e->d_name, &st, 0) && is_it(m, &st))
            fd = openat(dirfd(d), e->d_name, mode(m));
    closedir(d);
    return fd;
}

static int by_name(pid_t tid, const struct mapped *m)
{
    char path[4200];
    struct stat st;
    int fd;

    if (*m->name != '/' || (size_t)snprintf(path, sizeof(path), "/proc/%d/root%s", tid, m->name) >= sizeof(path))
        return -ENXIO;
    if (stat(path, &st) || !is_it(m, &st))
        return -ENXIO; /* deleted, or there is another file of that name by now */
    fd = open(path, mode(m));
    return fd < 0 ? -errno : fd;
}

int mapped_open(pid_t tid, const struct mapped *m)
{
    int fd = by_range(tid, m);

    if (fd == -EPERM || fd == -EACCES)
        fd = by_descriptor(tid, m);
    if (fd == -ENXIO)
        fd = by_name(tid, m);
    return fd == -ENOENT ? -EFAULT : still(m, fd);
}
