/* FUSE without a mount point: fsopen(2), fsmount(2), read(2) and write(2) of /dev/fuse.
 *
 * The mount is in no namespace; it lives as long as its descriptor and the files opened through it, and ends with this process.
 */
#include "devfs/session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>

#include "devfs/fuse_abi.h"

enum { MAX_WRITE = 16384, BUFFER = MAX_WRITE + 4096, SMALL = 64 /* bytes that are sooner copied than taken hold of */ };

int session_mount(struct session *s)
{
    char number[16];
    int fs, err = 0;

    s->dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (s->dev < 0)
        return -errno;
    fs = fsopen("fuse", FSOPEN_CLOEXEC);
    if (fs < 0)
        return -errno;
    snprintf(number, sizeof(number), "%d", s->dev);
    if (fsconfig(fs, FSCONFIG_SET_STRING, "fd", number, 0) || fsconfig(fs, FSCONFIG_SET_STRING, "rootmode", "40000", 0) ||
        fsconfig(fs, FSCONFIG_SET_STRING, "user_id", "0", 0) || fsconfig(fs, FSCONFIG_SET_STRING, "group_id", "0", 0) ||
        fsconfig(fs, FSCONFIG_SET_STRING, "subtype", "kvmish", 0) ||
        fsconfig(fs, FSCONFIG_SET_FLAG, "allow_other", NULL, 0) || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) ||
        (s->mount = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)) < 0)
        err = -errno;
    close(fs);
    return err;
}

/* The kernel takes hold of the pages of each part by itself: what begins an answer is one part. */
static void reply(const struct session *s, void *head, size_t bytes, const void *data, size_t more)
{
    struct iovec part[] = {{head, bytes}, {(void *)data, more}};
    struct fuse_out_header *h = head;
    ssize_t put;

    h->len = (uint32_t)(bytes + more);
    put = more ? writev(s->dev, part, 2) : write(s->dev, head, bytes);
    (void)put; /* ENOENT: the request was aborted meanwhile */
}

void session_reply(const struct session *s, uint64_t unique, int err, const void *data, size_t bytes)
{
    struct fuse_out_header h = {.error = err, .unique = unique};

    reply(s, &h, sizeof(h), data, err ? 0 : bytes);
}

void session_result(const struct session *s, uint64_t unique, int result, const void *data, size_t bytes)
{
    struct {
        struct fuse_out_header h;
        struct fuse_ioctl_out out;
        uint8_t data[SMALL];
    } all = {.h.unique = unique, .out.result = result};
    bool small = bytes <= SMALL;

    if (small && bytes)
        memcpy(all.data, data, bytes);
    reply(s, &all, offsetof(typeof(all), data) + (small ? bytes : 0), data, small ? 0 : bytes);
}

/* One request: its size, 0 to try again, -errno when the session has ended. */
static ssize_t receive(struct session *s, void *buffer)
{
    ssize_t n = read(s->dev, buffer, BUFFER);

    if (n >= (ssize_t)sizeof(struct fuse_in_header))
        return n;
    return n < 0 && errno != EINTR && errno != ENOENT && errno != EAGAIN ? -errno : 0;
}

int session_init(struct session *s)
{
    struct fuse_init_reply out = {.major = 7, .minor = 40, .flags = FUSE_ASYNC_READ | FUSE_FLAG_INIT_EXT,
                                  .max_background = 16, .congestion_threshold = 12, .max_write = MAX_WRITE,
                                  .time_gran = 1, .flags2 = FUSE_FLAG2_PASSTHROUGH, .max_stack_depth = 1};
    char *buffer = malloc(BUFFER);
    const struct fuse_in_header *h = (const void *)buffer;
    const struct fuse_init_in *in = (const void *)(h + 1);
    int err = -EIO;
    ssize_t n;

    if (!buffer)
        return -ENOMEM;
    while (!(n = receive(s, buffer)))
        ;
    if (n < 0) {
        err = (int)n;
    } else if (h->opcode == FUSE_INIT && in->major == 7) {
        bool passthrough = (size_t)n >= sizeof(*h) + sizeof(*in) && in->flags & FUSE_FLAG_INIT_EXT &&
                           in->flags2 & FUSE_FLAG2_PASSTHROUGH;
        err = passthrough ? 0 : -EOPNOTSUPP;
        session_reply(s, h->unique, 0, &out, sizeof(out));
    }
    free(buffer);
    return err;
}

static bool read_one(void *owner, struct reader *r)
{
    struct session *s = owner;
    char *buffer = r->buffer;
    ssize_t n;

    readers_wait_begin(r);
    n = receive(s, buffer);
    readers_wait_end(r);
    if (n > 0)
        s->serve(s, r, (const void *)buffer, buffer + sizeof(struct fuse_in_header));
    return n >= 0; /* or the session has ended */
}

int session_start(struct session *s)
{
    s->readers = (struct readers){.buffer_bytes = BUFFER, .follow = true, .read = read_one, .owner = s};
    return readers_expect(&s->readers) ? 0 : -EAGAIN;
}

int session_serve_until(struct session *s, int readable)
{
    struct reader *r = calloc(1, sizeof(*r) + BUFFER);
    struct pollfd p[] = {{s->dev, POLLIN, 0}, {readable, POLLIN, 0}};
    int err = r ? 0 : -ENOMEM;

    while (!err && !p[1].revents) {
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            err = -errno;
        else if (p[0].revents && !read_one(s, r))
            err = -EIO;
    }
    free(r);
    return err;
}
