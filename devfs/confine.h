/* What a worker gives up before it runs a guest. */
#ifndef KVMISH_DEVFS_CONFINE_H
#define KVMISH_DEVFS_CONFINE_H

#include "devfs/hand.h"

/* In the worker, before its threads are started. -errno */
int confine_worker(const struct hand_reply *client);

#endif
