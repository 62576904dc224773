/* The integer arithmetic that sets flags, in C: what cpu/host_alu.h offers, for hosts that are no x86-64 (or with
 * -DKVMISH_PORTABLE_ALU, to be compared with one: tests/isa). SDM vol. 2; flags that it leaves undefined are cleared or kept.
 *
 * Flags are packed as PF_* of cpu/vcpu.h. Results may have anything above the operand size.
 */
#ifndef KVMISH_CPU_PORTABLE_ALU_H
#define KVMISH_CPU_PORTABLE_ALU_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/vcpu.h"

#define ALU static inline __attribute__((always_inline))

ALU uint64_t alu_mask(unsigned size) { return size == 8 ? ~0ull : (1ull << 8 * size) - 1; }
ALU bool alu_top(uint64_t a, unsigned size) { return a >> (8 * size - 1) & 1; }
ALU int64_t alu_signed(uint64_t a, unsigned size)
{
    return (int64_t)(a << (64 - 8 * size)) >> (64 - 8 * size);
}

/* SF, ZF, PF of a result */
ALU uint32_t alu_szp(uint64_t r, unsigned size)
{
    r &= alu_mask(size);
    return (alu_top(r, size) ? PF_SF : 0) | (r ? 0 : PF_ZF) | (__builtin_parity((uint8_t)r) ? 0 : PF_PF);
}

ALU uint32_t alu_flag(uint32_t fl, uint32_t flag, bool on) { return on ? fl | flag : fl & ~flag; }

/* ---- addition, subtraction, logic ---------------------------------------------------------------- */

ALU uint64_t alu_add_carry(uint32_t *fl, uint64_t a, uint64_t b, bool carry, unsigned size)
{
    uint64_t m = alu_mask(size), r;

    a &= m;
    b &= m;
    r = (a + b + carry) & m;
    *fl = alu_szp(r, size) | ((carry ? r <= a : r < a) ? PF_CF : 0) | ((a ^ b ^ r) & 0x10 ? PF_AF : 0) |
          (alu_top((a ^ r) & (b ^ r), size) ? PF_OF : 0);
    return r;
}

ALU uint64_t alu_subtract_borrow(uint32_t *fl, uint64_t a, uint64_t b, bool borrow, unsigned size)
{
    uint64_t m = alu_mask(size), r;

    a &= m;
    b &= m;
    r = (a - b - borrow) & m;
    *fl = alu_szp(r, size) | ((borrow ? a <= b : a < b) ? PF_CF : 0) | ((a ^ b ^ r) & 0x10 ? PF_AF : 0) |
          (alu_top((a ^ b) & (a ^ r), size) ? PF_OF : 0);
    return r;
}

ALU uint64_t alu_logic(uint32_t *fl, uint64_t r, unsigned size)
{
    *fl = alu_szp(r, size);
    return r;
}

ALU uint64_t alu_add(uint32_t *fl, uint64_t a, uint64_t b, const unsigned size)
{
    return alu_add_carry(fl, a, b, false, size);
}
ALU uint64_t alu_adc(uint32_t *fl, uint64_t a, uint64_t b, const unsigned size)
{
    return alu_add_carry(fl, a, b, *fl & PF_CF, size);
}
ALU uint64_t alu_sub(uint32_t *fl, uint64_t a, uint64_t b, const unsigned size)
{
    return alu_subtract_borrow(fl, a, b, false, size);
}
ALU uint64_t alu_cmp(uint32_t *fl, uint64_t a, uint64_t b, const unsigned size) { return alu_sub(fl, a, b, size); }
ALU uint64_t alu_sbb(uint32_t *fl, uint64_t a, uint64_t b, const unsigned size)
{
    return alu_subtract_borrow(fl, a, b, *fl & PF_CF, size);
}
ALU uint64_t alu_or(uint32_t *fl, uint64_t a, uint64_t b, const unsigned size) { return alu_logic(fl, a | b, size); }
ALU uint64_t alu_and(uint32_t *fl, uint64_t a, uint64_t b, const unsigned size) { return alu_logic(fl, a & b, size); }
ALU uint64_t alu_xor(uint32_t *fl, uint64_t a, uint64_t b, const unsigned size) { return alu_logic(fl, a ^ b, size); }
ALU uint64_t alu_test(uint32_t *fl, uint64_t a, uint64_t b, const unsigned size) { return alu_logic(fl, a & b, size); }

ALU uint64_t alu_inc(uint32_t *fl, uint64_t a, const unsigned size)
{
    uint32_t carry = *fl & PF_CF;
    uint64_t r = alu_add(fl, a, 1, size);

    *fl = (*fl & ~(uint32_t)PF_CF) | carry;
    return r;
}
ALU uint64_t alu_dec(uint32_t *fl, uint64_t a, const unsigned size)
{
    uint32_t carry = *fl & PF_CF;
    uint64_t r = alu_sub(fl, a, 1, size);

    *fl = (*fl & ~(uint32_t)PF_CF) | carry;
    return r;
}
ALU uint64_t alu_neg(uint32_t *fl, uint64_t a, const unsigned size) { return alu_sub(fl, 0, a, size); }

/* ---- bits -------------------------------------------------------------------------------------------- */

ALU uint64_t alu_bt(uint32_t *fl, uint64_t a, uint64_t n, const unsigned size)
{
    *fl = alu_flag(*fl, PF_CF, a >> (n & (8 * size - 1)) & 1);
    return a;
}
ALU uint64_t alu_bts(uint32_t *fl, uint64_t a, uint64_t n, const unsigned size)
{
    return alu_bt(fl, a, n, size) | 1ull << (n & (8 * size - 1));
}
ALU uint64_t alu_btr(uint32_t *fl, uint64_t a, uint64_t n, const unsigned size)
{
    return alu_bt(fl, a, n, size) & ~(1ull << (n & (8 * size - 1)));
}
ALU uint64_t alu_btc(uint32_t *fl, uint64_t a, uint64_t n, const unsigned size)
{
    return alu_bt(fl, a, n, size) ^ 1ull << (n & (8 * size - 1));
}
ALU uint64_t alu_bsf(uint32_t *fl, uint64_t a, uint64_t b, const unsigned size)
{
    b &= alu_mask(size);
    *fl = alu_flag(*fl, PF_ZF, !b);
    return b ? (unsigned)__builtin_ctzll(b) : a;
}
ALU uint64_t alu_bsr(uint32_t *fl, uint64_t a, uint64_t b, const unsigned size)
{
    b &= alu_mask(size);
    *fl = alu_flag(*fl, PF_ZF, !b);
    return b ? 63u - (unsigned)__builtin_clzll(b) : a;
}

/* ---- shifts and rotates: the count is taken modulo 32, of 64-bit operands modulo 64 --------------------- */

ALU unsigned alu_count(uint64_t count, unsigned size) { return (unsigned)count & (size == 8 ? 63 : 31); }

/* A shift's flags: carry out; OF is defined for a count of 1 only */
ALU uint64_t alu_shifted(uint32_t *fl, uint64_t r, bool carry, bool overflow, unsigned size)
{
    *fl = alu_szp(r, size) | (carry ? PF_CF : 0) | (overflow ? PF_OF : 0);
    return r;
}

ALU uint64_t alu_shl(uint32_t *fl, uint64_t a, uint64_t count, const unsigned size)
{
    unsigned n = alu_count(count, size), bits = 8 * size;
    bool carry;

    if (!n)
        return a;
    carry = n <= bits && a >> (bits - n) & 1;
    a <<= n;
    return alu_shifted(fl, a, carry, alu_top(a, size) != carry, size);
}
ALU uint64_t alu_shr(uint32_t *fl, uint64_t a, uint64_t count, const unsigned size)
{
    unsigned n = alu_count(count, size);

    a &= alu_mask(size);
    if (!n)
        return a;
    return alu_shifted(fl, a >> n, a >> (n - 1) & 1, alu_top(a, size), size);
}
ALU uint64_t alu_sar(uint32_t *fl, uint64_t a, uint64_t count, const unsigned size)
{
    unsigned n = alu_count(count, size);
    int64_t s = alu_signed(a, size);

    if (!n)
        return a;
    return alu_shifted(fl, (uint64_t)(s >> n), s >> (n - 1) & 1, false, size);
}

/* A rotate changes CF and OF only */
ALU uint64_t alu_rotated(uint32_t *fl, uint64_t r, bool carry, bool overflow)
{
    *fl = alu_flag(alu_flag(*fl, PF_CF, carry), PF_OF, overflow);
    return r;
}

ALU uint64_t alu_rol(uint32_t *fl, uint64_t a, uint64_t count, const unsigned size)
{
    unsigned n = alu_count(count, size), bits = 8 * size, k = n & (bits - 1);

    a &= alu_mask(size);
    if (!n)
        return a;
    if (k)
        a = a << k | a >> (bits - k);
    return alu_rotated(fl, a, a & 1, alu_top(a, size) != (a & 1));
}
ALU uint64_t alu_ror(uint32_t *fl, uint64_t a, uint64_t count, const unsigned size)
{
    unsigned n = alu_count(count, size), bits = 8 * size, k = n & (bits - 1);

    a &= alu_mask(size);
    if (!n)
        return a;
    if (k)
        a = a >> k | a << (bits - k);
    return alu_rotated(fl, a, alu_top(a, size), alu_top(a ^ a << 1, size));
}
ALU uint64_t alu_rol_by(uint32_t *fl, uint64_t a, uint64_t count, const unsigned size) { return alu_rol(fl, a, count, size); }
ALU uint64_t alu_ror_by(uint32_t *fl, uint64_t a, uint64_t count, const unsigned size) { return alu_ror(fl, a, count, size); }
ALU uint64_t alu_rcl(uint32_t *fl, uint64_t a, uint64_t count, const unsigned size)
{
    unsigned n = alu_count(count, size);
    bool carry = *fl & PF_CF;

    for (unsigned k = n; k; k--) {
        bool out = alu_top(a, size);
        a = a << 1 | carry;
        carry = out;
    }
    return n ? alu_rotated(fl, a, carry, alu_top(a, size) != carry) : a;
}
ALU uint64_t alu_rcr(uint32_t *fl, uint64_t a, uint64_t count, const unsigned size)
{
    unsigned n = alu_count(count, size);
    bool carry = *fl & PF_CF;

    a &= alu_mask(size);
    for (unsigned k = n; k; k--) {
        bool out = a & 1;
        a = a >> 1 | (uint64_t)carry << (8 * size - 1);
        carry = out;
    }
    return n ? alu_rotated(fl, a, carry, alu_top(a ^ a << 1, size)) : a;
}

/* SHLD, SHRD of 16 bits by more than that: undefined; the second operand again, as AMD's processors have it */
ALU uint64_t alu_shld(uint32_t *fl, uint64_t a, uint64_t b, uint64_t count, const unsigned size)
{
    unsigned n = alu_count(count, size), bits = 8 * size;
    uint64_t m = alu_mask(size), r;
    bool carry;

    a &= m;
    b &= m;
    if (!n)
        return a;
    if (size == 2) {
        uint64_t all = a << 32 | b << 16 | b;
        r = all << n >> 32 & m;
        carry = n <= bits && all << (n - 1) >> 47 & 1;
    } else {
        r = a << n | b >> (bits - n);
        carry = a >> (bits - n) & 1;
    }
    return alu_shifted(fl, r, carry, alu_top(a ^ r, size), size);
}
ALU uint64_t alu_shrd(uint32_t *fl, uint64_t a, uint64_t b, uint64_t count, const unsigned size)
{
    unsigned n = alu_count(count, size), bits = 8 * size;
    uint64_t m = alu_mask(size), r;
    bool carry;

    a &= m;
    b &= m;
    if (!n)
        return a;
    if (size == 2) {
        uint64_t all = b << 32 | b << 16 | a;
        r = all >> n & m;
        carry = n <= bits && all >> (n - 1) & 1;
    } else {
        r = a >> n | b << (bits - n);
        carry = a >> (n - 1) & 1;
    }
    return alu_shifted(fl, r, carry, alu_top(a ^ r, size), size);
}

/* ---- multiplication, division ------------------------------------------------------------------------------- */

ALU uint64_t alu_imul2(uint32_t *fl, uint64_t a, uint64_t b, const unsigned size)
{
    __int128 r = (__int128)alu_signed(a, size) * alu_signed(b, size);

    return alu_rotated(fl, (uint64_t)r, r != alu_signed((uint64_t)r, size), r != alu_signed((uint64_t)r, size));
}

ALU void alu_product(uint32_t *fl, unsigned __int128 r, bool wide, uint64_t *lo, uint64_t *hi, unsigned size)
{
    *fl = alu_flag(alu_flag(*fl, PF_CF, wide), PF_OF, wide);
    *lo = (uint64_t)r;
    *hi = (uint64_t)(r >> 8 * size);
}

/* lo:hi = a * b. For size 1 the whole product is in lo (AX). */
ALU void alu_mul(uint32_t *fl, uint64_t a, uint64_t b, uint64_t *lo, uint64_t *hi, const unsigned size)
{
    unsigned __int128 r = (unsigned __int128)(a & alu_mask(size)) * (b & alu_mask(size));

    alu_product(fl, r, r >> 8 * size != 0, lo, hi, size);
}
ALU void alu_imul(uint32_t *fl, uint64_t a, uint64_t b, uint64_t *lo, uint64_t *hi, const unsigned size)
{
    __int128 r = (__int128)alu_signed(a, size) * alu_signed(b, size);

    alu_product(fl, (unsigned __int128)r, r != alu_signed((uint64_t)r, size), lo, hi, size);
}

/* The dividend: hi:lo, of bytes AX. */
ALU unsigned __int128 alu_dividend(uint64_t lo, uint64_t hi, unsigned size)
{
    return size == 1 ? lo & 0xffff : (unsigned __int128)(hi & alu_mask(size)) << 8 * size | (lo & alu_mask(size));
}
ALU void alu_quotient(uint64_t q, uint64_t r, uint64_t *lo, uint64_t *hi, unsigned size)
{
    *lo = size == 1 ? (r & 0xff) << 8 | (q & 0xff) : q;
    *hi = r;
}

/* lo = quotient, hi = remainder of hi:lo / b (size 1: of AX = lo, both in lo as AH:AL). The caller has excluded #DE. */
ALU void alu_div(uint32_t *fl, uint64_t *lo, uint64_t *hi, uint64_t b, const unsigned size)
{
    unsigned __int128 n = alu_dividend(*lo, *hi, size);

    (void)fl;
    b &= alu_mask(size);
    alu_quotient((uint64_t)(n / b), (uint64_t)(n % b), lo, hi, size);
}
ALU void alu_idiv(uint32_t *fl, uint64_t *lo, uint64_t *hi, uint64_t b, const unsigned size)
{
    unsigned width = 128 - 16 * size;
    __int128 n = (__int128)(alu_dividend(*lo, *hi, size) << width) >> width;
    int64_t d = alu_signed(b, size);

    (void)fl;
    alu_quotient((uint64_t)(n / d), (uint64_t)(n % d), lo, hi, size);
}

#undef ALU

#endif
