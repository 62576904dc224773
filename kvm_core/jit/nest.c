/* Strips of a loop with another in it, whose iterations are too few each time to pay for a gate of their own.
 *
 * The strip is the outer loop. The gate asks the TLB for the operands that stay where they are in all of it. A stream of the
 * inner loop has a window: the page where it was last, in vcpu.run.window, and the distance to the host's address in a
 * register. Before the inner loop its address is compared with that, for the bytes of TURNS iterations at once; only when
 * it has come to another page, the TLB is asked. A loop that goes on longer is left to the inner loop's own strip. All other
 * operands have their probes.
 *
 * In the inner loop r15 has what is left of the TURNS iterations, and vcpu.run.rest what the slice has beyond them; outside
 * of it r15 is the slice. What of the outer loop precedes the inner one is counted with the windows. The way in is the
 * block's first branch back to the inner loop, so that the gate stands before the inner loop's first instruction. When a
 * window does not hold, that one's block goes on.
 */
#include "jit/strip.h"

enum { SHORT_MAX = 8 /* fewer than of the inner loop's strip, which gets what is left over */, TURNS = 8, WINDOW_MAX = 1024 /* bytes of TURNS iterations */ };

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

static unsigned turns_length(const struct strip *s) { return TURNS * (s->back + 1 - s->first); } /* instructions */
static unsigned reach(const struct stream *g) { return (unsigned)((g->stride < 0 ? -g->stride : g->stride) * (TURNS - 1)); }
static unsigned window_size(const struct stream *g) { return (unsigned)(g->high - g->low) + reach(g); }

static void find_streams(const struct build *b, struct strip *s, unsigned max, bool inside)
{
    struct values inner = {0}, now = {0};
    struct stream g;

    for (unsigned n = s->first; n <= s->back; n++)
        values_after(b, n, &inner);
    for (unsigned n = 0; n <= s->last; n++) {
        if (is_inside(s, n) == inside && stream_of(b, s, &inner, &now, n, &g) && g.stride >= -WINDOW_MAX && g.stride <= WINDOW_MAX &&
            window_size(&g) <= WINDOW_MAX)
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
    for (unsigned n = 0; n <= s->last; n++)
        named |= registers_named(b, &b->op[n]) | registers_implied(b, &b->op[n]);
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

    at.disp = (int32_t)(g->low - (g->stride < 0 ? reach(g) : 0));
    put_offset(b, &at, H_T0, true);
}

bool nest_again(struct build *b, int64_t distance, unsigned executed)
{
    struct strip *s = b->strip;
    struct emit *e = &b->e;

    if (executed != s->back + 1 || distance != b->op[s->first].i->off)
        return false;
    op_imm(e, false, 5, H_LEFT, (int32_t)(executed - s->first));
    set_jump(put_jump(e, CC_JGE), s->inner);
    put_miss(b, put_jump(e, JUMP_ALWAYS));
    return true;
}

/* Asks the TLB for it. -> the jump that is taken when it has not got it */
static uint8_t *put_look(struct build *b, const struct stream *g)
{
    struct emit *e = &b->e;

    put_window_offset(b, g);
    int32_t table = put_tlb_offset(b, g->write);
    op_imm(e, true, 7, H_T0, (int32_t)(4096 - window_size(g)));
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
    op_imm(e, true, 7, H_T0, (int32_t)(4096 - window_size(g)));
    s->elsewhere[k] = put_jump(e, CC_JA);
    s->found[k] = e->p;
    if (g->align_mask)
        put_miss(b, strip_put_aligned(b, g));
}

/* Before the inner loop. */
static void put_windows(struct build *b)
{
    struct strip *s = b->strip;
    struct emit *e = &b->e;
    bool flags = b->op[s->first].live || b->precise;
    int32_t turns = (int32_t)(turns_length(s) - (s->back + 1 - s->first));

    if (b->flags == FLAGS_IN_HOST && flags)
        flags_save(e, H_T1);
    b->flags = flags ? FLAGS_IN_MEMORY : 0;
    set_jump(s->to_windows, e->p);
    op_imm(e, false, 7, H_LEFT, (int32_t)s->first + turns);
    put_miss(b, put_jump(e, CC_JL));
    for (unsigned k = 0; k < s->streams; k++)
        if (s->stream[k].window)
            put_window(b, k);
    op_mem(e, false, 0x8d, H_T0, H_LEFT, NO_INDEX, 0, -(int32_t)s->first - turns);
    op_mem(e, false, 0x89, H_T0, H_BASE, NO_INDEX, 0, FIELD(run.rest));
    load_imm32(e, H_LEFT, (uint32_t)turns);
    s->inner = e->p;
    s->part = PART_COUNTED;
}

/* For streams that have come to another page. */
static void put_looks(struct build *b)
{
    struct strip *s = b->strip;

    s->part = PART_BEFORE;
    for (unsigned k = 0; k < s->streams; k++) {
        if (!s->stream[k].window)
            continue;
        set_jump(s->elsewhere[k], b->e.p);
        uint8_t *fail = put_look(b, &s->stream[k]);
        set_jump(put_jump(&b->e, JUMP_ALWAYS), s->found[k]);
        put_miss(b, fail);
    }
}

/* Behind the inner loop; the flags may be of use. */
static void put_behind(struct build *b)
{
    op_mem(&b->e, false, 0x8b, H_T0, H_BASE, NO_INDEX, 0, FIELD(run.rest));
    op_mem(&b->e, false, 0x8d, H_LEFT, H_LEFT, H_T0, 0, 0);
    b->strip->part = PART_BEHIND;
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
    strip_put_lent(b);
    for (unsigned k = 0; k < s->streams; k++) {
        if (s->stream[k].window)
            s->fail[s->fails++] = put_look(b, &s->stream[k]);
        else
            strip_put_stream(b, &s->stream[k], &first);
    }
    strip_put_mark(b, SHORT * s->fewest + turns_length(s));
    op_mem(e, false, 0x8d, H_LEFT, H_LEFT, NO_INDEX, 0, (int32_t)s->first); /* which the windows count */
    s->to_windows = put_jump(e, JUMP_ALWAYS);
}

static void put_fails(struct build *b)
{
    struct strip *s = b->strip;
    struct emit *e = &b->e;

    for (unsigned k = 0; k < s->fails; k++)
        set_jump(s->fail[k], e->p);
    strip_put_home(b);
    if (s->need)
        set_jump(s->unfit, e->p);
    put_link(b, put_jump(e, JUMP_ALWAYS), b->op[s->first].i->off);
}

bool nest_render(struct build *b)
{
    struct strip *s = b->strip;
    const uint8_t *way_in = b->e.p;
    const struct insn *last = b->op[s->last].i;

    strip_put_way_in(b, b->inward, s->first, SHORT_MAX);
    put_gate(b);
    strip_put_top(b);
    s->part = PART_BEFORE;
    for (unsigned n = 0; n <= s->last; n++) {
        if (n == s->first)
            put_windows(b);
        if (!lower(b, n))
            return false;
        if (n == s->back)
            put_behind(b);
    }
    if (b->op[s->last].row->how != LOWER_JMP)
        put_edge(b, last->off + last->len, s->last + 1, true);
    put_looks(b);
    put_fails(b);
    put_colds(b);
    set_jump(b->inward, way_in);
    link_not_due(b, b->inward);
    return true;
}
