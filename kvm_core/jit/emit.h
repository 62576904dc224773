/* Machine code, byte by byte: the few forms that the translator writes itself. SDM vol. 2, ch. 2. */
#ifndef KVMISH_JIT_EMIT_H
#define KVMISH_JIT_EMIT_H

#include <string.h>

#include "jit/jit.h"

enum { H_RAX, H_RCX, H_RDX, H_RBX, H_HOST_SP, H_RBP, H_RSI, H_RDI, H_SP, H_BASE, H_T0, H_T1, H_R12, H_R13, H_R14, H_LEFT };
enum { NO_INDEX = 0xff, BASE_BIAS = 128 };
#define FIELD(f) ((int32_t)offsetof(struct vcpu, f) - BASE_BIAS)
#define GPR_FIELD(n) (FIELD(gpr) + 8 * (int32_t)(n))

struct emit {
    uint8_t *p;      /* where to write next */
    uint8_t *rw;     /* start of the code cache */
};

static inline uint32_t here(const struct emit *e) { return (uint32_t)(e->p - e->rw); }
static inline void put8(struct emit *e, unsigned x) { *e->p++ = (uint8_t)x; }
static inline void put32(struct emit *e, uint32_t x)
{
    memcpy(e->p, &x, 4);
    e->p += 4;
}
static inline void put_rex(struct emit *e, bool w, unsigned reg, unsigned index, unsigned base, bool force)
{
    unsigned rex = (unsigned)w << 3 | (reg >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1);

    if (rex || force)
        put8(e, 0x40 | rex);
}
static inline void put16(struct emit *e, unsigned x) { put8(e, x & 0xff), put8(e, x >> 8); }
/* ModRM, SIB and displacement of [base + index << scale + disp] */
static inline void put_mem(struct emit *e, unsigned reg, unsigned base, unsigned index, unsigned scale, int32_t disp)
{
    unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : disp == (int8_t)disp ? 1 : 2;

    reg &= 7;
    if (index == NO_INDEX && (base & 7) != 4) {
        put8(e, mod << 6 | reg << 3 | (base & 7));
    } else {
        put8(e, mod << 6 | reg << 3 | 4);
        put8(e, scale << 6 | (index == NO_INDEX ? 4 : index & 7) << 3 | (base & 7));
    }
    if (mod == 1)
        put8(e, (uint8_t)disp);
    else if (mod == 2)
        put32(e, (uint32_t)disp);
}
/* A one-byte opcode with a memory operand. */
static inline void op_mem(struct emit *e, bool w, unsigned opcode, unsigned reg, unsigned base, unsigned index, unsigned scale,
                          int32_t disp)
{
    put_rex(e, w, reg, index == NO_INDEX ? 0 : index, base, false);
    put8(e, opcode);
    put_mem(e, reg, base, index, scale, disp);
}
static inline void op_reg(struct emit *e, bool w, unsigned opcode, unsigned reg, unsigned rm)
{
    put_rex(e, w, reg, 0, rm, false);
    put8(e, opcode);
    put8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}
static inline void load_field(struct emit *e, unsigned reg, int32_t field) { op_mem(e, true, 0x8b, reg, H_BASE, NO_INDEX, 0, field); }
static inline void store_field(struct emit *e, unsigned reg, int32_t field) { op_mem(e, true, 0x89, reg, H_BASE, NO_INDEX, 0, field); }
/* movzx reg, word [base + disp] */
static inline void load_word(struct emit *e, unsigned reg, unsigned base, int32_t disp)
{
    put_rex(e, false, reg, 0, base, false);
    put8(e, 0x0f), put8(e, 0xb7);
    put_mem(e, reg, base, NO_INDEX, 0, disp);
}
static inline void pop_field(struct emit *e, int32_t field)
{
    put_rex(e, false, 0, 0, H_BASE, false);
    put8(e, 0x8f);
    put_mem(e, 0, H_BASE, NO_INDEX, 0, field);
}
/* test byte [field], mask */
static inline void test_field(struct emit *e, int32_t field, unsigned mask)
{
    op_mem(e, false, 0xf6, 0, H_BASE, NO_INDEX, 0, field);
    put8(e, mask);
}
static inline void move(struct emit *e, unsigned to, unsigned from) { op_reg(e, true, 0x8b, to, from); }
static inline void lea(struct emit *e, unsigned to, unsigned base, int32_t disp) { op_mem(e, true, 0x8d, to, base, NO_INDEX, 0, disp); }
static inline void lea32(struct emit *e, unsigned to, unsigned base, int32_t disp) { op_mem(e, false, 0x8d, to, base, NO_INDEX, 0, disp); }
static inline void load_imm32(struct emit *e, unsigned reg, uint32_t value)
{
    put_rex(e, false, 0, 0, reg, false);
    put8(e, 0xb8 | (reg & 7));
    put32(e, value);
}
/* Group 1 (ADD 0, OR 1, AND 4, SUB 5, XOR 6, CMP 7) with an immediate. */
static inline void op_imm(struct emit *e, bool w, unsigned digit, unsigned reg, int32_t value)
{
    bool small = value == (int8_t)value;

    put_rex(e, w, 0, 0, reg, false);
    put8(e, small ? 0x83 : 0x81);
    put8(e, 0xc0 | digit << 3 | (reg & 7));
    if (small)
        put8(e, (uint8_t)value);
    else
        put32(e, (uint32_t)value);
}

enum { /* conditions, as the low four bits of Jcc's opcode: SDM vol. 2, B.1.4.7 */
    CC_JB = 2, CC_JAE, CC_JE, CC_JNE, CC_JBE, CC_JA, CC_JS, CC_JNS, CC_JL = 12, CC_JGE, CC_JG = 15,
    JUMP_ALWAYS = 0x100
};
/* A jump whose distance is filled in later: -> where it stands. */
static inline uint8_t *put_jump(struct emit *e, unsigned cc)
{
    if (cc == JUMP_ALWAYS) {
        put8(e, 0xe9);
    } else {
        put8(e, 0x0f);
        put8(e, 0x80 | cc);
    }
    put32(e, 0);
    return e->p - 4;
}
static inline void set_jump(uint8_t *at, const uint8_t *to)
{
    int32_t distance = (int32_t)(to - (at + 4));

    memcpy(at, &distance, 4);
}
static inline uint32_t get_jump(const uint8_t *rw, uint32_t at)
{
    int32_t distance;

    memcpy(&distance, rw + at, 4);
    return at + 4 + (uint32_t)distance;
}
static inline void jump_to(struct emit *e, uint32_t target) { set_jump(put_jump(e, JUMP_ALWAYS), e->rw + target); }
/* The short form where that is near: `to` has been written already. */
static inline void jump_back(struct emit *e, const uint8_t *to)
{
    int64_t distance = to - (e->p + 2);

    if (distance == (int8_t)distance)
        put8(e, 0xeb), put8(e, (uint8_t)distance);
    else
        set_jump(put_jump(e, JUMP_ALWAYS), to);
}
static inline uint8_t *put_call_jump(struct emit *e)
{
    put8(e, 0xe8);
    put32(e, 0);
    return e->p - 4;
}
static inline void call_to(struct emit *e, uint32_t target) { set_jump(put_call_jump(e), e->rw + target); }

/* The arithmetic flags to and from vcpu.oszapc, by way of `temp`. They stay in EFLAGS when saved. The upper half of oszapc is always 0:
 * generated code stores the lower one, and loads no more, so that the load gets what is still being stored. */
static inline void flags_save(struct emit *e, unsigned temp)
{
    move(e, temp, H_RAX);
    put8(e, 0x9f); /* lahf */
    put8(e, 0x0f), put8(e, 0x90), put8(e, 0xc0); /* seto al */
    put8(e, 0x66); /* mov [oszapc], ax */
    op_mem(e, false, 0x89, H_RAX, H_BASE, NO_INDEX, 0, FIELD(oszapc));
    move(e, H_RAX, temp);
}
static inline void flags_restore(struct emit *e, unsigned temp)
{
    move(e, temp, H_RAX);
    load_word(e, H_RAX, H_BASE, FIELD(oszapc));
    put8(e, 0x04), put8(e, 0x7f); /* add al, 0x7f: sets OF when bit 0 is set */
    put8(e, 0x9e); /* sahf */
    move(e, H_RAX, temp);
}

#endif
