/* A loop whose first instruction looks at flags that its last has set: SETB, JA, ADC at the top, CMP at the bottom.
 *
 * Its branch back goes behind the place where the block takes the flags out of memory, for they are in the host. Counting
 * instructions must then not change them: LEA counts, and whether the slice is used up is asked in the block's middle, where
 * nobody needs flags.
 */
#include "jit/build.h"

static bool is_branch(const struct op *op) { return op->row && op->row->how == LOWER_JCC; }

/* Where to ask: the first instruction before which no flags are needed, and nothing can have left for C. 0: nowhere. */
static unsigned poll_at(const struct build *b)
{
    for (unsigned n = 1; n < b->count; n++) {
        const struct op *before = &b->op[n - 1];
        if (!before->row || before->i->am != AM_NONE || before->row->how >= LOWER_JMP)
            return 0;
        if (!b->op[n].live)
            return n;
    }
    return 0;
}

void again_begin(struct build *b)
{
    bool loops = false;

    b->again = (struct again){.top = NULL};
    if (!b->op[0].live || b->precise || b->span || !b->block)
        return;
    b->again.poll = poll_at(b);
    for (unsigned n = b->again.poll; n && n < b->count; n++)
        loops |= is_branch(&b->op[n]) && target_of(b->op[n].i) == b->block->off;
    if (!loops)
        return;
    flags_want(b);
    b->flags = FLAGS_IN_HOST;
    b->again.top = b->e.p;
}

void again_poll(struct build *b, unsigned n)
{
    if (!b->again.top || n != b->again.poll)
        return;
    op_reg(&b->e, false, 0x85, H_LEFT, H_LEFT);
    put_poll_in_page(b, b->op[n].i->off, n);
    b->flags = 0;
}

void again_edge(struct build *b, unsigned executed)
{
    struct again *a = &b->again;

    if (a->top && !a->edge && !b->strip && b->flags & FLAGS_IN_HOST)
        *a = (struct again){.top = a->top, .poll = a->poll, .edge = b->e.p, .executed = executed, .self = b->selves};
}

/* The edge has been written for flags in memory, which a strip wants. There is none if it still leads to the block's start. */
void again_end(struct build *b)
{
    const struct again *a = &b->again;
    struct emit e = {.rw = b->e.rw, .p = a->edge};

    if (!a->edge || a->self >= b->selves || get_jump(e.rw, (uint32_t)(b->self[a->self] - e.rw)) != b->block->entry)
        return;
    op_mem(&e, false, 0x8d, H_LEFT, H_LEFT, NO_INDEX, 0, -(int32_t)a->executed);
    set_jump(put_jump(&e, JUMP_ALWAYS), a->top);
}
