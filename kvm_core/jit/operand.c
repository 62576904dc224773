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
    unsigned reg, rm, mask = 0;

    parse_encoding(bytes_of(b, op->i), op->i->len, &x);
    if (!x.has_modrm)
        return x.map == 0 && x.opcode >= 0xb0 && x.opcode <= 0xbf ? REG_BIT((x.opcode & 7) | (x.rex & 1) << 3)
               : x.map == 1                                      ? REG_BIT((x.opcode & 7) | (x.rex & 1) << 3) /* BSWAP */
               : (x.opcode & 0xf8) == 0x90 ? REG_BIT(RAX) | REG_BIT((x.opcode & 7) | (x.rex & 1) << 3)
                                           : REG_BIT(RAX) | REG_BIT(RDX); /* AL, imm; CBW, CWD, LAHF ... */
    reg = (x.modrm >> 3 & 7) | (x.rex & 4) << 1;
    rm = (x.modrm & 7) | (x.rex & 1) << 3;
    if (!encoding_has_digit(&x))
        mask |= REG_BIT(reg) | REG_BIT(reg & 3); /* AH is RAX */
    if (x.modrm >= 0xc0)
        mask |= REG_BIT(rm) | REG_BIT(rm & 3);
    if ((x.map == 0 && (x.opcode & ~1u) == 0xf6) || (x.map == 1 && (x.opcode & ~1u) == 0xb0))
        mask |= REG_BIT(RAX) | REG_BIT(RDX); /* MUL, CMPXCHG */
    if (x.map == 0 && (x.opcode == 0x88 || x.opcode == 0x89 || (x.opcode < 0x40 && !(x.opcode & 2)) || x.opcode >> 1 == 0x42) &&
        x.modrm < 0xc0)
        mask = 0; /* the register is only stored */
    else if (x.map == 0 && ((x.opcode >= 0x38 && x.opcode < 0x3c) || x.opcode >> 1 == 0x42))
        mask = 0; /* CMP, TEST */
    return mask;
}

/* A register to which a constant is added, or -1. */
static int added_to(const struct op *op, int64_t *by)
{
    const struct insn *i = op->i;

    switch (op->row->how) {
    case LOWER_PUSH:
    case LOWER_CALL: *by = -8; return i->size == 8 ? RSP : -1;
    case LOWER_RET: *by = 8; return i->size == 8 ? RSP : -1;
    case LOWER_POP: *by = 8; return i->size == 8 && op->row->form == FORM_R && i->dst != RSP ? RSP : -1;
    case LOWER_LEA:
        *by = i->disp;
        return i->size == 8 && i->am == AM_FLAT64 && i->index == REG_ZERO && i->base == i->dst ? i->dst : -1;
    default: break;
    }
    if (i->size != 8 || op->row->form != FORM_RI)
        return -1;
    if (i->fn == h_alu_add_ri_8)
        *by = (int64_t)i->imm;
    else if (i->fn == h_alu_sub_ri_8)
        *by = -(int64_t)i->imm; /* 32 bits, sign-extended */
    else
        return -1; /* MOV's has 64 */
    return i->dst;
}

static unsigned written(const struct build *b, const struct op *op)
{
    const struct native_op *native;

    if (!op->row) {
        unsigned mask = REG_BIT(RAX) | REG_BIT(RCX) | REG_BIT(RDX);
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
    int reg = op->row ? added_to(op, &by) : -1;

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

bool operand_of_stack(struct operand *a, bool write, int32_t disp)
{
    a->at = (struct insn){.base = RSP, .index = REG_ZERO, .am = AM_FLAT64, .seg = DS, .disp = disp};
    a->write = write;
    a->size = 8;
    return true;
}

/* The operand of an instruction that is still to come, as far as it can share. */
static bool operand_ahead(const struct build *b, const struct op *op, struct operand *a)
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
        return i->am == AM_FLAT64;
    }
    switch (op->row->how) {
    case LOWER_PUSH: return op->row->form != FORM_M && i->size == 8 && operand_of_stack(a, true, -8);
    case LOWER_CALL: return op->row->form == FORM_I && i->size == 8 && operand_of_stack(a, true, -8);
    case LOWER_POP: return op->row->form == FORM_R && i->size == 8 && operand_of_stack(a, false, 0);
    case LOWER_RET: return i->size == 8 && operand_of_stack(a, false, 0);
    case LOWER_LOAD:
    case LOWER_STORE:
    case LOWER_RMW:
        parse_encoding(bytes_of(b, i), i->len, &x);
        a->write = operand_is_written(op, &x);
        a->size = operand_size(&x, i);
        return i->am == AM_FLAT64 && x.has_modrm;
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

    return h->valid && same_address(&h->values, &h->at, &b->values, &a->at) && (h->write || !a->write) && low >= h->low &&
           low + a->size <= h->high;
}

struct cold *put_operand(struct build *b, unsigned n, const struct operand *a, int32_t *disp)
{
    struct held h = {.valid = b->sharing && a->at.am == AM_FLAT64};
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
    put_address(b, &at, H_T0);
    struct cold *c = put_probe(b, n, h.valid ? h.write : a->write, h.valid ? (unsigned)(h.high - h.low) : a->size);
    h.cold = (uint16_t)(c - b->cold);
    b->held = h;
    return c;
}
