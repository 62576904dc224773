/* Renders what the table calls native: MMX, SSE and AVX with the guest's registers in the host's, and the bit instructions of BMI.
 *
 * The vector registers come in at the first instruction that needs them and stay until the vCPU leaves for C:
 * vcpu.run.lack says what is not so (VECTOR_*). A block asks once and remembers (build.vectors).
 */
#include "jit/build.h"

#include "cpu/cpuid.h"
#include "cpu/native.h"
#include "cpu/xsave.h"
#include "gen/handlers.h"

/* ---- the state ------------------------------------------------------------------------------------- */

/* What of VECTOR_* does not hold once the registers are loaded; 0xff: they must not be. */
static uint8_t lack_of(const struct vcpu *v)
{
    uint8_t lack = VECTOR_X87;

    if (v->cr0 & (CR0_EM | CR0_TS) || !(v->cr4 & CR4_OSFXSR) || (native_mxcsr(v) & 0x1f80) != 0x1f80)
        return 0xff;
    if (!(v->xinuse & XSAVE_SSE))
        lack |= VECTOR_SSE_USED;
    if (!(v->xinuse & XSAVE_AVX))
        lack |= VECTOR_AVX_USED;
    if (!(v->cr4 & CR4_OSXSAVE) || (v->xcr0 & 6) != 6 || !v->native->host_avx)
        lack |= VECTOR_AVX;
    return lack;
}

uint8_t jit_vectors_left(struct vcpu *v)
{
    uint8_t held = (uint8_t)~v->run.lack;

    if (!held)
        return 0;
    v->run.lack = 0xff;
    native_mxcsr_out(v);
    if (held & VECTOR_X87)
        jit_x87_left(v);
    return held;
}

bool jit_vectors_enter(struct vcpu *v, uint8_t want)
{
    uint8_t lack = lack_of(v);

    if (lack == 0xff || (want & VECTOR_X87 && !jit_x87_enter(v)))
        return false;
    v->run.lack = lack & ~(want & VECTOR_X87);
    native_mxcsr_in(v);
    return true;
}

/* ---- the instruction ----------------------------------------------------------------------------------- */

struct fields {
    struct encoding x; /* legacy, and what VEX says in its place */
    bool vex, w, l;
    uint8_t vvvv, pp;
    unsigned reg, rm;
};

static void parse_vex(const uint8_t *bytes, unsigned n, unsigned len, struct fields *f)
{
    bool three = bytes[n] == 0xc4;
    unsigned last = bytes[n + 1 + three];
    unsigned r = !(bytes[n + 1] & 0x80), b = three && !(bytes[n + 1] & 0x20);

    f->x.map = three ? bytes[n + 1] & 31 : 1;
    f->w = three && last & 0x80;
    f->vvvv = ~last >> 3 & 15;
    f->l = last & 4;
    f->pp = last & 3;
    n += 2 + three;
    f->x.opcode = bytes[n++];
    f->x.modrm = bytes[n++];
    f->reg = (f->x.modrm >> 3 & 7) | r << 3;
    f->rm = (f->x.modrm & 7) | b << 3;
    unsigned mod = f->x.modrm >> 6;
    if (mod != 3) {
        unsigned disp = mod == 1 ? 1 : mod == 2 || (mod == 0 && (f->x.modrm & 7) == 5) ? 4 : 0;
        if ((f->x.modrm & 7) == 4) {
            if (mod == 0 && (bytes[n] & 7) == 5)
                disp = 4;
            n++;
        }
        n += disp;
    }
    f->x.imm_off = (uint8_t)n;
    f->x.imm_bytes = (uint8_t)(len - n);
}

/* VEX.W where it is the size of a general register, or of the memory that stands for it. */
static bool w_is_size(const struct fields *f, bool general)
{
    unsigned o = f->x.opcode;

    if (f->x.map == 1)
        return o == 0x2a || o == 0x2c || o == 0x2d || o == 0x6e || o == 0x7e;
    return general || (f->x.map == 3 && (o == 0x16 || o == 0x22 || o == 0x60 || o == 0x61));
}

static void parse_fields(const struct build *b, const struct insn *i, const struct native_op *op, struct fields *f)
{
    const uint8_t *bytes = bytes_of(b, i);
    unsigned n = 0;

    *f = (struct fields){0};
    while ((bytes[n] & 0xe7) == 0x26 || bytes[n] == 0x64 || bytes[n] == 0x65 || bytes[n] == 0x67)
        n++;
    f->vex = bytes[n] == 0xc4 || bytes[n] == 0xc5;
    if (!f->vex) {
        parse_encoding(b, i, &f->x);
        f->w = f->x.rex & 8;
        f->reg = (f->x.modrm >> 3 & 7) | (f->x.rex & 4) << 1;
        f->rm = (f->x.modrm & 7) | (f->x.rex & 1) << 3;
        return;
    }
    parse_vex(bytes, n, i->len, f);
    if (b->word == 8)
        return;
    f->reg &= 7; /* only 64-bit code has the others: SDM vol. 2, 2.3.5 */
    f->rm &= 7;
    f->vvvv &= 7;
    if (w_is_size(f, op->kind == NATIVE_GPR))
        f->w = false;
}

uint8_t vector_effect(const struct build *b, const struct insn *i)
{
    const struct native_op *op = native_plain(i);
    struct fields f;
    unsigned o;

    if (!op || op->kind == NATIVE_X87)
        return i->fn == op_vzeroupper ? FLAGS_NONE : x87_effect(b, i);
    parse_fields(b, i, op, &f);
    o = f.x.opcode;
    if (op->kind == NATIVE_GPR) {
        if (f.x.map == 3 || (f.x.map == 2 && !f.vex && (o == 0xf0 || o == 0xf1)) ||
            (f.x.map == 2 && f.vex && ((o == 0xf7 && f.pp) || (o == 0xf5 && f.pp) || o == 0xf6)))
            return FLAGS_NONE; /* RORX, CRC32, SHLX ..., PDEP, PEXT, MULX */
        if (f.x.map == 2 && !f.vex && o == 0xf6)
            return FLAGS_PART; /* ADCX, ADOX */
        return b->precise ? FLAGS_PART : FLAGS_WRITE;
    }
    if (f.x.map == 1 && (o == 0x2e || o == 0x2f))
        return FLAGS_WRITE; /* COMISS ... */
    if ((f.x.map == 2 && (o == 0x17 || o == 0x0e || o == 0x0f)) || (f.x.map == 3 && o >= 0x60 && o <= 0x63))
        return FLAGS_WRITE; /* PTEST, VTESTPS, PCMPISTRI ... */
    return FLAGS_NONE;
}

/* Which fields are general registers: as cpu/native_emit.c finds it. */
static void general_fields(const struct native_op *op, const struct fields *f, bool *reg, bool *rm, bool *vvvv)
{
    unsigned o = f->x.opcode;
    bool any = false, reg_form = f->x.modrm >= 0xc0;

    for (unsigned k = 0; k < 16; k++)
        any |= op->map[k] != 0;
    if (f->x.map == 3 && o >= 0x60 && o <= 0x63) /* PCMPxSTRx: fixed ones */
        any = false;
    if (op->kind == NATIVE_GPR) {
        *reg = !(f->vex && f->x.map == 2 && o == 0xf3); /* BLSR ...: a digit */
        *rm = reg_form;
        *vvvv = f->vex && f->x.map != 3;
        return;
    }
    *reg = any && f->x.map == 1 && (o == 0x2c || o == 0x2d || o == 0x50 || o == 0xd7 || o == 0xc5);
    *rm = any && reg_form && !*reg;
    *vvvv = false;
}

struct temps { /* guest registers that are in a scratch register meanwhile */
    uint8_t guest[2], host[2], count, max;
};

/* Replaces a general register by the host's; false: out of scratch registers. */
static bool to_host(const struct build *b, struct temps *t, unsigned *field)
{
    int host = host_of(b, *field);

    if (host >= 0) {
        *field = (unsigned)host;
        return true;
    }
    for (unsigned k = 0; k < t->count; k++)
        if (t->guest[k] == *field) {
            *field = t->host[k];
            return true;
        }
    if (t->count == t->max)
        return false;
    t->guest[t->count] = (uint8_t)*field;
    *field = t->host[t->count++];
    return true;
}

static void put_native(struct build *b, const struct insn *i, const struct fields *f, unsigned reg, unsigned rm, unsigned vvvv,
                       const struct place *at)
{
    struct emit *e = &b->e;
    bool reg_form = f->x.modrm >= 0xc0;
    unsigned base = reg_form ? rm : at->base, index = reg_form ? 0 : place_index(at);

    if (f->vex) {
        put8(e, 0xc4);
        put8(e, (reg & 8 ? 0 : 0x80) | (index & 8 ? 0 : 0x40) | (base & 8 ? 0 : 0x20) | f->x.map);
        put8(e, (f->w ? 0x80 : 0) | (~vvvv & 15) << 3 | (f->l ? 4 : 0) | f->pp);
    } else {
        if (f->x.p66)
            put8(e, 0x66);
        if (f->x.mandatory)
            put8(e, f->x.mandatory);
        put_rex(e, f->w, reg, index, base, f->x.has_rex);
        put8(e, 0x0f);
        if (f->x.map == 2)
            put8(e, 0x38);
        if (f->x.map == 3)
            put8(e, 0x3a);
    }
    put8(e, f->x.opcode);
    if (reg_form)
        put8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
    else
        put_mem(e, reg, at->base, at->index, at->scale, at->disp);
    memcpy(e->p, bytes_of(b, i) + f->x.imm_off, f->x.imm_bytes);
    if (f->vex && b->word == 4 && f->x.map == 3 && f->x.opcode >= 0x4a && f->x.opcode <= 0x4c)
        *e->p &= 0x7f; /* VBLENDVPS ...: a register number, of which 32-bit code has 8 */
    e->p += f->x.imm_bytes;
}

uint8_t vector_need(const struct build *b, const struct op *o)
{
    const struct native_op *op = o->row ? NULL : native_plain(o->i);

    if (o->i->fn == op_vzeroupper && !b->precise)
        return VECTOR_LOADED | VECTOR_AVX;
    if (!op || op->kind == NATIVE_GPR)
        return 0;
    return (uint8_t)(VECTOR_LOADED | (op->kind == NATIVE_AVX ? VECTOR_AVX : op->kind == NATIVE_MMX ? VECTOR_X87 : 0) |
                     (op->xinuse & 2 ? VECTOR_SSE_USED : 0) | (op->xinuse & 4 ? VECTOR_AVX_USED : 0));
}

uint8_t vector_alignment(const struct op *o)
{
    const struct native_op *op = o->row ? NULL : native_plain(o->i);

    return op ? op->align_mask : 0;
}

/* The registers are in, or the code behind the block fetches them. */
void want_vectors(struct build *b, unsigned n, unsigned need)
{
    struct emit *e = &b->e;

    if ((b->vectors & need) == need)
        return;
    flags_keep(b, &b->op[n]);
    uint8_t *retry = e->p;
    test_field(e, FIELD(run.lack), need);
    struct cold *c = cold_add(b, COLD_VECTORS, put_jump(e, CC_JNE), n);
    c->join = retry;
    c->executed |= need << 16;
    b->vectors |= (uint8_t)need;
    b->holds = false; /* C may be called */
    b->flags &= (uint8_t)~FLAGS_IN_HOST;
}

static bool operands(struct build *b, unsigned n, const struct native_op *op, const struct fields *f)
{
    const struct op *o = &b->op[n];
    struct emit *e = &b->e;
    struct temps t = {.host = {H_T1, H_T0}, .max = op->mem_bytes ? 1 : 2};
    unsigned reg = f->reg, rm = f->rm, vvvv = f->vvvv;
    bool reg_general, rm_general, vvvv_general;
    struct cold *c = NULL;
    struct place at = {0};

    general_fields(op, f, &reg_general, &rm_general, &vvvv_general);
    if ((reg_general && !to_host(b, &t, &reg)) || (rm_general && !to_host(b, &t, &rm)) || (vvvv_general && !to_host(b, &t, &vvvv)))
        return false;
    want_vectors(b, n, vector_need(b, o));
    if (op->mem_bytes) {
        struct operand a = {.at = *o->i, .write = op->mem_action & OPND_WRITE, .size = op->mem_bytes};
        a.only_loaded = !a.write && !t.count && !op->align_mask && o->effect != FLAGS_PART && o->effect != FLAGS_READ;
        c = put_place(b, n, &a, &at);
        if (op->align_mask && !strip_answers(b, n))
            put_aligned(b, n, at.disp, op->align_mask);
    }
    if (o->effect == FLAGS_PART || o->effect == FLAGS_READ)
        flags_want(b);
    b->holds &= t.count < 2;
    for (unsigned k = 0; k < t.count; k++)
        load_field(e, t.host[k], GPR_FIELD(t.guest[k]));
    if (op->mem_bytes)
        site_add(b, n, 0);
    put_native(b, o->i, f, reg, rm, vvvv, &at);
    for (unsigned k = 0; k < t.count; k++)
        store_field(e, t.host[k], GPR_FIELD(t.guest[k]));
    if (o->effect == FLAGS_WRITE || o->effect == FLAGS_PART)
        b->flags = FLAGS_IN_HOST;
    cold_join(b, c);
    return true;
}

bool lower_vector(struct build *b, unsigned n)
{
    const struct insn *i = b->op[n].i;
    const struct native_op *op = native_plain(i);
    struct fields f;

    if (i->fn == op_vzeroupper && !b->precise) { /* that it takes AVX out of use need not be said */
        want_vectors(b, n, vector_need(b, &b->op[n]));
        put8(&b->e, 0xc5), put8(&b->e, 0xf8), put8(&b->e, 0x77);
        return true;
    }
    if (!op || op->kind == NATIVE_X87)
        return lower_x87(b, n);
    if (op->special)
        return false;
    if (op->mem_bytes && !can_address(i))
        return false;
    parse_fields(b, i, op, &f);
    if (!f.vex && (f.x.map == 0 || (f.x.map == 2 && f.x.opcode == 0xf0 && !f.x.has_rex && f.x.modrm >= 0xc0 && f.rm >= 4)))
        return false; /* CRC32 of AH ... */
    return operands(b, n, op, &f);
}
