/* From a memory operand to the host's address: the offset, the segment, the probe of the TLB. */
#include "jit/build.h"

bool can_address(const struct insn *i)
{
    if (i->index == REG_EDGE || i->index == REG_PAGE)
        return false;
    return i->am == AM_FLAT64 || i->am == AM_SEG64 || (i->am == AM_64A32 && i->base != REG_PAGE) ||
           (i->am == AM_32 && i->seg != CS);
}

bool has_segment(const struct insn *i) { return i->seg == FS || i->seg == GS; }

unsigned in_register(struct build *b, unsigned guest, unsigned temp)
{
    int host = host_of(b, guest);

    if (host >= 0)
        return (unsigned)host;
    load_field(&b->e, temp, GPR_FIELD(guest));
    return temp;
}

void put_offset(struct build *b, const struct insn *i, unsigned to, bool wide)
{
    struct emit *e = &b->e;
    unsigned base, index = NO_INDEX;

    wide = wide && (i->am == AM_FLAT64 || i->am == AM_SEG64);
    if (i->index != REG_ZERO)
        index = in_register(b, i->index, H_T1);
    if (to == H_T0)
        b->holds = false;
    if (i->base != REG_ZERO) {
        unsigned temp = index == NO_INDEX ? to : index == H_T1 ? H_T0 : H_T1;
        base = in_register(b, i->base, temp);
        b->holds &= base != H_T0;
        if (index != NO_INDEX || i->disp)
            op_mem(e, wide, 0x8d, to, base, index, i->scale, i->disp);
        else if (base != to || !wide)
            op_reg(e, wide, 0x8b, to, base); /* renamed by the host, where LEA would take a cycle */
    } else if (index != NO_INDEX) { /* [index << scale + disp32]: no base is mod 0, base 5 */
        put_rex(e, wide, to, index, 0, false);
        put8(e, 0x8d);
        put8(e, (to & 7) << 3 | 4);
        put8(e, i->scale << 6 | (index & 7) << 3 | 5);
        put32(e, (uint32_t)i->disp);
    } else if (wide) { /* mov r64, simm32 */
        put_rex(e, true, 0, 0, to, false);
        put8(e, 0xc7);
        put8(e, 0xc0 | (to & 7));
        put32(e, (uint32_t)i->disp);
    } else {
        load_imm32(e, to, (uint32_t)i->disp);
    }
}

/* r10: offset in FS or GS -> linear. 32-bit code: -> the jump that is taken when the segment does not reach that far. */
static uint8_t *put_segment(struct build *b, const struct insn *i, unsigned size)
{
    struct emit *e = &b->e;
    int32_t segment = FIELD(seg) + i->seg * (int32_t)sizeof(struct segment);
    uint8_t *beyond = NULL;

    if (i->am == AM_32) {
        lea(e, H_T1, H_T0, (int32_t)size - 1);
        op_mem(e, true, 0x3b, H_T1, H_BASE, NO_INDEX, 0, segment + (int32_t)offsetof(struct segment, last));
        beyond = put_jump(e, CC_JG);
    }
    load_field(e, H_T1, segment + (int32_t)offsetof(struct segment, base));
    op_mem(e, i->am != AM_32, 0x8d, H_T0, H_T0, H_T1, 0, 0);
    return beyond;
}

enum { TLB_SHIFT = 12 - 4 }; /* an entry has 16 bytes */
_Static_assert(sizeof(struct tlb_entry) == 4096 >> TLB_SHIFT, "the index is scaled as it is found");

/* r11: which entry r10's is, in bytes. */
static void put_tlb_index(struct build *b)
{
    struct emit *e = &b->e;

    if (b->j->bmi2) { /* rorx r11, r10, TLB_SHIFT */
        static const uint8_t rorx[] = {0xc4, 0x43, 0xfb, 0xf0, 0xda, TLB_SHIFT};
        memcpy(e->p, rorx, sizeof(rorx));
        e->p += sizeof(rorx);
    } else { /* shr r11, TLB_SHIFT */
        move(e, H_T1, H_T0);
        put8(e, 0x49), put8(e, 0xc1), put8(e, 0xeb), put8(e, TLB_SHIFT);
    }
    op_imm(e, false, 4, H_T1, (TLB_ENTRIES - 1) * (int32_t)sizeof(struct tlb_entry));
}

static int32_t put_tlb_tag(struct build *b, bool write)
{
    int32_t set = FIELD(tlb_sets) + (int32_t)(b->kind * sizeof(struct tlb_set));
    int32_t table = set + (int32_t)(write ? offsetof(struct tlb_set, write.entry) : offsetof(struct tlb_set, read.entry));

    op_mem(&b->e, true, 0x33, H_T0, H_BASE, H_T1, 0, table + (int32_t)offsetof(struct tlb_entry, tag));
    return table;
}

int32_t put_tlb_offset(struct build *b, bool write)
{
    put_tlb_index(b);
    return put_tlb_tag(b, write);
}

/* r10: linear -> offset in its page, for `size` bytes; the page is added to it, or in r11. Clobbers flags and r11. */
static struct cold *put_probe(struct build *b, unsigned n, bool write, unsigned size, bool add)
{
    struct emit *e = &b->e;

    put_tlb_index(b);
    const uint8_t *again = e->p;
    int32_t table = put_tlb_tag(b, write);
    op_imm(e, true, 7, H_T0, (int32_t)(4096 - size));
    struct cold *c = cold_add(b, COLD_INTERPRET, put_jump(e, CC_JA), n);
    c->again = c->kind == COLD_INTERPRET ? again : NULL;
    c->write = write;
    c->flags_before = b->flags & (uint8_t)~FLAGS_IN_HOST;
    c->vectors = b->vectors;
    op_mem(e, true, add ? 0x03 : 0x8b, add ? H_T0 : H_T1, H_BASE, H_T1, 0, table + (int32_t)offsetof(struct tlb_entry, host));
    b->flags &= (uint8_t)~FLAGS_IN_HOST;
    return c;
}

struct cold *put_host(struct build *b, unsigned n, const struct insn *i, bool write, unsigned size)
{
    uint8_t *beyond = NULL;

    if (has_segment(i))
        beyond = put_segment(b, i, size);
    struct cold *c = put_probe(b, n, write, size, true);
    c->also_from = beyond;
    return c;
}

struct cold *put_address(struct build *b, unsigned n, const struct insn *i, bool write, unsigned size)
{
    put_offset(b, i, H_T0, true);
    return put_host(b, n, i, write, size);
}

struct cold *put_address_apart(struct build *b, unsigned n, const struct insn *i, unsigned size)
{
    put_offset(b, i, H_T0, true);
    return put_probe(b, n, false, size, false);
}
