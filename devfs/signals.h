/* Which signals wait for a client's thread. */
#ifndef KVMISH_DEVFS_SIGNALS_H
#define KVMISH_DEVFS_SIGNALS_H

#include <stdbool.h>
#include <stdint.h>

#include "kvm/kvm.h"

struct signals {
    uint64_t pending, blocked, ignored;
    bool traced;
    char state; /* R, S, D, T, t, Z, X */
};

/* fd: /proc/PID/task/TID/status. False: the thread has gone. */
bool signals_read(int fd, struct signals *s);
/* Is one of them to end a KVM_RUN of the thread? */
bool signals_end_run(const struct signals *s, const struct kvm_vcpu *kv);

#endif
