/* Loops without probes: a second version of a block that branches back to its own start.
 *
 * Most of such a loop's operands are streams: an iteration moves their address by a constant, or by a register that stays as
 * it is, or not at all. The version's entry, the gate, asks the TLB once for each stream, for all of its operands' bytes,
 * and how many iterations they stay within its page; the fewest of all are a strip. In it a stream is host address = guest
 * address + constant, and the constant, or what of the address does not change either, is in a register that the loop does
 * not use. r15 counts the strip's instructions down; what the slice has beyond that is in vcpu.run.rest meanwhile, so that a
 * strip's end costs nothing and instructions are counted as ever. Behind a strip comes the gate again. Where it does not
 * open, the block does an iteration, and its slow path brings in what was missing.
 *
 * Nothing in a strip calls C, so that the TLB stays as it is. An operand that is no stream has its probe, and leaves the
 * strip when that does not hit.
 */
#include "jit/strip.h"

#include "cpu/native.h"
#include "cpu/sem/common.h"
#include "gen/handlers.h"

enum { SPAN_MAX = 256, STRIDE_MAX = 384 /* bytes */ };
enum { SHORT_MAX = 16 /* short strips */ };

/* ---- the body ------------------------------------------------------------------------------------------ */

static bool is_again(const struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    const struct insn *i = op->i;

    return op->row && (op->row->how == LOWER_JCC || (op->row->how == LOWER_JMP && op->row->form == FORM_I)) && i->size == 8 &&
           i->off + i->len + i->disp == b->op[0].i->off;
}

/* CMPXCHG16B uses RBX, a bit string's address is more than its operand says. */
static bool is_odd(const struct build *b, const struct op *op)
{
    struct encoding x;

    parse_encoding(b, op->i, &x);
    return op->i->am != AM_NONE && x.map == 1 && (x.opcode == 0xc7 || is_bit_string(&x));
}

static bool can_be_in_strip(const struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    const struct native_op *native;

    if (!op->row) {
        native = native_plain(op->i);
        return native ? !native->special && native->kind != NATIVE_X87 : op->i->fn == op_vzeroupper && !b->precise;
    }
    switch (op->row->how) {
    case LOWER_LOAD:
    case LOWER_STORE:
    case LOWER_RMW: return !is_odd(b, op);
    case LOWER_PLAIN:
    case LOWER_LEA:
    case LOWER_NOP:
    case LOWER_JCC:
    case LOWER_DIVIDE: return true;
    case LOWER_JMP: return is_again(b, n);
    default: return false;
    }
}

static bool find_body(const struct build *b, struct strip *s)
{
    unsigned exits = 0;

    for (unsigned n = 0; n < b->count && can_be_in_strip(b, n) && exits < EXITS_MAX; n++) {
        const struct op *op = &b->op[n];
        s->need |= vector_need(b, op);
        if (is_again(b, n)) {
            s->last = n;
            if (!s->fewest)
                s->fewest = n + 1;
        } else if (op->row && (op->row->how == LOWER_JCC || op->row->how == LOWER_DIVIDE)) {
            exits++;
        }
    }
    return s->fewest;
}

/* What an iteration does to the registers, on each of the ways to its end. */
static void find_changes(const struct build *b, struct strip *s)
{
    struct values now = {0};

    memset(s->by, NO_REGISTER, sizeof(s->by));
    for (unsigned n = 0; n <= s->last; n++) {
        const struct insn *i = b->op[n].i;
        if (i->fn == h_alu_add_rr_8)
            s->by[i->dst] = i->src;
        values_after(b, n, &s->end);
    }
    for (unsigned r = 0; r < 16; r++) {
        if (s->by[r] != NO_REGISTER && (s->end.any[r] != 1 || s->end.any[s->by[r]]))
            s->by[r] = NO_REGISTER;
        if (s->end.version[r] && s->by[r] == NO_REGISTER)
            s->wild |= (uint16_t)(1u << r);
    }
    for (unsigned n = 0; n <= s->last; n++) {
        values_after(b, n, &now);
        for (unsigned r = 0; r < 16 && is_again(b, n); r++)
            if (now.added[r] != s->end.added[r] || now.version[r] != s->end.version[r])
                s->wild |= (uint16_t)(1u << r);
    }
}

/* ---- streams ---------------------------------------------------------------------------------------------- */

static bool is_wild(const struct strip *s, unsigned guest) { return guest < 16 && s->wild >> guest & 1; }

/* Adds what one of an address's registers does; false: nothing that a stream may do. */
static bool moves_by(const struct strip *s, const struct values *now, unsigned guest, unsigned shift, struct stream *g,
                     bool *moves)
{
    if (guest >= 16)
        return true;
    *moves = s->end.any[guest];
    if (s->by[guest] != NO_REGISTER) {
        if (now->any[guest] || g->by != NO_REGISTER)
            return false; /* behind the addition */
        g->by = s->by[guest];
        g->by_shift = (uint8_t)shift;
        return true;
    }
    g->stride += s->end.added[guest] * (1ll << shift);
    g->low += now->added[guest] * (1ll << shift);
    return true;
}

/* The operand of instruction n as a stream of its own. */
static bool stream_of(const struct build *b, const struct strip *s, const struct values *now, unsigned n, struct stream *g)
{
    const struct op *op = &b->op[n];
    struct operand a;

    if (op->i->am != AM_FLAT64 || !can_address(op->i) || !operand_ahead(b, op, &a) || is_wild(s, a.at.base) ||
        is_wild(s, a.at.index))
        return false;
    *g = (struct stream){.at = a.at, .write = a.write, .by = NO_REGISTER, .low = a.at.disp, .align_mask = vector_alignment(op)};
    if (!moves_by(s, now, a.at.base, 0, g, &g->base_moves) || !moves_by(s, now, a.at.index, a.at.scale, g, &g->index_moves))
        return false;
    g->high = g->low + a.size;
    g->align_at = g->low;
    if (g->by != NO_REGISTER && (g->stride || g->align_mask))
        return false;
    return g->stride >= -STRIDE_MAX && g->stride <= STRIDE_MAX && !(g->stride & g->align_mask) && g->low == (int32_t)g->low;
}

static bool merge(struct stream *to, const struct stream *g)
{
    int64_t low = to->low < g->low ? to->low : g->low, high = to->high > g->high ? to->high : g->high;
    uint8_t mask = to->align_mask | g->align_mask;

    if (to->at.base != g->at.base || to->at.index != g->at.index || to->at.scale != g->at.scale || high - low > SPAN_MAX)
        return false;
    if (to->align_mask && g->align_mask && (to->align_at - g->align_at) & mask)
        return false;
    if (!to->align_mask)
        to->align_at = g->align_at;
    to->align_mask = mask;
    to->low = low;
    to->high = high;
    to->write |= g->write;
    return true;
}

void strip_stream(struct strip *s, unsigned n, const struct stream *g, unsigned max)
{
    unsigned k = 0;

    while (k < s->streams && !merge(&s->stream[k], g))
        k++;
    if (k == s->streams && k < max)
        s->stream[s->streams++] = *g;
    s->of[n] = (uint8_t)(k < s->streams ? k + 1 : 0);
}

static void find_streams(const struct build *b, struct strip *s, unsigned max)
{
    struct values now = {0};
    struct stream g;

    for (unsigned n = 0; n <= s->last; n++) {
        if (stream_of(b, s, &now, n, &g))
            strip_stream(s, n, &g, max);
        values_after(b, n, &now);
    }
}

/* ---- registers -------------------------------------------------------------------------------------------- */

static unsigned lend(const struct build *b, struct strip *s, unsigned *free)
{
    unsigned guest = (unsigned)__builtin_ctz(*free);

    *free &= *free - 1;
    s->lent |= (uint16_t)(1u << guest);
    return (unsigned)host_of(b, guest);
}

void strip_registers(const struct build *b, struct strip *s, unsigned named, unsigned free)
{
    for (unsigned k = 0; k < s->streams; k++)
        s->stream[k].host = (uint8_t)lend(b, s, &free);
    for (unsigned r = 0; r < 16 && free; r++)
        if (named >> r & 1 && host_of(b, r) < 0) {
            s->house[r] = (int8_t)lend(b, s, &free);
            s->housed |= (uint16_t)(1u << r);
        }
}

bool strip_asks(const struct build *b, const struct strip *s, unsigned n)
{
    const struct op *op = &b->op[n];

    if (op->row && (op->row->how == LOWER_LEA || op->row->how == LOWER_NOP || op->row->how == LOWER_JCC || op->row->how == LOWER_JMP))
        return false;
    return op->i->am != AM_NONE && !s->of[n];
}

static bool is_worth_it(const struct build *b, const struct strip *s)
{
    unsigned answered = 0, asked = 0;

    for (unsigned n = 0; n <= s->last; n++) {
        answered += s->of[n] != 0;
        asked += strip_asks(b, s, n);
    }
    return answered >= asked && answered && asked <= EXITS_MAX;
}

static bool plan(struct build *b, struct strip *s)
{
    unsigned named = 0, free;

    *s = (struct strip){0};
    if (!find_body(b, s))
        return false;
    find_changes(b, s);
    struct strip nest = *s;
    if (nest_plan(b, &nest)) {
        *s = nest;
        return true;
    }
    for (unsigned n = 0; n <= s->last; n++)
        named |= registers_named(b, &b->op[n]);
    free = LENDABLE & ~named;
    unsigned spare = (unsigned)__builtin_popcount(free);
    find_streams(b, s, spare < STREAMS_MAX ? spare : STREAMS_MAX);
    if (!is_worth_it(b, s))
        return false;
    strip_registers(b, s, named, free);
    return true;
}

/* ---- operands in the strip -------------------------------------------------------------------------------- */

unsigned strip_part(const struct build *b) { return b->strip ? b->strip->part : 0; }

void strip_go_on(struct build *b, unsigned part)
{
    if (b->strip)
        b->strip->part = (uint8_t)part;
}

bool strip_answers(const struct build *b, unsigned n) { return b->strip && b->strip->of[n]; }

bool strip_place(struct build *b, unsigned n, struct place *at)
{
    const struct insn *i = b->op[n].i;
    const struct stream *g;

    if (!strip_answers(b, n))
        return false;
    g = &b->strip->stream[b->strip->of[n] - 1];
    *at = (struct place){.base = g->host, .index = NO_INDEX, .disp = i->disp};
    if (g->base_moves && g->index_moves) {
        put_offset(b, i, H_T0, true);
        *at = (struct place){.base = H_T0, .index = g->host};
    } else if (g->base_moves) {
        at->base = (uint8_t)in_register(b, i->base, H_T0);
        at->index = g->host;
    } else if (g->index_moves) {
        at->index = (uint8_t)in_register(b, i->index, H_T0);
        at->scale = i->scale;
    }
    return true;
}

/* ---- the gate ------------------------------------------------------------------------------------------------ */

static unsigned counter(const struct build *b) { return (unsigned)(b->block - b->j->blocks) % STRIP_COUNTERS; }
static int32_t counter_field(const struct build *b) { return FIELD(short_strips) + (int32_t)counter(b); }

static void add_fail(struct build *b, uint8_t *jump)
{
    struct strip *s = b->strip;

    s->fail[s->fails++] = jump;
}

static void put_shift(struct emit *e, bool w, unsigned digit, unsigned reg, unsigned count) /* SHL 4, SHR 5 */
{
    put_rex(e, w, 0, 0, reg, false);
    put8(e, 0xc1);
    put8(e, 0xc0 | digit << 3 | (reg & 7));
    put8(e, count);
}

/* What an iteration adds, into r11. */
static void put_by(struct build *b, const struct stream *g)
{
    struct emit *e = &b->e;

    move(e, H_T1, in_register(b, g->by, H_T1));
    if (g->by_shift)
        put_shift(e, true, 4, H_T1, g->by_shift);
}

/* r10d, bytes that are left to go, becomes iterations after the first, or less. */
static void put_iterations(struct build *b, const struct stream *g)
{
    unsigned stride = (unsigned)(g->stride < 0 ? -g->stride : g->stride);
    struct emit *e = &b->e;

    if (g->by != NO_REGISTER) {
        put_by(b, g);
        store_field(e, H_RAX, GPR_FIELD(RAX));
        store_field(e, H_RDX, GPR_FIELD(RDX));
        move(e, H_RAX, H_T0);
        op_reg(e, false, 0x33, H_RDX, H_RDX);
        op_reg(e, false, 0xf7, 6, H_T1); /* div */
        move(e, H_T0, H_RAX);
        load_field(e, H_RAX, GPR_FIELD(RAX));
        load_field(e, H_RDX, GPR_FIELD(RDX));
        return;
    }
    if (stride & (stride - 1)) {
        op_reg(e, false, 0x69, H_T0, H_T0); /* imul r10d, r10d, 65536 / stride: rather too few */
        put32(e, 65536 / stride);
        put_shift(e, false, 5, H_T0, 16);
    } else if (stride > 1) {
        put_shift(e, false, 5, H_T0, (unsigned)__builtin_ctz(stride));
    }
}

/* The least of all streams' iterations, in r15. */
static void put_least(struct emit *e, bool first)
{
    if (first) {
        op_reg(e, false, 0x8b, H_LEFT, H_T0);
        return;
    }
    op_reg(e, false, 0x3b, H_T0, H_LEFT);
    put_rex(e, false, H_LEFT, 0, H_T0, false); /* cmovb r15d, r10d */
    put8(e, 0x0f), put8(e, 0x42);
    put8(e, 0xc0 | (H_LEFT & 7) << 3 | (H_T0 & 7));
}

static bool is_moving(const struct stream *g) { return g->stride || g->by != NO_REGISTER; }

/* Adds the part of the address that stays as it is to the stream's constant. */
static void put_fixed(struct build *b, const struct stream *g)
{
    struct emit *e = &b->e;

    if (!g->base_moves && g->at.base != REG_ZERO)
        op_reg(e, true, 0x03, g->host, in_register(b, g->at.base, H_T1));
    if (!g->index_moves && g->at.index != REG_ZERO)
        op_mem(e, true, 0x8d, g->host, g->host, in_register(b, g->at.index, H_T1), g->at.scale, 0);
}

uint8_t *strip_put_aligned(struct build *b, const struct stream *g)
{
    int32_t at = (int32_t)(g->align_at - g->low);
    bool moved = at & g->align_mask;
    struct emit *e = &b->e;

    if (moved)
        lea(e, H_T1, H_T0, at);
    put8(e, 0x41), put8(e, 0xf6), put8(e, moved ? 0xc3 : 0xc2), put8(e, g->align_mask); /* test r11b or r10b, mask */
    return put_jump(e, CC_JNE);
}

void strip_put_stream(struct build *b, const struct stream *g, bool *first)
{
    int32_t size = (int32_t)(g->high - g->low);
    struct emit *e = &b->e;
    struct insn at = g->at;

    at.disp = (int32_t)g->low;
    put_offset(b, &at, H_T0, true);
    int32_t table = put_tlb_offset(b, g->write);
    op_mem(e, true, 0x8b, g->host, H_BASE, H_T1, 0, table + (int32_t)offsetof(struct tlb_entry, host));
    op_mem(e, true, 0x2b, g->host, H_BASE, H_T1, 0, table + (int32_t)offsetof(struct tlb_entry, tag));
    op_imm(e, true, 7, H_T0, 4096 - size);
    add_fail(b, put_jump(e, CC_JA));
    if (g->align_mask)
        add_fail(b, strip_put_aligned(b, g));
    if (is_moving(g)) {
        if (g->stride >= 0) {
            op_reg(e, false, 0xf7, 3, H_T0); /* neg r10d */
            op_imm(e, false, 0, H_T0, 4096 - size);
        }
        put_iterations(b, g);
        put_least(e, *first);
        *first = false;
    }
    put_fixed(b, g);
}

/* r15 has the iterations after the first: it becomes their instructions, as far as the slice goes. */
static void put_budget(struct build *b)
{
    struct emit *e = &b->e;
    int32_t fewest = (int32_t)b->strip->fewest;

    op_reg(e, false, 0x6b, H_LEFT, H_LEFT); /* imul r15d, r15d, imm8 */
    put8(e, (uint8_t)fewest);
    op_imm(e, false, 0, H_LEFT, fewest - 1);
    op_mem(e, false, 0x8b, H_T0, H_BASE, NO_INDEX, 0, FIELD(run.rest));
    op_reg(e, false, 0x3b, H_LEFT, H_T0);
    put_rex(e, false, H_LEFT, 0, H_T0, false); /* cmovg r15d, r10d */
    put8(e, 0x0f), put8(e, 0x4f);
    put8(e, 0xc0 | (H_LEFT & 7) << 3 | (H_T0 & 7));
    op_reg(e, false, 0x2b, H_T0, H_LEFT);
    op_mem(e, false, 0x89, H_T0, H_BASE, NO_INDEX, 0, FIELD(run.rest));
}

void strip_put_lent(struct build *b)
{
    struct strip *s = b->strip;

    for (unsigned r = 0; r < 16; r++)
        if (s->lent >> r & 1)
            store_field(&b->e, (unsigned)host_of(b, r), GPR_FIELD(r));
    for (unsigned r = 0; r < 16; r++)
        if (s->housed >> r & 1) {
            b->host[r] = s->house[r];
            load_field(&b->e, (unsigned)host_of(b, r), GPR_FIELD(r));
        }
}

void strip_put_way_in(struct build *b, const uint8_t *edge, unsigned n, unsigned short_max)
{
    struct emit *e = &b->e;

    op_mem(e, false, 0x80, 7, H_BASE, NO_INDEX, 0, counter_field(b)); /* cmp byte [counter], short_max */
    put8(e, short_max);
    struct cold *c = cold_add(b, COLD_LINK, put_jump(e, CC_JAE), 0);
    c->ref = (uint32_t)(edge - e->rw);
    c->linear = b->op[n].i->off;
}

/* For each of the block's jumps to its start, which leads here. */
static void put_ways_in(struct build *b)
{
    struct strip *s = b->strip;
    struct emit *e = &b->e;
    uint8_t *on[SELF_EDGES_MAX];

    for (unsigned k = 0; k < s->selves; k++) {
        s->way_in[k] = e->p;
        strip_put_way_in(b, b->self[k], 0, SHORT_MAX);
        if (k + 1 < s->selves)
            on[k] = put_jump(e, JUMP_ALWAYS);
    }
    for (unsigned k = 0; k + 1 < s->selves; k++)
        set_jump(on[k], e->p);
}

void strip_put_mark(struct build *b, unsigned instructions)
{
    lea(&b->e, H_T0, H_LEFT, -(int32_t)instructions);
    op_mem(&b->e, false, 0x89, H_T0, H_BASE, NO_INDEX, 0, FIELD(run.mark));
}

/* What speaks against a strip whatever its operands' pages. */
static void put_conditions(struct build *b)
{
    const struct strip *s = b->strip;
    struct emit *e = &b->e;

    if (s->need) {
        op_mem(e, false, 0xf6, 0, H_BASE, NO_INDEX, 0, FIELD(run.lack)); /* test byte [run.lack], need */
        put8(e, s->need);
        set_jump(put_jump(e, CC_JNE), e->rw + b->block->entry);
    }
    for (unsigned k = 0; k < s->streams; k++) {
        if (s->stream[k].by == NO_REGISTER)
            continue;
        put_by(b, &s->stream[k]); /* 1 to STRIDE_MAX */
        lea(e, H_T1, H_T1, -1);
        op_imm(e, true, 7, H_T1, STRIDE_MAX - 1);
        set_jump(put_jump(e, CC_JA), e->rw + b->block->entry);
    }
}

static void put_gate(struct build *b)
{
    struct strip *s = b->strip;
    struct emit *e = &b->e;
    bool first = true;

    strip_put_lent(b);
    s->next = e->p;
    op_mem(e, false, 0x89, H_LEFT, H_BASE, NO_INDEX, 0, FIELD(run.rest));
    strip_put_mark(b, SHORT * s->fewest);
    for (unsigned k = 0; k < s->streams; k++)
        strip_put_stream(b, &s->stream[k], &first);
    if (!first) {
        put_budget(b);
    } else {
        op_mem(e, false, 0xc7, 0, H_BASE, NO_INDEX, 0, FIELD(run.rest)); /* mov dword [run.rest], 0 */
        put32(e, 0);
    }
}

void strip_put_home(struct build *b)
{
    struct strip *s = b->strip;

    for (unsigned r = 0; r < 16; r++)
        if (s->housed >> r & 1 && s->end.any[r])
            store_field(&b->e, (unsigned)host_of(b, r), GPR_FIELD(r));
    for (unsigned r = 0; r < 16; r++)
        if (s->lent >> r & 1)
            load_field(&b->e, (unsigned)host_of(b, r), GPR_FIELD(r));
}

static void put_fails(struct build *b)
{
    struct emit *e = &b->e;

    for (unsigned k = 0; k < b->strip->fails; k++)
        set_jump(b->strip->fail[k], e->p);
    strip_put_home(b);
    op_mem(e, false, 0x8b, H_LEFT, H_BASE, NO_INDEX, 0, FIELD(run.rest));
    jump_to(e, b->block->entry);
}

/* ---- the strip ------------------------------------------------------------------------------------------------ */

bool strip_again(struct build *b, int64_t distance, unsigned executed)
{
    struct strip *s = b->strip;

    if (s->first && s->part == PART_COUNTED)
        return nest_again(b, distance, executed);
    if (!executed || distance != b->op[0].i->off)
        return false;
    op_imm(&b->e, false, 5, H_LEFT, (int32_t)(executed - (s->part == PART_BEFORE ? 0 : s->first)));
    set_jump(put_jump(&b->e, CC_JGE), s->top);
    cold_add(b, COLD_STRIP, put_jump(&b->e, JUMP_ALWAYS), 0);
    return true;
}

void strip_leave(struct build *b)
{
    const struct strip *s = b->strip;
    struct emit *e = &b->e;

    if (s->part == PART_COUNTED)
        op_mem(e, false, 0x03, H_LEFT, H_BASE, NO_INDEX, 0, FIELD(run.rest));
    if (s->part != PART_BEFORE && s->first)
        op_imm(e, false, 0, H_LEFT, (int32_t)s->first);
    op_mem(e, false, 0x8b, H_T0, H_BASE, NO_INDEX, 0, FIELD(run.mark));
    op_reg(e, false, 0x2b, H_T0, H_LEFT);
    put_shift(e, false, 5, H_T0, 31); /* 1: it was short */
    put_rex(e, false, H_T1, 0, H_BASE, false); /* movzx r11d, byte [counter] */
    put8(e, 0x0f), put8(e, 0xb6);
    put_mem(e, H_T1, H_BASE, NO_INDEX, 0, counter_field(b));
    lea(e, H_T1, H_T1, 1);
    put_rex(e, false, H_T1, 0, H_T0, false); /* imul r11d, r10d */
    put8(e, 0x0f), op_reg(e, false, 0xaf, H_T1 & 7, H_T0 & 7);
    op_mem(e, false, 0x88, H_T1, H_BASE, NO_INDEX, 0, counter_field(b));
    strip_put_home(b);
}

void strip_end(struct build *b)
{
    const struct strip *s = b->strip;
    struct emit *e = &b->e;

    if (s->part == PART_COUNTED) {
        op_mem(e, false, 0x03, H_LEFT, H_BASE, NO_INDEX, 0, FIELD(run.rest));
        set_jump(put_jump(e, CC_JNS), s->next);
    }
    strip_put_home(b);
    load_imm32(e, H_T1, b->op[0].i->off);
    jump_to(e, b->j->exit_page);
}

static void put_alignment(struct emit *e, unsigned bytes)
{
    static const uint8_t nop[] = {0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}; /* NOP word [rax + rax + disp32] */

    while (here(e) & (bytes - 1)) {
        unsigned room = bytes - (here(e) & (bytes - 1));
        if (room >= sizeof(nop)) {
            memcpy(e->p, nop, sizeof(nop));
            e->p += sizeof(nop);
        } else {
            put8(e, 0x90);
        }
    }
}

void strip_put_top(struct build *b)
{
    struct strip *s = b->strip;

    put_alignment(&b->e, 64);
    s->top = b->e.p;
    b->flags = b->op[0].live ? FLAGS_IN_MEMORY : 0;
    b->vectors = s->need;
    b->sharing = b->held.valid = false;
}

static bool render(struct build *b)
{
    struct strip *s = b->strip;

    put_alignment(&b->e, 16);
    put_ways_in(b);
    put_conditions(b);
    put_gate(b);
    strip_put_top(b);
    for (unsigned n = 0; n <= s->last; n++)
        if (!lower(b, n))
            return false;
    if (b->op[s->last].row->how != LOWER_JMP)
        put_edge(b, b->op[s->last].i->off + b->op[s->last].i->len, s->last + 1, true);
    put_colds(b);
    put_fails(b);
    return true;
}

void strip_add(struct build *b)
{
    uint8_t *start = b->e.p;
    unsigned dues = b->dues;
    struct strip s;

    if (!b->selves || b->span || start - (b->e.rw + b->block->entry) > BLOCK_BYTES_MAX / 2)
        return;
    b->kind = b->block->kind;
    if (plan(b, &s)) {
        b->strip = &s;
        s.selves = b->selves;
        if (s.first ? nest_render(b) : render(b)) {
            b->v->short_strips[counter(b)] = 0;
            for (unsigned k = 0; k < s.selves && !s.first; k++)
                set_jump(b->self[k], s.way_in[k]);
        } else {
            b->e.p = start;
            b->dues = dues;
        }
        b->strip = NULL;
    }
    b->colds = 0;
    registers_at_home(b);
}
