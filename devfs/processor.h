/* Where a thread runs. */
#ifndef KVMISH_DEVFS_PROCESSOR_H
#define KVMISH_DEVFS_PROCESSOR_H

#include <stdbool.h>
#include <sys/types.h>

/* Thread tid, 0: the calling one, stays on this processor. False: it is where it was, which slows it down and nothing else. */
bool processor_pin(pid_t tid, int cpu);
/* It stays on any other, if there is one. */
void processor_leave(pid_t tid, int cpu);
/* The calling thread may be anywhere. A new one stays where the one that started it stays. */
void processor_any(void);

#endif
