/* What a worker and its hand give up. All return -errno. */
#ifndef KVMISH_DEVFS_CONFINE_H
#define KVMISH_DEVFS_CONFINE_H

#include <stdbool.h>

#include "devfs/hand.h"

/* In the worker, started ahead: its root becomes an empty directory that is no longer there. */
int confine_root(void);
/* In the worker, started ahead: all that does not depend on the client. mount: of its session. */
int confine_ahead(int mount);
/* In the worker, when it has a client, before its threads are started: the rest. */
int confine_worker(const struct hand_reply *client);
/* Has this process that capability? */
bool confine_may(unsigned capability);
/* Puts aside one that this process has, or takes it up again. */
void confine_aside(unsigned capability, bool aside);
/* In the hand: what is left is what it needs to change another process. */
int confine_hand(void);

#endif
