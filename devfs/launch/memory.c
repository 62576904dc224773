/* Guest memory of a client comes into this process: shared memory by its file, other memory by moving it into a file first.
 *
 * To move it, the client's threads are stopped, and the one that asks runs an mmap of ours: stop.c. Files that memory was moved to
 * are kept while the client has them mapped: they have no name by which they could be opened again, and the next slot there will
 * ask for them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "devfs/adopt.h"
#include "devfs/launch/door.h"
#include "devfs/mapping.h"
#include "devfs/proc.h"

/* ---- files that memory was moved to ------------------------------------------------------------------------------------ */

static int ram_known(struct door *d, uint64_t dev, uint64_t ino)
{
    int fd = -ENOENT;

    pthread_mutex_lock(&d->ram_lock);
    for (unsigned i = 0; i < d->rams && fd < 0; i++)
        if (d->ram[i].dev == dev && d->ram[i].ino == ino)
            fd = fcntl(d->ram[i].fd, F_DUPFD_CLOEXEC, 0);
    pthread_mutex_unlock(&d->ram_lock);
    return fd;
}

/* Those of one process that it has mapped are wanted. */
static void note_wanted(struct door *d, pid_t tgid)
{
    char path[64], line[512];
    FILE *f;

    for (unsigned i = 0; i < d->rams; i++)
        if (d->ram[i].tgid == tgid)
            d->ram[i].state = RAM_UNWANTED;
    snprintf(path, sizeof(path), "/proc/%d/maps", proc_living(tgid));
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f)) {
        unsigned major, minor;
        unsigned long ino;
        if (sscanf(line, "%*x-%*x %*s %*x %x:%x %lu", &major, &minor, &ino) != 3 || !ino)
            continue;
        for (unsigned i = 0; i < d->rams; i++)
            if (d->ram[i].tgid == tgid && d->ram[i].ino == ino && d->ram[i].dev == makedev(major, minor))
                d->ram[i].state = RAM_WANTED;
    }
    if (f)
        fclose(f);
}

/* With ram_lock. */
static void sweep(struct door *d)
{
    for (unsigned i = 0; i < d->rams; i++)
        d->ram[i].state = RAM_UNKNOWN;
    for (unsigned i = 0; i < d->rams; i++)
        if (d->ram[i].state == RAM_UNKNOWN)
            note_wanted(d, d->ram[i].tgid);
    for (unsigned i = 0; i < d->rams; i++) {
        if (d->ram[i].state == RAM_WANTED)
            continue;
        close(d->ram[i].fd);
        d->ram[i--] = d->ram[--d->rams];
    }
    d->sweep_at = 2 * d->rams + RAMS_FEW;
}

void memory_sweep(struct door *d)
{
    pthread_mutex_lock(&d->ram_lock);
    sweep(d);
    pthread_mutex_unlock(&d->ram_lock);
}

/* Takes over fd. When there is no room it is not kept, and its memory may be moved once more. What a client has no longer is kept for a
 * while: to look for it takes time. */
static void ram_keep(struct door *d, int fd, pid_t tgid)
{
    struct stat st;

    pthread_mutex_lock(&d->ram_lock);
    if (d->rams >= d->sweep_at)
        sweep(d);
    if (d->rams < RAMS_MAX && !fstat(fd, &st))
        d->ram[d->rams++] = (struct ram){.dev = st.st_dev, .ino = st.st_ino, .fd = fd, .tgid = tgid};
    else
        close(fd);
    pthread_mutex_unlock(&d->ram_lock);
}

/* ---- adopt_ops ------------------------------------------------------------------------------------------------------------- */

struct adoption {
    struct call *c;
    uint8_t *host;
    size_t writable; /* bytes */
    struct hold hold;
};

static int area(void *owner, const struct area *part, int fd)
{
    struct adoption *a = owner;

    a->writable += part->prot & PROT_WRITE ? part->bytes : 0;
    return mapping_fill(a->host, part, fd);
}

static int known(void *owner, uint64_t dev, uint64_t ino)
{
    return ram_known(((struct adoption *)owner)->c->d, dev, ino);
}

/* A thread whose call we have taken up runs nothing before its answer. */
static bool is_parked(void *owner, pid_t tid)
{
    struct door *d = ((struct adoption *)owner)->c->d;
    const struct call *c;

    pthread_mutex_lock(&d->lock);
    for (c = d->calls; c && c->tid != tid; c = c->next)
        ;
    pthread_mutex_unlock(&d->lock);
    return c;
}

static int hold(void *owner)
{
    struct adoption *a = owner;

    a->hold = (struct hold){.tgid = a->c->client.pid, .except = a->c->tid, .parked = is_parked, .owner = a};
    return hold_start(&a->hold);
}

static void let_go(void *owner)
{
    hold_end(&((struct adoption *)owner)->hold);
}

static int replace(void *owner, uintptr_t addr, const struct area *part)
{
    struct adoption *a = owner;
    long r = trace_map(&a->c->t, addr, part->bytes, part->prot, a->c->gift[0], part->offset);

    return r < 0 ? (int)r : 0;
}

/* ---- moving ------------------------------------------------------------------------------------------------------------------ */

static int move_and_map(struct adoption *a, const struct range *what, int file)
{
    const struct adopt_ops ops = {a, area, known, hold, let_go, replace};
    struct call *c = a->c;
    int err;

    err = ftruncate(file, (off_t)what->bytes) ? -errno : client_stop(c, &file, 1);
    if (err)
        return err;
    pthread_rwlock_wrlock(&c->d->answers);
    err = adopt(c->tid, what, file, &ops);
    pthread_rwlock_unlock(&c->d->answers);
    return err;
}

static int map_into(struct adoption *a, const struct range *what)
{
    const struct adopt_ops ops = {a, area, known, NULL, NULL, NULL};
    int err = adopt(a->c->tid, what, -1, &ops), file;

    if (err != -EAGAIN)
        return err;
    file = memfd_create("kvmish-ram", MFD_CLOEXEC);
    if (file < 0)
        return -errno;
    err = move_and_map(a, what, file);
    ram_keep(a->c->d, file, a->c->client.pid);
    return err;
}

int memory_map(const struct client *client, uintptr_t addr, size_t bytes, uint8_t **host)
{
    struct adoption a = {.c = (struct call *)client};
    int err = mapping_reserve(addr, bytes, &a.host);

    if (!err) {
        err = map_into(&a, &(struct range){addr, bytes, 0});
        if (err)
            mapping_free(a.host, bytes);
    }
    *host = a.host;
    return err ? err : a.writable < bytes;
}

int memory_renew(const struct client *client, uintptr_t addr, size_t bytes, uint8_t *host, uintptr_t at)
{
    struct adoption a = {.c = (struct call *)client, .host = host};
    int err = map_into(&a, &(struct range){addr, bytes, at});

    if (err == -EBUSY && !a.c->stopped) /* its own thread was not caught: there is nothing to begin anew */
        return -EFAULT;
    return err ? err : a.c->stopped;
}
