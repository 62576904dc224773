/* Calls with a path: /dev/kvm can be opened, and seems to be what the kernel's is. Other paths are none of our business.
 *
 * The path is looked at, and goes on to be looked at by the kernel: a client that changes it in between fools only itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "devfs/launch/door.h"

enum { KVM_MAJOR = 10, KVM_MINOR = 232, BLOCK = 4096, CHUNK = 256 };

/* With O_PATH, too, it is one that serves: of the other kind none can be put into a client. */
static void open_device(struct call *c, uint64_t flags)
{
    if (flags & O_DIRECTORY)
        call_answer(c, -ENOTDIR);
    else if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
        call_answer(c, -EEXIST);
    else
        call_answer(c, object_open(c, flags));
}

/* ---- character device 10:232, mode 0666, root's --------------------------------------------------------------------- */

static void put(struct call *c, const void *data, size_t bytes)
{
    call_answer(c, client_write(&c->client, (uintptr_t)c->arg[c->what->out], data, bytes));
}

struct stat64_i386 { /* <asm/stat.h> */
    uint64_t dev;
    uint8_t pad0[4];
    uint32_t ino_low, mode, nlink, uid, gid;
    uint64_t rdev;
    uint8_t pad3[4];
    int64_t size;
    uint32_t blksize;
    uint64_t blocks;
    uint32_t times[6];
    uint64_t ino;
} __attribute__((packed));

static void put_stat(struct call *c)
{
    struct stat st = {.st_mode = S_IFCHR | 0666, .st_nlink = 1, .st_ino = KVM_MINOR, .st_blksize = BLOCK,
                      .st_rdev = makedev(KVM_MAJOR, KVM_MINOR)};
    struct stat64_i386 st32 = {.mode = S_IFCHR | 0666, .nlink = 1, .ino_low = KVM_MINOR, .ino = KVM_MINOR, .blksize = BLOCK,
                               .rdev = makedev(KVM_MAJOR, KVM_MINOR)};

    if (c->client.compat)
        put(c, &st32, sizeof(st32));
    else
        put(c, &st, sizeof(st));
}

static void put_statx(struct call *c)
{
    struct statx st = {.stx_mask = STATX_BASIC_STATS, .stx_mode = S_IFCHR | 0666, .stx_nlink = 1, .stx_ino = KVM_MINOR,
                       .stx_rdev_major = KVM_MAJOR, .stx_rdev_minor = KVM_MINOR, .stx_blksize = BLOCK};

    put(c, &st, sizeof(st));
}

/* ---- is it the device's? ----------------------------------------------------------------------------------------------- */

struct path {
    char text[PATH_MAX];
    int dir;
    uint64_t flags; /* open's, or access's mode */
    bool follow;
    uint64_t resolve;
};

/* 0, or as client_read(); ENAMETOOLONG. */
static int read_text(const struct call *c, uintptr_t at, char *to)
{
    for (size_t n = 0; n < PATH_MAX;) {
        size_t bytes = KVM_PAGE - (at + n) % KVM_PAGE; /* it may end just before memory that is not there */
        int err;
        bytes = bytes < CHUNK ? bytes : CHUNK;
        bytes = bytes < PATH_MAX - n ? bytes : PATH_MAX - n;
        err = client_read(&c->client, to + n, at + n, bytes);
        if (err)
            return err;
        if (memchr(to + n, 0, bytes))
            return 0;
        n += bytes;
    }
    return -ENAMETOOLONG;
}

/* 0; what it cannot read is the kernel's to refuse. */
static int read_path(const struct call *c, struct path *p)
{
    const struct watched *w = c->what;
    struct open_how how;

    p->dir = w->path ? (int)c->arg[w->path - 1] : AT_FDCWD;
    p->flags = w->flags < 0 ? O_WRONLY : c->arg[w->flags];
    p->follow = w->at < 0 || (w->at != LINK_ITSELF && !(c->arg[w->at] & AT_SYMLINK_NOFOLLOW));
    p->resolve = 0;
    if (w->kind == WATCH_OPEN_HOW) {
        if (c->arg[3] < sizeof(how) || client_read(&c->client, &how, (uintptr_t)c->arg[w->out], sizeof(how)))
            return -EPERM;
        p->flags = how.flags;
        p->resolve = how.resolve;
    }
    if (w->kind == WATCH_OPEN || w->kind == WATCH_OPEN_HOW)
        p->follow = !(p->flags & O_NOFOLLOW);
    return read_text(c, (uintptr_t)c->arg[w->path], p->text);
}

/* Links by any name are followed for who asks without opening, or opens for reading and writing, as whoever wants a machine does. */
static bool may_be_link(const struct call *c, const struct path *p)
{
    bool opens = c->what->kind == WATCH_OPEN || c->what->kind == WATCH_OPEN_HOW;

    return p->follow && (!opens || (p->flags & O_ACCMODE) == O_RDWR) && path_is_link(c, p->dir, p->text);
}

static bool is_device(struct call *c, const struct path *p)
{
    const char *slash = strrchr(p->text, '/');
    bool is;

    if (!strcmp(p->text, "/dev/kvm") && !(p->resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT)))
        return true;
    readers_busy(&c->d->readers); /* its file system may be a process that waits for us */
    is = (!strcmp(slash ? slash + 1 : p->text, "kvm") || may_be_link(c, p)) &&
         path_leads_there(c, p->dir, p->text, p->follow, p->resolve);
    readers_idle(&c->d->readers);
    return is;
}

void path_serve(struct call *c)
{
    struct path p;
    int err;

    c->client.pid = c->tid;
    err = read_path(c, &p);
    if (err == -EFAULT && c->what->kind != WATCH_READLINK) { /* the kernel must not find the host's device where we could read nothing */
        call_answer(c, err);
        return;
    }
    if (err || !is_device(c, &p)) { /* EPERM: nobody may look into it, a program with its file's rights for one */
        call_continue(c);
        return;
    }
    switch (c->what->kind) {
    case WATCH_OPEN:
    case WATCH_OPEN_HOW: open_device(c, p.flags); break;
    case WATCH_ACCESS: call_answer(c, p.flags & X_OK ? -EACCES : 0); break;
    case WATCH_READLINK: call_answer(c, -EINVAL); break;
    case WATCH_STAT: put_stat(c); break;
    default: put_statx(c); break;
    }
}
