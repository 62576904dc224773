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

/* ---- registers ----------------------------------------------------------------------------------- */

void registers_at_home(struct build *b)
{
    static const int8_t home[16] = {H_RAX, H_RCX, H_RDX, H_RBX, H_SP, H_RBP, H_RSI, H_RDI, -1, -1, -1, -1, H_R12, H_R13, H_R14, -1};

    memcpy(b->host, home, sizeof(home));
}

int host_of(const struct build *b, unsigned guest) { return guest < 16 ? b->host[guest] : -1; }

/* ---- the instruction ------------------------------------------------------------------------------------ */

/* CMPXCHG8B, CMPXCHG16B */
static bool is_cmpxchg_pair(const struct encoding *x) { return x->map == 1 && x->opcode == 0xc7; }

uint8_t operand_size(const struct encoding *x, const struct insn *i)
{
    if (x->map == 1 && (x->opcode & 0xf6) == 0xb6)
        return x->opcode & 1 ? 2 : 1;
    if (x->map == 0 && x->opcode == 0x63)
        return 4;
    if (is_cmpxchg_pair(x))
        return x->rex & 8 ? 16 : 8;
    return i->size;
}

bool operand_is_written(const struct op *op, const struct encoding *x)
{
    uint8_t form = op->row->form;

    return op->row->how != LOWER_LOAD && (form == FORM_M || form == FORM_MR || form == FORM_MI || form == FORM_MRI ||
                                          form == FORM_MRR || (x->opcode & ~1u) == 0x86 || is_cmpxchg_pair(x));
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

/* AH and AL, or CH and CL, ... change places: beside an address in r10 there is no AH. */
static void put_swap(struct emit *e, unsigned low) { put8(e, 0x86), put8(e, 0xc0 | (low + 4) << 3 | low); }

/* It looks at them, or keeps some that somebody looks at. */
static bool wants_flags(const struct op *op) { return op->live && (op->effect == FLAGS_READ || op->effect == FLAGS_PART); }

/* An instruction with ModRM whose r/m is memory. */
static bool lower_memory(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    const struct insn *i = op->i;
    struct emit *e = &b->e;
    struct encoding x = op->x;
    struct roles r;
    unsigned reg, host = 0;
    bool stored = false, high;
    struct place at;

    find_roles(&x, &r);
    reg = (x.modrm >> 3 & 7) | (x.rex & 4) << 1;
    high = !r.reg_is_digit && is_high(&x, r.reg8, reg);
    if (!can_address(i) || x.map == 3 || (high && x.map == 1 && x.opcode == 0xb0)) /* CMPXCHG has AL, too */
        return false;
    if (high && b->strip) /* the address may be in the register that is swapped */
        return false;
    if (is_bit_string(&x))
        return lower_bit_string(b, n, &x);
    struct operand a = {.at = *i, .write = operand_is_written(op, &x), .size = operand_size(&x, i)};
    a.only_loaded = !a.write && !high && (r.reg_is_digit || host_of(b, reg) >= 0) && !wants_flags(op);
    struct cold *c = put_place(b, n, &a, &at);
    if (a.size == 16)
        put_aligned(b, n, at.disp, 15);
    if (wants_flags(op))
        flags_want(b);
    if (r.reg_is_digit) {
        host = reg & 7;
    } else if (high) {
        host = reg & 3;
        put_swap(e, host);
    } else if (host_of(b, reg) >= 0) {
        host = (unsigned)host_of(b, reg);
    } else {
        host = H_T1;
        stored = r.reg_write;
        if (r.reg_read)
            load_field(e, H_T1, GPR_FIELD(reg));
    }
    site_add(b, n, high ? SITE_SWAPPED | host << SITE_REGISTER : 0);
    put_head(e, &x, r.reg_is_digit ? 0 : host, place_index(&at), at.base, r.reg8);
    put_mem(e, host, at.base, at.index, at.scale, at.disp);
    put_imm(b, &x, i);
    if (high)
        put_swap(e, host);
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
    if (x->map == 0 && (x->opcode & ~1u) == 0xc0 && (x->modrm >> 3 & 7) < 2)
        return false; /* ROL, ROR: their OF would be that of memory (cpu/host_alu.h) */
    if (is_bit_string(x))
        return false;
    if (x->map == 2 || (x->map == 1 && (x->opcode & ~1u) == 0xc0))
        return false; /* XADD stores both */
    return !r->rm_write || size != 4;
}

static bool is_move(const struct encoding *x) { return x->map == 0 && (x->opcode == 0x89 || x->opcode == 0x8b); }

/* MOV to a whole register that is in memory, by way of r11. */
static void lower_move(struct build *b, const struct encoding *x, unsigned to, unsigned from)
{
    struct emit *e = &b->e;
    bool wide = x->rex & 8;
    int host = host_of(b, from);

    if (host < 0)
        op_mem(e, wide, 0x8b, H_T1, H_BASE, NO_INDEX, 0, GPR_FIELD(from));
    else if (!wide)
        op_reg(e, false, 0x8b, H_T1, (unsigned)host);
    store_field(e, host < 0 || !wide ? H_T1 : (unsigned)host, GPR_FIELD(to));
}

/* An instruction with ModRM whose operands are registers. */
static bool lower_registers(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];
    struct emit *e = &b->e;
    struct encoding x = op->x;
    struct roles r;
    unsigned reg, rm;
    int host_reg, host_rm;

    find_roles(&x, &r);
    reg = (x.modrm >> 3 & 7) | (x.rex & 4) << 1;
    rm = (x.modrm & 7) | (x.rex & 1) << 3;
    host_reg = r.reg_is_digit ? (int)(reg & 7) : is_high(&x, r.reg8, reg) ? (int)reg : host_of(b, reg);
    host_rm = is_high(&x, r.rm8, rm) ? (int)rm : host_of(b, rm);
    if ((!r.reg_is_digit && is_high(&x, r.reg8, reg)) || is_high(&x, r.rm8, rm)) {
        if ((!r.reg_is_digit && (host_reg < 0 || host_reg > 7)) || host_rm < 0 || host_rm > 7)
            return false; /* needs a REX */
        if (!r.reg_is_digit && !r.reg8 && host_of(b, reg) > 7)
            return false;
    }
    if (wants_flags(op))
        flags_want(b);
    bool reg_memory = !r.reg_is_digit && host_reg < 0, rm_memory = host_rm < 0;
    if (is_move(&x) && op->i->size >= 4 && (r.rm_write ? rm_memory : reg_memory)) {
        lower_move(b, &x, r.rm_write ? rm : reg, r.rm_write ? reg : rm);
        return true;
    }
    bool direct = rm_memory && directly(&x, &r, op->i->size);
    if (reg_memory) {
        host_reg = H_T1;
        if (r.reg_read)
            load_field(e, H_T1, GPR_FIELD(reg));
    }
    if (rm_memory && !direct) {
        host_rm = reg_memory ? H_T0 : H_T1;
        b->holds &= !reg_memory;
        if (r.rm_read)
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
    struct encoding x = op->x;
    unsigned o, reg;
    bool in_opcode, byte;
    int host = 0;

    o = x.opcode;
    if (x.map == 1 && o == 0xae) { /* LFENCE, MFENCE, SFENCE */
        put8(e, 0x0f), put8(e, 0xae), put8(e, x.modrm);
        return true;
    }
    in_opcode = x.map == 1 || (o >= 0x90 && o <= 0x97) || (o >= 0xb0 && o <= 0xbf);
    byte = x.map == 0 && o >= 0xb0 && o <= 0xb7;
    reg = (o & 7) | (x.rex & 1) << 3;
    if (in_opcode) {
        if (x.map == 1 && op->i->size == 2)
            return false; /* BSWAP r16 */
        host = is_high(&x, byte, reg) ? (int)reg : host_of(b, reg);
        if (host < 0 && op->i->size < 4)
            return false;
        x.opcode = (uint8_t)(o & ~7u);
    }
    if (wants_flags(op))
        flags_want(b);
    bool memory = in_opcode && host < 0;
    if (memory) {
        host = H_T1;
        if (x.map || x.opcode != 0xb8) /* MOV of an immediate */
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
    int host = host_of(b, i->dst);

    if (i->size == 2 || !can_address(i))
        return false;
    put_offset(b, i, host < 0 ? H_T1 : (unsigned)host, i->size == 8);
    if (host < 0)
        store_field(&b->e, H_T1, GPR_FIELD(i->dst));
    return true;
}

bool lower(struct build *b, unsigned n)
{
    const struct op *op = &b->op[n];

    if (!op->row)
        return lower_vector(b, n);
    switch (op->row->how) {
    case LOWER_NOP: return true;
    case LOWER_LEA: return lower_lea(b, n);
    case LOWER_PLAIN:
    case LOWER_LOAD:
    case LOWER_STORE:
    case LOWER_RMW:
        if (!op->x.has_modrm || op->row->how == LOWER_PLAIN)
            return lower_opcode(b, n);
        return op->x.modrm >= 0xc0 ? lower_registers(b, n) : lower_memory(b, n);
    case LOWER_DIVIDE: return lower_divide(b, n);
    case LOWER_SYSTEM: return lower_system(b, n);
    case LOWER_STRING: return lower_string(b, n);
    default: return lower_flow(b, n);
    }
}
