/* A descriptor of ours for a client, put into its table by its own stopped thread. */
#ifndef KVMISH_DEVFS_GIVE_H
#define KVMISH_DEVFS_GIVE_H

#include "devfs/trace.h"

/* pidfd: of its process, tgid. -> the client's descriptor, close-on-exec; -errno. */
long give(struct tracee *t, pid_t tgid, int pidfd, int fd);

#endif
