/* General-purpose instructions that are rare enough not to be specialised by operand form. */
#include "cpu/access.h"
#include "cpu/alu.h"
#include "cpu/sem/common.h"
#include "gen/handlers.h"

#define OP(name) const struct insn *op_##name(struct vcpu *v, const struct insn *i)

/* ---- flags ----------------------------------------------------------------------------------- */

OP(clc)
{
    v->oszapc &= ~(uint32_t)PF_CF;
    return insn_next(i);
}

OP(stc)
{
    v->oszapc |= PF_CF;
    return insn_next(i);
}

OP(cmc)
{
    v->oszapc ^= PF_CF;
    return insn_next(i);
}

OP(cld)
{
    v->eflags &= ~(uint32_t)FL_DF;
    return insn_next(i);
}

OP(std)
{
    v->eflags |= FL_DF;
    return insn_next(i);
}

OP(lahf)
{
    ((uint8_t *)v->gpr)[1] = (uint8_t)(v->oszapc >> 8 | FL_FIXED);
    return insn_next(i);
}

OP(sahf)
{
    uint32_t ah = ((uint8_t *)v->gpr)[1] & (FL_SF | FL_ZF | FL_AF | FL_PF | FL_CF);

    v->oszapc = (v->oszapc & PF_OF) | (ah | FL_FIXED) << 8;
    return insn_next(i);
}

OP(salc)
{
    reg_set(v, RAX, 1, v->oszapc & PF_CF ? 0xff : 0);
    return insn_next(i);
}

/* ---- decimal: SDM vol. 2, AAA AAD AAM AAS DAA DAS; flags that it leaves undefined are as AMD's processors have them */

static void set_flag(struct vcpu *v, uint32_t flag, bool on)
{
    v->oszapc = on ? v->oszapc | flag : v->oszapc & ~flag;
}

/* SF, ZF, PF of an 8-bit result; CF, AF, OF stay */
static void result_flags(struct vcpu *v, uint8_t result)
{
    uint32_t f = 0;

    alu_or(&f, result, result, 1);
    v->oszapc = (v->oszapc & (PF_CF | PF_AF | PF_OF)) | (f & ~(uint32_t)(PF_CF | PF_AF | PF_OF));
}

static void decimal_adjust(struct vcpu *v, bool subtract)
{
    uint8_t al = (uint8_t)v->gpr[RAX], old = al;
    bool cf = v->oszapc & PF_CF, carry = false;
    bool low = (al & 0xf) > 9 || v->oszapc & PF_AF;

    if (low) {
        carry = cf || (subtract ? al < 6 : al > 0xff - 6);
        al = (uint8_t)(subtract ? al - 6 : al + 6);
    }
    if (old > 0x99 || cf) {
        al = (uint8_t)(subtract ? al - 0x60 : al + 0x60);
        carry = true;
    }
    reg_set(v, RAX, 1, al);
    result_flags(v, al);
    set_flag(v, PF_AF, low);
    set_flag(v, PF_CF, carry);
    set_flag(v, PF_OF, (subtract ? old & ~al : al & ~old) & 0x80);
}

OP(daa)
{
    decimal_adjust(v, false);
    return insn_next(i);
}

OP(das)
{
    decimal_adjust(v, true);
    return insn_next(i);
}

static void ascii_adjust(struct vcpu *v, bool subtract)
{
    uint16_t ax = (uint16_t)v->gpr[RAX];
    bool adjust = (ax & 0xf) > 9 || v->oszapc & PF_AF;

    if (adjust)
        ax = (uint16_t)(subtract ? alu_sub(&v->oszapc, ax, 0x106, 2) : alu_add(&v->oszapc, ax, 0x106, 2));
    else
        (void)alu_or(&v->oszapc, ax, ax, 2);
    set_flag(v, PF_AF, adjust);
    set_flag(v, PF_CF, adjust);
    reg_set(v, RAX, 2, ax & 0xff0f);
}

OP(aaa)
{
    ascii_adjust(v, false);
    return insn_next(i);
}

OP(aas)
{
    ascii_adjust(v, true);
    return insn_next(i);
}

OP(aam)
{
    uint8_t base = (uint8_t)i->imm, al = (uint8_t)v->gpr[RAX];

    if (!base)
        cpu_fault(v, VEC_DE);
    reg_set(v, RAX, 2, (uint64_t)(al / base) << 8 | al % base);
    (void)alu_or(&v->oszapc, al % base, al % base, 1);
    return insn_next(i);
}

OP(aad)
{
    uint8_t al = (uint8_t)v->gpr[RAX], ah = (uint8_t)(v->gpr[RAX] >> 8);

    reg_set(v, RAX, 2, (uint8_t)alu_add(&v->oszapc, al, (uint8_t)(ah * (uint8_t)i->imm), 1));
    return insn_next(i);
}

/* ---- stack frames ------------------------------------------------------------------------------ */

static const struct insn *push_all(struct vcpu *v, const struct insn *i, const unsigned size)
{
    uint64_t sp = v->gpr[RSP], mask = stack_mask(v);

    for (unsigned r = 0; r < 8; r++)
        stack_store(v, stack_linear(v, (sp - (r + 1) * size) & mask, size, true), size,
                  r == RSP ? sp : v->gpr[r]);
    stack_set(v, sp - 8 * size);
    return insn_next(i);
}

OP(pusha)
{
    return push_all(v, i, 2);
}

OP(pushad)
{
    return push_all(v, i, 4);
}

static const struct insn *pop_all(struct vcpu *v, const struct insn *i, const unsigned size)
{
    uint64_t sp = v->gpr[RSP], mask = stack_mask(v);

    for (int r = 7; r >= 0; r--) {
        uint64_t value = stack_load(v, stack_linear(v, (sp + (7 - (unsigned)r) * size) & mask, size, false), size);
        if (r != RSP) /* what was popped stays when a later one faults */
            reg_set(v, (unsigned)r, size, value);
    }
    stack_set(v, sp + 8 * size);
    return insn_next(i);
}

OP(popa)
{
    return pop_all(v, i, 2);
}

OP(popad)
{
    return pop_all(v, i, 4);
}

/* Whether the stack can be written at `sp`. */
static void stack_check_write(struct vcpu *v, uint64_t sp, unsigned size)
{
    uint64_t linear = stack_linear(v, sp, size, true);

    stack_check_canonical(v, linear, size);
    mem_check_write(v, linear, size);
}

/* SDM vol. 2, ENTER: what was pushed stays when a later push or the check of the new frame's end faults.
 * imm: frame size | nesting level << 16 */
OP(enter)
{
    unsigned level = i->imm >> 16 & 31, size = i->size;
    uint64_t sp = v->gpr[RSP], bp = v->gpr[RBP], mask = stack_mask(v), frame;

    sp = (sp - size) & mask;
    stack_store(v, stack_linear(v, sp, size, true), size, bp);
    frame = (v->gpr[RSP] & ~mask) | sp;
    for (unsigned n = 1; n < level; n++) {
        bp -= size;
        uint64_t link = stack_load(v, stack_linear(v, bp & mask, size, false), size);
        sp = (sp - size) & mask;
        stack_store(v, stack_linear(v, sp, size, true), size, link);
    }
    if (level) {
        sp = (sp - size) & mask;
        stack_store(v, stack_linear(v, sp, size, true), size, frame);
    }
    stack_check_write(v, (sp - (i->imm & 0xffff)) & mask, size);
    stack_set(v, sp - (i->imm & 0xffff));
    reg_set(v, RBP, size, frame);
    return insn_next(i);
}

/* ---- others ------------------------------------------------------------------------------------ */

OP(bound)
{
    unsigned size = i->size;
    uint64_t lin = ea(v, i, 2 * size, false);
    int64_t low = sign_extend(mem_load(v, lin, size), size), index = sign_extend(reg_get(v, i->dst, size), size);

    if (!v->amd && index < low) /* without a look at the upper bound */
        cpu_fault(v, VEC_BR);
    int64_t high = sign_extend(mem_load(v, lin + size, size), size);
    if (index < low || index > high)
        cpu_fault(v, VEC_BR);
    return insn_next(i);
}

/* AL = [seg:rBX + AL]; the decoder gives base = rBX */
OP(xlat)
{
    struct insn at = *i;

    at.base = RBX;
    at.index = REG_ZERO;
    at.disp = (uint8_t)v->gpr[RAX];
    reg_set(v, RAX, 1, mem_load(v, ea(v, &at, 1, false), 1));
    return insn_next(i);
}

OP(cmpxchg8b)
{
    uint64_t expect = (uint64_t)(uint32_t)v->gpr[RDX] << 32 | (uint32_t)v->gpr[RAX];
    uint64_t new = (uint64_t)(uint32_t)v->gpr[RCX] << 32 | (uint32_t)v->gpr[RBX], old = expect;
    uint64_t lin = ea(v, i, 8, true);
    struct rmw m = {.host = NULL};
    void *p = mem_probe_write(v, lin, 8);
    bool equal;

    if (!p) {
        mem_rmw_begin(v, lin, 8, &m);
        p = m.host;
    }
    if (p) {
        if (i->prefix & PFX_LOCK) {
            equal = __atomic_compare_exchange_n((uint64_t *)p, &old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        } else { /* in two lines of the cache the host's LOCK takes 100 times as long, and 10,000 times where bus locks are rationed */
            old = host_get(p, 8);
            equal = old == expect;
            host_put(p, 8, equal ? new : old);
        }
        if (m.host)
            mem_rmw_stored(v, 8, &m);
    } else {
        old = m.value;
        equal = old == expect;
        mem_rmw_end(v, 8, &m, equal ? new : old);
    }
    if (!equal) {
        v->gpr[RAX] = (uint32_t)old;
        v->gpr[RDX] = old >> 32;
    }
    set_flag(v, PF_ZF, equal);
    return insn_next(i);
}

/* Atomic by the host's own LOCK CMPXCHG16B where the operand is RAM, which its alignment to 16 guarantees lies in one page. */
static bool host_cas16(void *p, uint64_t old[2], const uint64_t new[2])
{
#if defined(__x86_64__)
    bool equal;

    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(equal), "+m"(*(unsigned __int128 *)p), "+a"(old[0]), "+d"(old[1])
                     : "b"(new[0]), "c"(new[1])
                     : "memory");
    return equal;
#else
    unsigned __int128 o = (unsigned __int128)old[1] << 64 | old[0], n = (unsigned __int128)new[1] << 64 | new[0];
    bool equal = __atomic_compare_exchange_n((unsigned __int128 *)p, &o, n, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);

    old[0] = (uint64_t)o;
    old[1] = (uint64_t)(o >> 64);
    return equal;
#endif
}

OP(cmpxchg16b)
{
    uint64_t old[2] = {v->gpr[RAX], v->gpr[RDX]}, new[2] = {v->gpr[RBX], v->gpr[RCX]};
    uint64_t lin = ea(v, i, 16, true);
    void *p;
    bool equal;

    if (lin & 15)
        cpu_gp(v, 0);
    p = mem_probe_write(v, lin, 16);
    if (p) {
        equal = host_cas16(p, old, new);
    } else {
        struct rmw low, high;
        mem_rmw_begin(v, lin, 8, &low);
        mem_rmw_begin(v, lin + 8, 8, &high);
        if (low.host) {
            equal = host_cas16(low.host, old, new);
            mem_rmw_stored(v, 8, &low);
            mem_rmw_stored(v, 8, &high);
        } else {
            equal = low.value == old[0] && high.value == old[1];
            old[0] = low.value;
            old[1] = high.value;
            mem_rmw_end(v, 8, &low, equal ? new[0] : old[0]);
            mem_rmw_end(v, 8, &high, equal ? new[1] : old[1]);
        }
    }
    if (!equal) {
        v->gpr[RAX] = old[0];
        v->gpr[RDX] = old[1];
    }
    set_flag(v, PF_ZF, equal);
    return insn_next(i);
}
