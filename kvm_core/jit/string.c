/* Renders the string instructions, whose operands lie at RSI and RDI, and the bit instructions that address a string of bits.
 *
 * A repeated MOVS or STOS that stays in a page of plain memory is the host's own: while it runs, RSI and RDI are host
 * addresses. Everything else is the interpreter's, which goes from page to page (cpu/strings.c).
 */
#include "jit/build.h"

#include "gen/handlers.h"

enum { MOVS = 0xa4, STOS = 0xaa, LODS = 0xac }; /* the byte forms; bit 0: wider */

static bool is_repeated(const struct insn *i) { return i->prefix & (PFX_REP | PFX_REPNE); }

static void interpret_if(struct build *b, unsigned n, unsigned cc) { cold_add(b, COLD_INTERPRET, put_jump(&b->e, cc), n); }

/* r10 = distance from the guest's address in `reg` to the host's, when all of the operand is in its page. */
static void put_distance(struct build *b, unsigned n, unsigned reg, bool write)
{
    const struct insn *i = b->op[n].i;
    struct emit *e = &b->e;
    bool wide = b->word == 8;

    op_reg(e, wide, 0x8b, H_T0, reg);
    int32_t table = put_tlb_offset(b, write);
    op_imm(e, true, 7, H_T0, 4096 - i->size);
    interpret_if(b, n, CC_JA);
    if (is_repeated(i)) {
        op_mem(e, wide, 0x8d, H_T0, H_T0, H_RCX, (unsigned)__builtin_ctz(i->size), 0);
        op_imm(e, true, 7, H_T0, 4096);
        interpret_if(b, n, CC_JA);
    }
    op_mem(e, true, 0x8b, H_T0, H_BASE, H_T1, 0, table + (int32_t)offsetof(struct tlb_entry, host));
    op_mem(e, true, 0x2b, H_T0, H_BASE, H_T1, 0, table + (int32_t)offsetof(struct tlb_entry, tag));
}

/* The count of 32-bit code is ECX; with none there is nothing to move, and the registers stay as they are. */
static void put_count_check(struct build *b, unsigned n)
{
    bool wide = b->word == 8;

    if (!wide) {
        op_reg(&b->e, false, 0x85, H_RCX, H_RCX);
        interpret_if(b, n, CC_JE);
    }
    op_imm(&b->e, wide, 7, H_RCX, 4096);
    interpret_if(b, n, CC_JA);
}

/* Between guest and host addresses: opcode ADD or SUB. */
static void move_pointers(struct build *b, unsigned opcode, bool from, bool to)
{
    bool wide = opcode == 0x03 || b->word == 8;

    if (from)
        op_reg(&b->e, wide, opcode, H_RSI, H_T0);
    if (to)
        op_mem(&b->e, wide, opcode, H_RDI, H_BASE, NO_INDEX, 0, FIELD(run.target[0]));
}

static void put_string(struct build *b, unsigned n, unsigned opcode)
{
    const struct insn *i = b->op[n].i;
    struct emit *e = &b->e;
    bool from = opcode != STOS, to = opcode != LODS;

    if (b->word == 4) {
        if (from)
            op_reg(e, false, 0x8b, H_RSI, H_RSI);
        if (to)
            op_reg(e, false, 0x8b, H_RDI, H_RDI);
        if (is_repeated(i))
            op_reg(e, false, 0x8b, H_RCX, H_RCX);
    }
    move_pointers(b, 0x03, from, to);
    site_add(b, n, (from ? SITE_FROM : 0) | (to ? SITE_TO : 0));
    if (is_repeated(i))
        put8(e, 0xf3);
    if (i->size == 2)
        put8(e, 0x66);
    put_rex(e, i->size == 8, 0, 0, 0, false);
    put8(e, opcode | (i->size > 1));
    move_pointers(b, 0x2b, from, to);
}

bool lower_string(struct build *b, unsigned n)
{
    const struct insn *i = b->op[n].i;
    unsigned first = b->colds, opcode = b->op[n].x.opcode & ~1u;

    if (i->am != (b->word == 8 ? AM_FLAT64 : AM_32) || (opcode == LODS && is_repeated(i)) ||
        (opcode != STOS && (has_segment(i) || (b->word == 4 && i->seg == CS))))
        return false;
    flags_keep(b, &b->op[n]);
    b->flags &= (uint8_t)~FLAGS_IN_HOST;
    b->holds = false;
    test_field(&b->e, FIELD(eflags) + 1, FL_DF >> 8);
    interpret_if(b, n, CC_JNE);
    if (is_repeated(i))
        put_count_check(b, n);
    if (opcode != LODS) {
        put_distance(b, n, H_RDI, true);
        store_field(&b->e, H_T0, FIELD(run.target[0]));
    }
    if (opcode != STOS)
        put_distance(b, n, H_RSI, false);
    put_string(b, n, opcode);
    for (; first < b->colds; first++)
        cold_join(b, &b->cold[first]);
    return true;
}

/* ---- BT, BTS, BTR, BTC with a bit offset in a register and the string in memory ------------------------------- */

bool is_bit_string(const struct encoding *x) { return x->map == 1 && (x->opcode & 0xe7) == 0xa3; }

/* r11 = the bit offset, sign-extended */
static void put_bit_offset(struct build *b, unsigned reg, bool wide)
{
    struct emit *e = &b->e;
    unsigned opcode = wide ? 0x8b : 0x63; /* MOV, MOVSXD */

    if (host_of(b, reg) >= 0)
        op_reg(e, true, opcode, H_T1, (unsigned)host_of(b, reg));
    else
        op_mem(e, true, opcode, H_T1, H_BASE, NO_INDEX, 0, GPR_FIELD(reg));
}

bool lower_bit_string(struct build *b, unsigned n, const struct encoding *x)
{
    const struct op *op = &b->op[n];
    const struct insn *i = op->i;
    struct emit *e = &b->e;
    bool wide = i->size == 8;
    unsigned reg = (x->modrm >> 3 & 7) | (x->rex & 4) << 1;

    if (i->size < 4)
        return false;
    flags_keep(b, op);
    put_offset(b, i, H_T0, true);
    put_bit_offset(b, reg, wide);
    put8(e, 0x49), put8(e, 0xc1), put8(e, 0xfb), put8(e, wide ? 6 : 5); /* sar r11 */
    op_mem(e, i->am == AM_FLAT64 || i->am == AM_SEG64, 0x8d, H_T0, H_T0, H_T1, wide ? 3 : 2, 0);
    struct cold *c = put_host(b, n, i, x->opcode != 0xa3, i->size);
    put_bit_offset(b, reg, wide);
    op_imm(e, false, 4, H_T1, 8 * i->size - 1);
    store_field(e, H_T1, FIELD(run.target[0]));
    flags_want(b);
    load_field(e, H_T1, FIELD(run.target[0]));
    site_add(b, n, 0);
    if (x->lock)
        put8(e, 0xf0);
    put_rex(e, wide, H_T1, 0, H_T0, false);
    put8(e, 0x0f), put8(e, x->opcode);
    put_mem(e, H_T1, H_T0, NO_INDEX, 0, 0);
    b->flags = FLAGS_IN_HOST;
    cold_join(b, c);
    return true;
}
