/* Memory operands: the TLB probe, and how several operands of a block share one.
 *
 * After a probe r10 is a host address. Operands with the same base and index, unchanged but for constants that were added, lie at
 * known distances from it. The first one looks ahead, and its probe covers them all: one compare answers for the whole range,
 * with write rights if one of them writes. Between them r10 may be needed for something else; the address is kept in vcpu.run.kept
 * then. It stays right while others of the block's instructions go through the interpreter, because the block is left when one
 * of these makes the TLB drop anything (vcpu.tlb_drops).
 *
 * Where the range does not hit, the block goes on in a copy of these instructions behind it (COLD_GROUP), in which each asks for
 * itself. What is found first between them is not known behind such a copy, so that this ends where nothing of that is used any more.
 */
#include "jit/build.h"

#include "cpu/native.h"
#include "cpu/sem/common.h"
#include "gen/handlers.h"

enum { SPAN_MAX = 128 /* bytes */, KEPT_FOR = 2 /* operands: for fewer a probe is as good */ };

/* ---- which registers an instruction changes ------------------------------------------------------------ */

enum { ALL_REGS = 0xffff };
#define REG_BIT(n) (1u << (n))

static unsigned written_without_modrm(const struct encoding *x)
{
    unsigned named = REG_BIT((x->opcode & 7) | (x->rex & 1) << 3);

    if (x->map == 1 || (x->opcode >= 0xb0 && x->opcode <= 0xbf)) /* BSWAP, MOV */
        return named;
    if ((x->opcode & 0xf8) == 0x90) /* XCHG */
        return REG_BIT(RAX) | named;
    if (x->opcode >> 1 == 0x3c >> 1 || x->opcode >> 1 == 0xa8 >> 1) /* CMP, TEST */
        return 0;
    return x->opcode < 0x40 ? REG_BIT(RAX) : REG_BIT(RAX) | REG_BIT(RDX); /* CBW, CWD, LAHF ... */
}

static unsigned written_by_encoding(const struct op *op)
{
    struct encoding x = op->x;
    struct roles r;
    unsigned reg, rm, mask = 0;

    if (!x.has_modrm)
        return written_without_modrm(&x);
    reg = (x.modrm >> 3 & 7) | (x.rex & 4) << 1;
    rm = (x.modrm & 7) | (x.rex & 1) << 3;
    find_roles(&x, &r);
    if (!r.reg_is_digit && r.reg_write)
        mask |= REG_BIT(reg) | (r.reg8 ? REG_BIT(reg & 3) : 0); /* AH is RAX */
    if (x.modrm >= 0xc0 && r.rm_write)
        mask |= REG_BIT(rm) | (r.rm8 ? REG_BIT(rm & 3) : 0);
    if ((x.map == 0 && (x.opcode & ~1u) == 0xf6 && x.modrm >> 3 & 4) || (x.map == 1 && ((x.opcode & ~1u) == 0xb0 || x.opcode == 0xc7)))
        mask |= REG_BIT(RAX) | REG_BIT(RDX); /* MUL, CMPXCHG, CMPXCHG16B */
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

unsigned registers_named(const struct op *op)
{
    const struct insn *i = op->i;
    const struct native_op *native = op->row ? NULL : native_plain(i);
    unsigned mask = 0, reg, rm;
    struct encoding x = op->x;
    struct roles r;

    if (i->am != AM_NONE || (op->row && op->row->how == LOWER_LEA))
        mask |= (i->base < 16 ? REG_BIT(i->base) : 0) | (i->index < 16 ? REG_BIT(i->index) : 0);
    for (unsigned n = 0; native && n < 16; n++)
        mask |= native->map[n] ? REG_BIT(n) : 0;
    if (!op->row || op->row->how == LOWER_JCC || op->row->how == LOWER_JMP)
        return mask;
    if (op->row->how == LOWER_LEA)
        return mask | REG_BIT(i->dst & 15);
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

unsigned registers_implied(const struct op *op)
{
    enum { ALL = REG_BIT(RAX) | REG_BIT(RCX) | REG_BIT(RDX) };
    const struct native_op *native = op->row ? NULL : native_plain(op->i);
    struct encoding x = op->x;

    if (!op->row)
        return native && native->kind == NATIVE_GPR ? ALL : 0; /* MULX */
    if (op->row->how == LOWER_LEA || op->row->how == LOWER_NOP || op->row->how == LOWER_JCC || op->row->how == LOWER_JMP)
        return 0;
    if (op->row->how > LOWER_PLAIN)
        return ALL;
    unsigned o = x.opcode, digit = x.modrm >> 3 & 7;
    if (!x.has_modrm)
        return x.map == 0 && o >= 0xb0 && o <= 0xbf ? 0 : ALL;
    if (x.map == 0)
        return o < 0x40 || o == 0x63 || o == 0x69 || o == 0x6b || (o >= 0x80 && o <= 0x8b) || (o & ~1u) == 0xc0 ||
               (o & ~1u) == 0xd0 || (o & ~1u) == 0xc6 || o >= 0xfe || ((o & ~1u) == 0xf6 && digit <= 3) ? 0 : ALL;
    return x.map == 1 && (o >> 4 == 4 || o >> 4 == 9 || o == 0xaf || (o & 0xf6) == 0xb6) ? 0 : ALL;
}

static unsigned written(const struct op *op)
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
    case LOWER_JCC:
    case LOWER_JMP: return 0;
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
    case LOWER_RMW: return written_by_encoding(op);
    default: return ALL_REGS;
    }
}

void values_after(const struct build *b, unsigned n, struct values *s)
{
    const struct op *op = &b->op[n];
    unsigned mask = written(op);
    int64_t by = 0;
    int reg = op->row ? added_to(b, op, &by) : -1;

    for (; mask; mask &= mask - 1) {
        unsigned k = (unsigned)__builtin_ctz(mask);
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

    *a = (struct operand){.at = {.base = RSP, .index = REG_ZERO, .am = am, .seg = SS, .disp = disp}, .write = write, .size = b->word};
    return true;
}

bool operand_ahead(const struct build *b, const struct op *op, struct operand *a)
{
    const struct insn *i = op->i;
    const struct native_op *native;

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
        a->write = operand_is_written(op, &op->x);
        a->size = operand_size(&op->x, i);
        return is_flat(i) && op->x.has_modrm;
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

static bool has_memory(const struct op *op)
{
    return op->i->am != AM_NONE || (op->row && op->row->how >= LOWER_JMP && op->row->how != LOWER_END);
}

/* Whether an instruction loses what is in r10. */
static bool needs_scratch(const struct op *op)
{
    return has_memory(op) && (!op->row || (op->row->how != LOWER_LEA && op->row->how != LOWER_NOP && op->row->how != LOWER_JCC));
}

void operands_find(struct build *b)
{
    b->barriers = 0;
    memset(&b->before[0], 0, sizeof(b->before[0]));
    for (unsigned n = 0; n < b->count; n++) {
        if (!operand_ahead(b, &b->op[n], &b->operand[n]))
            b->operand[n].size = 0;
        if (written(&b->op[n]) == ALL_REGS)
            b->barriers |= 1ull << n;
        b->before[n + 1] = b->before[n];
        values_after(b, n, &b->before[n + 1]);
    }
}

/* Makes it reach as far as operand `a` of instruction n; false: that is somewhere else. */
static bool reach(const struct build *b, struct held *h, unsigned n, const struct operand *a)
{
    int64_t low = distance(&b->before[n], &a->at), high = low + a->size;

    if (!a->size || !same_address(&b->before[h->first], &h->at, &b->before[n], &a->at))
        return false;
    low = low < h->low ? low : h->low;
    high = high > h->high ? high : h->high;
    if (high - low > SPAN_MAX || low - distance(&b->before[h->first], &h->at) + h->at.disp < INT32_MIN)
        return false;
    h->low = low;
    h->high = high;
    h->write |= a->write;
    h->shared = true;
    return true;
}

/* How far the probe of operand `a` of instruction n reaches, for it and for those that follow. -> whether it is to be kept: for
 * enough of these come when r10 is lost. */
static bool look_ahead(const struct build *b, unsigned n, const struct operand *a, struct held *h)
{
    int64_t low = distance(&b->before[n], &a->at);
    struct held near; /* for those that come before */
    unsigned later = 0;
    bool lost = false;

    *h = near = (struct held){.write = a->write, .first = (uint8_t)n, .at = a->at, .low = low, .high = low + a->size};
    for (unsigned k = n + 1; k < b->count && !(b->barriers >> k & 1); k++) {
        if (reach(b, h, k, &b->operand[k]))
            later += lost;
        else
            lost |= needs_scratch(&b->op[k]);
        if (!lost)
            near = *h;
    }
    if (later >= KEPT_FOR && b->keeps < KEPT_PLACES)
        return true;
    *h = near;
    return false;
}

static bool covers(const struct build *b, const struct held *h, unsigned n, const struct operand *a)
{
    int64_t low = distance(&b->before[n], &a->at);

    return is_flat(&a->at) && same_address(&b->before[h->first], &h->at, &b->before[n], &a->at) && (h->write || !a->write) &&
           low >= h->low && low + a->size <= h->high;
}

static int32_t kept_field(unsigned place) { return FIELD(run.kept) + 8 * (int32_t)place; }

/* r10 answers for the operand, if that has been found already. */
static bool put_held(struct build *b, unsigned n, const struct operand *a)
{
    if (b->holds && covers(b, &b->held, n, a))
        return true;
    for (unsigned k = 0; k < b->keeps; k++)
        if (covers(b, &b->kept[k], n, a)) {
            load_field(&b->e, H_T0, kept_field(k));
            b->held = b->kept[k];
            b->holds = true;
            return true;
        }
    return false;
}

void operands_forget(struct build *b)
{
    b->holds = false;
    b->keeps = 0;
}

void operands_extend(struct build *b, unsigned n)
{
    for (struct cold *c = b->cold; c < b->cold + b->colds && b->shared_by >= 0; c++) {
        if (!c->shared || (int)c->executed > b->shared_by || c->last < b->shared_by)
            continue;
        c->kind = COLD_GROUP;
        c->last = (uint8_t)n;
        c->flags_after = b->flags;
        c->vectors_after = b->vectors;
        c->join = b->e.p;
    }
}

/* A probe for the operand and those that follow. */
static struct cold *put_shared_probe(struct build *b, unsigned n, const struct operand *a, const struct held *h, bool keep, int32_t *disp)
{
    struct insn at = a->at;

    *disp = (int32_t)(distance(&b->before[n], &a->at) - h->low);
    at.disp -= *disp;
    struct cold *c = put_address(b, n, &at, h->write, (unsigned)(h->high - h->low));
    c->shared = true;
    c->last = (uint8_t)n;
    b->held = *h;
    b->holds = true;
    if (keep) {
        store_field(&b->e, H_T0, kept_field(b->keeps));
        b->kept[b->keeps++] = *h;
    }
    return c;
}

static struct cold *put_own_probe(struct build *b, unsigned n, const struct operand *a, struct place *at)
{
    if (!a->only_loaded || !is_flat(&a->at))
        return put_address(b, n, &a->at, a->write, a->size);
    at->index = H_T1;
    return put_address_apart(b, n, &a->at, a->size);
}

struct cold *put_operand(struct build *b, unsigned n, const struct operand *a, struct place *at)
{
    struct held h;

    *at = (struct place){.base = H_T0, .index = NO_INDEX};
    if (b->sharing && put_held(b, n, a)) {
        at->disp = (int32_t)(distance(&b->before[n], &a->at) - b->held.low);
        b->shared_by = b->held.first;
        return NULL;
    }
    flags_keep(b, &b->op[n]);
    if (!b->sharing || !is_flat(&a->at))
        return put_own_probe(b, n, a, at);
    bool keep = look_ahead(b, n, a, &h);
    return h.shared || !a->only_loaded ? put_shared_probe(b, n, a, &h, keep, &at->disp) : put_own_probe(b, n, a, at);
}

/* A host address is aligned as the guest's. */
void put_aligned(struct build *b, unsigned n, int32_t disp, unsigned mask)
{
    struct held *h = &b->held;
    bool moved = disp & (int32_t)mask;

    if (b->holds && (h->aligned_mask & mask) == mask && !((disp - h->aligned_at) & (int32_t)mask))
        return;
    flags_keep(b, &b->op[n]);
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
    return put_operand(b, n, a, at);
}
