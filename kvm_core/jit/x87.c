/* x87 and MMX registers in the host's from the first instruction that needs them until the next call of C, and the x87
 * instructions, which are the host's own.
 *
 * Only while all exceptions are masked: #MF cannot come then. The pointers to the last instruction and its operand (SDM vol. 1,
 * 8.1.8) would be the host's: translated code notes which instruction it was, and C says what that means when it looks.
 */
#include "jit/build.h"

#include "cpu/native.h"
#include "cpu/x87.h"
#include "cpu/xsave.h"
#include "gen/handlers.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif

/* ---- the state ------------------------------------------------------------------------------------------ */

enum { FX_POINTERS = 6 /* FOP, FIP, FDP */, NO_FOP = 0xffff, NO_SEG = 0xff };

bool jit_x87_host(void)
{
    unsigned a, b, c = 0, d;

#ifdef __x86_64__
    __get_cpuid(1, &a, &b, &c, &d);
#endif
    return c >> 27 & 1; /* OSXSAVE */
}

bool jit_x87_enter(struct vcpu *v)
{
    struct jit *j = jit_of(v);

    _Static_assert(offsetof(struct vcpu, fx_header) == offsetof(struct vcpu, fx) + 512, "the header of an XSAVE area");
    if (!j->x87 || !(v->xinuse & XSAVE_X87) || !x87_all_masked(v->fx))
        return false;
    memcpy(j->x87_pointers, v->fx + FX_POINTERS, sizeof(j->x87_pointers));
    v->fx_header[0] = XSAVE_X87;
    v->run.x87_fop = NO_FOP;
    v->run.x87_seg = NO_SEG;
    return true;
}

void jit_x87_left(struct vcpu *v)
{
    memcpy(v->fx + FX_POINTERS, jit_of(v)->x87_pointers, sizeof(jit_of(v)->x87_pointers));
    if (v->run.x87_fop != NO_FOP)
        x87_set_code_pointer(v, v->fx, v->run.x87_fop, (v->run.x87_page + v->run.x87_off) & v->ip_mask);
    if (v->run.x87_seg != NO_SEG)
        x87_set_data_pointer(v, v->fx, v->run.x87_seg, v->run.x87_offset);
}

/* ---- the instruction -------------------------------------------------------------------------------------- */

uint8_t x87_effect(const struct build *b, const struct insn *i)
{
    struct encoding x;

    if (x87_class_of(i) == X87_OTHER)
        return i->fn == op_emms ? FLAGS_NONE : FLAGS_PART;
    parse_encoding(b, i, &x);
    if (x87_class_of(i) != X87_ARITHMETIC || x.modrm < 0xc0)
        return FLAGS_NONE;
    if ((x.opcode & ~4u) == 0xdb && x.modrm >= 0xe8 && x.modrm < 0xf8) /* FCOMI, FUCOMI, FCOMIP, FUCOMIP */
        return FLAGS_PART;
    return (x.opcode & ~1u) == 0xda && x.modrm < 0xe0 ? FLAGS_READ : FLAGS_NONE; /* FCMOVcc */
}

static void put_note32(struct emit *e, int32_t field, uint32_t value)
{
    op_mem(e, false, 0xc7, 0, H_BASE, NO_INDEX, 0, field);
    put32(e, value);
}

static void put_notes(struct build *b, unsigned n)
{
    const struct insn *i = b->op[n].i;
    struct emit *e = &b->e;

    if (i->am != AM_NONE) {
        put_offset(b, i, H_T1, true);
        store_field(e, H_T1, FIELD(run.x87_offset));
        op_mem(e, false, 0xc6, 0, H_BASE, NO_INDEX, 0, FIELD(run.x87_seg));
        put8(e, i->seg);
    }
    load_field(e, H_T1, GPR_FIELD(REG_PAGE));
    store_field(e, H_T1, FIELD(run.x87_page));
    put_note32(e, FIELD(run.x87_off), i->off);
    put_note32(e, FIELD(run.x87_fop), native_op_of(i)->fop);
}

/* FLDCW leaves it to the interpreter to unmask an exception. */
static struct cold *put_mask_check(struct build *b, unsigned n, int32_t disp)
{
    struct emit *e = &b->e;

    flags_keep(b, &b->op[n]);
    site_add(b, n, 0);
    put_rex(e, false, H_T1, 0, H_T0, false); /* movzx r11d, word [r10 + disp] */
    put8(e, 0x0f), put8(e, 0xb7);
    put_mem(e, H_T1, H_T0, NO_INDEX, 0, disp);
    op_imm(e, false, 6, H_T1, -1);
    put8(e, 0x41), put8(e, 0xf6), put8(e, 0xc3), put8(e, 0x3f); /* test r11b, 0x3f */
    b->flags &= (uint8_t)~FLAGS_IN_HOST;
    return cold_add(b, COLD_INTERPRET, put_jump(e, CC_JNE), n);
}

static void put_with_memory(struct build *b, unsigned n, enum x87_class class, const struct encoding *x)
{
    const struct insn *i = b->op[n].i;
    struct emit *e = &b->e;
    struct operand a = {.at = *i, .size = 2, .write = class == X87_FNSTCW || class == X87_FNSTSW};
    struct place at;

    if (class == X87_ARITHMETIC) {
        a.size = native_op_of(i)->mem_bytes;
        a.write = native_op_of(i)->mem_action & OPND_WRITE;
    }
    struct cold *c = put_operand(b, n, &a, &at), *unmasks = class == X87_FLDCW ? put_mask_check(b, n, at.disp) : NULL;
    site_add(b, n, 0);
    op_mem(e, false, x->opcode, x->modrm >> 3 & 7, H_T0, NO_INDEX, 0, at.disp);
    if (class == X87_ARITHMETIC)
        put_notes(b, n);
    cold_join(b, c);
    cold_join(b, unmasks);
}

/* The note of an operand's address has one scratch register. */
static bool can_note(const struct build *b, const struct insn *i)
{
    return can_address(i) &&
           (i->index == REG_ZERO || i->base == REG_ZERO || host_of(b, i->index) >= 0 || host_of(b, i->base) >= 0);
}

bool lower_x87(struct build *b, unsigned n)
{
    const struct op *o = &b->op[n];
    enum x87_class class = x87_class_of(o->i);
    struct encoding x;

    if (is_span(b, o->i) || (class == X87_OTHER && o->i->fn != op_emms) || (o->i->am != AM_NONE && !can_note(b, o->i)))
        return false;
    want_vectors(b, n, VECTOR_LOADED | VECTOR_X87);
    if (class == X87_FWAIT)
        return true;
    parse_encoding(b, o->i, &x);
    if (o->i->am != AM_NONE) {
        put_with_memory(b, n, class, &x);
        return true;
    }
    if (o->effect != FLAGS_NONE)
        flags_want(b);
    put8(&b->e, x.map ? 0x0f : x.opcode), put8(&b->e, x.map ? x.opcode : x.modrm); /* EMMS: 0F 77 */
    if (class == X87_ARITHMETIC)
        put_notes(b, n);
    if (o->effect == FLAGS_PART)
        b->flags = FLAGS_IN_HOST;
    return true;
}
