/* A FUSE session of our own over /dev/fuse: mounted nowhere, read by as many threads as there are requests under way. */
#ifndef KVMISH_DEVFS_SESSION_H
#define KVMISH_DEVFS_SESSION_H

#include <linux/fuse.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "devfs/readers.h"

struct session {
    int dev, mount;
    struct readers readers;
    /* Answers a request that is not INIT; body: what follows the header. */
    void (*serve)(struct session *s, struct reader *r, const struct fuse_in_header *h, void *body);
    void *owner;
};

/* Mounts: s->dev, s->mount. -errno */
int session_mount(struct session *s);
/* Answers the kernel's INIT, the first request of a session. -EOPNOTSUPP: this kernel has no passthrough of mmap. */
int session_init(struct session *s);
/* Before there are readers: serves requests until another descriptor can be read. -errno */
int session_serve_until(struct session *s, int readable);
/* The calling thread is to be the first reader: readers_join(). */
int session_start(struct session *s);
/* err: 0 or -errno, then nothing follows. */
void session_reply(const struct session *s, uint64_t unique, int err, const void *data, size_t bytes);
/* The same for an ioctl: what it returns, and data for the memory at its argument. */
void session_result(const struct session *s, uint64_t unique, int result, const void *data, size_t bytes);

#endif
