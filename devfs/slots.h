/* The broker's C side: what fusepy's operations call for the file `kvm`, and the workers started ahead. */
#ifndef KVMISH_DEVFS_SLOTS_H
#define KVMISH_DEVFS_SLOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SLOT __attribute__((visibility("default")))

/* Starts `spares` workers ahead and waits for the first to be ready. 0, or -errno with one line of text in `error`. */
SLOT int devfs_start(const char *worker, unsigned spares, void *(*get_context)(void), char *error, size_t room);
/* Ends the workers that have no client and waits for them; those with one go on. */
SLOT void devfs_stop(void);
/* The `ioctl` slot of libfuse2's struct fuse_operations. */
SLOT int devfs_ioctl(const char *path, int cmd, void *arg, void *file, unsigned flags, void *data);

/* pool.c: a worker for one VM, to be on this processor. A socket to it, ready for struct create_vm, or -errno. Another one is started
 * when it has closed its end. last: there is none left. */
int pool_take(int cpu, bool *last);
int pool_start(const char *worker, unsigned spares, char *error, size_t room);
void pool_stop(void);

#endif
