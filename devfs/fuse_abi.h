/* What the FUSE protocol has gained since the header of older systems: passthrough of mmap to a file (Linux 6.9). */
#ifndef KVMISH_DEVFS_FUSE_ABI_H
#define KVMISH_DEVFS_FUSE_ABI_H

#include <linux/fuse.h>
#include <stdint.h>
#include <sys/ioctl.h>

#define FUSE_FLAG_INIT_EXT (1u << 30)
#define FUSE_FLAG2_PASSTHROUGH (1u << (37 - 32))
#define FUSE_OPEN_PASSTHROUGH (1u << 7)
#define FUSE_OPEN_NOFLUSH (1u << 5)

struct fuse_backing_open {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
};
#define FUSE_BACKING_OPEN _IOW(229, 1, struct fuse_backing_open)

struct fuse_open_reply { /* struct fuse_open_out, protocol 7.40 */
    uint64_t fh;
    uint32_t open_flags;
    int32_t backing_id;
};

struct fuse_init_reply { /* struct fuse_init_out, protocol 7.40 */
    uint32_t major, minor, max_readahead, flags;
    uint16_t max_background, congestion_threshold;
    uint32_t max_write, time_gran;
    uint16_t max_pages, map_alignment;
    uint32_t flags2, max_stack_depth;
    uint32_t unused[6];
};

#endif
