/* Guest memory of a client elsewhere: which files its pages are in, and private memory turned into a file's.
 *
 * A shared mapping has a file, which is opened (mapped.c). Private memory is in no file: it is copied into a memfd, which then takes its
 * place in the client, while no thread of the client's runs. So is shared memory whose file nobody can open. Of the kernel's own code in
 * the client, [vdso], which can be neither, there is a copy: it never changes. [vvar] does, and is left out.
 */
#include "devfs/adopt.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGE = 4096, RUN_PAGES = 2048, MAPS_FIELDS = 7 };

struct vma {
    struct mapped m; /* the whole mapping */
    int prot;
    bool shared, special, vdso;
    uint64_t offset;
};

/* v->m.name is inside line. */
static bool parse(char *line, struct vma *v)
{
    unsigned long start, end, inode;
    unsigned long long offset;
    unsigned major, minor;
    char perms[5];
    int name = 0;

    if (sscanf(line, "%lx-%lx %4s %llx %x:%x %lu %n", &start, &end, perms, &offset, &major, &minor, &inode, &name) !=
        MAPS_FIELDS)
        return false;
    *v = (struct vma){.m = {start, end, makedev(major, minor), inode, perms[1] == 'w', line + name}, .offset = offset,
                      .shared = perms[3] == 's'};
    v->prot = (perms[0] == 'r' ? PROT_READ : 0) | (perms[1] == 'w' ? PROT_WRITE : 0) | (perms[2] == 'x' ? PROT_EXEC : 0);
    v->special = !strncmp(line + name, "[v", 2); /* vdso, vvar, vsyscall */
    v->vdso = !strcmp(line + name, "[vdso]");
    return true;
}

static bool overlaps(const struct vma *v, const struct range *r)
{
    return v->m.end > r->addr && (!r->only || (r->only >= v->m.start && r->only < v->m.end));
}

/* Calls each() for every mapping that overlaps the range, in order. */
static int each_vma(pid_t tid, const struct range *r, int (*each)(void *owner, const struct vma *v), void *owner)
{
    char path[64], *line = NULL;
    size_t room = 0;
    int err = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/maps", tid);
    f = fopen(path, "re");
    if (!f)
        return -errno;
    while (!err && getline(&line, &room, f) > 0) {
        struct vma v;
        line[strcspn(line, "\n")] = 0;
        if (!parse(line, &v) || !overlaps(&v, r))
            continue;
        if (v.m.start >= r->addr + r->bytes)
            break;
        err = each(owner, &v);
    }
    free(line);
    fclose(f);
    return err;
}

struct work {
    pid_t tid;
    struct range what;
    int file;
    const struct adopt_ops *ops;
    struct vma *moves; /* collected first: the list changes while we work on it */
    unsigned count;
};

/* The part of a mapping that lies in what is adopted; where it is in `file` when it is moved there. */
static struct area part_of(const struct work *w, const struct vma *v)
{
    const struct range *r = &w->what;
    uintptr_t from = v->m.start > r->addr ? v->m.start : r->addr;
    uintptr_t to = v->m.end < r->addr + r->bytes ? v->m.end : r->addr + r->bytes;

    return (struct area){.at = from - r->addr, .bytes = to - from, .offset = from - r->addr, .prot = v->prot};
}

/* The file of a shared mapping; -ENXIO: there is no way to it. */
static int open_file(const struct work *w, const struct vma *v)
{
    struct stat st;
    int fd = -ENOENT;

    if (w->file >= 0 && !fstat(w->file, &st) && st.st_dev == v->m.dev && st.st_ino == v->m.ino)
        fd = fcntl(w->file, F_DUPFD_CLOEXEC, 0);
    else if (w->ops->known)
        fd = w->ops->known(w->ops->owner, v->m.dev, v->m.ino);
    return fd == -ENOENT ? mapped_open(w->tid, &v->m) : fd;
}

/* Is it in no file that we can share? */
static bool must_move(const struct work *w, const struct vma *v)
{
    int fd;

    if (v->special || !v->prot)
        return false;
    if (!v->shared)
        return true;
    fd = open_file(w, v);
    if (fd >= 0)
        close(fd);
    return fd == -ENXIO;
}

/* ---- memory that is moved ------------------------------------------------------------------------------------------- */

/* exists: of each page, as /proc/PID/pagemap has it, or NULL. What lies beyond the end of a file cannot be read by any means, what may
 * only be written or executed can in this way. -EFAULT: a page that is there cannot. */
static int read_pages(pid_t tid, uintptr_t from, uint8_t *to, size_t bytes, const uint64_t *exists)
{
    char path[64];
    int mem, err = 0;

    snprintf(path, sizeof(path), "/proc/%d/mem", tid);
    mem = open(path, O_RDONLY | O_CLOEXEC);
    if (mem < 0)
        return -errno;
    for (size_t at = 0; at < bytes && !err; at += PAGE)
        if (pread(mem, to + at, PAGE, (off_t)(from + at)) != PAGE && exists && exists[at / PAGE] >> 63)
            err = -EFAULT;
    close(mem);
    return err;
}

static int read_run(pid_t tid, uintptr_t from, uint8_t *to, size_t bytes, const uint64_t *exists)
{
    struct iovec local = {to, bytes}, remote = {(void *)from, bytes};

    if (process_vm_readv(tid, &local, 1, &remote, 1, 0) == (ssize_t)bytes)
        return 0;
    return read_pages(tid, from, to, bytes, exists);
}

/* Copies the pages that exist: present or swapped out, bits 63 and 62 of /proc/PID/pagemap. The others are zero. */
static int copy_pages(pid_t tid, const struct vma *v, uintptr_t addr, size_t bytes, uint8_t *to)
{
    static uint64_t entry[RUN_PAGES];
    char path[64];
    int map, err = 0;

    snprintf(path, sizeof(path), "/proc/%d/pagemap", tid);
    map = open(path, O_RDONLY | O_CLOEXEC);
    if (map < 0)
        return -errno;
    for (size_t at = 0; at < bytes && !err;) {
        size_t pages = (bytes - at) / PAGE < RUN_PAGES ? (bytes - at) / PAGE : RUN_PAGES;
        ssize_t got = pread(map, entry, pages * 8, (off_t)((addr + at) / PAGE * 8));
        if (got != (ssize_t)(pages * 8))
            err = -EFAULT;
        for (size_t i = 0; i < pages && !err;) {
            size_t run = 0;
            while (i + run < pages && (v->m.ino || entry[i + run] >> 62))
                run++;
            if (run)
                err = read_run(tid, addr + at + i * PAGE, to + at + i * PAGE, run * PAGE, entry + i);
            i += run ? run : 1;
        }
        at += pages * PAGE;
    }
    close(map);
    return err;
}

static int move(const struct work *w, const struct vma *v)
{
    struct area a = part_of(w, v);
    uint8_t *to = mmap(NULL, a.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, w->file, (off_t)a.offset);
    int err;

    if (to == MAP_FAILED)
        return -ENOMEM;
    err = copy_pages(w->tid, v, w->what.addr + a.at, a.bytes, to);
    munmap(to, a.bytes);
    return err ? err : w->ops->replace(w->ops->owner, w->what.addr + a.at, &a);
}

static int collect(void *owner, const struct vma *v)
{
    struct work *w = owner;
    struct vma *more;

    if (!must_move(w, v))
        return 0;
    if (w->file < 0)
        return -EAGAIN;
    more = realloc(w->moves, (w->count + 1) * sizeof(*more));
    if (!more)
        return -ENOMEM;
    w->moves = more;
    more[w->count] = *v;
    more[w->count++].m.name = NULL;
    return 0;
}

static int move_all(struct work *w)
{
    int err = w->ops->hold(w->ops->owner);

    if (!err)
        err = each_vma(w->tid, &w->what, collect, w);
    for (unsigned i = 0; i < w->count && !err; i++)
        err = move(w, &w->moves[i]);
    w->ops->let_go(w->ops->owner);
    free(w->moves);
    return err;
}

/* ---- memory that is shared, or copied --------------------------------------------------------------------------- */

static int copy_code(const struct work *w, const struct vma *v)
{
    struct area a = part_of(w, v);
    uint8_t *to = MAP_FAILED;
    int fd = memfd_create("kvmish-vdso", MFD_CLOEXEC), err = -ENOMEM;

    a.offset = 0;
    if (fd < 0)
        return -errno;
    if (!ftruncate(fd, (off_t)a.bytes))
        to = mmap(NULL, a.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (to != MAP_FAILED) {
        read_run(w->tid, w->what.addr + a.at, to, a.bytes, NULL);
        munmap(to, a.bytes);
        err = w->ops->area(w->ops->owner, &a, fd);
    }
    close(fd);
    return err;
}

static int share(void *owner, const struct vma *v)
{
    struct work *w = owner;
    struct area a = part_of(w, v);
    int fd, err;

    if (v->vdso)
        return copy_code(w, v);
    if (!v->shared || !v->prot)
        return 0;
    fd = open_file(w, v);
    if (fd < 0)
        return fd;
    a.offset = v->offset + (w->what.addr + a.at - v->m.start);
    err = w->ops->area(w->ops->owner, &a, fd);
    close(fd);
    return err;
}

int adopt(pid_t tid, const struct range *what, int file, const struct adopt_ops *ops)
{
    struct work w = {.tid = tid, .what = *what, .file = file, .ops = ops};
    int err = file < 0 ? each_vma(tid, what, collect, &w) : move_all(&w);

    return err ? err : each_vma(tid, what, share, &w);
}
