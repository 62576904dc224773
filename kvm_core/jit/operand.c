/* Memory operands: the TLB probe, and how several operands of a block share one.
 *
 * After a probe r10 is a host address. Operands with the same base and index, unchanged but for constants that were added, lie at
 * known distances from it. The first one looks ahead, and its probe covers them all: one compare answers for the whole range,
 * with write rights if one of them writes. Where the range does not hit, the block goes on in a copy of these instructions
 * behind it (COLD_GROUP), in which each asks for itself.
 */
#include "jit/build.h"

#include "cpu/native.h"
#include "cpu/sem/common.h"
#include "gen/handlers.h"

enum { SPAN_MAX = 128 /* bytes */, AHEAD = 24 /* instructions */ };

/* ---- which registers an instruction changes ------------------------------------------------------------ */

enum { ALL_REGS = 0xffff };
#define REG_BIT(n) (1u << (n))

static unsigned written_by_encoding(const struct build *b, const struct op *op)
{
    struct encoding x;
    struct roles r;
    unsigned reg, rm, mask = 0;

    parse_encoding(b, op->i, &x);
    if (!x.has_modrm)
        return x.map == 0 && x.opcode >= 0xb0 && x.opcode <= 0xbf ? REG_BIT((x.opcode & 7) | (x.rex & 1) << 3)
               : x.map == 1                                      ? REG_BIT((x.opcode & 7) | (x.rex & 1) << 3) /* BSWAP */
               : (x.opcode & 0xf8) == 0x90 ? REG_BIT(RAX) | REG_BIT((x.opcode & 7) | (x.rex & 1) << 3)
                                           : REG_BIT(RAX) | REG_BIT(RDX); /* AL, imm; CBW, CWD, LAHF ... */
    reg = (x.modrm >> 3 & 7) | (x.rex & 4) << 1;
    rm = (x.modrm & 7) | (x.rex & 1) << 3;
    find_roles(&x, &r);
    if (!r.reg_is_digit)
        mask |= REG_BIT(reg) | (r.reg8 ? REG_BIT(reg & 3) : 0); /* AH is RAX */
    if (x.modrm >= 0xc0)
        mask |= REG_BIT(rm) | (r.rm8 ? REG_BIT(rm & 3) : 0);
    if ((x.map == 0 && (x.opcode & ~1u) == 0xf6) || (x.map == 1 && ((x.opcode & ~1u) == 0xb0 || x.opcode == 0xc7)))
        mask |= REG_BIT(RAX) | REG_BIT(RDX); /* MUL, CMPXCHG, CMPXCHG16B */
    if (x.map == 0 && (x.opcode == 0x88 || x.opcode == 0x89 || (x.opcode < 0x40 && !(x.opcode & 2)) || x.opcode >> 1 == 0x42) &&
        x.modrm < 0xc0)
        mask = 0; /* the register is only stored */
    else if (x.map == 0 && ((x.opcode >= 0x38 && x.opcode < 0x3c) || x.opcode >> 1 == 0x42))
        mask = 0; /* CMP, TEST */
    return mask;
}

/* A register to which a constant is added, or -1. In 32-bit code all of it is meant to wrap at 4 GiB. */
static int added_to(const struct build *b, const struct op *op, int64_t *by)
{
    const struct insn *i = op->i;
    bool natural = i->size == b->word;

    switch (op->row->how) {
    case LOWER_PUSH:
    case LOWER_CALL: *by = -b->word; return natural ? RSP : -1;
    case LOWER_RET: *by = b->word; return natural ? RSP : -1;
    case LOWER_POP: *by = b->word; return natural && op->row->form == FORM_R && i->dst != RSP ? RSP : -1;
    case LOWER_LEA:
        *by = i->disp;
        return natural && (i->am == AM_FLAT64 || i->am == AM_32) && i->index == REG_ZERO && i->base == i->dst ? i->dst : -1;
    default: break;
    }
    if (!natural)
        return -1;
    if (i->fn == h_alu_add_ri_8 || i->fn == h_alu_add_ri_4)
        *by = (int32_t)i->imm;
    else if (i->fn == h_alu_sub_ri_8 || i->fn == h_alu_sub_ri_4)
        *by = -(int64_t)(int32_t)i->imm;
    else if (i->fn == h_unary_inc_r_8 || i->fn == h_unary_inc_r_4)
        *by = 1;
    else if (i->fn == h_unary_dec_r_8 || i->fn == h_unary_dec_r_4)
        *by = -1;
    else
        return -1;
    return i->dst;
}

unsigned registers_named(const struct build *b, const struct op *op)
{
    const struct insn *i = op->i;
    const struct native_op *native = op->row ? NULL : native_plain(i);
    unsigned mask = 0, reg, rm;
    struct encoding x;
    struct roles r;

    if (i->am != AM_NONE || (op->row && op->row->how == LOWER_LEA))
        mask |= (i->base < 16 ? REG_BIT(i->base) : 0) | (i->index < 16 ? REG_BIT(i->index) : 0);
    for (unsigned n = 0; native && n < 16; n++)
        mask |= native->map[n] ? REG_BIT(n) : 0;
    if (!op->row || op->row->how == LOWER_JCC || op->row->how == LOWER_JMP)
        return mask;
    if (op->row->how == LOWER_LEA)
        return mask | REG_BIT(i->dst & 15);
    parse_encoding(b, i, &x);
    if (!x.has_modrm)
        return mask | REG_BIT((x.opcode & 7) | (x.rex & 1) << 3);
    find_roles(&x, &r);
    reg = (x.modrm >> 3 & 7) | (x.rex & 4) << 1;
    rm = (x.modrm & 7) | (x.rex & 1) << 3;
    if (!r.reg_is_digit)
        mask |= REG_BIT(reg) | (r.reg8 ? REG_BIT(reg & 3) : 0); /* AH is RAX */
    if (x.modrm >= 0xc0)
        mask |= REG_BIT(rm) | (r.rm8 ? REG_BIT(rm & 3) : 0);
    return mask;
}

unsigned registers_implied(const struct build *b, const struct op *op)
{
    enum { ALL = REG_BIT(RAX) | REG_BIT(RCX) | REG_BIT(RDX) };
    const struct native_op *native = op->row ? NULL : native_plain(op->i);
    struct encoding x;

    if (!op->row)
        return native && native->kind == NATIVE_GPR ? ALL : 0; /* MULX */
    if (op->row->how == LOWER_LEA || op->row->how == LOWER_NOP || op->row->how == LOWER_JCC || op->row->how == LOWER_JMP)
        return 0;
    if (op->row->how > LOWER_PLAIN)
        return ALL;
    parse_encoding(b, op->i, &x);
    unsigned o = x.opcode, digit = x.modrm >> 3 & 7;
    if (!x.has_modrm)
        return x.map == 0 && o >= 0xb0 && o <= 0xbf ? 0 : ALL;
    if (x.map == 0)
        return o < 0x40 || o == 0x63 || o == 0x69 || o == 0x6b || (o >= 0x80 && o <= 0x8b) || (o & ~1u) == 0xc0 ||
               (o & ~1u) == 0xd0 || (o & ~1u) == 0xc6 || o >= 0xfe || ((o & ~1u) == 0xf6 && digit <= 3) ? 0 : ALL;
    return x.map == 1 && (o >> 4 == 4 || o >> 4 == 9 || o == 0xaf || (o & 0xf6) == 0xb6) ? 0 : ALL;
}

static unsigned written(const struct build *b, const struct op *op)
{
    const struct native_op *native;

    if (!op->row) {
        unsigned mask = 0;
        if (!(native = native_plain(op->i)))
            return op->i->fn == op_vzeroupper ? 0 : ALL_REGS;
        for (unsigned n = 0; n < 16; n++)
            mask |= native->map[n] ? REG_BIT(n) : 0;
        return mask;
    }
    switch (op->row->how) {
    case LOWER_NOP:
    case LOWER_JCC: return 0;
    case LOWER_PUSH:
    case LOWER_CALL:
    case LOWER_RET: return REG_BIT(RSP);
    case LOWER_POP: return REG_BIT(RSP) | REG_BIT(op->i->dst & 15);
    case LOWER_LEAVE: return REG_BIT(RSP) | REG_BIT(RBP);
    case LOWER_LEA: return REG_BIT(op->i->dst & 15);
    case LOWER_DIVIDE: return REG_BIT(RAX) | REG_BIT(RDX);
    case LOWER_PLAIN:
    case LOWER_LOAD:
    case LOWER_STORE:
    case LOWER_RMW: return written_by_encoding(b, op);
    default: return ALL_REGS;
    }
}

void values_after(const struct build *b, unsigned n, struct values *s)
{
    const struct op *op = &b->op[n];
    unsigned mask = written(b, op);
    int64_t by = 0;
    int reg = op->row ? added_to(b, op, &by) : -1;

    for (unsigned k = 0; k < 16; k++) {
        if (!(mask & REG_BIT(k)))
            continue;
        s->any[k]++;
        if ((int)k == reg)
            s->added[k] += by;
        else
            s->version[k]++;
    }
}

/* ---- operands ---------------------------------------------------------------------------------------------- */

static bool is_flat(const struct insn *i) { return i->am == AM_FLAT64 || (i->am == AM_32 && can_address(i) && !has_segment(i)); }

bool operand_of_stack(const struct build *b, struct operand *a, bool write, int32_t disp)
{
    uint8_t am = b->word == 8 ? AM_FLAT64 : AM_32;

    a->at = (struct insn){.base = RSP, .index = REG_ZERO, .am = am, .seg = SS, .disp = disp};
    a->write = write;
    a->size = b->word;
    return true;
}

bool operand_ahead(const struct build *b, const struct op *op, struct operand *a)
{
    const struct insn *i = op->i;
    const struct native_op *native;
    struct encoding x;

    a->at = *i;
    if (!op->row) {
        if (!(native = native_plain(i)) || !native->mem_bytes || native->special)
            return false;
        a->write = native->mem_action & OPND_WRITE;
        a->size = native->mem_bytes;
        return is_flat(i);
    }
    switch (op->row->how) {
    case LOWER_PUSH: return op->row->form != FORM_M && i->size == b->word && operand_of_stack(b, a, true, -b->word);
    case LOWER_CALL: return op->row->form == FORM_I && i->size == b->word && operand_of_stack(b, a, true, -b->word);
    case LOWER_POP: return op->row->form == FORM_R && i->size == b->word && operand_of_stack(b, a, false, 0);
    case LOWER_RET: return i->size == b->word && operand_of_stack(b, a, false, 0);
    case LOWER_LOAD:
    case LOWER_STORE:
    case LOWER_RMW:
        parse_encoding(b, i, &x);
        a->write = operand_is_written(op, &x);
        a->size = operand_size(&x, i);
        return is_flat(i) && x.has_modrm;
    default: return false;
    }
}

static bool same_address(const struct values *s, const struct insn *a, const struct values *t, const struct insn *b)
{
    if (a->base != b->base || a->index != b->index || (a->index != REG_ZERO && a->scale != b->scale))
        return false;
    if (a->base < 16 && s->version[a->base] != t->version[b->base])
        return false;
    return a->index >= 16 || s->any[a->index] == t->any[b->index];
}

static int64_t distance(const struct values *s, const struct insn *i) { return i->disp + (i->base < 16 ? s->added[i->base] : 0); }

static bool has_memory(const struct op *op) { return op->i->am != AM_NONE || (op->row && op->row->how >= LOWER_JMP && op->row->how != LOWER_END); }

/* How far the probe of operand `a` of instruction n reaches, for it and for those that follow. */
static void look_ahead(const struct build *b, unsigned n, const struct operand *a, struct held *h)
{
    struct values s = b->values;

    h->write = a->write;
    h->low = distance(&s, &a->at);
    h->high = h->low + a->size;
    h->values = s;
    h->at = a->at;
    for (unsigned k = n; k < b->count && k < n + AHEAD; k++) {
        const struct op *op = &b->op[k];
        struct operand o;
        if (k > n) {
            bool shares = operand_ahead(b, op, &o) && same_address(&h->values, &a->at, &s, &o.at);
            if (!shares && (has_memory(op) || written(b, op) == ALL_REGS))
                if (!op->row || (op->row->how != LOWER_LEA && op->row->how != LOWER_NOP && op->row->how != LOWER_JCC))
                    return;
            if (shares) {
                int64_t low = distance(&s, &o.at), high = low + o.size;
                low = low < h->low ? low : h->low;
                high = high > h->high ? high : h->high;
                if (high - low > SPAN_MAX)
                    return;
                h->low = low;
                h->high = high;
                h->write |= o.write;
            }
        }
        values_after(b, k, &s);
    }
}

static bool covered(const struct build *b, const struct operand *a)
{
    const struct held *h = &b->held;
    int64_t low = distance(&b->values, &a->at);

    return h->valid && is_flat(&a->at) && same_address(&h->values, &h->at, &b->values, &a->at) && (h->write || !a->write) && low >= h->low &&
           low + a->size <= h->high;
}

struct cold *put_operand(struct build *b, unsigned n, const struct operand *a, int32_t *disp)
{
    struct held h = {.valid = b->sharing && is_flat(&a->at)};
    struct insn at = a->at;
    int64_t first;

    if (covered(b, a)) {
        *disp = (int32_t)(distance(&b->values, &a->at) - b->held.low);
        b->held.used = true;
        return NULL;
    }
    *disp = 0;
    h.low = h.high = distance(&b->values, &a->at);
    if (h.valid) {
        look_ahead(b, n, a, &h);
        first = at.disp + h.low - distance(&b->values, &a->at);
        if (first == (int32_t)first) {
            at.disp = (int32_t)first;
            *disp = (int32_t)(distance(&b->values, &a->at) - h.low);
        } else {
            h.valid = false;
        }
    }
    struct cold *c = put_address(b, n, &at, h.valid ? h.write : a->write, h.valid ? (unsigned)(h.high - h.low) : a->size);
    h.cold = (uint16_t)(c - b->cold);
    b->held = h;
    return c;
}

/* A host address is aligned as the guest's. */
void put_aligned(struct build *b, unsigned n, int32_t disp, unsigned mask)
{
    struct held *h = &b->held;
    bool moved = disp & (int32_t)mask;

    if (h->valid && (h->aligned_mask & mask) == mask && !((disp - h->aligned_at) & (int32_t)mask))
        return;
    if (moved)
        lea(&b->e, H_T1, H_T0, disp);
    put8(&b->e, 0x41), put8(&b->e, 0xf6), put8(&b->e, moved ? 0xc3 : 0xc2), put8(&b->e, mask); /* test r11b or r10b, mask */
    cold_add(b, COLD_INTERPRET, put_jump(&b->e, CC_JNE), n);
    b->flags &= (uint8_t)~FLAGS_IN_HOST;
    h->aligned_mask = (uint8_t)mask;
    h->aligned_at = disp;
}

struct cold *put_place(struct build *b, unsigned n, const struct operand *a, struct place *at)
{
    if (strip_place(b, n, at))
        return NULL;
    flags_keep(b, &b->op[n]);
    *at = (struct place){.base = H_T0, .index = NO_INDEX};
    return put_operand(b, n, a, &at->disp);
}
