/* Segments with bases, limits and 16-bit stacks: one LDT for the host processor and ours. */
#ifndef TESTS_ISA_LDT_H
#define TESTS_ISA_LDT_H

#include <asm/ldt.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "state.h"

enum { /* selectors */
    LDT_CODE16 = 0x07, LDT_CODE32 = 0x0f, LDT_DATA16 = 0x17, LDT_SHORT = 0x1f, LDT_DATA32 = 0x27, LDT_DOWN32 = 0x2f,
    LDT_DOWN16 = 0x37, LDT_COUNT = 7
};

static const struct {
    uint32_t base, limit;
    uint8_t contents; /* MODIFY_LDT_CONTENTS_*: data, expand-down data, code */
    uint8_t big;      /* D/B */
} ldt[LDT_COUNT] = {
    {CODE_ADDR, 0xffff, 2, 0},   {CODE_ADDR, 0xffff, 2, 1}, {DATA_ADDR, 0xffff, 0, 0}, {DATA_ADDR, 0x1fbf, 0, 0},
    {DATA_ADDR, 0xffff, 0, 1},   {DATA_ADDR, 0x1ff, 1, 1},  {DATA_ADDR, 0x1ff, 1, 0},
};

static inline uint32_t ldt_base(uint16_t sel) { return (sel & 4) && sel >> 3 < LDT_COUNT ? ldt[sel >> 3].base : 0; }

static uint64_t ldt_descriptor(unsigned n)
{
    uint64_t access = 0xf3 | (ldt[n].contents << 2); /* present, DPL 3, writable or readable, accessed */

    return (ldt[n].limit & 0xffff) | (uint64_t)(ldt[n].base & 0xffffff) << 16 | access << 40 |
           (uint64_t)(ldt[n].limit >> 16) << 48 | (uint64_t)ldt[n].big << 54 | (uint64_t)(ldt[n].base >> 24) << 56;
}

/* Of the test program; false where the kernel has no such call. */
static inline bool ldt_install(void)
{
    for (unsigned n = 0; n < LDT_COUNT; n++) {
        struct user_desc d = {.entry_number = n, .base_addr = ldt[n].base, .limit = ldt[n].limit,
                              .seg_32bit = ldt[n].big & 1u, .contents = ldt[n].contents & 3u};
        if (syscall(SYS_modify_ldt, 1, &d, sizeof(d)))
            return false;
    }
    return true;
}

#endif
