/* Calls and returns. A call that is translated is one of the host's too, so that its processor predicts the return.
 *
 * On the host's stack lies, for each call that is remembered, the address to which the guest will return, and below it where the
 * host does, which is behind the call. A return takes its address from the guest's memory, as always, and is the host's as well if
 * that is what was remembered; if not, one call is forgotten and the jump cache asked: retpolines, longjmp(), another thread's
 * stack. Whatever leaves for C forgets all of them, and everything that changes what is mapped happens there, so that who returns
 * need not look whether his page is still there. One that is dropped meanwhile cannot be returned to either: the jump behind the
 * call leads home then (links.c).
 */
#include "jit/build.h"

#include "cpu/sem/common.h"

/* Callee and caller may be made for different sets of the TLB (STAC, CLAC). So with SMAP none that is made for TLB_SUPER returns to what
 * is remembered, and to none that is does anybody return. -> a jump that is taken with SMAP */
static uint8_t *put_jump_smap(struct build *b)
{
    test_field(&b->e, FIELD(cr4) + 2, CR4_SMAP >> 16);
    return put_jump(&b->e, CC_JNE);
}

/* ---- who returns elsewhere --------------------------------------------------------------------------------- */

static bool is_stack_top(const struct insn *i)
{
    return i->am != AM_NONE && i->base == RSP && i->index == REG_ZERO && i->disp == 0 && i->size >= 4;
}

/* MOV [RSP], reg: what a return behind it returns to is nobody's call. Linux's retpolines */
static bool replaces_return(const struct insn *i)
{
    const struct lowering_row *row = lowering_of(i);

    return row && row->how == LOWER_STORE && row->form == FORM_MR && is_stack_top(i);
}

/* LEA RSP, [RSP + 8]: forgets where it was called from. Linux's return thunks */
static bool drops_return(const struct insn *i)
{
    const struct lowering_row *row = lowering_of(i);

    return row && row->how == LOWER_LEA && i->dst == RSP && i->base == RSP && i->index == REG_ZERO && i->disp == i->size;
}

/* Whether the call is one that is returned from. */
static bool is_true_call(const struct build *b, const struct insn *call)
{
    uint64_t target = b->v->gpr[REG_PAGE] + (uint64_t)target_of(call);
    const struct codepage *p = codecache_mapped(b->v, target);
    const struct insn *i = p ? codecache_at(b->v, p, target & 0xfff) : NULL;
    const struct lowering_row *behind;

    if (call->disp == 0) /* where am I? */
        return false;
    i = i ? codecache_follow(b->v, p, i) : NULL;
    if (!i)
        return true;
    behind = codecache_is_pseudo(i) ? NULL : lowering_of(i + 1);
    return !drops_return(i) && !(replaces_return(i) && behind && behind->how == LOWER_RET);
}

/* ---- calls --------------------------------------------------------------------------------------------------- */

static void put_room(struct build *b)
{
    struct emit *e = &b->e;

    op_mem(e, true, 0x3b, H_HOST_SP, H_BASE, NO_INDEX, 0, FIELD(run.calls_end));
    struct cold *c = cold_add(b, COLD_CALLS, put_jump(e, CC_JBE), 0);
    c->join = e->p;
}

static void put_remember(struct build *b) { put8(&b->e, 0x41), put8(&b->e, 0x53); } /* push r11, the return address */

/* Where the host returns to: r10 is the guest's address of it, at `off` from the start of the page. */
static void put_behind_call(struct build *b, unsigned off)
{
    struct emit *e = &b->e;

    put8(e, 0x41), put8(e, 0x5b); /* pop r11 */
    if (b->kind == TLB_SUPER)
        set_jump(put_jump_smap(b), e->rw + b->j->exit_rip);
    lea_word(b, H_T0, H_T0, -(int32_t)off);
    store_field(e, H_T0, GPR_FIELD(REG_PAGE));
    if (in_page(off))
        put_link(b, put_jump(e, JUMP_ALWAYS), off);
    else
        put_to_next_page(b, off, NULL);
}

static void put_call_in_page(struct build *b, unsigned n, bool remembered)
{
    struct emit *e = &b->e;
    int64_t target = target_of(b->op[n].i);

    lea_word(b, H_SP, H_SP, -b->word);
    if (!remembered) {
        put_edge(b, target, n + 1, true);
        return;
    }
    put_count(b, n + 1);
    put_poll_in_page(b, target, 0);
    put_remember(b);
    put_link(b, put_call_jump(e), target);
}

/* The interpreter does it as long as it is not linked: what has been written below RSP is written once more. r11 is the
 * return address. */
static void put_far_call(struct build *b, unsigned n, bool remembered)
{
    struct emit *e = &b->e;
    const struct insn *i = b->op[n].i;
    int64_t page = page_of(target_of(i));

    lea_word(b, H_T0, H_T1, (int32_t)(page - (i->off + i->len)));
    lea_word(b, H_SP, H_SP, -b->word);
    put_count(b, n + 1);
    uint8_t *poll = put_jump(e, CC_JS);
    if (remembered)
        put_remember(b);
    uint8_t *jump = remembered ? put_call_jump(e) : put_jump(e, JUMP_ALWAYS);
    cold_add(b, COLD_FAR_CALL, jump, n)->also_from = poll;
}

/* Its target has been looked up before the return address was pushed. */
static void put_found_call(struct build *b, unsigned n, bool remembered)
{
    struct emit *e = &b->e;

    load_field(e, H_T0, FIELD(run.target[0]));
    lea_word(b, H_SP, H_SP, -b->word);
    put_poll(b, n + 1);
    if (remembered)
        put_remember(b);
    op_mem(e, false, 0xff, remembered ? NEAR_CALL : NEAR_JMP, H_BASE, NO_INDEX, 0, FIELD(run.target[1]));
}

bool lower_call(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    const struct insn *i = op->i;
    struct emit *e = &b->e;
    bool indirect = op->row->form != FORM_I, remembered = b->block && (indirect || is_true_call(b, i));
    struct cold *c;

    if (i->size != b->word || (op->row->form == FORM_M && !can_address(i)) || (!indirect && !in_reach(b, target_of(i))))
        return false;
    if (op->live)
        flags_leave(b);
    if (indirect) {
        put_target(b, n);
        cold_add(b, COLD_INTERPRET, put_jump_lookup(b), n);
        store_field(e, H_T0, FIELD(run.target[0]));
        op_mem(e, true, 0x8b, H_T1, H_BASE, H_T1, 3, JUMP_FIELD(b, code));
        store_field(e, H_T1, FIELD(run.target[1]));
    }
    int32_t at = put_stack(b, n, true, -b->word, &c);
    put_linear(b, H_T1, i->off + i->len);
    site_add(b, n, 0);
    op_mem(e, b->word == 8, 0x89, H_T1, H_T0, NO_INDEX, 0, at);
    if (remembered)
        put_room(b);
    if (indirect)
        put_found_call(b, n, remembered);
    else if (in_page(target_of(i)))
        put_call_in_page(b, n, remembered);
    else
        put_far_call(b, n, remembered);
    if (remembered)
        put_behind_call(b, i->off + i->len);
    return true;
}

/* ---- returns --------------------------------------------------------------------------------------------------- */

/* To the address in r10, by way of the jump cache; the call that was not returned from, if there is one, is forgotten. */
static void put_other_return(struct build *b, unsigned n, bool forget)
{
    const struct op *op = &b->op[n];
    struct emit *e = &b->e;

    cold_add(b, COLD_INTERPRET, put_jump_lookup(b), n);
    lea_word(b, H_SP, H_SP, b->word + (op->row->form == FORM_I ? (uint16_t)op->i->imm : 0));
    put_poll(b, n + 1);
    if (forget) {
        op_mem(e, true, 0x3b, H_HOST_SP, H_BASE, NO_INDEX, 0, FIELD(run.calls));
        uint8_t *none = put_jump(e, CC_JE);
        lea(e, H_HOST_SP, H_HOST_SP, CALL_BYTES);
        set_jump(none, e->p);
    }
    put_jump_code(b, NEAR_JMP);
}

bool lower_ret(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    struct emit *e = &b->e;
    struct cold *c;

    if (op->i->size != b->word)
        return false;
    flags_leave(b);
    int32_t at = put_stack(b, n, false, 0, &c);
    site_add(b, n, 0);
    op_mem(e, b->word == 8, 0x8b, H_T0, H_T0, NO_INDEX, 0, at);
    if (!b->block || (n && replaces_return(b->op[n - 1].i))) {
        put_other_return(b, n, false);
        return true;
    }
    uint8_t *with_smap = b->kind == TLB_SUPER ? put_jump_smap(b) : NULL;
    op_mem(e, true, 0x3b, H_T0, H_HOST_SP, NO_INDEX, 0, 8);
    cold_add(b, COLD_MISMATCH, put_jump(e, CC_JNE), n)->also_from = with_smap;
    lea_word(b, H_SP, H_SP, b->word + (op->row->form == FORM_I ? (uint16_t)op->i->imm : 0));
    put_count(b, n + 1); /* without a poll: no more returns follow each other than calls are remembered */
    put8(e, 0xc3);
    return true;
}

void put_cold_call(struct build *b, const struct cold *c)
{
    struct emit *e = &b->e;

    switch (c->kind) {
    case COLD_CALLS: /* too many to remember */
        load_field(e, H_HOST_SP, FIELD(run.calls));
        jump_back(e, c->join);
        return;
    case COLD_NEXT_PAGE:
        put_cold_to_next_page(b, c);
        return;
    case COLD_FAR_CALL:
        lea_word(b, H_SP, H_SP, b->word);
        put_cold_far(b, c);
        return;
    default: put_other_return(b, c->executed, true);
    }
}
