/* Renders data instructions: the instruction itself, its registers and its memory operand replaced by the host's. */
#include "jit/build.h"

#include "cpu/sem/common.h"
#include "gen/handlers.h"

/* ---- the table ------------------------------------------------------------------------------- */

static const struct lowering_row rows[] = {
#include "gen/lowering.inc"
};
enum { ROWS = sizeof(rows) / sizeof(rows[0]), ROW_BUCKETS = 4096 };

static unsigned row_bucket(insn_fn *fn) { return ((uint64_t)fn * 0x9e3779b97f4a7c15ull) >> 52; }

const struct lowering_row *lowering_of(const struct insn *i)
{
    static uint16_t bucket[ROW_BUCKETS]; /* the same for every thread that fills it */
    static bool filled;

    if (!__atomic_load_n(&filled, __ATOMIC_ACQUIRE)) {
        for (unsigned n = 0; n < ROWS; n++) {
            unsigned at = row_bucket(rows[n].fn);
            while (bucket[at] && bucket[at] != n + 1)
                at = (at + 1) % ROW_BUCKETS;
            bucket[at] = (uint16_t)(n + 1);
        }
        __atomic_store_n(&filled, true, __ATOMIC_RELEASE);
    }
    for (unsigned at = row_bucket(i->fn); bucket[at]; at = (at + 1) % ROW_BUCKETS)
        if (rows[bucket[at] - 1].fn == i->fn)
            return &rows[bucket[at] - 1];
    return NULL;
}

/* ---- the encoding ------------------------------------------------------------------------------ */

static bool opcode_has_modrm(unsigned map, unsigned o)
{
    if (map == 0)
        return (o < 0x40 && (o & 7) < 4) || o == 0x63 || o == 0x69 || o == 0x6b || (o >= 0x80 && o <= 0x8f) ||
               (o & ~1u) == 0xc0 || (o & ~1u) == 0xc6 || (o >= 0xd0 && o <= 0xd3) || (o & ~1u) == 0xf6 || (o & ~1u) == 0xfe;
    return map > 1 || (o & 0xf8) != 0xc8;
}

void parse_encoding(const uint8_t *b, unsigned len, struct encoding *x)
{
    unsigned n = 0;

    *x = (struct encoding){0};
    for (;; n++) {
        if (b[n] == 0x66)
            x->p66 = true;
        else if (b[n] == 0xf0)
            x->lock = true;
        else if (b[n] == 0xf2 || b[n] == 0xf3)
            x->mandatory = b[n];
        else if ((b[n] & 0xe7) != 0x26 && b[n] != 0x64 && b[n] != 0x65 && b[n] != 0x67 && (b[n] & 0xf0) != 0x40)
            break;
        x->has_rex = (b[n] & 0xf0) == 0x40; /* counts directly before the opcode only */
        x->rex = x->has_rex ? b[n] : 0;
    }
    x->opcode = b[n++];
    if (x->opcode == 0x0f) {
        x->map = 1;
        x->opcode = b[n++];
        if (x->opcode == 0x38 || x->opcode == 0x3a) {
            x->map = x->opcode == 0x38 ? 2 : 3;
            x->opcode = b[n++];
        }
    }
    x->has_modrm = opcode_has_modrm(x->map, x->opcode);
    if (x->has_modrm) {
        unsigned mod, disp = 0;
        x->modrm = b[n++];
        mod = x->modrm >> 6;
        if (mod != 3 && (x->modrm & 7) == 4) {
            if (mod == 0 && (b[n] & 7) == 5)
                disp = 4;
            n++;
        }
        n += mod == 1 ? 1 : mod == 2 || (mod == 0 && (x->modrm & 7) == 5) ? 4 : disp;
    }
    x->imm_off = (uint8_t)n;
    x->imm_bytes = (uint8_t)(len - n);
}

/* What the two ModRM operands are. */
struct roles {
    bool reg_is_digit, reg8, rm8;
    bool reg_read, reg_write, rm_read, rm_write;
};

static void roles_one_byte(const struct encoding *x, struct roles *r)
{
    unsigned o = x->opcode, digit = x->modrm >> 3 & 7;
    bool wide = o & 1;

    r->reg8 = r->rm8 = !wide;
    if (o < 0x40) {
        r->rm_write = !(o & 2) && o >> 3 != 7;
        r->reg_write = o & 2 && o >> 3 != 7;
        return;
    }
    switch (o) {
    case 0x63:
    case 0x69:
    case 0x6b:
        r->reg8 = r->rm8 = false;
        r->rm_write = false;
        break;
    case 0x84:
    case 0x85: r->reg_write = r->rm_write = false; break;
    case 0x88:
    case 0x89: r->reg_write = false; break;
    case 0x8a:
    case 0x8b: r->rm_write = false; break;
    case 0x80:
    case 0x81:
    case 0x83:
        r->reg_is_digit = true;
        r->rm_write = digit != 7;
        break;
    case 0xf6:
    case 0xf7:
        r->reg_is_digit = true;
        r->rm_write = digit == 2 || digit == 3;
        break;
    case 0x86:
    case 0x87: break;
    default: r->reg_is_digit = true; break; /* C0, C1, C6, C7, D0 to D3, FE, FF */
    }
}

static void find_roles(const struct encoding *x, struct roles *r)
{
    unsigned o = x->opcode;

    *r = (struct roles){.reg_read = true, .reg_write = true, .rm_read = true, .rm_write = true};
    if (x->map == 0) {
        roles_one_byte(x, r);
        return;
    }
    if (x->map == 2) /* MOVBE */
        return;
    if ((o & 0xf0) == 0x40 || o == 0xaf || o == 0xbc || o == 0xbd) { /* CMOVcc, IMUL, BSF, BSR */
        r->rm_write = false;
    } else if ((o & 0xf0) == 0x90) { /* SETcc */
        r->reg_is_digit = r->rm8 = true;
    } else if ((o & 0xf6) == 0xb6) { /* MOVZX, MOVSX */
        r->rm8 = !(o & 1);
        r->rm_write = false;
    } else if (o == 0xa3) { /* BT */
        r->reg_write = r->rm_write = false;
    } else if ((o & 0xf6) == 0xa4 || o == 0xb0 || o == 0xb1) { /* SHLD, SHRD, CMPXCHG */
        r->reg_write = false;
        r->reg8 = r->rm8 = o == 0xb0;
    } else if (o == 0xba) {
        r->reg_is_digit = true;
        r->rm_write = (x->modrm >> 3 & 7) != 4;
    } else if (o == 0xc0) {
        r->reg8 = r->rm8 = true;
    }
}

/* ---- registers ----------------------------------------------------------------------------------- */

int host_of(unsigned guest)
{
    static const int8_t map[16] = {H_RAX, H_RCX, H_RDX, H_RBX, H_SP, H_RBP, H_RSI, H_RDI, -1, -1, -1, -1, H_R12, H_R13, H_R14, -1};

    return guest < 16 ? map[guest] : -1;
}

/* ---- memory operands -------------------------------------------------------------------------------- */

bool can_address(const struct insn *i)
{
    if (i->index == REG_EDGE || i->index == REG_PAGE)
        return false;
    return i->am == AM_FLAT64 || i->am == AM_SEG64 || (i->am == AM_64A32 && i->base != REG_PAGE);
}

static unsigned in_register(struct build *b, unsigned guest, unsigned temp)
{
    int host = host_of(guest);

    if (host >= 0)
        return (unsigned)host;
    load_field(&b->e, temp, GPR_FIELD(guest));
    return temp;
}

bool put_address(struct build *b, const struct insn *i, unsigned to)
{
    struct emit *e = &b->e;
    bool wide = i->am != AM_64A32;
    unsigned base, index = NO_INDEX;

    if (!can_address(i))
        return false;
    if (i->index != REG_ZERO)
        index = in_register(b, i->index, H_T1);
    if (to == H_T0)
        b->held.valid = false;
    if (i->base != REG_ZERO) {
        unsigned temp = index == H_T1 ? H_T0 : H_T1;
        base = in_register(b, i->base, temp);
        b->held.valid &= base != H_T0;
        if (base != to || index != NO_INDEX || i->disp || !wide)
            op_mem(e, wide, 0x8d, to, base, index, i->scale, i->disp);
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
    if (i->seg == FS || i->seg == GS) {
        load_field(e, H_T1, FIELD(seg) + i->seg * (int32_t)sizeof(struct segment) + (int32_t)offsetof(struct segment, base));
        op_mem(e, true, 0x8d, to, to, H_T1, 0, 0);
    }
    return true;
}

struct cold *put_probe(struct build *b, unsigned n, bool write, unsigned size)
{
    struct emit *e = &b->e;
    int32_t set = FIELD(tlb_sets) + (int32_t)(b->kind * sizeof(struct tlb_set));
    int32_t table = set + (int32_t)(write ? offsetof(struct tlb_set, write) : offsetof(struct tlb_set, read));

    if (b->j->bmi2) { /* rorx r11, r10, 12 */
        static const uint8_t rorx[] = {0xc4, 0x43, 0xfb, 0xf0, 0xda, 12};
        memcpy(e->p, rorx, sizeof(rorx));
        e->p += sizeof(rorx);
    } else { /* shr r11, 12 */
        move(e, H_T1, H_T0);
        put8(e, 0x49), put8(e, 0xc1), put8(e, 0xeb), put8(e, 12);
    }
    op_imm(e, false, 4, H_T1, TLB_ENTRIES - 1);
    op_mem(e, true, 0x33, H_T0, H_BASE, H_T1, 3, table + (int32_t)offsetof(struct tlb_table, tag));
    op_imm(e, true, 7, H_T0, (int32_t)(4096 - size));
    struct cold *c = cold_add(b, COLD_INTERPRET, put_jump(e, CC_JA), n);
    c->flags_before = b->flags & (uint8_t)~FLAGS_IN_HOST;
    c->vectors = b->vectors;
    op_mem(e, true, 0x03, H_T0, H_BASE, H_T1, 3, table + (int32_t)offsetof(struct tlb_table, host));
    b->flags &= (uint8_t)~FLAGS_IN_HOST;
    return c;
}

/* ---- the instruction ------------------------------------------------------------------------------------ */

uint8_t operand_size(const struct encoding *x, const struct insn *i)
{
    if (x->map == 1 && (x->opcode & 0xf6) == 0xb6)
        return x->opcode & 1 ? 2 : 1;
    if (x->map == 0 && x->opcode == 0x63)
        return 4;
    return i->size;
}

bool operand_is_written(const struct op *op, const struct encoding *x)
{
    uint8_t form = op->row->form;

    return op->row->how != LOWER_LOAD && (form == FORM_M || form == FORM_MR || form == FORM_MI || form == FORM_MRI ||
                                          form == FORM_MRR || (x->opcode & ~1u) == 0x86);
}

bool encoding_has_digit(const struct encoding *x)
{
    struct roles r;

    find_roles(x, &r);
    return r.reg_is_digit;
}

static void put_head(struct emit *e, const struct encoding *x, unsigned reg, unsigned index, unsigned base, bool byte)
{
    bool w = x->rex & 8;

    if (x->lock)
        put8(e, 0xf0);
    if (x->p66 && !w)
        put8(e, 0x66);
    put_rex(e, w, reg, index, base, x->has_rex && byte);
    if (x->map)
        put8(e, 0x0f);
    if (x->map == 2)
        put8(e, 0x38);
    put8(e, x->opcode);
}

static void put_imm(struct build *b, const struct encoding *x, const struct insn *i)
{
    memcpy(b->e.p, bytes_of(b, i) + x->imm_off, x->imm_bytes);
    b->e.p += x->imm_bytes;
}

/* AH, CH, DH, BH as operand of an instruction without REX: the host's must have none either. */
static bool is_high(const struct encoding *x, bool byte, unsigned reg) { return byte && !x->has_rex && reg >= 4; }

/* An instruction with ModRM whose r/m is memory. */
static bool lower_memory(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    const struct insn *i = op->i;
    struct emit *e = &b->e;
    struct encoding x;
    struct roles r;
    unsigned reg, host = 0;
    bool stored = false;
    int32_t disp;

    parse_encoding(bytes_of(b, i), i->len, &x);
    find_roles(&x, &r);
    reg = (x.modrm >> 3 & 7) | (x.rex & 4) << 1;
    if (!can_address(i) || x.map == 3 || (!r.reg_is_digit && is_high(&x, r.reg8, reg)))
        return false;
    if (x.map == 1 && (x.opcode == 0xa3 || x.opcode == 0xab || x.opcode == 0xb3 || x.opcode == 0xbb))
        return false; /* a bit string */
    struct operand a = {.at = *i, .write = operand_is_written(op, &x), .size = operand_size(&x, i)};
    flags_keep(b, op);
    struct cold *c = put_operand(b, n, &a, &disp);
    if (op->effect == FLAGS_READ || op->effect == FLAGS_PART)
        flags_want(b);
    if (r.reg_is_digit) {
        host = reg & 7;
    } else if (host_of(reg) >= 0) {
        host = (unsigned)host_of(reg);
    } else {
        host = H_T1;
        stored = r.reg_write;
        if (r.reg_read)
            load_field(e, H_T1, GPR_FIELD(reg));
    }
    put_head(e, &x, r.reg_is_digit ? 0 : host, 0, H_T0, r.reg8);
    put_mem(e, host, H_T0, NO_INDEX, 0, disp);
    put_imm(b, &x, i);
    if (stored)
        store_field(e, H_T1, GPR_FIELD(reg));
    if (op->effect == FLAGS_WRITE || op->effect == FLAGS_PART)
        b->flags = FLAGS_IN_HOST;
    cold_join(b, c);
    return true;
}

/* Whether a register operand in memory may simply be a memory operand of the host's instruction. */
static bool directly(const struct encoding *x, const struct roles *r, unsigned size)
{
    if (x->map == 0 && (x->opcode & ~1u) == 0x86)
        return false; /* XCHG would lock */
    if (x->map == 1 && (x->opcode == 0xa3 || x->opcode == 0xab || x->opcode == 0xb3 || x->opcode == 0xbb))
        return false; /* a bit string */
    if (x->map == 2 || (x->map == 1 && (x->opcode & ~1u) == 0xc0))
        return false; /* XADD stores both */
    return !r->rm_write || size != 4;
}

/* An instruction with ModRM whose operands are registers. */
static bool lower_registers(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    struct emit *e = &b->e;
    struct encoding x;
    struct roles r;
    unsigned reg, rm;
    int host_reg, host_rm;

    parse_encoding(bytes_of(b, op->i), op->i->len, &x);
    find_roles(&x, &r);
    reg = (x.modrm >> 3 & 7) | (x.rex & 4) << 1;
    rm = (x.modrm & 7) | (x.rex & 1) << 3;
    host_reg = r.reg_is_digit ? (int)(reg & 7) : is_high(&x, r.reg8, reg) ? (int)reg : host_of(reg);
    host_rm = is_high(&x, r.rm8, rm) ? (int)rm : host_of(rm);
    if ((!r.reg_is_digit && is_high(&x, r.reg8, reg)) || is_high(&x, r.rm8, rm)) {
        if ((!r.reg_is_digit && (host_reg < 0 || host_reg > 7)) || host_rm < 0 || host_rm > 7)
            return false; /* needs a REX */
        if (!r.reg_is_digit && !r.reg8 && host_of(reg) > 7)
            return false;
    }
    if (op->effect == FLAGS_READ || op->effect == FLAGS_PART)
        flags_want(b);
    bool reg_memory = !r.reg_is_digit && host_reg < 0, rm_memory = host_rm < 0;
    bool direct = rm_memory && directly(&x, &r, op->i->size);
    if (reg_memory) {
        host_reg = H_T1;
        if (r.reg_read)
            load_field(e, H_T1, GPR_FIELD(reg));
    }
    if (rm_memory && !direct) {
        host_rm = reg_memory ? H_T0 : H_T1;
        b->held.valid &= !reg_memory;
        load_field(e, (unsigned)host_rm, GPR_FIELD(rm));
    }
    put_head(e, &x, r.reg_is_digit ? 0 : (unsigned)host_reg, 0, direct ? (unsigned)H_BASE : (unsigned)host_rm, r.reg8 || r.rm8);
    if (direct)
        put_mem(e, (unsigned)host_reg, H_BASE, NO_INDEX, 0, GPR_FIELD(rm));
    else
        put8(e, 0xc0 | ((unsigned)host_reg & 7) << 3 | ((unsigned)host_rm & 7));
    put_imm(b, &x, op->i);
    /* XADD r, r with both the same: the sum is stored last, as the first operand's */
    if (reg_memory && r.reg_write)
        store_field(e, H_T1, GPR_FIELD(reg));
    if (rm_memory && !direct && r.rm_write)
        store_field(e, (unsigned)host_rm, GPR_FIELD(rm));
    if (op->effect == FLAGS_WRITE || op->effect == FLAGS_PART)
        b->flags = FLAGS_IN_HOST;
    return true;
}

/* No ModRM: fixed registers, or one in the opcode. */
static bool lower_opcode(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    struct emit *e = &b->e;
    struct encoding x;
    unsigned o, reg;
    bool in_opcode, byte;
    int host = 0;

    parse_encoding(bytes_of(b, op->i), op->i->len, &x);
    o = x.opcode;
    if (x.map == 1 && o == 0xae) { /* LFENCE, MFENCE, SFENCE */
        put8(e, 0x0f), put8(e, 0xae), put8(e, x.modrm);
        return true;
    }
    if (x.map == 0 && o >= 0xa0 && o <= 0xa3) /* moffs that fit in 32 bits */
        return false;
    in_opcode = x.map == 1 || (o >= 0x90 && o <= 0x97) || (o >= 0xb0 && o <= 0xbf) || (o >= 0x40 && o <= 0x4f);
    byte = x.map == 0 && o >= 0xb0 && o <= 0xb7;
    reg = (o & 7) | (x.rex & 1) << 3;
    if (in_opcode) {
        if (x.map == 1 && op->i->size == 2)
            return false; /* BSWAP r16 */
        host = is_high(&x, byte, reg) ? (int)reg : host_of(reg);
        if (host < 0 && op->i->size < 4)
            return false;
        x.opcode = (uint8_t)(o & ~7u);
    }
    if (op->effect == FLAGS_READ || op->effect == FLAGS_PART)
        flags_want(b);
    bool memory = in_opcode && host < 0;
    if (memory) {
        host = H_T1;
        load_field(e, H_T1, GPR_FIELD(reg));
    }
    x.lock = false;
    if (x.p66 && !(x.rex & 8))
        put8(e, 0x66);
    put_rex(e, x.rex & 8, 0, 0, (unsigned)host, x.has_rex && byte);
    if (x.map)
        put8(e, 0x0f);
    put8(e, x.opcode | ((unsigned)host & 7));
    put_imm(b, &x, op->i);
    if (memory)
        store_field(e, H_T1, GPR_FIELD(reg));
    if (op->effect == FLAGS_WRITE || op->effect == FLAGS_PART)
        b->flags = FLAGS_IN_HOST;
    return true;
}

static bool lower_lea(struct build *b, unsigned n)
{
    const struct insn *i = b->op[n].i;
    struct encoding x;
    struct insn flat = *i;
    int host;

    flat.seg = DS;
    parse_encoding(bytes_of(b, i), i->len, &x);
    unsigned reg = (x.modrm >> 3 & 7) | (x.rex & 4) << 1;
    host = host_of(reg);
    if (i->size == 2 || !put_address(b, &flat, host < 0 ? H_T1 : (unsigned)host))
        return false;
    if (i->size == 4) /* zero-extends */
        op_reg(&b->e, false, 0x8b, host < 0 ? H_T1 : (unsigned)host, host < 0 ? H_T1 : (unsigned)host);
    if (host < 0)
        store_field(&b->e, H_T1, GPR_FIELD(reg));
    return true;
}

bool lower(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    struct encoding x;

    if (!op->row)
        return lower_vector(b, n);
    switch (op->row->how) {
    case LOWER_NOP: return true;
    case LOWER_LEA: return lower_lea(b, n);
    case LOWER_PLAIN:
    case LOWER_LOAD:
    case LOWER_STORE:
    case LOWER_RMW:
        parse_encoding(bytes_of(b, op->i), op->i->len, &x);
        if (!x.has_modrm || op->row->how == LOWER_PLAIN)
            return lower_opcode(b, n);
        return x.modrm >= 0xc0 ? lower_registers(b, n) : lower_memory(b, n);
    case LOWER_DIVIDE: return lower_divide(b, n);
    case LOWER_SYSTEM: return lower_system(b, n);
    default: return lower_flow(b, n);
    }
}
