/* A decoded instruction: what the interpreter executes and the translator lowers.
 *
 * 32 bytes. Register operands are numbers into vcpu.gpr; byte registers are byte offsets into that array
 * (AH = 1), which a little-endian host reads directly.
 */
#ifndef KVMISH_ISA_INSN_H
#define KVMISH_ISA_INSN_H

#include <stdint.h>

struct vcpu;
struct insn;

/* Executes *i; returns the next instruction to execute, or NULL after setting v->rip (end of the
 * block: look up rip again, poll). */
typedef const struct insn *insn_fn(struct vcpu *v, const struct insn *i);

struct insn {
    insn_fn *fn;
    union {
        uint64_t imm;              /* immediate, sign- or zero-extended to the operand */
        void *stub;                /* native code that does it: cpu/native.c */
        const struct insn *target; /* direct branch within the page: the decoded target, or NULL */
    };
    int32_t disp;   /* displacement; direct branches: distance from the next instruction */
    uint16_t off;   /* of the first byte in its linear page */
    uint8_t len;    /* 1 to 15 bytes */
    uint8_t size;   /* operand size in bytes; the memory operand's for native instructions */
    uint8_t dst, src; /* register operands (first, second); the instruction's manual page says which */
    uint8_t base, index; /* REG_ZERO when absent, REG_PAGE for RIP (disp is then from the page) */
    uint8_t scale;  /* shift of the index: 0 to 3 */
    uint8_t seg;    /* enum segreg of the memory operand */
    uint8_t am;     /* AM_* */
    uint8_t prefix; /* PFX_* */
};

_Static_assert(sizeof(struct insn) == 32, "two instructions to a cache line");

enum { /* address modes */
    AM_FLAT64 = 0, /* 64-bit, segment base 0: base + (index << scale) + disp is the linear address */
    AM_SEG64 = 1,  /* 64-bit with FS or GS */
    AM_64A32 = 2,  /* 64-bit code, 67 prefix: the sum is cut to 32 bits, then the segment base */
    AM_32 = 3,     /* 32-bit address in legacy code: limits and rights are checked */
    AM_16 = 4,
    AM_NONE = 7   /* no memory operand */
};

enum { PFX_LOCK = 1, PFX_REP = 2, PFX_REPNE = 4, PFX_OPSIZE = 8, PFX_REXW = 16, PFX_VEX = 32 };

/* The next instruction in line. */
static inline const struct insn *insn_next(const struct insn *i) { return i + 1; }

#endif
