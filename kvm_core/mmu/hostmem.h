/* Loads and stores of guest memory by its host address: any alignment, one access of the host's each, so that an
 * aligned operand is never torn under another vCPU's eyes (SDM vol. 3, 9.1.1). size is 1, 2, 4 or 8 bytes. */
#ifndef KVMISH_MMU_HOSTMEM_H
#define KVMISH_MMU_HOSTMEM_H

#include <stdint.h>

typedef uint16_t guest_u16 __attribute__((aligned(1), may_alias));
typedef uint32_t guest_u32 __attribute__((aligned(1), may_alias));
typedef uint64_t guest_u64 __attribute__((aligned(1), may_alias));

static inline __attribute__((always_inline)) uint64_t host_get(const void *p, const unsigned size)
{
    switch (size) {
    case 1: return *(const volatile uint8_t *)p;
    case 2: return *(const volatile guest_u16 *)p;
    case 4: return *(const volatile guest_u32 *)p;
    default: return *(const volatile guest_u64 *)p;
    }
}

static inline __attribute__((always_inline)) void host_put(void *p, const unsigned size, uint64_t value)
{
    switch (size) {
    case 1: *(volatile uint8_t *)p = (uint8_t)value; break;
    case 2: *(volatile guest_u16 *)p = (uint16_t)value; break;
    case 4: *(volatile guest_u32 *)p = (uint32_t)value; break;
    default: *(volatile guest_u64 *)p = value; break;
    }
}

#endif
