/* Strips of a loop with another in it, whose iterations are too few each time to pay for a gate of their own.
 *
 * The strip is the outer loop, with copies of the inner one's body in a row (copies.c). The gate asks the TLB for the operands that
 * stay where they are in all of it. A stream of the inner loop has a window: the page where it was last, in vcpu.run.window, and
 * the distance to the host's address in a register. Before the copies its address is compared with that, for the bytes of all of
 * them at once; only when it has come to another page, the TLB is asked. A loop that goes on longer than ROUNDS through the copies
 * is left to the inner loop's own strip. All other operands have their probes.
 *
 * r15 is the slice all the time; the copies count when they are left. The way in is the block's first branch back to the inner
 * loop, so that the gate stands before the inner loop's first instruction. When a window does not hold, that one's block goes on.
 */
#include "jit/strip.h"

enum { SHORT_MAX = 8 /* fewer than of the inner loop's strip, which gets what is left over */, ROUNDS = 2, WINDOW_MAX = 1024 /* bytes */ };

/* ---- the plan ---------------------------------------------------------------------------------------------- */

static bool find_inner(const struct build *b, struct strip *s)
{
    for (unsigned q = 1; q < s->last; q++) {
        const struct op *op = &b->op[q];
        if (!op->row || op->row->how != LOWER_JCC || op->i->size != 8)
            continue;
        for (unsigned n = 1; n <= q; n++)
            if (b->op[n].i->off == target_of(op->i)) {
                s->first = n;
                s->back = q;
                return true;
            }
    }
    return false;
}

static bool is_inside(const struct strip *s, unsigned n) { return n >= s->first && n <= s->back; }

static unsigned changes(const uint8_t *count, unsigned guest) { return guest < 16 ? count[guest] : 0; }

/* What constants that are added make of an address. */
static int64_t moved(const struct values *v, const struct insn *at)
{
    return (at->base < 16 ? v->added[at->base] : 0) + (at->index < 16 ? v->added[at->index] * (1ll << at->scale) : 0);
}

/* inner: what the inner loop does to the registers; now: what it has done before instruction n. */
static bool stream_of(const struct build *b, const struct strip *s, const struct values *inner, const struct values *now, unsigned n,
                      struct stream *g)
{
    const struct op *op = &b->op[n];
    struct operand a;

    if (op->i->am != AM_FLAT64 || !can_address(op->i) || !operand_ahead(b, op, &a))
        return false;
    *g = (struct stream){.at = a.at, .write = a.write, .by = NO_REGISTER, .low = a.at.disp, .align_mask = vector_alignment(op)};
    g->window = changes(s->end.any, a.at.base) || changes(s->end.any, a.at.index);
    if (g->window) {
        if (!is_inside(s, n) || changes(inner->version, a.at.base) || changes(inner->version, a.at.index))
            return false;
        g->base_moves = a.at.base != REG_ZERO;
        g->index_moves = a.at.index != REG_ZERO;
        g->stride = moved(inner, &a.at);
        g->low += moved(now, &a.at);
    }
    g->high = g->low + a.size;
    g->align_at = g->low;
    return !(g->stride & g->align_mask) && g->low == (int32_t)g->low;
}

static unsigned round_length(const struct strip *s) { return s->copies * (s->back + 1 - s->first); } /* instructions */

/* Bytes that a stream goes in all turns of a round but the last; that its operands take in all of them. */
static unsigned reach(const struct strip *s, const struct stream *g)
{
    return (unsigned)(g->stride < 0 ? -g->stride : g->stride) * (s->copies - 1);
}
static unsigned window_size(const struct strip *s, const struct stream *g) { return (unsigned)(g->high - g->low) + reach(s, g); }

static void find_streams(const struct build *b, struct strip *s, unsigned max, bool inside)
{
    struct values inner = {0}, now = {0};
    struct stream g;

    for (unsigned n = s->first; n <= s->back; n++)
        values_after(b, n, &inner);
    for (unsigned n = 0; n <= s->last; n++) {
        if (is_inside(s, n) == inside && stream_of(b, s, &inner, &now, n, &g) && g.stride >= -WINDOW_MAX && g.stride <= WINDOW_MAX &&
            window_size(s, &g) <= WINDOW_MAX)
            strip_stream(s, n, &g, max);
        if (is_inside(s, n))
            values_after(b, n, &now);
    }
}

static bool is_worth_it(const struct build *b, const struct strip *s)
{
    unsigned inside = 0, asked = 0;

    for (unsigned n = 0; n <= s->last; n++) {
        bool unanswered = strip_asks(b, s, n);
        if (unanswered && is_inside(s, n))
            return false;
        asked += unanswered;
        inside += s->of[n] && is_inside(s, n);
    }
    return inside && asked <= EXITS_MAX;
}

bool nest_plan(const struct build *b, struct strip *s)
{
    unsigned named = 0;

    if (!b->inward || !find_inner(b, s) || b->inward_from != s->back)
        return false;
    s->copies = copies_of(b, s->first, s->back, 2 * COPIED_MAX);
    if (s->copies < COPIES_MAX)
        return false;
    for (unsigned n = 0; n <= s->last; n++)
        named |= registers_named(&b->op[n]) | registers_implied(&b->op[n]);
    unsigned free = (LENDABLE | 1 << RAX | 1 << RCX | 1 << RDX) & ~named, spare = (unsigned)__builtin_popcount(free);
    if (spare > STREAMS_MAX)
        spare = STREAMS_MAX;
    find_streams(b, s, spare, true);
    find_streams(b, s, spare, false);
    if (!is_worth_it(b, s))
        return false;
    strip_registers(b, s, named, free);
    return true;
}

/* ---- windows --------------------------------------------------------------------------------------------------- */

static int32_t window_field(const struct strip *s, const struct stream *g)
{
    return FIELD(run.window) + (int32_t)((g - s->stream) * (long)sizeof(uint64_t));
}

/* Goes on with the inner loop's first instruction in another block. */
static void put_miss(struct build *b, uint8_t *jump)
{
    struct cold *c = cold_add(b, COLD_EDGE, jump, 0);

    c->executed = b->strip->first;
    c->linear = b->op[b->strip->first].i->off;
}

/* The window's address into r10. */
static void put_window_offset(struct build *b, const struct stream *g)
{
    struct insn at = g->at;

    at.disp = (int32_t)(g->low - (g->stride < 0 ? reach(b->strip, g) : 0));
    put_offset(b, &at, H_T0, true);
}

/* Asks the TLB for it. -> the jump that is taken when it has not got it */
static uint8_t *put_look(struct build *b, const struct stream *g)
{
    struct emit *e = &b->e;

    put_window_offset(b, g);
    int32_t table = put_tlb_offset(b, g->write);
    op_imm(e, true, 7, H_T0, (int32_t)(4096 - window_size(b->strip, g)));
    uint8_t *fail = put_jump(e, CC_JA);
    op_mem(e, true, 0x8b, g->host, H_BASE, H_T1, 0, table + (int32_t)offsetof(struct tlb_entry, host));
    op_mem(e, true, 0x8b, H_T1, H_BASE, H_T1, 0, table + (int32_t)offsetof(struct tlb_entry, tag));
    store_field(e, H_T1, window_field(b->strip, g));
    op_reg(e, true, 0x2b, g->host, H_T1);
    return fail;
}

static void put_window(struct build *b, unsigned k)
{
    struct strip *s = b->strip;
    const struct stream *g = &s->stream[k];
    struct emit *e = &b->e;

    put_window_offset(b, g);
    op_mem(e, true, 0x33, H_T0, H_BASE, NO_INDEX, 0, window_field(s, g));
    op_imm(e, true, 7, H_T0, (int32_t)(4096 - window_size(b->strip, g)));
    s->elsewhere[k] = put_jump(e, CC_JA);
    s->found[k] = e->p;
    if (g->align_mask)
        put_miss(b, gate_put_aligned(b, g));
}

/* After as many turns as there are copies; the flags are where they are wanted. */
static void put_round(struct build *b)
{
    const struct strip *s = b->strip;
    struct emit *e = &b->e;

    op_imm(e, false, 5, H_LEFT, (int32_t)round_length(s));
    op_mem(e, false, 0x83, 5, H_BASE, NO_INDEX, 0, FIELD(run.rest)); /* sub dword [rest], 1 */
    put8(e, 1);
    set_jump(put_jump(e, CC_JNS), s->round);
    b->strip->owed = 0;
    put_edge(b, b->op[s->first].i->off, s->first, true);
}

/* The inner loop, which the windows precede. */
static bool put_inner(struct build *b)
{
    struct strip *s = b->strip;
    bool live = b->op[s->first].live || b->precise;
    uint8_t state, at_round = live ? FLAGS_IN_MEMORY : 0;

    if (b->flags == FLAGS_IN_HOST && live)
        flags_save(&b->e, H_T1);
    set_jump(s->to_inner, b->e.p);
    op_mem(&b->e, false, 0xc7, 0, H_BASE, NO_INDEX, 0, FIELD(run.rest)); /* mov dword [rest], more rounds */
    put32(&b->e, ROUNDS - 1);
    s->round = b->e.p;
    b->flags = at_round;
    for (unsigned k = 0; k < s->streams; k++)
        if (s->stream[k].window)
            put_window(b, k);
    if (!copies_put(b, s->first, s->back, 0))
        return false;
    state = b->flags;
    if (state == FLAGS_IN_HOST && live)
        flags_save(&b->e, H_T1);
    b->flags = at_round;
    put_round(b);
    b->flags = state;
    s->behind = b->e.p;
    return true;
}

/* For streams that have come to another page. */
static void put_looks(struct build *b)
{
    struct strip *s = b->strip;

    for (unsigned k = 0; k < s->streams; k++) {
        if (!s->stream[k].window)
            continue;
        set_jump(s->elsewhere[k], b->e.p);
        uint8_t *fail = put_look(b, &s->stream[k]);
        set_jump(put_jump(&b->e, JUMP_ALWAYS), s->found[k]);
        put_miss(b, fail);
    }
}

/* ---- the gate ----------------------------------------------------------------------------------------------------- */

static void put_gate(struct build *b)
{
    struct strip *s = b->strip;
    struct emit *e = &b->e;
    bool first = true;

    if (s->need) {
        test_field(e, FIELD(run.lack), s->need);
        s->unfit = put_jump(e, CC_JNE);
    }
    gate_put_lent(b);
    for (unsigned k = 0; k < s->streams; k++) {
        if (s->stream[k].window)
            s->fail[s->fails++] = put_look(b, &s->stream[k]);
        else
            gate_put_stream(b, &s->stream[k], &first);
    }
    gate_put_mark(b, SHORT * s->fewest + ROUNDS * round_length(s));
    lea32(e, H_LEFT, H_LEFT, (int32_t)s->first); /* as if it had come from the strip's start */
    s->to_inner = put_jump(e, JUMP_ALWAYS);
}

static void put_fails(struct build *b)
{
    struct strip *s = b->strip;
    struct emit *e = &b->e;

    for (unsigned k = 0; k < s->fails; k++)
        set_jump(s->fail[k], e->p);
    gate_put_home(b);
    if (s->need)
        set_jump(s->unfit, e->p);
    put_link(b, put_jump(e, JUMP_ALWAYS), b->op[s->first].i->off);
}

bool nest_render(struct build *b)
{
    struct strip *s = b->strip;
    const uint8_t *way_in = b->e.p;
    const struct insn *last = b->op[s->last].i;

    gate_put_way_in(b, b->inward, s->first, SHORT_MAX);
    put_gate(b);
    gate_put_top(b);
    for (unsigned n = 0; n <= s->last; n = n == s->first ? s->back + 1 : n + 1)
        if (!(n == s->first ? put_inner(b) : lower(b, n)))
            return false;
    if (b->op[s->last].row->how != LOWER_JMP)
        put_edge(b, last->off + last->len, s->last + 1, true);
    copies_join(b, s->behind);
    put_looks(b);
    put_fails(b);
    put_colds(b);
    gate_put_landing(b);
    set_jump(b->inward, way_in);
    link_not_due(b, b->inward);
    return true;
}
