/* A descriptor of ours for a client, put into its table by its own stopped thread. */
#ifndef KVMISH_DEVFS_GIVE_H
#define KVMISH_DEVFS_GIVE_H

#include "devfs/trace.h"

struct gift {
    struct tracee *t;
    pid_t tgid;
    /* give.c's own, in the client */
    uintptr_t scratch;
    bool page;
    int pair[2];
};

/* -> the client's descriptor, close-on-exec; -errno. In any case give_end() takes away what it needed there. */
long give(struct gift *g, int fd);
void give_end(struct gift *g);

#endif
