/* Guest memory of a client elsewhere, mapped into this process. */
#ifndef KVMISH_DEVFS_MAPPING_H
#define KVMISH_DEVFS_MAPPING_H

#include <stddef.h>
#include <stdint.h>

/* A part of it: `at` from its start, in some file from offset, with these rights (PROT_*). */
struct area {
    uint64_t at, bytes, offset;
    int32_t prot;
};

/* Room for it, to be filled; -ENOMEM. addr: of the client's, for the alignment. */
int mapping_reserve(uintptr_t addr, size_t bytes, uint8_t **host);
/* Maps one area of it; fd stays the caller's. */
int mapping_fill(uint8_t *host, const struct area *a, int fd);
void mapping_free(uint8_t *host, size_t bytes);
/* Who runs a guest that wants pages which are not there, or no longer, leaves KVM_RUN with EFAULT, instead of the process ending. */
int mapping_guard(void);

#endif
