/* The way into a strip and out of it: registers are lent, the TLB is asked for each stream, r15 gets the instructions of so many
 * iterations; a loop that leaves too soon each time is noticed. See strip.c.
 */
#include "jit/strip.h"

enum { SHORT_MAX = 16 /* short strips */, NEVER_SHORT = 1 << 30 /* instructions left */ };

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

uint8_t *gate_put_aligned(struct build *b, const struct stream *g)
{
    int32_t at = (int32_t)(g->align_at - g->low);
    bool moved = at & g->align_mask;
    struct emit *e = &b->e;

    if (moved)
        lea(e, H_T1, H_T0, at);
    put8(e, 0x41), put8(e, 0xf6), put8(e, moved ? 0xc3 : 0xc2), put8(e, g->align_mask); /* test r11b or r10b, mask */
    return put_jump(e, CC_JNE);
}

void gate_put_stream(struct build *b, const struct stream *g, bool *first)
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
        add_fail(b, gate_put_aligned(b, g));
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

void gate_put_lent(struct build *b)
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

void gate_put_way_in(struct build *b, const uint8_t *edge, unsigned n, unsigned short_max)
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
        gate_put_way_in(b, b->self[k], 0, SHORT_MAX);
        if (k + 1 < s->selves)
            on[k] = put_jump(e, JUMP_ALWAYS);
    }
    for (unsigned k = 0; k + 1 < s->selves; k++)
        set_jump(on[k], e->p);
}

void gate_put_mark(struct build *b, unsigned instructions)
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

void gate_begin(const struct build *b) { b->v->short_strips[counter(b)] = 0; }

void gate_put(struct build *b)
{
    struct strip *s = b->strip;
    struct emit *e = &b->e;
    bool first = true;

    put_alignment(e, 16);
    put_ways_in(b);
    put_conditions(b);
    gate_put_lent(b);
    gate_put_mark(b, SHORT * s->fewest);
    s->next = e->p;
    op_mem(e, false, 0x89, H_LEFT, H_BASE, NO_INDEX, 0, FIELD(run.rest));
    for (unsigned k = 0; k < s->streams; k++)
        gate_put_stream(b, &s->stream[k], &first);
    if (!first) {
        put_budget(b);
    } else {
        op_mem(e, false, 0xc7, 0, H_BASE, NO_INDEX, 0, FIELD(run.rest)); /* mov dword [run.rest], 0 */
        put32(e, 0);
    }
}

void gate_put_home(struct build *b)
{
    struct strip *s = b->strip;

    for (unsigned r = 0; r < 16; r++)
        if (s->housed >> r & 1 && s->end.any[r])
            store_field(&b->e, (unsigned)host_of(b, r), GPR_FIELD(r));
    for (unsigned r = 0; r < 16; r++)
        if (s->lent >> r & 1)
            load_field(&b->e, (unsigned)host_of(b, r), GPR_FIELD(r));
}

void gate_put_fails(struct build *b)
{
    struct emit *e = &b->e;

    for (unsigned k = 0; k < b->strip->fails; k++)
        set_jump(b->strip->fail[k], e->p);
    gate_put_home(b);
    op_mem(e, false, 0x8b, H_LEFT, H_BASE, NO_INDEX, 0, FIELD(run.rest));
    jump_to(e, b->block->entry);
}

/* ---- the way out ---------------------------------------------------------------------------------------------- */

void strip_leave(struct build *b)
{
    const struct strip *s = b->strip;
    struct emit *e = &b->e;

    if (!s->first)
        op_mem(e, false, 0x03, H_LEFT, H_BASE, NO_INDEX, 0, FIELD(run.rest));
    if (s->owed)
        op_imm(e, false, 0, H_LEFT, s->owed);
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
    gate_put_home(b);
}

void strip_end(struct build *b)
{
    const struct strip *s = b->strip;
    const uint8_t *again = s->first ? s->top : s->next;
    struct emit *e = &b->e;

    if (!s->first) {
        op_mem(e, false, 0x03, H_LEFT, H_BASE, NO_INDEX, 0, FIELD(run.rest));
        set_jump(put_jump(e, CC_JNS), again);
    }
    call_to(e, b->j->renew);
    uint8_t *over = put_jump(e, CC_JS);
    op_mem(e, false, 0xc7, 0, H_BASE, NO_INDEX, 0, FIELD(run.mark)); /* mov dword [mark], NEVER_SHORT */
    put32(e, NEVER_SHORT);
    jump_back(e, again);
    set_jump(over, e->p);
    gate_put_home(b);
    load_imm32(e, H_T1, b->op[0].i->off);
    jump_to(e, b->j->exit_page);
}

/* The guest's address is in vcpu.rip, and r15 lacks nothing. */
void gate_put_landing(struct build *b)
{
    sites_land(b);
    b->strip->owed = 0;
    strip_leave(b);
    load_field(&b->e, H_T0, FIELD(rip));
    jump_to(&b->e, b->j->exit_rip);
}

void gate_put_top(struct build *b)
{
    struct strip *s = b->strip;

    put_alignment(&b->e, 64);
    s->top = b->e.p;
    b->flags = b->op[0].live ? FLAGS_IN_MEMORY : 0;
    b->vectors = s->need;
    b->sharing = false;
    operands_forget(b);
}
