/* A page for the TLB without leaving translated code. */
#ifndef KVMISH_MMU_REFILL_H
#define KVMISH_MMU_REFILL_H

#include <stdbool.h>
#include <stdint.h>

struct vcpu;

struct refilled { /* in two registers */
    uint64_t linear, done;
};
/* An entry of the TLB set in force, `at` bytes from its table's first, did not match a linear address: `distance` is what both differ
 * by. Enters that address's page if an ordinary walk would find it. Uses no vector registers, nor x87's. */
struct refilled mmu_refill(struct vcpu *v, uint64_t distance, uint64_t at, bool write);

#endif
