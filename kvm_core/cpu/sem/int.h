/* Semantics of the general-purpose data instructions. SDM vol. 1, chapter 7. */
#ifndef KVMISH_CPU_SEM_INT_H
#define KVMISH_CPU_SEM_INT_H

#include "cpu/sem/common.h"

/* ---- two operands: ADD OR ADC SBB AND SUB XOR CMP TEST -------------------------------------- */

enum alu { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP, ALU_TEST };

static inline __attribute__((always_inline)) uint64_t alu2(uint32_t *fl, const enum alu op, uint64_t a, uint64_t b,
                                                          const unsigned size)
{
    switch (op) {
    case ALU_ADD: return alu_add(fl, a, b, size);
    case ALU_OR: return alu_or(fl, a, b, size);
    case ALU_ADC: return alu_adc(fl, a, b, size);
    case ALU_SBB: return alu_sbb(fl, a, b, size);
    case ALU_AND: return alu_and(fl, a, b, size);
    case ALU_SUB: return alu_sub(fl, a, b, size);
    case ALU_XOR: return alu_xor(fl, a, b, size);
    case ALU_CMP: return alu_cmp(fl, a, b, size);
    default: return alu_test(fl, a, b, size);
    }
}

/* Compare-and-swap of `size` bytes at a host address; false when the value is no longer *old (then updated). */
static inline __attribute__((always_inline)) bool host_cas(void *p, uint64_t *old, uint64_t value, const unsigned size)
{
    bool ok;

    switch (size) {
    case 1: {
        uint8_t o = (uint8_t)*old;
        ok = __atomic_compare_exchange_n((uint8_t *)p, &o, (uint8_t)value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        *old = o;
        return ok;
    }
    case 2: {
        uint16_t o = (uint16_t)*old;
        ok = __atomic_compare_exchange_n((uint16_t *)p, &o, (uint16_t)value, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_SEQ_CST);
        *old = o;
        return ok;
    }
    case 4: {
        uint32_t o = (uint32_t)*old;
        ok = __atomic_compare_exchange_n((uint32_t *)p, &o, (uint32_t)value, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_SEQ_CST);
        *old = o;
        return ok;
    }
    default: {
        uint64_t o = *old;
        ok = __atomic_compare_exchange_n((uint64_t *)p, &o, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        *old = o;
        return ok;
    }
    }
}

/* Reads a memory operand, replaces it by EXPR over `old` and `fl` (flags in and out), atomically with a LOCK prefix.
 * Flags are committed last. */
#define RMW(v, i, lin, size, locked, EXPR)                                                          \
    do {                                                                                            \
        uint64_t lin_ = (lin), old;                                                                 \
        uint32_t fl;                                                                                \
        void *p_ = mem_probe_write((v), lin_, (size));                                              \
        struct rmw m_ = {.host = NULL};                                                             \
        if (unlikely(!p_)) {                                                                        \
            mem_rmw_begin((v), lin_, (size), &m_);                                                  \
            p_ = m_.host;                                                                           \
        }                                                                                           \
        if (likely(p_ != NULL)) {                                                                   \
            old = host_get(p_, (size));                                                             \
            if (unlikely(locked)) {                                                                 \
                uint64_t new_;                                                                      \
                do {                                                                                \
                    fl = (v)->oszapc;                                                               \
                    new_ = (EXPR);                                                                  \
                } while (!host_cas(p_, &old, new_, (size)));                                        \
            } else {                                                                                \
                fl = (v)->oszapc;                                                                   \
                host_put(p_, (size), (EXPR));                                                       \
            }                                                                                       \
            if (unlikely(m_.host != NULL))                                                          \
                mem_rmw_stored((v), (size), &m_);                                                   \
        } else {                                                                                    \
            old = m_.value;                                                                         \
            fl = (v)->oszapc;                                                                       \
            uint64_t new_ = (EXPR);                                                                 \
            mem_rmw_end((v), (size), &m_, new_);                                                    \
        }                                                                                           \
        (v)->oszapc = fl;                                                                           \
    } while (0)

SEM sem_alu(struct vcpu *v, const struct insn *i, const enum alu op, const enum form form, const unsigned size)
{
    uint64_t a, b;

    if (form == FORM_RR || form == FORM_RM || form == FORM_RI) {
        a = reg_get(v, i->dst, size);
        b = form == FORM_RR ? reg_get(v, i->src, size) : form == FORM_RI ? i->imm : mem_load(v, ea(v, i, size, false), size);
        a = alu2(&v->oszapc, op, a, b, size);
        if (op != ALU_CMP && op != ALU_TEST)
            reg_set(v, i->dst, size, a);
        return insn_next(i);
    }
    b = form == FORM_MI ? i->imm : reg_get(v, i->dst, size);
    if (op == ALU_CMP || op == ALU_TEST) {
        a = mem_load(v, ea(v, i, size, false), size);
        alu2(&v->oszapc, op, a, b, size);
        return insn_next(i);
    }
    RMW(v, i, ea(v, i, size, true), size, i->prefix & PFX_LOCK, alu2(&fl, op, old, b, size));
    return insn_next(i);
}

/* ---- one operand: INC DEC NEG NOT ------------------------------------------------------------ */

enum unary { UN_INC, UN_DEC, UN_NEG, UN_NOT };

static inline __attribute__((always_inline)) uint64_t alu1(uint32_t *fl, const enum unary op, uint64_t a,
                                                          const unsigned size)
{
    switch (op) {
    case UN_INC: return alu_inc(fl, a, size);
    case UN_DEC: return alu_dec(fl, a, size);
    case UN_NEG: return alu_neg(fl, a, size);
    default: return ~a;
    }
}

SEM sem_unary(struct vcpu *v, const struct insn *i, const enum unary op, const enum form form, const unsigned size)
{
    if (form == FORM_R)
        reg_set(v, i->dst, size, alu1(&v->oszapc, op, reg_get(v, i->dst, size), size));
    else
        RMW(v, i, ea(v, i, size, true), size, i->prefix & PFX_LOCK, alu1(&fl, op, old, size));
    return insn_next(i);
}

/* ---- shifts and rotates ------------------------------------------------------------------------ */

enum shift { SH_SHL, SH_SHR, SH_SAR, SH_ROL, SH_ROR, SH_RCL, SH_RCR };

static inline __attribute__((always_inline)) uint64_t shift1(uint32_t *fl, const enum shift op, uint64_t a,
                                                            uint64_t count, const enum form form, const unsigned size)
{
    switch (op) {
    case SH_SHL: return alu_shl(fl, a, count, size);
    case SH_SHR: return alu_shr(fl, a, count, size);
    case SH_SAR: return alu_sar(fl, a, count, size);
    case SH_ROL: return form == FORM_RI ? alu_rol_by(fl, a, count, size) : alu_rol(fl, a, count, size);
    case SH_ROR: return form == FORM_RI ? alu_ror_by(fl, a, count, size) : alu_ror(fl, a, count, size);
    case SH_RCL: return alu_rcl(fl, a, count, size);
    default: return alu_rcr(fl, a, count, size);
    }
}

/* rr, mr: the count is CL; ri, mi: immediate */
SEM sem_shift(struct vcpu *v, const struct insn *i, const enum shift op, const enum form form, const unsigned size)
{
    uint64_t count = form == FORM_RR || form == FORM_MR ? v->gpr[RCX] & 0xff : i->imm & 0xff;

    if (form == FORM_RR || form == FORM_RI)
        reg_set(v, i->dst, size, shift1(&v->oszapc, op, reg_get(v, i->dst, size), count, form, size));
    else
        RMW(v, i, ea(v, i, size, true), size, false, shift1(&fl, op, old, count, form, size));
    return insn_next(i);
}

enum dshift { DS_SHLD, DS_SHRD };

/* rri, mri: immediate count; rrr, mrr: CL */
SEM sem_dshift(struct vcpu *v, const struct insn *i, const enum dshift op, const enum form form, const unsigned size)
{
    bool reg = form == FORM_RRI || form == FORM_RRR;
    uint64_t b = reg_get(v, reg ? i->src : i->dst, size);
    uint64_t count = form == FORM_RRI || form == FORM_MRI ? i->imm & 0xff : v->gpr[RCX] & 0xff;

#define DSHIFT(fl, a) \
    (op == DS_SHLD ? alu_shld((fl), (a), b, count, size) : alu_shrd((fl), (a), b, count, size))
    if (reg)
        reg_set(v, i->dst, size, DSHIFT(&v->oszapc, reg_get(v, i->dst, size)));
    else
        RMW(v, i, ea(v, i, size, true), size, false, DSHIFT(&fl, old));
#undef DSHIFT
    return insn_next(i);
}

/* ---- moves -------------------------------------------------------------------------------------- */

SEM sem_mov(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    (void)unused;
    switch (form) {
    case FORM_RR: reg_set(v, i->dst, size, reg_get(v, i->src, size)); break;
    case FORM_RI: reg_set(v, i->dst, size, i->imm); break;
    case FORM_RM: reg_set(v, i->dst, size, mem_load(v, ea(v, i, size, false), size)); break;
    case FORM_MR: mem_store(v, ea(v, i, size, true), size, reg_get(v, i->dst, size)); break;
    default: mem_store(v, ea(v, i, size, true), size, i->imm); break;
    }
    return insn_next(i);
}

/* from: source size in bytes; size: destination's */
SEM sem_movzx(struct vcpu *v, const struct insn *i, const unsigned from, const enum form form, const unsigned size)
{
    uint64_t a = form == FORM_RR ? reg_get(v, i->src, from) : mem_load(v, ea(v, i, from, false), from);

    reg_set(v, i->dst, size, a);
    return insn_next(i);
}

SEM sem_movsx(struct vcpu *v, const struct insn *i, const unsigned from, const enum form form, const unsigned size)
{
    uint64_t a = form == FORM_RR ? reg_get(v, i->src, from) : mem_load(v, ea(v, i, from, false), from);

    reg_set(v, i->dst, size, (uint64_t)sign_extend(a, from));
    return insn_next(i);
}

/* MOVSXD r16, r/m16 extends nothing; AMD's processors read 32 bits of memory all the same. */
SEM sem_movsxd16(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    unsigned from = v->amd ? 4 : 2;

    (void)unused;
    reg_set(v, i->dst, size, form == FORM_RR ? v->gpr[i->src] : mem_load(v, ea(v, i, from, false), from));
    return insn_next(i);
}

SEM sem_lea(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    (void)unused;
    (void)form;
    if (likely(i->am == AM_FLAT64))
        reg_set(v, i->dst, size, v->gpr[i->base] + (v->gpr[i->index] << i->scale) + (int64_t)i->disp);
    else
        reg_set(v, i->dst, size, ea_offset(v, i));
    return insn_next(i);
}

SEM sem_cmov(struct vcpu *v, const struct insn *i, const enum cond cc, const enum form form, const unsigned size)
{
    uint64_t a = form == FORM_RR ? reg_get(v, i->src, size) : mem_load(v, ea(v, i, size, false), size);

    if (!cond_holds(v->oszapc, cc))
        a = reg_get(v, i->dst, size); /* 32 bits: the upper half is cleared all the same */
    reg_set(v, i->dst, size, a);
    return insn_next(i);
}

SEM sem_setcc(struct vcpu *v, const struct insn *i, const enum cond cc, const enum form form, const unsigned size)
{
    (void)size;
    if (form == FORM_R)
        reg_set(v, i->dst, 1, cond_holds(v->oszapc, cc));
    else
        mem_store(v, ea(v, i, 1, true), 1, cond_holds(v->oszapc, cc));
    return insn_next(i);
}

/* XCHG with memory is locked without a prefix: SDM vol. 2, XCHG */
SEM sem_xchg(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    uint64_t a, b;

    (void)unused;
    if (form == FORM_RR) {
        a = reg_get(v, i->dst, size);
        b = reg_get(v, i->src, size);
        reg_set(v, i->dst, size, b);
        reg_set(v, i->src, size, a);
        return insn_next(i);
    }
    b = reg_get(v, i->dst, size);
    RMW(v, i, ea(v, i, size, true), size, true, (a = old, b));
    reg_set(v, i->dst, size, a);
    return insn_next(i);
}

SEM sem_xadd(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    uint64_t a, b;

    (void)unused;
    if (form == FORM_RR) {
        a = reg_get(v, i->dst, size);
        b = reg_get(v, i->src, size);
        uint64_t sum = alu_add(&v->oszapc, a, b, size);
        reg_set(v, i->src, size, a);
        reg_set(v, i->dst, size, sum);
        return insn_next(i);
    }
    b = reg_get(v, i->dst, size);
    RMW(v, i, ea(v, i, size, true), size, i->prefix & PFX_LOCK, (a = old, alu_add(&fl, old, b, size)));
    reg_set(v, i->dst, size, a);
    return insn_next(i);
}

SEM sem_cmpxchg(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    uint64_t acc = reg_get(v, RAX, size), a = 0, b;

    (void)unused;
    if (form == FORM_RR) {
        a = reg_get(v, i->dst, size);
        b = reg_get(v, i->src, size);
        alu_cmp(&v->oszapc, acc, a, size);
        if (v->oszapc & PF_ZF)
            reg_set(v, i->dst, size, b);
        else
            reg_set(v, RAX, size, a);
        return insn_next(i);
    }
    b = reg_get(v, i->dst, size);
    RMW(v, i, ea(v, i, size, true), size, i->prefix & PFX_LOCK,
        (a = old, alu_cmp(&fl, acc, old, size), fl & PF_ZF ? b : old));
    if (!(v->oszapc & PF_ZF))
        reg_set(v, RAX, size, a);
    return insn_next(i);
}

SEM sem_bswap(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    (void)unused;
    (void)form;
    if (size == 8)
        v->gpr[i->dst] = __builtin_bswap64(v->gpr[i->dst]);
    else if (size == 4)
        v->gpr[i->dst] = __builtin_bswap32((uint32_t)v->gpr[i->dst]);
    else
        reg_set(v, i->dst, 2, 0); /* undefined; processors clear it */
    return insn_next(i);
}

SEM sem_movbe(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    uint64_t a = form == FORM_RM ? mem_load(v, ea(v, i, size, false), size) : reg_get(v, i->dst, size);

    (void)unused;
    a = size == 2 ? __builtin_bswap16((uint16_t)a) : size == 4 ? __builtin_bswap32((uint32_t)a) : __builtin_bswap64(a);
    if (form == FORM_RM)
        reg_set(v, i->dst, size, a);
    else
        mem_store(v, ea(v, i, size, true), size, a);
    return insn_next(i);
}

/* ---- multiplication, division --------------------------------------------------------------- */

SEM sem_imul2(struct vcpu *v, const struct insn *i, const int unused, const enum form form, const unsigned size)
{
    uint64_t a, b;

    (void)unused;
    if (form == FORM_RR || form == FORM_RM) {
        a = reg_get(v, i->dst, size);
        b = form == FORM_RR ? reg_get(v, i->src, size) : mem_load(v, ea(v, i, size, false), size);
    } else { /* rri, rmi */
        a = form == FORM_RRI ? reg_get(v, i->src, size) : mem_load(v, ea(v, i, size, false), size);
        b = i->imm;
    }
    reg_set(v, i->dst, size, alu_imul2(&v->oszapc, a, b, size));
    return insn_next(i);
}

SEM sem_mul(struct vcpu *v, const struct insn *i, const bool is_signed, const enum form form, const unsigned size)
{
    uint64_t b = form == FORM_R ? reg_get(v, i->dst, size) : mem_load(v, ea(v, i, size, false), size), lo, hi;

    if (is_signed)
        alu_imul(&v->oszapc, v->gpr[RAX], b, &lo, &hi, size);
    else
        alu_mul(&v->oszapc, v->gpr[RAX], b, &lo, &hi, size);
    if (size == 1) {
        reg_set(v, RAX, 2, lo);
    } else {
        reg_set(v, RAX, size, lo);
        reg_set(v, RDX, size, hi);
    }
    return insn_next(i);
}

/* Whether hi:lo / b (bytes: AX / b) overflows its quotient: #DE */
static inline __attribute__((always_inline)) bool divides(const bool is_signed, uint64_t hi, uint64_t lo, uint64_t b,
                                                          const unsigned size)
{
    if (!(b & size_mask(size)))
        return false;
    if (size == 8 && !is_signed)
        return hi < b;
    if (size == 8) {
        __int128 n = (__int128)(((unsigned __int128)hi << 64) | lo), q;
        if ((int64_t)b == -1)
            return n >= -(__int128)INT64_MAX && n <= (__int128)INT64_MAX + 1;
        q = n / (int64_t)b;
        return q == (int64_t)q;
    }
    uint64_t n = size == 1 ? lo & 0xffff : (hi & size_mask(size)) << (8 * size) | (lo & size_mask(size));
    if (!is_signed)
        return n / (b & size_mask(size)) <= size_mask(size);
    int64_t sn = sign_extend(n, 2 * size), sb = sign_extend(b, size);
    if (sn == INT64_MIN && sb == -1)
        return false;
    return sn / sb == sign_extend((uint64_t)(sn / sb), size);
}

SEM sem_div(struct vcpu *v, const struct insn *i, const bool is_signed, const enum form form, const unsigned size)
{
    uint64_t b = form == FORM_R ? reg_get(v, i->dst, size) : mem_load(v, ea(v, i, size, false), size);
    uint64_t lo = v->gpr[RAX], hi = v->gpr[RDX];

    if (!divides(is_signed, hi, lo, b, size))
        cpu_fault(v, VEC_DE);
    if (is_signed)
        alu_idiv(&v->oszapc, &lo, &hi, b, size);
    else
        alu_div(&v->oszapc, &lo, &hi, b, size);
    if (size == 1) {
        reg_set(v, RAX, 2, lo);
    } else {
        reg_set(v, RAX, size, lo);
        reg_set(v, RDX, size, hi);
    }
    return insn_next(i);
}

/* CBW CWDE CDQE: rAX from its lower half; size: destination's */
SEM sem_cbw(struct vcpu *v, const struct insn *i, const unsigned to, const enum form form, const unsigned size)
{
    (void)form;
    (void)size;
    reg_set(v, RAX, to, (uint64_t)sign_extend(v->gpr[RAX], to / 2));
    return insn_next(i);
}

/* CWD CDQ CQO: rDX from the sign of rAX */
SEM sem_cwd(struct vcpu *v, const struct insn *i, const unsigned to, const enum form form, const unsigned size)
{
    (void)form;
    (void)size;
    reg_set(v, RDX, to, sign_extend(v->gpr[RAX], to) < 0 ? ~0ull : 0);
    return insn_next(i);
}

/* ---- bits ------------------------------------------------------------------------------------------ */

enum bit { BIT_BT, BIT_BTS, BIT_BTR, BIT_BTC };

static inline __attribute__((always_inline)) uint64_t bit1(uint32_t *fl, const enum bit op, uint64_t a, uint64_t n,
                                                          const unsigned size)
{
    switch (op) {
    case BIT_BT: return alu_bt(fl, a, n, size);
    case BIT_BTS: return alu_bts(fl, a, n, size);
    case BIT_BTR: return alu_btr(fl, a, n, size);
    default: return alu_btc(fl, a, n, size);
    }
}

/* With a register index a memory operand is a bit string: SDM vol. 2, BT */
SEM sem_bit(struct vcpu *v, const struct insn *i, const enum bit op, const enum form form, const unsigned size)
{
    uint64_t n = form == FORM_RI || form == FORM_MI ? i->imm : reg_get(v, form == FORM_RR ? i->src : i->dst, size);

    if (form == FORM_RR || form == FORM_RI) {
        uint64_t r = bit1(&v->oszapc, op, reg_get(v, i->dst, size), n, size);
        if (op != BIT_BT)
            reg_set(v, i->dst, size, r);
        return insn_next(i);
    }
    struct insn at = *i;
    uint64_t lin;
    if (form == FORM_MR) {
        int64_t word = sign_extend(n, size) >> (size == 2 ? 4 : size == 4 ? 5 : 6);
        uint64_t off = ea_offset(v, i) + (uint64_t)word * size;
        if (i->am == AM_FLAT64)
            lin = off;
        else if (i->am == AM_SEG64 || i->am == AM_64A32)
            lin = (i->am == AM_64A32 ? (uint32_t)off : off) + (i->seg == FS || i->seg == GS ? v->seg[i->seg].base : 0);
        else
            lin = seg_linear(v, i->seg, i->am == AM_16 ? (uint16_t)off : (uint32_t)off, size, op != BIT_BT);
    } else {
        lin = ea(v, &at, size, op != BIT_BT);
    }
    if (op == BIT_BT)
        bit1(&v->oszapc, op, mem_load(v, lin, size), n, size);
    else
        RMW(v, i, lin, size, i->prefix & PFX_LOCK, bit1(&fl, op, old, n, size));
    return insn_next(i);
}

/* BSF, BSR: a zero source leaves the destination alone, as processors do */
SEM sem_scan(struct vcpu *v, const struct insn *i, const bool reverse, const enum form form, const unsigned size)
{
    uint64_t b = form == FORM_RR ? reg_get(v, i->src, size) : mem_load(v, ea(v, i, size, false), size);
    uint64_t a = reg_get(v, i->dst, size);
    uint64_t r = reverse ? alu_bsr(&v->oszapc, a, b, size) : alu_bsf(&v->oszapc, a, b, size);

    if (b & size_mask(size))
        reg_set(v, i->dst, size, r);
    return insn_next(i);
}

#endif
