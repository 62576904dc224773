/* What a user-level instruction can read and change: one state for the host processor and the interpreter. */
#ifndef TESTS_ISA_STATE_H
#define TESTS_ISA_STATE_H

#include <stdbool.h>
#include <stdint.h>

enum { /* linear addresses, the same on both sides; what surrounds code and data for 1 MiB is not present */
    CODE_ADDR = 0x20000000, CODE_BYTES = 0x2000,
    DATA_ADDR = 0x10000000, DATA_PAGES = 4, /* writable, writable, not present, read-only */
    DATA_BYTES = DATA_PAGES * 4096, DATA_HOLE = 2 * 4096, DATA_READONLY = 3 * 4096,
    TARGET_ADDR = 0x40000000, /* never present */
    GUARD_BYTES = 1 << 20,
    ENV_ADDR = DATA_ADDR + 0x1f00 /* where FNSTENV stores */
};
#define GS_BASE 0xa5f3008ull /* in 64-bit mode */

enum { ARITH_FLAGS = 0x8d5, DF_FLAG = 0x400, AC_FLAG = 0x40000 };

struct state {
    uint64_t gpr[16], rip;
    uint64_t rflags; /* ARITH_FLAGS and DF */
    uint8_t ymm[16][32];
    uint8_t fx[160] __attribute__((aligned(16))); /* FXSAVE64: x87 and MXCSR */
    int vector;      /* of the fault; -1: none */
    uint32_t error;
    uint64_t cr2;    /* #PF */
    uint16_t sel[6];         /* ES CS SS DS FS GS */
    uint64_t fs_base, gs_base; /* where the host has RDFSBASE */
    uint8_t in_use;  /* XSAVE components x87, SSE, AVX that are not in their initial state */
};

struct icase { /* an instruction in its surroundings */
    uint8_t bytes[24];
    uint8_t len;
    uint8_t tail; /* bytes of a second instruction, FNSTENV, that shows what is not visible otherwise */
    uint8_t mode; /* 64: long; 32, 16: compatibility */
    uint16_t cs, ss, ds, es;
    uint32_t code_base; /* rip is an offset from it */
    bool wide;          /* operand of 80 bits: accessed in two parts */
    bool branch;        /* a direct branch */
    bool stack;         /* `target` holds an address to go to */
    uint64_t undefined; /* flags that the instruction leaves undefined */
    uint64_t target; /* of the memory operand, if it has one */
    struct state before;
};

/* The instruction went through when what faults is the INT3 behind it, or the fetch where it went. */
static inline void state_normalise(const struct icase *c, struct state *s)
{
    if (s->vector == 3) {
        s->rip--;
    } else if (s->vector != 14 || s->cr2 != c->code_base + s->rip || s->rip == c->before.rip) {
        return;
    }
    s->vector = -1;
    s->error = 0;
    s->cr2 = 0;
}

#endif
