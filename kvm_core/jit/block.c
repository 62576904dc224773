/* Builds a block: collects its instructions, finds where flags are needed, renders one after the other. */
#include "jit/build.h"

#include "cpu/sem/common.h"

/* ---- the parts that all renderers use ---------------------------------------------------------------- */

struct cold *cold_add(struct build *b, enum cold_kind kind, uint8_t *from, unsigned n)
{
    struct cold *c = &b->cold[b->colds++];

    *c = (struct cold){.kind = (uint8_t)kind, .set = (uint8_t)b->kind, .owed = (int16_t)strip_owed(b), .from = from, .executed = n};
    if (kind == COLD_LINK) {
        c->ref = (uint32_t)(from - b->e.rw);
    } else if (kind == COLD_INTERPRET && b->strip) { /* by a block that begins with it */
        c->kind = COLD_EDGE;
        c->linear = b->op[n].i->off;
    } else if (kind == COLD_INTERPRET || kind == COLD_VECTORS || kind == COLD_FAR || kind == COLD_FAR_CALL) {
        c->ref = ref_of(b, b->op[n].i);
    }
    return c;
}

void flags_want(struct build *b)
{
    if (!(b->flags & FLAGS_IN_HOST))
        flags_restore(&b->e, H_T1);
    b->flags |= FLAGS_IN_HOST;
}

void flags_keep(struct build *b, const struct op *op)
{
    if (b->flags == FLAGS_IN_HOST && op->live) {
        flags_save(&b->e, H_T1);
        b->flags |= FLAGS_IN_MEMORY;
    }
}

static void put_call(struct build *b, uint32_t thunk, uint32_t ref, uint32_t executed)
{
    load_imm32(&b->e, H_T0, ref);
    load_imm32(&b->e, H_T1, executed);
    call_to(&b->e, thunk);
}

void put_interpret(struct build *b, uint32_t ref, int executed)
{
    load_imm32(&b->e, H_T0, jit_place(ref, executed));
    call_to(&b->e, b->j->interpret);
}

static void put_interpreted(struct build *b, unsigned n)
{
    if (b->flags == FLAGS_IN_HOST)
        flags_save(&b->e, H_T1);
    put_interpret(b, ref_of(b, b->op[n].i), (int)n);
    b->flags = FLAGS_IN_MEMORY;
    b->vectors = 0; /* it may have changed what they depend on */
    operands_forget(b);
}

void cold_join(struct build *b, struct cold *c)
{
    if (c) {
        c->restore = b->flags & FLAGS_IN_HOST;
        c->join = b->e.p;
    }
}

/* -> true: the block has ended with it. */
static bool put_op(struct build *b, unsigned n)
{
    bool done = lower(b, n);

    if (!done)
        put_interpreted(b, n);
    if (n && holds_interrupts(b, n - 1))
        put_shadow_end(b);
    if (b->barriers >> n & 1) /* a copy of string instructions might have no room */
        operands_forget(b);
    return done && ends_block(b->op[n].row);
}

/* Other groups that begin with instruction n of this one: they end with it, or before. */
static void put_ways_in(struct build *b, unsigned n)
{
    for (struct cold *c = b->cold; c < b->cold + b->colds; c++) {
        if (c->kind != COLD_GROUP || c->executed != n || !c->from)
            continue;
        if (b->flags == FLAGS_IN_HOST && b->op[n].live)
            flags_save(&b->e, H_T1);
        b->flags = c->flags_before;
        b->vectors &= c->vectors;
        set_jump(c->from, b->e.p);
        c->from = NULL;
    }
}

/* The page that a probe has not found may only have lost its place in the TLB: the probe once more, with it. */
static void put_refill(struct build *b, const struct cold *c, enum refill_kind kind)
{
    call_to(&b->e, b->j->refill[kind][c->write]);
    set_jump(put_jump(&b->e, JUMP_ALWAYS), c->again);
}

static void put_cold_interpret(struct build *b, const struct cold *c)
{
    if (c->again && !c->also_from) {
        put_refill(b, c, REFILL_INTERPRET);
        put32(&b->e, jit_place(c->ref, (int)c->executed));
        return;
    }
    if (c->again) {
        put_refill(b, c, REFILL_SKIP);
        set_jump(c->also_from, b->e.p);
    }
    put_interpret(b, c->ref, (int)c->executed);
}

/* The instructions that shared a probe which did not hit: each for itself. */
static void put_group(struct build *b, const struct cold *c)
{
    struct emit *e = &b->e;

    b->flags = c->flags_before;
    b->vectors = c->vectors;
    b->sharing = false;
    operands_forget(b);
    put_refill(b, c, REFILL_SKIP);
    for (unsigned n = c->executed; n <= c->last; n++) {
        if (n > c->executed)
            put_ways_in(b, n);
        if (put_op(b, n))
            return;
    }
    if (c->flags_after & FLAGS_IN_MEMORY && b->flags == FLAGS_IN_HOST)
        flags_save(e, H_T1);
    if (c->flags_after & FLAGS_IN_HOST && !(b->flags & FLAGS_IN_HOST))
        flags_restore(e, H_T1);
    jump_back(e, c->join);
}

_Static_assert(BLOCK_OPS <= 64, "jit_group() takes numbers of 6 bits");

/* Where that has not happened often: by the interpreter. The copy is long. */
static void put_group_call(struct build *b, const struct cold *c)
{
    put_refill(b, c, REFILL_GROUP);
    put32(&b->e, c->ref);
    put32(&b->e, c->executed | (uint32_t)c->last << 6 | (uint32_t)c->vectors_after << 12 | (uint32_t)b->block->off << 17 |
                     (uint32_t)b->block->kind << 29);
    if (c->flags_after & FLAGS_IN_HOST)
        flags_restore(&b->e, H_T1);
    jump_back(&b->e, c->join);
}

static void put_cold(struct build *b, const struct cold *c)
{
    struct emit *e = &b->e;

    set_jump(c->from, e->p);
    if (c->also_from && !c->again)
        set_jump(c->also_from, e->p);
    b->kind = c->set;
    strip_go_on(b, c->owed);
    switch (c->kind) {
    case COLD_INTERPRET:
        put_cold_interpret(b, c);
        if (!c->join) {
            put8(e, 0x0f), put8(e, 0x0b); /* ud2: a branch has not come back */
            return;
        }
        if (c->restore)
            flags_restore(e, H_T1);
        jump_back(e, c->join);
        return;
    case COLD_GROUP: (b->copies ? put_group : put_group_call)(b, c); return;
    case COLD_VECTORS:
        put_call(b, b->j->vectors, c->ref, c->executed);
        jump_back(e, c->join);
        return;
    case COLD_POLL:
        call_to(e, b->j->renew);
        set_jump(put_jump(e, CC_JNS), c->join);
        if (c->executed)
            put_count(b, c->executed);
        load_imm32(e, H_T1, (uint32_t)c->linear);
        jump_to(e, b->j->exit_page);
        return;
    case COLD_LINK:
        load_imm32(e, H_T0, c->ref);
        load_imm32(e, H_T1, (uint32_t)c->linear);
        jump_to(e, b->j->exit_link);
        return;
    case COLD_EDGE: put_cold_edge(b, c); return;
    case COLD_FAR: put_cold_far(b, c); return;
    case COLD_STRIP: strip_end(b); return;
    default: put_cold_call(b, c);
    }
}

void put_colds(struct build *b)
{
    for (unsigned n = 0; n < b->colds; n++) {
        struct cold c = b->cold[n];
        if (c.from)
            put_cold(b, &c);
    }
    b->colds = 0;
}

enum { HOT_BYTES_MAX = BLOCK_BYTES_MAX / 4 };

/* ---- the block ------------------------------------------------------------------------------------------ */

/* Fills op[]; -> offset in the page of what follows; *linkable: it may be a block. */
static unsigned collect(struct build *b, unsigned off, unsigned max, bool *linkable)
{
    const struct insn *i = b->span ? &b->span->insn : codecache_at(b->v, b->page, off);

    *linkable = true;
    while (i && b->count < max) {
        if (!b->span)
            i = codecache_follow(b->v, b->page, i);
        if (!i)
            break;
        if (codecache_is_pseudo(i)) {
            *linkable = codecache_is_spanning(i);
            break;
        }
        b->op[b->count] = (struct op){.i = i, .row = lowering_of(i)};
        off = i->off + i->len;
        if (ends_block(b->op[b->count++].row))
            break;
        i++;
    }
    return off;
}

/* Where it leads says something about the block. */
static bool is_worth_decoding(const struct op *op)
{
    if (!op->row || (op->row->how != LOWER_JCC && op->row->form != FORM_I))
        return false;
    return op->row->how == LOWER_CALL || ((op->row->how == LOWER_JCC || op->row->how == LOWER_JMP) && in_page(target_of(op->i)));
}

static void decode_ahead(struct build *b, int64_t target)
{
    struct codepage *p = in_page(target) ? b->page : codecache_mapped(b->v, b->v->gpr[REG_PAGE] + (uint64_t)target);

    if (p && !p->stale && !b->page->stale)
        codecache_ahead(b->v, p, (unsigned)target & 0xfff);
}

/* Decodes the first instructions of where the block can go on in its page: they say whether flags are needed there; and of the
 * function that it calls, wherever that is: they say whether it returns. */
static bool decode_targets(struct build *b, unsigned off)
{
    int64_t target[BLOCK_OPS + 1];
    unsigned targets = 0;
    bool linkable;

    if (b->span || b->precise)
        return true;
    unsigned behind = collect(b, off, BLOCK_OPS, &linkable);
    for (unsigned n = 0; n < b->count; n++)
        if (is_worth_decoding(&b->op[n]))
            target[targets++] = target_of(b->op[n].i);
    if (b->count && in_page(behind) && !ends_block(b->op[b->count - 1].row))
        target[targets++] = behind;
    b->count = 0;
    for (unsigned n = 0; n < targets; n++)
        decode_ahead(b, target[n]);
    return !b->page->stale && codecache_at(b->v, b->page, off);
}

static unsigned op_end(const struct op *op) { return (unsigned)op->i->off + op->i->len; }

static void render(struct build *b, unsigned off, unsigned max)
{
    uint32_t start = here(&b->e);
    bool linkable, done = false;
    unsigned behind = collect(b, off, max, &linkable);

    if (!b->count)
        return;
    for (struct op *op = b->op; op < b->op + b->count; op++)
        if (op->row)
            parse_encoding(b, op->i, &op->x);
    flags_find(b, behind);
    operands_find(b);
    b->flags = b->op[0].live ? FLAGS_IN_MEMORY : 0;
    if (b->span)
        put_span_check(b);
    again_begin(b);
    for (unsigned n = 0; n < b->count; n++) {
        b->shared_by = -1;
        again_poll(b, n);
        done = put_op(b, n);
        operands_extend(b, n);
        bool full = here(&b->e) - start > HOT_BYTES_MAX; /* what comes behind needs room too */
        if (full && n + 1 < b->count && !holds_interrupts(b, n)) {
            b->count = n + 1;
            behind = op_end(&b->op[n]);
            linkable = true;
        }
    }
    if (!done)
        put_edge(b, behind, b->count, linkable && !ends_block(b->op[b->count - 1].row));
    put_colds(b);
    strip_add(b);
    again_end(b);
    sites_keep(b);
}

/* For who comes from another page, with the linear address in r10: is this page still there, for this privilege? A direct branch, which
 * knows the address of the page, comes in behind the LEA. */
static void prologue(struct build *b, unsigned off)
{
    struct emit *e = &b->e;
    unsigned user = b->kind == TLB_USER;

    uint8_t *stale = e->p;
    call_to(e, b->j->exit_stale);
    put_rex(e, true, H_T0, 0, H_T0, false); /* lea r10, [r10 - off], the displacement always 4 bytes */
    put8(e, 0x8d);
    put8(e, 0x80 | (H_T0 & 7) << 3 | (H_T0 & 7));
    put32(e, 0u - off);
    op_mem(e, true, 0x3b, H_T0, H_BASE, NO_INDEX, 0, FIELD(code_at) + 8 * (int32_t)(user * CODE_PAGES + b->page->number));
    put8(e, 0x75), put8(e, (uint8_t)(stale - (e->p + 1))); /* jne stale */
    store_field(e, H_T0, GPR_FIELD(REG_PAGE));
}

unsigned jit_prologue_off(uint64_t prologue)
{
    int32_t disp; /* of its LEA, behind REX, opcode and ModRM */

    memcpy(&disp, (const uint8_t *)prologue + 3, sizeof(disp));
    return (unsigned)-disp;
}

static void begin(struct build *b, struct vcpu *v, struct codepage *p, unsigned kind, uint32_t at, unsigned off,
                  const struct span *span)
{
    b->v = v;
    b->j = jit_of(v);
    b->page = p;
    b->span = span;
    b->kind = kind;
    b->word = p->code_bits / 8;
    b->precise = v->lockstep || b->j->exact;
    b->flags = b->vectors = 0;
    b->zero = false;
    b->count = b->colds = 0;
    b->sharing = true;
    b->copies = false;
    operands_forget(b);
    b->block = NULL;
    b->strip = NULL;
    b->selves = b->dues = b->sites = 0;
    b->inward = NULL;
    registers_at_home(b);
    b->e.rw = b->j->rw;
    b->e.p = b->j->rw + at;
    prologue(b, off);
    b->entry = here(&b->e);
}

struct block *jit_build(struct vcpu *v, struct codepage *p, unsigned off, unsigned kind)
{
    struct jit *j = jit_of(v);
    struct build b;
    uint32_t at = ((jit_code_room(v) + JIT_HEAD + 15) & ~15u) - JIT_HEAD;

    const struct insn *first = codecache_at(v, p, off);
    first = first ? codecache_follow(v, p, first) : NULL; /* it may have gone for the room */
    struct span span, *spans = first ? span_of(v, first, &span) : NULL;
    if (!first || (codecache_is_pseudo(first) && !spans))
        return NULL;
    begin(&b, v, p, kind, at, off, spans);
    if (!decode_targets(&b, off) || !codecache_bytes_of(v, p, b.bytes))
        return NULL; /* the page has been dropped, or this part of it */
    struct block *old = jit_block_find(j, p->number, off, kind);
    b.copies = old;
    if (old)
        jit_block_drop(j, old);
    b.block = jit_block_add(j, p, off, kind, at + JIT_HEAD);
    render(&b, off, spans ? 1 : BLOCK_OPS);
    b.block->count = (uint8_t)b.count;
    jit_code_used(j, here(&b.e));
    link_dues(&b);
    if (unlikely(j->perf_map != NULL))
        jit_perf_map(j, b.block, here(&b.e), v->rip);
    return b.block;
}

const uint8_t *jit_build_once(struct vcpu *v, struct codepage *p, unsigned off, unsigned kind)
{
    struct jit *j = jit_of(v);
    struct build b;
    struct span span;

    begin(&b, v, p, kind, j->scratch, off, span_of(v, codecache_at(v, p, off), &span));
    if (!codecache_bytes_of(v, p, b.bytes))
        return NULL;
    b.copies = true;
    j->blocks[0].entry = b.entry;
    render(&b, off, 1);
    return b.count ? j->rx + j->scratch + JIT_HEAD - JIT_PROLOGUE : NULL;
}
