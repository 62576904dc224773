/* Guest memory of a client elsewhere: which files its pages are in, and private memory turned into a file's.
 *
 * A shared mapping is opened through /proc/PID/map_files. Private memory is in no file: it is copied into a memfd, which
 * then takes its place in the client, while no thread of the client's runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "devfs/hand.h"

enum { PAGE = 4096, RUN_PAGES = 2048, MAPS_FIELDS = 7 };

struct vma {
    uintptr_t start, end; /* of the whole mapping */
    int prot;
    bool shared, file, special;
    uint64_t offset;
};

static bool parse(const char *line, struct vma *v)
{
    unsigned long start, end, inode;
    unsigned long long offset;
    unsigned major, minor;
    char perms[5];
    int name = 0;

    if (sscanf(line, "%lx-%lx %4s %llx %x:%x %lu %n", &start, &end, perms, &offset, &major, &minor, &inode, &name) !=
        MAPS_FIELDS)
        return false;
    *v = (struct vma){.start = start, .end = end, .offset = offset, .shared = perms[3] == 's', .file = inode != 0};
    v->prot = (perms[0] == 'r' ? PROT_READ : 0) | (perms[1] == 'w' ? PROT_WRITE : 0) | (perms[2] == 'x' ? PROT_EXEC : 0);
    v->special = !strncmp(line + name, "[v", 2); /* vdso, vvar, vsyscall */
    return true;
}

/* Calls each() for every mapping that overlaps the range, in order. */
static int each_vma(pid_t tgid, uintptr_t addr, size_t bytes, int (*each)(void *owner, const struct vma *v), void *owner)
{
    char path[64], *line = NULL;
    size_t room = 0;
    int err = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/maps", tgid);
    f = fopen(path, "re");
    if (!f)
        return -errno;
    while (!err && getline(&line, &room, f) > 0) {
        struct vma v;
        if (!parse(line, &v) || v.end <= addr)
            continue;
        if (v.start >= addr + bytes)
            break;
        err = each(owner, &v);
    }
    free(line);
    fclose(f);
    return err;
}

/* ---- private memory ------------------------------------------------------------------------------------------------ */

static bool is_private(const struct vma *v)
{
    return !v->shared && !v->special && v->prot;
}

static int find_private(void *owner, const struct vma *v)
{
    *(bool *)owner |= is_private(v);
    return 0;
}

static void read_run(pid_t tgid, uintptr_t from, uint8_t *to, size_t bytes)
{
    struct iovec local = {to, bytes}, remote = {(void *)from, bytes};

    if (process_vm_readv(tgid, &local, 1, &remote, 1, 0) == (ssize_t)bytes)
        return;
    for (size_t at = 0; at < bytes; at += PAGE) { /* what lies beyond the end of a file cannot be read */
        local = (struct iovec){to + at, PAGE};
        remote = (struct iovec){(void *)(from + at), PAGE};
        if (process_vm_readv(tgid, &local, 1, &remote, 1, 0) < 0)
            continue;
    }
}

/* Copies the pages that exist: present or swapped out, bits 63 and 62 of /proc/PID/pagemap. The others are zero. */
static int copy_pages(pid_t tgid, const struct vma *v, uintptr_t addr, size_t bytes, uint8_t *to)
{
    static uint64_t entry[RUN_PAGES];
    char path[64];
    int map;

    snprintf(path, sizeof(path), "/proc/%d/pagemap", tgid);
    map = open(path, O_RDONLY | O_CLOEXEC);
    if (map < 0)
        return -errno;
    for (size_t at = 0; at < bytes;) {
        size_t pages = (bytes - at) / PAGE < RUN_PAGES ? (bytes - at) / PAGE : RUN_PAGES;
        ssize_t got = pread(map, entry, pages * 8, (off_t)((addr + at) / PAGE * 8));
        if (got != (ssize_t)(pages * 8)) {
            close(map);
            return -EFAULT;
        }
        for (size_t i = 0; i < pages;) {
            size_t run = 0;
            while (i + run < pages && (v->file || entry[i + run] >> 62))
                run++;
            if (run)
                read_run(tgid, addr + at + i * PAGE, to + at + i * PAGE, run * PAGE);
            i += run ? run : 1;
        }
        at += pages * PAGE;
    }
    close(map);
    return 0;
}

static int convert(pid_t tgid, const struct vma *v, uintptr_t addr, size_t bytes, const struct adopt_ops *ops)
{
    int fd = memfd_create("kvmish-ram", MFD_CLOEXEC), err = 0;
    uint8_t *to;

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)bytes)) {
        err = -errno;
        close(fd);
        return err;
    }
    to = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (to == MAP_FAILED) {
        err = -ENOMEM;
    } else {
        err = copy_pages(tgid, v, addr, bytes, to);
        munmap(to, bytes);
    }
    if (!err)
        err = ops->replace(ops->owner, addr, bytes, v->prot, fd);
    close(fd);
    return err;
}

struct work {
    pid_t tgid;
    uintptr_t addr;
    size_t bytes;
    const struct adopt_ops *ops;
    struct vma *private; /* collected first: the list changes while we work on it */
    unsigned count;
};

static int collect(void *owner, const struct vma *v)
{
    struct work *w = owner;
    struct vma *more;

    if (!is_private(v))
        return 0;
    more = realloc(w->private, (w->count + 1) * sizeof(*more));
    if (!more)
        return -ENOMEM;
    w->private = more;
    more[w->count++] = *v;
    return 0;
}

/* The part of a mapping that lies in what is adopted. */
static void clip(const struct work *w, const struct vma *v, uintptr_t *from, uintptr_t *to)
{
    *from = v->start > w->addr ? v->start : w->addr;
    *to = v->end < w->addr + w->bytes ? v->end : w->addr + w->bytes;
}

static int convert_all(struct work *w)
{
    int err = w->ops->hold(w->ops->owner);

    if (!err)
        err = each_vma(w->tgid, w->addr, w->bytes, collect, w);
    for (unsigned i = 0; i < w->count && !err; i++) {
        uintptr_t from, to;
        clip(w, &w->private[i], &from, &to);
        err = convert(w->tgid, &w->private[i], from, to - from, w->ops);
    }
    w->ops->let_go(w->ops->owner);
    free(w->private);
    return err;
}

/* ---- shared memory ------------------------------------------------------------------------------------------------- */

static int open_shared(void *owner, const struct vma *v)
{
    struct work *w = owner;
    uintptr_t from, to;
    char path[96];
    int fd, err;

    if (!v->shared || !v->prot)
        return 0;
    clip(w, v, &from, &to);
    snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", w->tgid, v->start, v->end);
    fd = open(path, (v->prot & PROT_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -EFAULT : -errno;
    err = w->ops->area(w->ops->owner, from - w->addr, to - from, fd, v->offset + (from - v->start), v->prot);
    close(fd);
    return err;
}

int adopt(pid_t tgid, uintptr_t addr, size_t bytes, bool may_convert, const struct adopt_ops *ops)
{
    struct work w = {.tgid = tgid, .addr = addr, .bytes = bytes, .ops = ops};
    bool private = false;
    int err = each_vma(tgid, addr, bytes, find_private, &private);

    if (!err && private)
        err = may_convert ? convert_all(&w) : -EAGAIN;
    return err ? err : each_vma(tgid, addr, bytes, open_shared, &w);
}
