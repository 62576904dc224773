/* The address space that a machine belongs to. It ends with its program: by execve(2), too, after which KVM's descriptors say EIO. */
#ifndef KVMISH_DEVFS_SPACE_H
#define KVMISH_DEVFS_SPACE_H

#include <stdbool.h>
#include <sys/types.h>

/* That of a thread's process: a descriptor, which does not keep its memory. -errno: it may not be looked into */
int space_open(pid_t tid);
/* Has anybody it still? True when there is no such descriptor. */
bool space_lives(int fd);

#endif
