/* Calls with a path: /dev/kvm can be opened, and seems to be what the kernel's is. Other paths are none of our business.
 *
 * The path is looked at, and goes on to be looked at by the kernel: a client that changes it in between fools only itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "devfs/launch/door.h"

enum { KVM_MAJOR = 10, KVM_MINOR = 232, BLOCK = 4096 };

static void open_device(struct call *c, uint64_t flags)
{
    if (flags & O_PATH)
        call_continue(c);
    else if (flags & O_DIRECTORY)
        call_answer(c, -ENOTDIR);
    else if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
        call_answer(c, -EEXIST);
    else
        call_answer(c, object_open(c, flags));
}

static void open_device_how(struct call *c)
{
    struct open_how how;

    if (c->arg[3] < sizeof(how) || client_read(&c->client, &how, (uintptr_t)c->arg[c->what->out], sizeof(how)))
        call_continue(c); /* the kernel knows why not */
    else
        open_device(c, how.flags);
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

void path_serve(struct call *c)
{
    const struct watched *w = c->what;
    uint64_t flags = w->flags < 0 ? O_WRONLY : c->arg[w->flags];
    int ours;

    c->client.pid = c->tid;
    ours = client_has_text(&c->client, (uintptr_t)c->arg[w->path], "/dev/kvm");
    if (!ours || ours == -EPERM) { /* EPERM: nobody may look into it, a program with its file's rights for one */
        call_continue(c);
        return;
    }
    if (ours < 0) { /* the kernel must not find the host's device where we could read nothing */
        call_answer(c, ours);
        return;
    }
    switch (w->kind) {
    case WATCH_OPEN: open_device(c, flags); break;
    case WATCH_OPEN_HOW: open_device_how(c); break;
    case WATCH_ACCESS: call_answer(c, flags & X_OK ? -EACCES : 0); break;
    case WATCH_STAT: put_stat(c); break;
    default: put_statx(c); break;
    }
}
