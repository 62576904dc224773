/* Signal handlers in a process whose core nobody has preloaded: a client in Python. */
#ifndef KVMISH_SIGNALS_H
#define KVMISH_SIGNALS_H

/* Puts a wrapper around each handler that has none, so that KVM_RUN ends with EINTR when it runs; and one where there is none of faults,
 * so that guest memory that is gone is EFAULT. How many have been found without: each may have run before it was. For any thread. */
unsigned handlers_wrap(void);
unsigned handlers_found(void);
void handlers_forked(void);

#endif
