/* Where a thread runs. */
#ifndef KVMISH_DEVFS_PROCESSOR_H
#define KVMISH_DEVFS_PROCESSOR_H

#include <stdbool.h>
#include <sys/types.h>

/* Thread tid, 0: the calling one, stays on this processor. False: it is where it was, which slows it down and nothing else. */
bool processor_pin(pid_t tid, int cpu);
/* The one that the calling thread stays on, or -1. */
int processor_only(void);

#endif
