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

enum { SPAN_MAX = 256 /* bytes */ };

/* ---- the body ------------------------------------------------------------------------------------------ */

static bool is_again(const struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    const struct insn *i = op->i;

    return op->row && (op->row->how == LOWER_JCC || (op->row->how == LOWER_JMP && op->row->form == FORM_I)) && i->size == 8 &&
           i->off + i->len + i->disp == b->op[0].i->off;
}

/* CMPXCHG16B uses RBX, a bit string's address is more than its operand says. */
static bool is_odd(const struct op *op)
{
    return op->i->am != AM_NONE && op->x.map == 1 && (op->x.opcode == 0xc7 || is_bit_string(&op->x));
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
    case LOWER_RMW: return !is_odd(op);
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

/* Operands that are streams, and operands that have a probe. */
static void count_operands(const struct build *b, const struct strip *s, unsigned *answered, unsigned *asked)
{
    *answered = *asked = 0;
    for (unsigned n = 0; n <= s->last; n++) {
        *answered += s->of[n] != 0;
        *asked += strip_asks(b, s, n);
    }
}

static bool plan(struct build *b, struct strip *s)
{
    unsigned named = 0, free, answered, asked;

    *s = (struct strip){.copies = 1};
    if (!find_body(b, s))
        return false;
    find_changes(b, s);
    struct strip nest = *s;
    if (nest_plan(b, &nest)) {
        *s = nest;
        return true;
    }
    for (unsigned n = 0; n <= s->last; n++)
        named |= registers_named(&b->op[n]);
    free = LENDABLE & ~named;
    unsigned spare = (unsigned)__builtin_popcount(free);
    find_streams(b, s, spare < STREAMS_MAX ? spare : STREAMS_MAX);
    count_operands(b, s, &answered, &asked);
    if (answered < asked || !answered || asked > EXITS_MAX)
        return false;
    if (!asked && s->fewest > s->last && b->op[s->last].row->how == LOWER_JCC)
        s->copies = copies_of(b, 0, s->last, COPIED_MAX);
    strip_registers(b, s, named, free);
    return true;
}

/* ---- operands in the strip -------------------------------------------------------------------------------- */

int strip_owed(const struct build *b) { return b->strip ? b->strip->owed : 0; }

void strip_go_on(struct build *b, int owed)
{
    if (b->strip)
        b->strip->owed = (int16_t)owed;
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

/* ---- the strip ------------------------------------------------------------------------------------------------ */

bool strip_again(struct build *b, int64_t distance, unsigned executed)
{
    struct strip *s = b->strip;

    if (!executed || distance != b->op[0].i->off)
        return false;
    op_imm(&b->e, false, 5, H_LEFT, (int32_t)executed - s->owed);
    set_jump(put_jump(&b->e, CC_JGE), s->top);
    cold_add(b, COLD_STRIP, put_jump(&b->e, JUMP_ALWAYS), 0);
    return true;
}

/* As many iterations at once as there are copies; behind them the strip's last ones, if they are fewer. */
static bool put_copies(struct build *b)
{
    struct strip *s = b->strip;
    struct emit *e = &b->e;
    int32_t length = s->last + 1, more = (s->copies - 1) * length;

    op_imm(e, false, 5, H_LEFT, more);
    uint8_t *few = put_jump(e, CC_JL);
    gate_put_top(b);
    if (!copies_put(b, 0, s->last, more))
        return false;
    if (b->flags == FLAGS_IN_HOST && (b->op[0].live || b->precise))
        flags_save(e, H_T1);
    op_imm(e, false, 5, H_LEFT, more + length);
    set_jump(put_jump(e, CC_JGE), s->top);
    set_jump(few, e->p);
    op_imm(e, false, 0, H_LEFT, more);
    cold_add(b, COLD_STRIP, put_jump(e, CC_JS), 0);
    return true;
}

static bool render(struct build *b)
{
    struct strip *s = b->strip;

    gate_put(b);
    if (s->copies > 1 && !put_copies(b))
        return false;
    gate_put_top(b);
    for (unsigned n = 0; n <= s->last; n++)
        if (!lower(b, n))
            return false;
    const uint8_t *behind = b->e.p;
    if (b->op[s->last].row->how != LOWER_JMP)
        put_edge(b, b->op[s->last].i->off + b->op[s->last].i->len, s->last + 1, true);
    if (s->copies > 1)
        copies_join(b, behind);
    put_colds(b);
    gate_put_fails(b);
    gate_put_landing(b);
    return true;
}

void strip_add(struct build *b)
{
    uint8_t *start = b->e.p;
    unsigned dues = b->dues, sites = b->sites;
    struct strip s;

    if (!b->selves || b->span || start - (b->e.rw + b->block->entry) > BLOCK_BYTES_MAX / 2)
        return;
    b->kind = b->block->kind;
    if (plan(b, &s)) {
        b->strip = &s;
        s.selves = b->selves;
        if (s.first ? nest_render(b) : render(b)) {
            gate_begin(b);
            for (unsigned k = 0; k < s.selves && !s.first; k++)
                set_jump(b->self[k], s.way_in[k]);
        } else {
            b->e.p = start;
            b->dues = dues;
            b->sites = sites;
        }
        b->strip = NULL;
    }
    b->colds = 0;
    registers_at_home(b);
}
