/* The integer arithmetic that sets flags, done by the host processor itself: results, defined and undefined flags are
 * its own. The one file of the interpreter's integer part that is x86-64 assembly; cpu/portable_alu.h offers the same
 * functions in C for other hosts.
 *
 * Flags are packed as `lahf; seto %al` leave them in AX (PF_* in cpu/vcpu.h); `add $0x7f, %al; sahf` restores them.
 */
#ifndef KVMISH_CPU_HOST_ALU_H
#define KVMISH_CPU_HOST_ALU_H

#include <stdint.h>

#define ALU_SAVE "lahf\n\tseto %%al"
#define ALU_RESTORE "addb $0x7f, %%al\n\tsahf\n\t"

/* r = a OP b, flags out only */
#define ALU_BINARY(name, op)                                                                        \
    static inline __attribute__((always_inline)) uint64_t alu_##name(uint32_t *fl, uint64_t a,     \
                                                                      uint64_t b, const unsigned size) \
    {                                                                                               \
        uint32_t f;                                                                                 \
        switch (size) {                                                                             \
        case 1: __asm__(op "b %b2, %b0\n\t" ALU_SAVE : "+&q"(a), "=&a"(f) : "q"(b) : "cc"); break;   \
        case 2: __asm__(op "w %w2, %w0\n\t" ALU_SAVE : "+&r"(a), "=&a"(f) : "r"(b) : "cc"); break;   \
        case 4: __asm__(op "l %k2, %k0\n\t" ALU_SAVE : "+&r"(a), "=&a"(f) : "r"(b) : "cc"); break;   \
        default: __asm__(op "q %2, %0\n\t" ALU_SAVE : "+&r"(a), "=&a"(f) : "r"(b) : "cc"); break;    \
        }                                                                                           \
        *fl = (uint16_t)f;                                                                          \
        return a;                                                                                   \
    }
ALU_BINARY(add, "add")
ALU_BINARY(or, "or")
ALU_BINARY(and, "and")
ALU_BINARY(sub, "sub")
ALU_BINARY(xor, "xor")
ALU_BINARY(cmp, "cmp")
ALU_BINARY(test, "test")

/* r = a OP b with flags in and out (those that OP leaves alone pass through) */
#define ALU_BINARY_IN(name, op)                                                                     \
    static inline __attribute__((always_inline)) uint64_t alu_##name(uint32_t *fl, uint64_t a,     \
                                                                      uint64_t b, const unsigned size) \
    {                                                                                               \
        uint32_t f = *fl;                                                                           \
        switch (size) {                                                                             \
        case 1: __asm__(ALU_RESTORE op "b %b2, %b0\n\t" ALU_SAVE : "+&q"(a), "+&a"(f) : "q"(b) : "cc"); break; \
        case 2: __asm__(ALU_RESTORE op "w %w2, %w0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : "r"(b) : "cc"); break; \
        case 4: __asm__(ALU_RESTORE op "l %k2, %k0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : "r"(b) : "cc"); break; \
        default: __asm__(ALU_RESTORE op "q %2, %0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : "r"(b) : "cc"); break; \
        }                                                                                           \
        *fl = (uint16_t)f;                                                                          \
        return a;                                                                                   \
    }
ALU_BINARY_IN(adc, "adc")
ALU_BINARY_IN(sbb, "sbb")

/* 16 bits and more: bit tests with a register index (taken modulo the size), bit scans, IMUL r, r */
#define ALU_BINARY_WIDE(name, op)                                                                   \
    static inline __attribute__((always_inline)) uint64_t alu_##name(uint32_t *fl, uint64_t a,     \
                                                                      uint64_t b, const unsigned size) \
    {                                                                                               \
        uint32_t f = *fl;                                                                           \
        switch (size) {                                                                             \
        case 2: __asm__(ALU_RESTORE op "w %w2, %w0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : "r"(b) : "cc"); break; \
        case 4: __asm__(ALU_RESTORE op "l %k2, %k0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : "r"(b) : "cc"); break; \
        default: __asm__(ALU_RESTORE op "q %2, %0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : "r"(b) : "cc"); break; \
        }                                                                                           \
        *fl = (uint16_t)f;                                                                          \
        return a;                                                                                   \
    }
ALU_BINARY_WIDE(bt, "bt")
ALU_BINARY_WIDE(bts, "bts")
ALU_BINARY_WIDE(btr, "btr")
ALU_BINARY_WIDE(btc, "btc")
ALU_BINARY_WIDE(bsf, "bsf")
ALU_BINARY_WIDE(bsr, "bsr")
ALU_BINARY_WIDE(imul2, "imul")

/* r = OP a */
#define ALU_UNARY(name, op)                                                                         \
    static inline __attribute__((always_inline)) uint64_t alu_##name(uint32_t *fl, uint64_t a,     \
                                                                      const unsigned size)          \
    {                                                                                               \
        uint32_t f = *fl;                                                                           \
        switch (size) {                                                                             \
        case 1: __asm__(ALU_RESTORE op "b %b0\n\t" ALU_SAVE : "+&q"(a), "+&a"(f) : : "cc"); break;   \
        case 2: __asm__(ALU_RESTORE op "w %w0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : : "cc"); break;   \
        case 4: __asm__(ALU_RESTORE op "l %k0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : : "cc"); break;   \
        default: __asm__(ALU_RESTORE op "q %0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : : "cc"); break;   \
        }                                                                                           \
        *fl = (uint16_t)f;                                                                          \
        return a;                                                                                   \
    }
ALU_UNARY(inc, "inc")
ALU_UNARY(dec, "dec")
ALU_UNARY(neg, "neg")

/* r = a shifted or rotated by count (the raw 8-bit count; the processor masks it) */
#define ALU_SHIFT(name, op)                                                                         \
    static inline __attribute__((always_inline)) uint64_t alu_##name(uint32_t *fl, uint64_t a,     \
                                                                      uint64_t count, const unsigned size) \
    {                                                                                               \
        uint32_t f = *fl;                                                                           \
        switch (size) {                                                                             \
        case 1: __asm__(ALU_RESTORE op "b %%cl, %b0\n\t" ALU_SAVE : "+&q"(a), "+&a"(f) : "c"(count) : "cc"); break; \
        case 2: __asm__(ALU_RESTORE op "w %%cl, %w0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : "c"(count) : "cc"); break; \
        case 4: __asm__(ALU_RESTORE op "l %%cl, %k0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : "c"(count) : "cc"); break; \
        default: __asm__(ALU_RESTORE op "q %%cl, %0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : "c"(count) : "cc"); break; \
        }                                                                                           \
        *fl = (uint16_t)f;                                                                          \
        return a;                                                                                   \
    }
ALU_SHIFT(shl, "shl")
ALU_SHIFT(shr, "shr")
ALU_SHIFT(sar, "sar")
ALU_SHIFT(rol, "rol")
ALU_SHIFT(ror, "ror")
ALU_SHIFT(rcl, "rcl")
ALU_SHIFT(rcr, "rcr")

/* A register rotated by an immediate of more than 1, behind which OF is undefined (SDM vol. 2, RCL): Intel's processors leave it as it was,
 * unlike behind a rotate by CL or of memory; on AMD's all are the same. A 0 that is rotated tells. */
#define ALU_ROTATE_BY(name)                                                                         \
    static inline __attribute__((always_inline)) uint64_t alu_##name##_by(uint32_t *fl, uint64_t a, \
                                                                          uint64_t count, const unsigned size) \
    {                                                                                               \
        uint32_t overflow = *fl & 1, keeps = 1, zero = 0;                                           \
        a = alu_##name(fl, a, count, size);                                                         \
        if ((count & (size == 8 ? 63 : 31)) <= 1)                                                   \
            return a;                                                                               \
        __asm__(ALU_RESTORE #name "l $2, %1\n\t" ALU_SAVE : "+&a"(keeps), "+&r"(zero) : : "cc");    \
        if (keeps & 1)                                                                              \
            *fl = (*fl & ~1u) | overflow;                                                           \
        return a;                                                                                   \
    }
ALU_ROTATE_BY(rol)
ALU_ROTATE_BY(ror)

#define ALU_SHIFT_DOUBLE(name, op)                                                                  \
    static inline __attribute__((always_inline)) uint64_t alu_##name(                              \
        uint32_t *fl, uint64_t a, uint64_t b, uint64_t count, const unsigned size)                  \
    {                                                                                               \
        uint32_t f = *fl;                                                                           \
        switch (size) {                                                                             \
        case 2: __asm__(ALU_RESTORE op "w %%cl, %w2, %w0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : "r"(b), "c"(count) : "cc"); break; \
        case 4: __asm__(ALU_RESTORE op "l %%cl, %k2, %k0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : "r"(b), "c"(count) : "cc"); break; \
        default: __asm__(ALU_RESTORE op "q %%cl, %2, %0\n\t" ALU_SAVE : "+&r"(a), "+&a"(f) : "r"(b), "c"(count) : "cc"); break; \
        }                                                                                           \
        *fl = (uint16_t)f;                                                                          \
        return a;                                                                                   \
    }
ALU_SHIFT_DOUBLE(shld, "shld")
ALU_SHIFT_DOUBLE(shrd, "shrd")

#define ALU_WIDE_ENTER "xchgq %%rax, %2\n\t" ALU_RESTORE "movq %2, %%rax\n\t"

/* lo:hi = a * b. For size 1 the whole product is in lo (AX). Flags that stay undefined are the host's, who may keep them. */
#define ALU_WIDE_MUL(name, op)                                                                      \
    static inline __attribute__((always_inline)) void alu_##name(uint32_t *fl, uint64_t a, uint64_t b, \
                                                                  uint64_t *lo, uint64_t *hi, const unsigned size) \
    {                                                                                               \
        uint64_t l = a, h = 0, f = *fl;                                                             \
        switch (size) {                                                                             \
        case 1: __asm__(ALU_WIDE_ENTER op "b %b3\n\tmovq %%rax, %2\n\t" ALU_SAVE : "+&a"(l), "+&d"(h), "+&r"(f) : "q"(b) : "cc"); break; \
        case 2: __asm__(ALU_WIDE_ENTER op "w %w3\n\tmovq %%rax, %2\n\t" ALU_SAVE : "+&a"(l), "+&d"(h), "+&r"(f) : "r"(b) : "cc"); break; \
        case 4: __asm__(ALU_WIDE_ENTER op "l %k3\n\tmovq %%rax, %2\n\t" ALU_SAVE : "+&a"(l), "+&d"(h), "+&r"(f) : "r"(b) : "cc"); break; \
        default: __asm__(ALU_WIDE_ENTER op "q %3\n\tmovq %%rax, %2\n\t" ALU_SAVE : "+&a"(l), "+&d"(h), "+&r"(f) : "r"(b) : "cc"); break; \
        }                                                                                           \
        *fl = (uint16_t)l;                                                                          \
        *lo = f;                                                                                    \
        *hi = h;                                                                                    \
    }
ALU_WIDE_MUL(mul, "mul")
ALU_WIDE_MUL(imul, "imul")

/* lo = quotient, hi = remainder of hi:lo / b (size 1: of AX = lo, both in lo as AH:AL). The caller has
 * excluded #DE. The flags are undefined: the host's. */
#define ALU_DIVIDE(name, op)                                                                        \
    static inline __attribute__((always_inline)) void alu_##name(uint32_t *fl, uint64_t *lo, uint64_t *hi, \
                                                                  uint64_t b, const unsigned size)  \
    {                                                                                               \
        uint64_t l = *lo, h = *hi, q = *fl;                                                         \
        switch (size) {                                                                             \
        case 1: __asm__(ALU_WIDE_ENTER op "b %b3\n\tmovq %%rax, %2\n\t" ALU_SAVE : "+&a"(l), "+&d"(h), "+&r"(q) : "q"(b) : "cc"); break; \
        case 2: __asm__(ALU_WIDE_ENTER op "w %w3\n\tmovq %%rax, %2\n\t" ALU_SAVE : "+&a"(l), "+&d"(h), "+&r"(q) : "r"(b) : "cc"); break; \
        case 4: __asm__(ALU_WIDE_ENTER op "l %k3\n\tmovq %%rax, %2\n\t" ALU_SAVE : "+&a"(l), "+&d"(h), "+&r"(q) : "r"(b) : "cc"); break; \
        default: __asm__(ALU_WIDE_ENTER op "q %3\n\tmovq %%rax, %2\n\t" ALU_SAVE : "+&a"(l), "+&d"(h), "+&r"(q) : "r"(b) : "cc"); break; \
        }                                                                                           \
        *fl = (uint16_t)l;                                                                          \
        *lo = q;                                                                                    \
        *hi = h;                                                                                    \
    }
ALU_DIVIDE(div, "div")
ALU_DIVIDE(idiv, "idiv")

#endif
