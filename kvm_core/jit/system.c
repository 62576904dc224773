/* Renders the privileged instructions that kernels use all the time, and divisions: C only where something is unusual. */
#include "jit/build.h"

#include "cpu/cpuid.h"
#include "cpu/sem/common.h"
#include "cpu/tsc.h"
#include "gen/handlers.h"

/* op dword [field], imm32: AND 4, OR 1 */
static void put_field_imm(struct emit *e, unsigned digit, int32_t field, uint32_t value)
{
    put_rex(e, false, 0, 0, H_BASE, false);
    put8(e, 0x81);
    put_mem(e, digit, H_BASE, NO_INDEX, 0, field);
    put32(e, value);
}

/* cmp byte [field], 0 */
static void put_field_is_zero(struct emit *e, int32_t field)
{
    put_rex(e, false, 0, 0, H_BASE, false);
    put8(e, 0x80);
    put_mem(e, 7, H_BASE, NO_INDEX, 0, field);
    put8(e, 0);
}

static void clobber_flags(struct build *b, unsigned n)
{
    flags_keep(b, &b->op[n]);
    b->flags &= (uint8_t)~FLAGS_IN_HOST;
}

bool holds_interrupts(const struct build *b, unsigned n)
{
    const struct lowering_row *next;

    if (b->op[n].i->fn != op_sti || b->kind == TLB_USER || n + 1 >= b->count)
        return false;
    next = b->op[n + 1].row;
    return !ends_block(next) && (!next || next->how != LOWER_JCC);
}

/* Interrupts are taken between blocks only. The shadow is for who leaves in the middle of the next instruction: for a device, or
 * because its memory is gone. */
static bool lower_sti(struct build *b, unsigned n)
{
    struct emit *e = &b->e;

    if (!holds_interrupts(b, n))
        return false;
    clobber_flags(b, n);
    put_field_is_zero(e, FIELD(want_window));
    cold_add(b, COLD_INTERPRET, put_jump(e, CC_JNE), n);
    test_field(e, FIELD(eflags) + 1, FL_IF >> 8);
    _Static_assert((int)SHADOW_STI == 1, "what SETE stores");
    put_rex(e, false, 0, 0, H_BASE, false);
    put8(e, 0x0f), put8(e, 0x94); /* sete */
    put_mem(e, 0, H_BASE, NO_INDEX, 0, FIELD(shadow));
    put_field_imm(e, 1, FIELD(eflags), FL_IF);
    return true;
}

void put_shadow_end(struct build *b)
{
    put_rex(&b->e, false, 0, 0, H_BASE, false);
    put8(&b->e, 0xc6); /* mov byte */
    put_mem(&b->e, 0, H_BASE, NO_INDEX, 0, FIELD(shadow));
    put8(&b->e, SHADOW_NONE);
}

static void put_kind(struct build *b, enum tlb_set_kind kind)
{
    op_mem(&b->e, true, 0x8d, H_T1, H_BASE, NO_INDEX, 0, FIELD(tlb_sets) + (int32_t)(kind * sizeof(struct tlb_set)));
    store_field(&b->e, H_T1, FIELD(tlb));
    b->kind = kind;
    operands_forget(b);
}

/* The rest of the block is made for the other set of the TLB. */
static bool lower_smap(struct build *b, unsigned n, bool set)
{
    struct emit *e = &b->e;

    if (!(b->v->cr4 & CR4_SMAP) || !b->block)
        return false;
    clobber_flags(b, n);
    test_field(e, FIELD(cr4) + 2, CR4_SMAP >> 16);
    cold_add(b, COLD_INTERPRET, put_jump(e, CC_JE), n);
    put_field_imm(e, set ? 1 : 4, FIELD(eflags), set ? FL_AC : ~(uint32_t)FL_AC);
    put_kind(b, set ? TLB_SUPER : TLB_SUPER_SMAP);
    return true;
}

static bool lower_swapgs(struct build *b)
{
    int32_t base = FIELD(seg) + GS * (int32_t)sizeof(struct segment) + (int32_t)offsetof(struct segment, base);

    b->holds = false;
    load_field(&b->e, H_T0, base);
    load_field(&b->e, H_T1, FIELD(kernel_gs_base));
    store_field(&b->e, H_T1, base);
    store_field(&b->e, H_T0, FIELD(kernel_gs_base));
    return true;
}

static bool lower_pushf(struct build *b, unsigned n)
{
    struct emit *e = &b->e;
    struct operand a;
    struct place at;
    struct cold *c;

    flags_keep(b, &b->op[n]);
    b->holds = false;
    load_word(e, H_T0, H_BASE, FIELD(oszapc)); /* AH:AL as LAHF, SETO AL leave them */
    op_reg(e, false, 0x8b, H_T1, H_T0);
    op_imm(e, false, 4, H_T1, PF_OF);
    put8(e, 0x41), put8(e, 0xc1), put8(e, 0xe3), put8(e, 11); /* shl r11d, 11 */
    put8(e, 0x41), put8(e, 0xc1), put8(e, 0xea), put8(e, 8);  /* shr r10d, 8 */
    op_imm(e, false, 4, H_T0, FL_ARITH & 0xff);
    op_reg(e, false, 0x0b, H_T0, H_T1);
    op_mem(e, false, 0x0b, H_T0, H_BASE, NO_INDEX, 0, FIELD(eflags));
    store_field(e, H_T0, FIELD(run.target[0]));
    b->flags &= (uint8_t)~FLAGS_IN_HOST;
    operand_of_stack(b, &a, true, -b->word);
    c = put_operand(b, n, &a, &at);
    load_field(e, H_T1, FIELD(run.target[0]));
    site_add(b, n, 0);
    op_mem(e, b->word == 8, 0x89, H_T1, H_T0, NO_INDEX, 0, at.disp);
    op_mem(e, b->word == 8, 0x8d, H_SP, H_SP, NO_INDEX, 0, -b->word);
    cold_join(b, c);
    return true;
}

/* While lockstep holds the guest's clock, C says what it shows. */
static bool lower_rdtsc(struct build *b, unsigned n)
{
    const struct insn *i = b->op[n].i;
    struct emit *e = &b->e;
    unsigned first = b->colds;

    if (!host_tsc_invariant() || (i->fn == op_rdtscp && !cpu_has(b->v, FEAT_RDTSCP)))
        return false;
    clobber_flags(b, n);
    if (b->kind == TLB_USER) {
        test_field(e, FIELD(cr4), CR4_TSD);
        cold_add(b, COLD_INTERPRET, put_jump(e, CC_JNE), n);
    }
    op_mem(e, true, 0x83, 7, H_BASE, NO_INDEX, 0, FIELD(frozen_tsc)); /* cmp qword [frozen_tsc], 0 */
    put8(e, 0);
    cold_add(b, COLD_INTERPRET, put_jump(e, CC_JNE), n);
    if (i->fn == op_rdtscp)
        put8(e, 0x0f), put8(e, 0xae), put8(e, 0xe8);          /* lfence */
    put8(e, 0x0f), put8(e, 0x31);                             /* rdtsc */
    put8(e, 0x48), put8(e, 0xc1), put8(e, 0xe2), put8(e, 32); /* shl rdx, 32 */
    op_reg(e, true, 0x03, H_RDX, H_RAX);
    op_mem(e, true, 0x03, H_RDX, H_BASE, NO_INDEX, 0, FIELD(tsc_offset));
    op_reg(e, false, 0x8b, H_RAX, H_RDX);
    put8(e, 0x48), put8(e, 0xc1), put8(e, 0xea), put8(e, 32); /* shr rdx, 32 */
    if (i->fn == op_rdtscp)
        op_mem(e, false, 0x8b, H_RCX, H_BASE, NO_INDEX, 0, FIELD(tsc_aux));
    for (; first < b->colds; first++)
        cold_join(b, &b->cold[first]);
    return true;
}

/* The rights that are there already. To change them, or to do it wrongly, is left to the interpreter. */
static bool lower_wrpkru(struct build *b, unsigned n)
{
    struct emit *e = &b->e;
    struct cold *off, *other;

    clobber_flags(b, n);
    test_field(e, FIELD(cr4) + 2, CR4_PKE >> 16);
    off = cold_add(b, COLD_INTERPRET, put_jump(e, CC_JE), n);
    op_reg(e, false, 0x8b, H_T0, H_RAX);
    op_mem(e, false, 0x33, H_T0, H_BASE, NO_INDEX, 0, FIELD(pkru));
    op_reg(e, false, 0x0b, H_T0, H_RCX);
    op_reg(e, false, 0x0b, H_T0, H_RDX);
    other = cold_add(b, COLD_INTERPRET, put_jump(e, CC_JNE), n);
    cold_join(b, off);
    cold_join(b, other);
    return true;
}

/* -> false: by the interpreter. What is none of these is not touched. */
bool lower_system(struct build *b, unsigned n)
{
    const struct insn *i = b->op[n].i;

    if (i->fn == op_pushfq || i->fn == op_pushfd)
        return lower_pushf(b, n);
    if (i->fn == op_rdtsc || i->fn == op_rdtscp)
        return lower_rdtsc(b, n);
    if (i->fn == op_wrpkru)
        return lower_wrpkru(b, n);
    if (i->fn == op_cld || i->fn == op_std) {
        bool set = i->fn == op_std;
        clobber_flags(b, n);
        put_field_imm(&b->e, set ? 1 : 4, FIELD(eflags), set ? FL_DF : ~(uint32_t)FL_DF);
        return true;
    }
    if (b->kind == TLB_USER)
        return false;
    if (i->fn == op_sti)
        return lower_sti(b, n);
    if (i->fn == op_cli) {
        clobber_flags(b, n);
        put_field_imm(&b->e, 4, FIELD(eflags), ~(uint32_t)FL_IF);
        return true;
    }
    if (i->fn == op_stac || i->fn == op_clac)
        return lower_smap(b, n, i->fn == op_stac);
    if (i->fn == op_swapgs)
        return lower_swapgs(b);
    return false;
}

/* ---- DIV, IDIV ---------------------------------------------------------------------------------------------- */

/* The divisor is in r11. What would raise #DE, or might, is left to the interpreter. */
static struct cold *put_checks(struct build *b, unsigned n, bool wide, bool is_signed, struct cold **second)
{
    struct emit *e = &b->e;

    *second = NULL;
    if (!is_signed) { /* the upper half must be below the divisor */
        op_reg(e, wide, 0x3b, H_RDX, H_T1);
        return cold_add(b, COLD_INTERPRET, put_jump(e, CC_JAE), n);
    }
    op_reg(e, wide, 0x8b, H_T0, H_RAX); /* the upper half is the sign of the lower, the divisor neither 0 nor -1 */
    put_rex(e, wide, 0, 0, H_T0, false);
    put8(e, 0xc1), put8(e, 0xf8 | (H_T0 & 7)), put8(e, wide ? 63 : 31); /* sar */
    op_reg(e, wide, 0x3b, H_T0, H_RDX);
    *second = cold_add(b, COLD_INTERPRET, put_jump(e, CC_JNE), n);
    op_mem(e, wide, 0x8d, H_T0, H_T1, NO_INDEX, 0, 1);
    op_imm(e, wide, 7, H_T0, 1);
    return cold_add(b, COLD_INTERPRET, put_jump(e, CC_JBE), n);
}

bool lower_divide(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    const struct insn *i = op->i;
    struct emit *e = &b->e;
    bool wide = i->size == 8, is_signed;
    struct cold *c = NULL, *first, *second;

    if (i->size < 4 || b->precise || (op->row->form == FORM_M && !can_address(i)))
        return false;
    is_signed = (op->x.modrm >> 3 & 7) == 7;
    flags_keep(b, op);
    if (op->row->form == FORM_M) {
        struct operand a = {.at = *i, .size = i->size};
        struct place at;
        c = put_place(b, n, &a, &at);
        site_add(b, n, 0);
        op_mem(e, wide, 0x8b, H_T1, at.base, at.index, at.scale, at.disp);
    } else if (host_of(b, i->dst) >= 0) {
        op_reg(e, wide, 0x8b, H_T1, (unsigned)host_of(b, i->dst));
    } else {
        load_field(e, H_T1, GPR_FIELD(i->dst));
    }
    if (is_signed)
        b->holds = false;
    first = put_checks(b, n, wide, is_signed, &second);
    op_reg(e, wide, 0xf7, is_signed ? 7 : 6, H_T1);
    b->flags = FLAGS_IN_HOST;
    cold_join(b, c);
    cold_join(b, first);
    cold_join(b, second);
    return true;
}
