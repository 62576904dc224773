/* Which arithmetic flags an instruction looks at and which it surely writes; from that, before which instruction any are needed, and
 * where ZF alone tells all of them. */
#include "jit/build.h"

#include "cpu/sem/common.h"

enum { LOOK_AHEAD = 12 /* instructions */ };

uint8_t effect_of(const struct build *b, const struct insn *i, const struct lowering_row *row)
{
    if (!row)
        return vector_effect(b, i);
    if (row->effect == FLAGS_UNDEFINED)
        return b->precise ? FLAGS_PART : FLAGS_WRITE;
    if (row->effect != FLAGS_SHIFT)
        return row->effect;
    if (row->form != FORM_RI && row->form != FORM_MI)
        return FLAGS_PART;
    return i->imm & (i->size == 8 ? 63 : 31) ? FLAGS_WRITE : FLAGS_PART;
}

struct flags { /* masks of FL_* */
    uint16_t read, written; /* whatever its operands are */
};

/* SDM vol. 2, appendix B.1.4.7 */
static uint16_t read_by_condition(unsigned cc)
{
    static const uint16_t flags[] = {FL_OF, FL_CF, FL_ZF, FL_CF | FL_ZF, FL_SF, FL_PF, FL_SF | FL_OF, FL_ZF | FL_SF | FL_OF};

    return flags[cc >> 1 & 7];
}

static uint16_t read_by(const struct encoding *x)
{
    if ((x->map == 0 && x->opcode >> 4 == 7) || (x->map == 1 && (x->opcode >> 4 == 4 || x->opcode >> 4 == 8 || x->opcode >> 4 == 9)))
        return read_by_condition(x->opcode & 15); /* Jcc, CMOVcc, SETcc */
    return FL_ARITH;
}

static bool by_constant(const struct insn *i, const struct lowering_row *row)
{
    return (row->form == FORM_RI || row->form == FORM_MI) && i->imm & (i->size == 8 ? 63 : 31);
}

static struct flags of_one_byte(const struct encoding *x, const struct insn *i, const struct lowering_row *row)
{
    static const struct flags all = {FL_ARITH, 0}, carry_in = {FL_CF, FL_ARITH};
    unsigned digit = x->modrm >> 3 & 7;

    switch (x->opcode) {
    case 0xfe:
    case 0xff: return (struct flags){0, FL_ARITH & ~FL_CF}; /* INC, DEC */
    case 0x10 ... 0x15:
    case 0x18 ... 0x1d:
    case 0x80 ... 0x83: return carry_in; /* ADC, SBB */
    case 0xc0:
    case 0xc1:
    case 0xd0 ... 0xd3:
        if (digit == 2 || digit == 3)
            return (struct flags){FL_CF, 0};
        return (struct flags){0, by_constant(i, row) ? FL_CF : 0}; /* ROL, ROR */
    case 0xf5: return (struct flags){FL_CF, FL_CF}; /* CMC */
    case 0xf8:
    case 0xf9: return (struct flags){0, FL_CF}; /* CLC, STC */
    case 0x9e: return (struct flags){0, FL_ARITH & ~FL_OF}; /* SAHF */
    default: return all;
    }
}

static struct flags of_two_bytes(const struct encoding *x)
{
    switch (x->opcode) {
    case 0xa3:
    case 0xab:
    case 0xb3:
    case 0xbb:
    case 0xba: return (struct flags){0, FL_CF}; /* BT, BTS, BTR, BTC */
    case 0xa4:
    case 0xa5:
    case 0xac:
    case 0xad: return (struct flags){0, 0}; /* SHLD, SHRD: their count may be 0, or more than there are bits */
    case 0xc7: return (struct flags){0, FL_ZF}; /* CMPXCHG8B */
    default: return (struct flags){FL_ARITH, 0};
    }
}

/* x: its encoding, if that is known. */
static struct flags flags_of(const struct build *b, const struct insn *i, const struct lowering_row *row, uint8_t effect,
                             const struct encoding *x)
{
    struct encoding parsed;

    if (effect == FLAGS_NONE)
        return (struct flags){0, 0};
    if (effect == FLAGS_WRITE)
        return (struct flags){0, FL_ARITH};
    if (!row)
        return (struct flags){FL_ARITH, 0};
    if (row->effect == FLAGS_UNDEFINED || row->effect == FLAGS_SHIFT)
        return (struct flags){0, 0};
    if (!x)
        parse_encoding(b, i, &parsed);
    x = x ? x : &parsed;
    if (effect == FLAGS_READ)
        return (struct flags){read_by(x), 0};
    return x->map == 0 ? of_one_byte(x, i, row) : x->map == 1 ? of_two_bytes(x) : (struct flags){FL_ARITH, 0};
}

/* FL_*: those that somebody looks at from there on, as far as the page's code tells. A branch is followed both ways `turns` times. */
static uint16_t wanted_at(const struct build *b, int64_t distance, unsigned turns)
{
    const struct insn *i = in_page(distance) ? codecache_at(b->v, b->page, (unsigned)distance) : NULL;
    uint16_t open = FL_ARITH, wanted = 0;

    for (unsigned n = 0; i && open && n < LOOK_AHEAD; n++) {
        i = codecache_follow(b->v, b->page, i);
        if (!i || codecache_is_pseudo(i))
            break;
        const struct lowering_row *row = lowering_of(i);
        struct flags f = flags_of(b, i, row, effect_of(b, i, row), NULL);
        wanted |= f.read & open;
        open &= (uint16_t)~f.written;
        if (row && (row->how == LOWER_RET || row->how == LOWER_END))
            break;
        if (row && (row->how == LOWER_JMP || row->how == LOWER_CALL)) {
            i = row->form == FORM_I && in_page(target_of(i)) ? codecache_at(b->v, b->page, (unsigned)target_of(i)) : NULL;
            continue;
        }
        if (row && row->how == LOWER_JCC) {
            if (!turns)
                break;
            wanted |= open & wanted_at(b, target_of(i), turns - 1);
        }
        i++;
    }
    return wanted | open;
}

uint16_t flags_wanted_at(const struct build *b, int64_t distance) { return b->precise ? FL_ARITH : wanted_at(b, distance, 1); }

static bool may_leave(const struct op *op)
{
    return !op->row || op->i->am != AM_NONE || op->row->how >= LOWER_CALL;
}

/* At the end of the block, which would go on at `behind`. */
static uint16_t wanted_at_end(const struct build *b, unsigned behind)
{
    const struct op *last = &b->op[b->count - 1];

    if (!ends_block(last->row))
        return flags_wanted_at(b, behind);
    if (last->row->form == FORM_I && (last->row->how == LOWER_JMP || last->row->how == LOWER_CALL))
        return flags_wanted_at(b, target_of(last->i));
    return FL_ARITH;
}

void flags_find(struct build *b, unsigned behind)
{
    uint16_t wanted = wanted_at_end(b, behind);

    for (unsigned n = b->count; n--;) {
        struct op *op = &b->op[n];
        op->effect = effect_of(b, op->i, op->row);
        struct flags f = flags_of(b, op->i, op->row, op->effect, &op->x);
        wanted = (uint16_t)((wanted & ~f.written) | f.read);
        if (op->row && op->row->how == LOWER_JCC)
            wanted |= flags_wanted_at(b, target_of(op->i));
        if (b->precise && may_leave(op))
            wanted = FL_ARITH;
        op->live = wanted;
    }
}

/* OR, AND, SUB, XOR, CMP, TEST: all flags are the same whenever their result is zero. (AF, which the SDM leaves undefined behind some of
 * them, is 0 then on Intel's and AMD's processors.) */
static bool is_told_by_zero(const struct op *op)
{
    enum { LIKE_THESE = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 }; /* Group 1's digits, and bits 5:3 of the opcode */
    const struct encoding *x = &op->x;
    unsigned digit = x->modrm >> 3 & 7;

    if (!op->row || op->effect != FLAGS_WRITE || x->map)
        return false;
    switch (x->opcode) {
    case 0x80:
    case 0x81:
    case 0x83: return LIKE_THESE >> digit & 1;
    case 0x84:
    case 0x85:
    case 0xa8:
    case 0xa9: return true;
    case 0xf6:
    case 0xf7: return digit < 2;
    default: return x->opcode < 0x40 && (x->opcode & 7) < 6 && LIKE_THESE >> (x->opcode >> 3) & 1;
    }
}

bool zero_tells_all(const struct build *b, unsigned n)
{
    while (n && (b->op[n - 1].effect == FLAGS_NONE || b->op[n - 1].effect == FLAGS_READ))
        n--;
    return n && !b->strip && is_told_by_zero(&b->op[n - 1]);
}
