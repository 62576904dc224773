/* An instruction that begins in one page and ends in the next. Its block belongs to the first page and is that instruction alone;
 * each time it looks whether the next page is still there to be executed, and holds the same bytes. */
#include "jit/build.h"

struct span *span_of(struct vcpu *v, const struct insn *i, struct span *s)
{
    if (!codecache_spanning(v, i, &s->insn, s->bytes) || s->insn.off + s->insn.len > 4096 + 8)
        return NULL;
    return s;
}

/* r10 = the next page, in this process. Goes to the interpreter, which enters it, when the fetch look-aside does not have it. */
static void put_next_page(struct build *b)
{
    struct emit *e = &b->e;
    _Static_assert(sizeof(struct itlb_entry) == 24 && offsetof(struct itlb_entry, tag) == 0, "the index is multiplied by 3 * 8");

    load_field(e, H_T0, GPR_FIELD(REG_PAGE));
    op_imm(e, true, 0, H_T0, 4096);
    op_reg(e, false, 0x8b, H_T1, H_T0);
    put8(e, 0x41), put8(e, 0xc1), put8(e, 0xeb), put8(e, 12); /* shr r11d, 12 */
    if (b->v->cpl == 3)
        op_imm(e, false, 6, H_T1, (int32_t)itlb_index(0, true));
    op_imm(e, false, 4, H_T1, ITLB_ENTRIES - 1);
    op_mem(e, true, 0x8d, H_T1, H_T1, H_T1, 1, 0);            /* lea r11, [r11 + r11 * 2] */
    put8(e, 0x49), put8(e, 0xc1), put8(e, 0xe3), put8(e, 3);  /* shl r11, 3 */
    op_mem(e, true, 0x03, H_T1, H_BASE, NO_INDEX, 0, FIELD(itlb));
    op_imm(e, true, 1, H_T0, (int32_t)itlb_key(b->v));
    op_mem(e, true, 0x3b, H_T0, H_T1, NO_INDEX, 0, 0);
    cold_add(b, COLD_INTERPRET, put_jump(e, CC_JNE), 0);
    op_mem(e, true, 0x8b, H_T0, H_T1, NO_INDEX, 0, offsetof(struct itlb_entry, page));
    op_mem(e, true, 0x8b, H_T0, H_T0, NO_INDEX, 0, offsetof(struct codepage, host));
}

void put_span_check(struct build *b)
{
    const struct insn *i = &b->span->insn;
    struct emit *e = &b->e;
    unsigned first = 4096u - i->off, unused = 64 - 8 * (i->len - first);
    uint64_t want = 0;

    put_next_page(b);
    memcpy(&want, b->span->bytes + first, i->len - first);
    want <<= unused;
    site_add(b, 0, 0);
    op_mem(e, true, 0x8b, H_T1, H_T0, NO_INDEX, 0, 0);
    put8(e, 0x49), put8(e, 0xc1), put8(e, 0xe3), put8(e, unused); /* shl r11, unused */
    put8(e, 0x49), put8(e, 0xba);                                 /* mov r10, want */
    memcpy(e->p, &want, 8);
    e->p += 8;
    op_reg(e, true, 0x3b, H_T1, H_T0);
    cold_add(b, COLD_INTERPRET, put_jump(e, CC_JNE), 0);
}
