/* A device that two engines may be compared by: what it reads depends on all that has been written, and in what order. */
#ifndef KVMISH_TESTS_JIT_DEVICE_H
#define KVMISH_TESTS_JIT_DEVICE_H

#include <stdint.h>

#include "cpu/vcpu.h"

static uint64_t device;

static int device_read(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t *data)
{
    (void)v;
    *data = (gpa * 0x0101010101010101ull ^ device) & (size == 8 ? ~0ull : (1ull << 8 * size) - 1);
    return 0;
}
static int device_write(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t data)
{
    (void)v;
    device = device * 31 + gpa * size + data;
    return 0;
}

#endif
