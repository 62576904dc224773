/* The stubs of native.h: which host registers stand for which guest registers, and the machine code.
 *
 * Vector, MMX and x87 registers keep their numbers (all are caller-saved). General registers move to those that a
 * function may clobber, apart from rdi (vCPU), rsi (memory operand) and, for MMX and x87, rdx (FXSAVE image).
 * SDM vol. 2, ch. 2 (prefixes, ModRM, REX, VEX).
 */
#include <string.h>

#include "cpu/cpuid.h"
#include "cpu/native.h"

enum { HOST_RDX = 2, HOST_RSI = 6, HOST_RDI = 7 };

struct plan {
    const struct decoded *d;
    struct native_op *op;
    uint8_t *p;
    bool vex, flags;
    uint8_t vec_load[16], vec_store[16]; /* bytes: 0, 16, 32 */
    uint8_t mmx_load, mmx_store;         /* one bit each */
    uint16_t gpr_load, gpr_store;
    uint8_t high_byte; /* host register + 1 of AH, CH, DH, BH */
    uint8_t high_reg;
    uint16_t host_taken;
    bool has_gpr, has_vec, has_mmx; /* explicit operands */
};

static void put(struct plan *s, uint8_t b) { *s->p++ = b; }
static void put32(struct plan *s, uint32_t x)
{
    memcpy(s->p, &x, 4);
    s->p += 4;
}
/* ModRM with [base + disp32]; base is rdi or rdx */
static void put_field(struct plan *s, unsigned reg, unsigned base, uint32_t disp)
{
    put(s, 0x80 | (reg & 7) << 3 | base);
    put32(s, disp);
}

/* ---- what the operands do ------------------------------------------------------------------ */

static bool uses_mxcsr(const struct decoded *d, bool vex)
{
    unsigned o = d->opcode;

    switch (d->map) {
    case 1:
        return o == 0x2a || (o >= 0x2c && o <= 0x2f) || o == 0x51 || (o >= 0x58 && o <= 0x5f) || o == 0x7c ||
               o == 0x7d || o == 0xc2 || o == 0xd0 || o == 0xe6;
    case 2:
        return vex && (o == 0x13 || ((o & 0xf) >= 6 && o >= 0x96 && o <= 0xbf));
    case 3:
        return (o >= 0x08 && o <= 0x0b) || o == 0x40 || o == 0x41 || (vex && o == 0x1d);
    default:
        return false;
    }
}

/* General registers only; not CVTSD2SI r32, m64 and its like, which have no vector operand either. */
static bool is_general(const struct decoded *d)
{
    unsigned o = d->opcode;

    return d->map == 1 ? o == 0xb8 || o == 0xbc || o == 0xbd : d->map == 2 ? o >= 0xf0 && o <= 0xf7 : o == 0xf0;
}

/* Mask of the low address bits that must be 0: SDM vol. 1, 10.4.1.1 and vol. 2, table 2-18. */
static uint8_t alignment(const struct decoded *d, bool vex, unsigned bytes, bool amd)
{
    unsigned o = d->opcode, pfx = d->mandatory;

    if (bytes < 16)
        return 0;
    if (vex) {
        unsigned pp = d->bytes[d->vex_off + d->vex_len - 1] & 3;
        bool aligned = d->map == 1 ? o == 0x28 || o == 0x29 || o == 0x2b || o == 0xe7 ||
                                         ((o == 0x6f || o == 0x7f) && pp == 1)
                                   : d->map == 2 && o == 0x2a;
        return aligned ? bytes - 1 : 0;
    }
    if (d->map == 1 && (o == 0x10 || o == 0x11 || o == 0xf0 || ((o == 0x6f || o == 0x7f) && pfx == 0xf3)))
        return 0;
    if (d->map == 3 && o >= 0x60 && o <= 0x63) /* PCMPxSTRx */
        return 0;
    if (amd && ((d->map == 2 && o >= 0xc8 && o <= 0xcd) || (d->map == 3 && o == 0xcc)))
        return 0; /* SHA: AMD's processors do not check */
    return 15;
}

/* Arithmetic whose result can be tiny: size and number of the result's elements, for native.c. */
static void plan_tiny(struct plan *s)
{
    const struct decoded *d = s->d;
    struct native_op *op = s->op;
    unsigned o = d->opcode, pfx = d->mandatory, bytes = op->ymm ? 32 : 16;
    bool scalar = false, wide = false;

    if (s->vex) {
        static const uint8_t of_pp[] = {0, 0x66, 0xf3, 0xf2};
        pfx = of_pp[d->bytes[d->vex_off + d->vex_len - 1] & 3];
    }
    if (d->map == 1 && (o == 0x58 || o == 0x59 || o == 0x5c || o == 0x5e)) {
        scalar = pfx == 0xf2 || pfx == 0xf3;
        wide = pfx == 0x66 || pfx == 0xf2;
    } else if (d->map == 1 && (o == 0x7c || o == 0x7d || o == 0xd0)) {
        wide = pfx == 0x66;
    } else if (d->map == 1 && o == 0x5a && (pfx == 0x66 || pfx == 0xf2)) {
        scalar = pfx == 0xf2;
        bytes = 16;
    } else if (d->map == 2 && s->vex && o >= 0x96) {
        scalar = (o & 1) && (o & 15) >= 9;
        wide = d->bytes[d->vex_off + 2] & 0x80;
    } else if (d->map == 3 && (o == 0x40 || o == 0x41)) {
        wide = o == 0x41;
    } else {
        return;
    }
    op->dst = d->op[0].reg;
    op->element = wide ? 8 : 4;
    op->lanes = scalar ? 1 : bytes / op->element;
}

static int host_for(struct plan *s, unsigned guest)
{
    static const uint8_t pool[] = {0, 1, 2, 8, 9, 10, 11};

    if (guest < 16 && s->op->map[guest])
        return s->op->map[guest] - 1;
    for (unsigned k = 0; k < sizeof(pool); k++) {
        if (s->host_taken & 1u << pool[k])
            continue;
        s->host_taken |= 1u << pool[k];
        if (guest < 16)
            s->op->map[guest] = pool[k] + 1;
        return pool[k];
    }
    return -1;
}

static bool plan_gpr(struct plan *s, const struct decoded_operand *o)
{
    if (o->kind == OPND_GPR8H) {
        int host = host_for(s, 16);

        s->high_byte = host + 1;
        s->high_reg = o->reg & 3;
        return host >= 0 && !(o->action & OPND_WRITE);
    }
    if (o->reg > 15)
        return false;
    if (o->hidden) { /* fixed by the instruction: keeps its number */
        if (o->reg > 2)
            return false;
        s->op->map[o->reg] = o->reg + 1;
        s->host_taken |= 1u << o->reg;
    } else if (host_for(s, o->reg) < 0) {
        return false;
    }
    s->gpr_load |= 1u << o->reg;
    if (o->action & OPND_WRITE)
        s->gpr_store |= 1u << o->reg;
    return true;
}

static bool plan_vector(struct plan *s, const struct decoded_operand *o)
{
    unsigned bytes = o->kind == OPND_YMM ? 32 : 16;

    if (o->reg > 15)
        return false;
    if (bytes == 32)
        s->op->ymm = 1;
    if ((!s->vex || o->action != OPND_WRITE) && s->vec_load[o->reg] < bytes)
        s->vec_load[o->reg] = bytes;
    if (o->action & OPND_WRITE) {
        s->vec_store[o->reg] = s->vex ? 32 : 16; /* VEX.128 zeroes the upper half */
        s->op->xinuse |= bytes == 32 ? 6 : 2; /* zeroing an upper half does not take AVX out of its initial state */
    }
    return true;
}

static bool plan_operand(struct plan *s, const struct decoded_operand *o)
{
    switch (o->kind) {
    case OPND_GPR:
    case OPND_GPR8H:
        s->has_gpr |= !o->hidden;
        return plan_gpr(s, o);
    case OPND_XMM:
    case OPND_YMM:
        s->has_vec = true;
        return plan_vector(s, o);
    case OPND_MMX:
        s->has_mmx = true;
        s->mmx_load |= 1u << (o->reg & 7);
        if (o->action & OPND_WRITE)
            s->mmx_store |= 1u << (o->reg & 7);
        return true;
    case OPND_MEM:
        if (o->hidden)
            return true;
        s->op->mem_bytes = o->bits / 8;
        s->op->mem_action = o->action;
        return o->bits >= 8 && o->bits <= 256;
    default:
        return true;
    }
}

static bool plan_operands(struct plan *s)
{
    const struct decoded *d = s->d;

    s->host_taken = 1u << HOST_RDI | 1u << HOST_RSI;
    for (unsigned k = 0; k < d->operand_count; k++)
        if (d->op[k].kind == OPND_MMX)
            s->host_taken |= 1u << HOST_RDX;
    /* Hidden ones first: they cannot choose. */
    for (int hidden = 1; hidden >= 0; hidden--)
        for (unsigned k = 0; k < d->operand_count; k++)
            if (d->op[k].hidden == hidden && !plan_operand(s, &d->op[k]))
                return false;
    return true;
}

/* ---- the instruction itself ---------------------------------------------------------------- */

struct fields { /* of ModRM and VEX, as full register numbers */
    unsigned reg, rm, vvvv;
    bool w, l;
    uint8_t pp;
};

/* VEX.W chooses the size of a general register or its memory form: ignored outside of 64-bit mode. */
static bool w_is_size(const struct decoded *d)
{
    unsigned o = d->opcode;

    switch (d->map) {
    case 1: return o == 0x2a || o == 0x2c || o == 0x2d || o == 0x6e || o == 0x7e;
    case 2: return is_general(d);
    default: return is_general(d) || o == 0x16 || o == 0x22 || o == 0x60 || o == 0x61;
    }
}

static void read_fields(const struct plan *s, struct fields *f)
{
    const struct decoded *d = s->d;
    unsigned r = 0, b = 0;

    memset(f, 0, sizeof(*f));
    if (s->vex) {
        const uint8_t *x = d->bytes + d->vex_off;
        uint8_t last = x[d->vex_len - 1];

        r = !(x[1] & 0x80);
        b = d->vex_len == 3 && !(x[1] & 0x20);
        f->w = d->vex_len == 3 && (last & 0x80);
        f->vvvv = ~last >> 3 & 15;
        f->l = last & 4;
        f->pp = last & 3;
    } else if (d->rex_off != 0xff) {
        uint8_t rex = d->bytes[d->rex_off];

        r = rex >> 2 & 1;
        b = rex & 1;
        f->w = rex & 8;
    }
    if (d->mode_bits != 64) { /* SDM vol. 2, 2.3.5: the extension bits are ignored */
        r = b = 0;
        f->vvvv &= 7;
        if (s->vex && w_is_size(d))
            f->w = false;
    }
    f->reg = (d->modrm >> 3 & 7) | r << 3;
    f->rm = (d->modrm & 7) | b << 3;
}

/* Puts host registers in the place of the guest's. */
static bool redirect_fields(struct plan *s, struct fields *f)
{
    const struct decoded *d = s->d;
    const uint8_t *map = s->op->map;
    unsigned o = d->opcode;
    bool reg_form = d->modrm >= 0xc0;
    bool gpr_only = s->has_gpr && !s->has_vec && !s->has_mmx;
    bool digit = (d->map == 1 && (o == 0x71 || o == 0x72 || o == 0x73 || o == 0x78)) ||
                 (s->vex && d->map == 2 && o == 0xf3);
    bool reg_gpr = gpr_only ? !digit
                            : s->has_gpr && d->map == 1 &&
                                  (o == 0x2c || o == 0x2d || o == 0x50 || o == 0xd7 || o == 0xc5);
    bool rm_gpr = reg_form && s->has_gpr && (gpr_only || !reg_gpr);

    if (reg_gpr) {
        if (!map[f->reg])
            return false;
        f->reg = map[f->reg] - 1;
    }
    if (rm_gpr) {
        unsigned host = s->high_byte ? s->high_byte : map[f->rm];

        if (!host)
            return false;
        f->rm = host - 1;
    }
    if (s->vex && gpr_only) {
        if (d->map == 3) { /* RORX: no third register, the field must stay 1111b */
            f->vvvv = 0;
            return true;
        }
        if (!map[f->vvvv])
            return false;
        f->vvvv = map[f->vvvv] - 1;
    }
    return true;
}

static void put_prefixes(struct plan *s, const struct fields *f, bool reg_form)
{
    const struct decoded *d = s->d;
    unsigned r = f->reg >> 3, b = reg_form ? f->rm >> 3 : 0;
    uint8_t rex = (f->w ? 8 : 0) | r << 2 | b;

    if (s->vex) {
        put(s, 0xc4);
        put(s, (r ? 0 : 0x80) | 0x40 | (b ? 0 : 0x20) | d->map);
        put(s, (f->w ? 0x80 : 0) | (~f->vvvv & 15) << 3 | (f->l ? 4 : 0) | f->pp);
        return;
    }
    if (d->mandatory == 0x66 || (s->has_gpr && !s->has_vec && !s->has_mmx && d->operand_bits == 16))
        put(s, 0x66);
    if (d->mandatory == 0xf2 || d->mandatory == 0xf3)
        put(s, d->mandatory);
    if (rex || (s->has_gpr && reg_form))
        put(s, 0x40 | rex);
    if (d->map)
        put(s, 0x0f);
    if (d->map == 2)
        put(s, 0x38);
    if (d->map == 3)
        put(s, 0x3a);
}

static bool put_instruction(struct plan *s)
{
    const struct decoded *d = s->d;
    uint8_t *start = s->p;
    bool reg_form = d->has_modrm && d->modrm >= 0xc0;
    struct fields f;

    read_fields(s, &f);
    if (d->has_modrm && s->op->kind != NATIVE_X87 && !redirect_fields(s, &f))
        return false;
    put_prefixes(s, &f, reg_form);
    put(s, d->opcode);
    if (d->has_modrm) /* memory: [rsi] */
        put(s, reg_form ? 0xc0 | (f.reg & 7) << 3 | (f.rm & 7) : (f.reg & 7) << 3 | 6);
    for (unsigned k = 0; k < 2; k++) {
        for (unsigned n = 0; n < d->imm_bytes[k]; n++) {
            uint8_t imm = d->bytes[d->imm_off[k] + n];

            if (s->vex && d->mode_bits != 64 && d->map == 3 && d->opcode >= 0x4a && d->opcode <= 0x4c)
                imm &= 0x7f; /* register number in the immediate */
            put(s, imm);
        }
    }
    memcpy(s->op->bytes, start, s->p - start);
    return true;
}

/* ---- loads and stores around it ------------------------------------------------------------- */

static void put_vector_move(struct plan *s, unsigned reg, unsigned bytes, bool store)
{
    uint32_t disp = offsetof(struct vcpu, ymm) + 32 * reg;

    if (s->vex) { /* VMOVDQA */
        put(s, 0xc5);
        put(s, (reg & 8 ? 0 : 0x80) | 0x78 | (bytes == 32 ? 4 : 0) | 1);
    } else {
        put(s, 0x66);
        if (reg & 8)
            put(s, 0x44);
        put(s, 0x0f);
    }
    put(s, store ? 0x7f : 0x6f);
    put_field(s, reg, HOST_RDI, disp);
}

static void put_loads(struct plan *s)
{
    const struct native_op *op = s->op;

    if (op->kind == NATIVE_X87) { /* fxrstor64 [rdx] */
        static const uint8_t fxrstor[] = {0x48, 0x0f, 0xae, 0x0a};
        memcpy(s->p, fxrstor, 4);
        s->p += 4;
    }
    for (unsigned k = 0; k < 16; k++)
        if (s->vec_load[k])
            put_vector_move(s, k, s->vec_load[k], false);
    for (unsigned k = 0; k < 8; k++) {
        if (!(s->mmx_load & 1u << k))
            continue;
        put(s, 0x0f);
        put(s, 0x6f);
        put_field(s, k, HOST_RDX, 32 + 16 * k);
    }
    if (s->flags) { /* movzx eax, word [oszapc]; add al, 0x7f; sahf */
        put(s, 0x0f);
        put(s, 0xb7);
        put_field(s, 0, HOST_RDI, offsetof(struct vcpu, oszapc));
        put(s, 0x04);
        put(s, 0x7f);
        put(s, 0x9e);
    }
    for (unsigned k = 0; k < 16; k++) {
        unsigned host = op->map[k] - 1;

        if (!(s->gpr_load & 1u << k))
            continue;
        put(s, host & 8 ? 0x4c : 0x48);
        put(s, 0x8b);
        put_field(s, host, HOST_RDI, offsetof(struct vcpu, gpr) + 8 * k);
    }
    if (s->high_byte) { /* movzx r32, byte */
        put(s, (s->high_byte - 1) & 8 ? 0x44 : 0x40);
        put(s, 0x0f);
        put(s, 0xb6);
        put_field(s, s->high_byte - 1, HOST_RDI, offsetof(struct vcpu, gpr) + 8 * s->high_reg + 1);
    }
}

static void put_stores(struct plan *s)
{
    const struct native_op *op = s->op;

    if (op->kind == NATIVE_X87) { /* fxsave64 [rdx]; fninit */
        static const uint8_t fxsave[] = {0x48, 0x0f, 0xae, 0x02, 0xdb, 0xe3};
        memcpy(s->p, fxsave, 6);
        s->p += 6;
    }
    for (unsigned k = 0; k < 16; k++) {
        unsigned host = op->map[k] - 1;

        if (!(s->gpr_store & 1u << k))
            continue;
        put(s, host & 8 ? 0x4c : 0x48);
        put(s, 0x89);
        put_field(s, host, HOST_RDI, offsetof(struct vcpu, gpr) + 8 * k);
    }
    if (s->flags) { /* lahf; seto al; movzx eax, ax; mov [oszapc], eax */
        static const uint8_t fetch[] = {0x9f, 0x0f, 0x90, 0xc0, 0x0f, 0xb7, 0xc0, 0x89};
        memcpy(s->p, fetch, sizeof(fetch));
        s->p += sizeof(fetch);
        put_field(s, 0, HOST_RDI, offsetof(struct vcpu, oszapc));
    }
    for (unsigned k = 0; k < 16; k++)
        if (s->vec_store[k])
            put_vector_move(s, k, s->vec_store[k], true);
    for (unsigned k = 0; k < 8; k++) {
        if (!(s->mmx_store & 1u << k))
            continue;
        put(s, 0x0f);
        put(s, 0x7f);
        put_field(s, k, HOST_RDX, 32 + 16 * k);
        put(s, 0x66); /* mov word [exponent], 0xffff: SDM vol. 1, 9.2 */
        put(s, 0xc7);
        put_field(s, 0, HOST_RDX, 32 + 16 * k + 8);
        put(s, 0xff);
        put(s, 0xff);
    }
    if (op->kind == NATIVE_MMX) {
        put(s, 0x0f);
        put(s, 0x77);
    }
    if (op->ymm) {
        put(s, 0xc5);
        put(s, 0xf8);
        put(s, 0x77);
    }
    put(s, 0xc3);
}

/* ---- */

static void set_conditions(struct plan *s)
{
    struct native_op *op = s->op;

    switch (op->kind) {
    case NATIVE_AVX:
        op->cr0_bad = CR0_TS;
        op->cr4_need = CR4_OSXSAVE;
        op->xcr0_need = 6;
        op->min_mode = MODE_PROT;
        break;
    case NATIVE_SSE:
        op->cr0_bad = CR0_EM | CR0_TS;
        op->cr4_need = CR4_OSFXSR;
        break;
    case NATIVE_MMX:
        op->cr0_bad = CR0_EM | CR0_TS;
        op->cr4_need = s->has_vec ? CR4_OSFXSR : 0;
        op->xinuse |= 1;
        break;
    case NATIVE_X87:
        op->cr0_bad = CR0_EM | CR0_TS;
        op->xinuse |= 1;
        break;
    default:
        op->min_mode = s->vex ? MODE_PROT : MODE_REAL;
        break;
    }
}

bool native_plan(const struct vcpu *v, const struct decoded *d, struct native_op *op, uint8_t *code)
{
    struct plan s = {.d = d, .op = op, .p = code, .vex = d->encoding == ENC_VEX};
    bool x87 = !s.vex && d->map == 0 && ((d->opcode & 0xf8) == 0xd8 || d->opcode == 0x9b);

    memset(op, 0, sizeof(*op));
    if (d->encoding == ENC_3DNOW || (d->map == 0 && !x87) || d->map > 3)
        return false;
    if (x87 && x87_bind(d, op)) { /* done in C */
        op->kind = NATIVE_X87;
        set_conditions(&s);
        return true;
    }
    s.flags = d->flags_read || d->flags_written || d->flags_undefined;
    if (!plan_operands(&s))
        return false;
    if (!x87 && !s.has_mmx && !is_general(d))
        s.has_vec = true;
    op->kind = x87          ? NATIVE_X87
               : s.has_mmx  ? NATIVE_MMX /* CVTPI2PS from memory is none: no change of x87 state */
               : !s.has_vec ? NATIVE_GPR
               : s.vex      ? NATIVE_AVX
                            : NATIVE_SSE;
    if (s.vex && op->kind == NATIVE_GPR && d->map == 1) /* POPCNT, LZCNT, TZCNT of Xeon Phi */
        return false;
    op->mxcsr = !x87 && op->kind != NATIVE_GPR && uses_mxcsr(d, s.vex);
    if (op->mxcsr)
        plan_tiny(&s);
    if (!x87 && op->kind != NATIVE_GPR) {
        op->align_mask = alignment(d, s.vex, op->mem_bytes, v->amd);
        op->host_align = alignment(d, s.vex, op->mem_bytes, cpuid_host_is_amd()) & (uint8_t)~op->align_mask;
    }
    op->any_alignment = s.vex && d->map == 2 && d->opcode == 0x13 && !v->amd; /* VCVTPH2PS: SDM vol. 2, exceptions type 11 */
    op->addr_bits = d->address_bits;
    set_conditions(&s);
    if (op->kind == NATIVE_AVX && !v->native->host_avx)
        return false;
    if (special_bind(d, op) && op->special >= SPECIAL_IN_C)
        return special_valid(d);
    put_loads(&s);
    if (!put_instruction(&s))
        return false;
    put_stores(&s);
    op->code_bytes = s.p - code;
    return true;
}
