/* Renders control transfers and the stack, and the edges on which a block is left. */
#include "jit/build.h"

#include "cpu/sem/common.h"

/* ---- flags across edges ------------------------------------------------------------------------------- */

static void save_at_edge(struct build *b)
{
    if (!b->zero) {
        flags_save(&b->e, H_T1);
        return;
    }
    op_mem(&b->e, false, 0xc7, 0, H_BASE, NO_INDEX, 0, FIELD(oszapc));
    put32(&b->e, PF_ZF | PF_PF | FL_FIXED << 8);
}

/* ---- addresses of code and of the stack: 64 bits, in 32-bit code 32 ------------------------------------- */

void lea_word(struct build *b, unsigned to, unsigned base, int32_t disp)
{
    op_mem(&b->e, b->word == 8, 0x8d, to, base, NO_INDEX, 0, disp);
}

/* ---- leaving the block ------------------------------------------------------------------------------ */

void put_count(struct build *b, unsigned executed) { op_imm(&b->e, false, 5, H_LEFT, (int32_t)executed); }

uint8_t *put_jump_lookup(struct build *b)
{
    struct emit *e = &b->e;

    if (b->j->bmi2) { /* rorx r11, r10, JUMP_SHIFT */
        static const uint8_t rorx[] = {0xc4, 0x43, 0xfb, 0xf0, 0xda, JUMP_SHIFT};
        memcpy(e->p, rorx, sizeof(rorx));
        e->p += sizeof(rorx);
    } else { /* shr r11, JUMP_SHIFT */
        move(e, H_T1, H_T0);
        put8(e, 0x49), put8(e, 0xc1), put8(e, 0xeb), put8(e, JUMP_SHIFT);
    }
    op_reg(e, false, 0x33, H_T1, H_T0);
    op_imm(e, false, 4, H_T1, (JUMP_ENTRIES - 1) << 1);
    op_mem(e, true, 0x3b, H_T0, H_BASE, H_T1, 3, JUMP_FIELD(b, rip));
    return put_jump(e, CC_JNE);
}

void put_jump_code(struct build *b, unsigned digit)
{
    op_mem(&b->e, false, 0xff, digit, H_BASE, H_T1, 3, JUMP_FIELD(b, code));
}

void put_linear(struct build *b, unsigned to, int64_t distance)
{
    load_field(&b->e, to, GPR_FIELD(REG_PAGE));
    lea_word(b, to, to, (int32_t)distance);
}

bool in_reach(const struct build *b, int64_t distance)
{
    return b->word == 4 || (distance >= INT32_MIN + 2 * 4096 && distance <= INT32_MAX - 2 * 4096);
}

static bool is_branch_to(const struct op *op, int64_t distance)
{
    return op->row && (op->row->how == LOWER_JCC || op->row->how == LOWER_JMP) && op->i->disp && target_of(op->i) == distance;
}

/* A branch to what is not linked is the interpreter's: its target may not be canonical. C links it then. */
void put_cold_far(struct build *b, const struct cold *c)
{
    struct emit *e = &b->e;

    if (b->block) {
        op_mem(e, false, 0xc7, 0, H_BASE, NO_INDEX, 0, FIELD(run.patch));
        put32(e, (uint32_t)(c->from - e->rw) | PATCH_FAR);
    }
    put_interpret(b, c->ref, EXECUTED_ALL);
    put8(e, 0x0f), put8(e, 0x0b); /* ud2: it has not come back */
}

void put_cold_to_next_page(struct build *b, const struct cold *c)
{
    struct emit *e = &b->e;

    put_linear(b, H_T0, (int64_t)c->linear);
    if (b->block)
        load_imm32(e, H_T1, (uint32_t)(c->from - e->rw) | PATCH_FAR);
    jump_to(e, b->block ? b->j->exit_return : b->j->exit_rip);
}

void put_to_next_page(struct build *b, int64_t distance, uint8_t *poll)
{
    put_linear(b, H_T0, page_of(distance));
    struct cold *c = cold_add(b, COLD_NEXT_PAGE, put_jump(&b->e, JUMP_ALWAYS), 0);
    c->also_from = poll;
    c->linear = (uint64_t)distance;
}

static void put_far_edge(struct build *b, int64_t distance, unsigned executed)
{
    put_count(b, executed);
    uint8_t *poll = put_jump(&b->e, CC_JS);
    if (!is_branch_to(&b->op[executed - 1], distance)) {
        put_to_next_page(b, distance, poll);
        return;
    }
    put_linear(b, H_T0, page_of(distance));
    cold_add(b, COLD_FAR, put_jump(&b->e, JUMP_ALWAYS), executed - 1)->also_from = poll;
}

/* The jump leads to `distance` once the block is whole; what it does until then is the caller's. */
static void link_due(struct build *b, const uint8_t *jump, int64_t distance)
{
    if (b->dues < DUES_MAX)
        b->due[b->dues++] = (struct due){(uint32_t)(jump - b->e.rw), (uint16_t)distance, (uint8_t)b->kind};
}

void link_not_due(struct build *b, const uint8_t *jump)
{
    for (unsigned n = 0; n < b->dues; n++)
        if (b->due[n].patch == (uint32_t)(jump - b->e.rw))
            b->due[n] = b->due[--b->dues];
}

void link_dues(struct build *b)
{
    for (const struct due *d = b->due; d < b->due + b->dues; d++) {
        struct block *to = jit_block_find(b->j, b->page->number, d->off, d->kind);
        if (to && !to->diverted)
            jit_link(b->j, d->patch, to);
    }
}

void put_link(struct build *b, uint8_t *jump, int64_t distance)
{
    cold_add(b, COLD_LINK, jump, 0)->linear = (uint64_t)distance;
    link_due(b, jump, distance);
}

void put_poll_in_page(struct build *b, int64_t distance, unsigned executed)
{
    struct cold *c = cold_add(b, COLD_POLL, put_jump(&b->e, CC_JS), executed);

    c->linear = (uint64_t)distance;
    c->join = b->e.p;
}

/* A jump back into the block: strip.c, nest.c. */
static void note_back(struct build *b, uint8_t *jump, int64_t distance, unsigned executed)
{
    if (distance == b->block->off) {
        if (b->selves < SELF_EDGES_MAX)
            b->self[b->selves++] = jump;
    } else if (distance > b->block->off && executed && distance <= b->op[executed - 1].i->off && !b->inward) {
        b->inward = jump;
        b->inward_from = executed - 1;
    }
}

static void put_exit(struct build *b, int64_t distance, unsigned executed, bool linkable)
{
    struct emit *e = &b->e;

    if (!in_page(distance)) {
        put_far_edge(b, distance, executed);
        return;
    }
    put_count(b, executed); /* which does not overflow: JGE is JNS then, and Intel's processors fuse it with the SUB */
    if (!linkable || !b->block) {
        load_imm32(e, H_T1, (uint32_t)distance);
        jump_to(e, b->j->exit_page);
        return;
    }
    uint8_t *jump = put_jump(e, CC_JGE);
    if (distance == b->block->off && b->kind == b->block->kind)
        set_jump(jump, e->rw + b->block->entry);
    else
        link_due(b, jump, distance);
    call_to(e, b->j->exit_edge);
    put16(e, (unsigned)distance);
    if (b->kind == b->block->kind)
        note_back(b, jump, distance, executed);
}

void put_edge(struct build *b, int64_t distance, unsigned executed, bool linkable)
{
    struct strip *strip = b->strip;

    if (b->block && linkable && distance == b->block->off && b->kind == b->block->kind)
        again_edge(b, executed);
    if (b->flags == FLAGS_IN_HOST && (!in_page(distance) || !linkable || flags_wanted_at(b, distance)))
        save_at_edge(b);
    if (strip && strip_again(b, distance, executed))
        return;
    if (strip)
        strip_leave(b);
    b->strip = NULL; /* from here on it is any block's */
    put_exit(b, distance, executed, linkable);
    b->strip = strip;
}

/* A conditional branch that was taken. */
void put_cold_edge(struct build *b, const struct cold *c)
{
    b->flags = c->save ? FLAGS_IN_HOST : FLAGS_IN_MEMORY;
    b->zero = c->zero;
    put_edge(b, (int64_t)c->linear, c->executed, true);
    b->zero = false;
}

/* ---- branches ------------------------------------------------------------------------------------------- */

static bool lower_jcc(struct build *b, unsigned n)
{
    const struct insn *i = b->op[n].i;

    if (i->size != b->word || !in_reach(b, target_of(i)))
        return false;
    flags_want(b);
    unsigned cc = b->op[n].x.opcode & 15;
    uint8_t state = b->flags;
    bool zero = cc == CC_JE && zero_tells_all(b, n);
    if (i->disp < 0) { /* a loop: the likely way without another jump */
        uint8_t *over = put_jump(&b->e, cc ^ 1);
        b->zero = zero;
        put_edge(b, target_of(i), n + 1, true);
        b->zero = false;
        b->flags = state;
        set_jump(over, b->e.p);
        return true;
    }
    struct cold *c = cold_add(b, COLD_EDGE, put_jump(&b->e, cc), n);
    c->executed = n + 1;
    c->linear = (uint64_t)target_of(i);
    c->save = !(state & FLAGS_IN_MEMORY);
    c->zero = zero;
    return true;
}

void put_target(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];

    b->holds = false;
    if (op->row->form == FORM_R) {
        int host = host_of(b, op->i->dst);
        if (host >= 0)
            op_reg(&b->e, b->word == 8, 0x8b, H_T0, (unsigned)host);
        else
            load_field(&b->e, H_T0, GPR_FIELD(op->i->dst));
        return;
    }
    bool apart = !has_segment(op->i);
    if (apart)
        put_address_apart(b, n, op->i, b->word);
    else
        put_address(b, n, op->i, false, b->word);
    site_add(b, n, 0);
    op_mem(&b->e, b->word == 8, 0x8b, H_T0, H_T0, apart ? H_T1 : NO_INDEX, 0, 0);
}

void flags_leave(struct build *b)
{
    if (b->flags == FLAGS_IN_HOST)
        flags_save(&b->e, H_T1);
    b->flags = FLAGS_IN_MEMORY;
}

void put_poll(struct build *b, unsigned executed)
{
    put_count(b, executed);
    set_jump(put_jump(&b->e, CC_JS), b->e.rw + b->j->exit_rip);
}

static bool lower_jmp(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];

    if (op->i->size != b->word)
        return false;
    if (op->row->form == FORM_I) {
        if (!in_reach(b, target_of(op->i)))
            return false;
        put_edge(b, target_of(op->i), n + 1, true);
        return true;
    }
    if (op->row->form == FORM_M && !can_address(op->i))
        return false;
    flags_leave(b);
    put_target(b, n);
    cold_add(b, COLD_INTERPRET, put_jump_lookup(b), n);
    put_poll(b, n + 1);
    put_jump_code(b, NEAR_JMP);
    return true;
}

int32_t put_stack(struct build *b, unsigned n, bool write, int32_t disp, struct cold **c)
{
    struct operand a;
    struct place at;

    operand_of_stack(b, &a, write, disp);
    *c = put_operand(b, n, &a, &at);
    return at.disp;
}

/* ---- the stack ------------------------------------------------------------------------------------------------ */

static bool lower_push_memory(struct build *b, unsigned n)
{
    const struct insn *i = b->op[n].i;
    struct emit *e = &b->e;
    struct operand a;

    flags_keep(b, &b->op[n]);
    put_address(b, n, i, false, b->word);
    unsigned first = b->colds - 1;
    site_add(b, n, 0);
    op_mem(e, b->word == 8, 0x8b, H_T0, H_T0, NO_INDEX, 0, 0);
    store_field(e, H_T0, FIELD(run.target[0]));
    operand_of_stack(b, &a, true, -b->word);
    struct cold *c = put_address(b, n, &a.at, true, b->word);
    load_field(e, H_T1, FIELD(run.target[0]));
    site_add(b, n, 0);
    op_mem(e, b->word == 8, 0x89, H_T1, H_T0, NO_INDEX, 0, 0);
    lea_word(b, H_SP, H_SP, -b->word);
    b->cold[first].join = c->join = e->p;
    return true;
}

static bool lower_push(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    const struct insn *i = op->i;
    struct emit *e = &b->e;
    bool wide = b->word == 8;
    unsigned from = H_T1;
    struct cold *c;

    if (i->size != b->word || (op->row->form == FORM_M && !can_address(i)) ||
        (op->row->form == FORM_I && wide && (int64_t)i->imm != (int32_t)i->imm))
        return false;
    if (op->row->form == FORM_M)
        return lower_push_memory(b, n);
    int32_t at = put_stack(b, n, true, -b->word, &c);
    if (op->row->form == FORM_I) {
        site_add(b, n, 0);
        op_mem(e, wide, 0xc7, 0, H_T0, NO_INDEX, 0, at);
        put32(e, (uint32_t)i->imm);
    } else {
        if (host_of(b, i->dst) >= 0)
            from = (unsigned)host_of(b, i->dst);
        else
            load_field(e, H_T1, GPR_FIELD(i->dst));
        site_add(b, n, 0);
        op_mem(e, wide, 0x89, from, H_T0, NO_INDEX, 0, at);
    }
    lea_word(b, H_SP, H_SP, -b->word);
    cold_join(b, c);
    return true;
}

static bool lower_pop(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    struct emit *e = &b->e;
    int to = host_of(b, op->i->dst);
    struct cold *c;

    if (op->i->size != b->word || op->row->form != FORM_R)
        return false;
    int32_t at = put_stack(b, n, false, 0, &c);
    site_add(b, n, 0);
    op_mem(e, b->word == 8, 0x8b, to >= 0 ? (unsigned)to : H_T1, H_T0, NO_INDEX, 0, at);
    if (to < 0)
        store_field(e, H_T1, GPR_FIELD(op->i->dst));
    if (op->i->dst != RSP)
        lea_word(b, H_SP, H_SP, b->word);
    cold_join(b, c);
    return true;
}

static bool lower_leave(struct build *b, unsigned n)
{
    struct emit *e = &b->e;
    struct operand a;

    if (b->op[n].i->size != b->word)
        return false;
    flags_keep(b, &b->op[n]);
    operand_of_stack(b, &a, false, 0);
    a.at.base = RBP;
    struct cold *c = put_address(b, n, &a.at, false, b->word);
    lea_word(b, H_T1, H_RBP, b->word);
    site_add(b, n, 0);
    op_mem(e, b->word == 8, 0x8b, H_RBP, H_T0, NO_INDEX, 0, 0);
    move(e, H_SP, H_T1);
    c->join = e->p;
    return true;
}

bool lower_flow(struct build *b, unsigned n)
{
    switch (b->op[n].row->how) {
    case LOWER_JCC: return lower_jcc(b, n);
    case LOWER_JMP: return lower_jmp(b, n);
    case LOWER_CALL: return lower_call(b, n);
    case LOWER_RET: return lower_ret(b, n);
    case LOWER_PUSH: return lower_push(b, n);
    case LOWER_POP: return lower_pop(b, n);
    case LOWER_LEAVE: return lower_leave(b, n);
    default: return false;
    }
}
