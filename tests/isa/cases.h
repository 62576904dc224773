/* Random cases of an encoding: registers, memory operands, immediates, prefixes. */
#ifndef TESTS_ISA_CASES_H
#define TESTS_ISA_CASES_H

#include "encode.h"
#include "ldt.h"

static uint64_t rng_state[2];
static uint64_t rnd(void) /* xorshift128+ */
{
    uint64_t x = rng_state[0], y = rng_state[1];

    rng_state[0] = y;
    x ^= x << 23;
    rng_state[1] = x ^ y ^ (x >> 17) ^ (y >> 26);
    return rng_state[1] + y;
}
static unsigned below(unsigned n) { return (rnd() >> 11) % n; }
static bool chance(unsigned percent) { return below(100) < percent; }

/* ---- random values -------------------------------------------------------------------------------- */

static uint64_t random_integer(void)
{
    static const uint64_t edge[] = {0, 1, ~0ull, 1ull << 63, (1ull << 63) - 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000,
                                    0xffff, 0x7fffffff, 0x80000000, 0xffffffff};

    switch (below(4)) {
    case 0: return edge[below(sizeof(edge) / sizeof(edge[0]))];
    case 1: return below(256);
    default: return rnd() * (below(2) ? 1 : 0x9e3779b97f4a7c15ull) >> (below(3) ? 0 : below(64));
    }
}

static uint32_t random_float(void)
{
    static const uint32_t edge[] = {0, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0xffbfffff, 1,
                                    0x807fffff, 0x00800000, 0x7f7fffff, 0x3f800000, 0xbf800000, 0x3f000000,
                                    0x4f000000, 0xcf000000, 0x4b000001};
    if (below(3) == 0)
        return edge[below(sizeof(edge) / 4)];
    return (uint32_t)rnd() & (below(2) ? ~0u : 0xc3ffffff);
}

static uint64_t random_double(void)
{
    static const uint64_t edge[] = {0, 1ull << 63, 0x7ffull << 52, 0xfffull << 52, 0x7ff8ull << 48, (0x7ffull << 52) | 1,
                                    1, (1ull << 63) | ((1ull << 52) - 1), 1ull << 52, 0x7fefffffffffffffull,
                                    0x3ffull << 52, 0xbffull << 52, 0x3fe0ull << 48, 0x41e0ull << 48,
                                    0xc1e0ull << 48, 0x43e0ull << 48, 0x380fffffffffffffull};
    if (below(3) == 0)
        return edge[below(sizeof(edge) / 8)];
    return below(2) ? rnd() : (rnd() & 0x800fffffffffffffull) | (uint64_t)(1023 - 70 + below(140)) << 52;
}

static void random_vector(uint8_t *p, unsigned bytes)
{
    unsigned kind = below(4);

    for (unsigned k = 0; k < bytes; k += 8) {
        uint64_t x = kind == 0   ? random_double()
                     : kind == 1 ? (uint64_t)random_float() << 32 | random_float()
                     : kind == 2 ? random_integer()
                                 : rnd();
        memcpy(p + k, &x, 8);
    }
}

static void random_x87(uint8_t *p)
{
    uint64_t mantissa = random_integer();
    uint16_t exponent = rnd();

    switch (below(6)) {
    case 0: exponent &= 0x8000; mantissa = below(2) ? 0 : mantissa; break;         /* zero, denormal */
    case 1: exponent |= 0x7fff; mantissa |= below(3) ? 1ull << 63 : 0; break;      /* inf, NaN, unsupported */
    case 2: break;                                                                 /* unnormal as well */
    default: exponent = (exponent & 0x8000) | (0x3fff - 70 + below(140)); mantissa |= 1ull << 63; break;
    }
    memcpy(p, &mantissa, 8);
    memcpy(p + 8, &exponent, 2);
    memset(p + 10, 0, 6);
}

static void random_state(struct state *s)
{
    uint32_t mxcsr = 0x1f80;
    uint16_t fcw = 0x37f, fsw = below(8) << 11 | (rnd() & 0x4700);

    memset(s, 0, sizeof(*s));
    for (int k = 0; k < 16; k++) {
        s->gpr[k] = mode == 64 ? random_integer() : k < 8 ? (uint32_t)random_integer() : 0;
        random_vector(s->ymm[k], 32);
    }
    s->rflags = rnd() & (ARITH_FLAGS | (chance(10) ? DF_FLAG : 0) | (chance(10) ? AC_FLAG : 0));
    if (chance(50))
        mxcsr |= rnd() & 0xe07f; /* rounding, FTZ, DAZ, flags */
    if (chance(15))
        mxcsr &= ~(rnd() & 0x1f80);
    if (chance(40))
        fcw = (fcw & ~0xf00) | (rnd() & 0xf00);
    if (chance(20))
        fcw &= ~(rnd() & 0x3f);
    if (chance(30))
        fsw |= rnd() & 0x7f;
    if (chance(90)) /* no exception pending */
        fsw &= ~(~fcw & 0x3f);
    if (fsw & ~fcw & 0x3f)
        fsw |= 0x8080;
    memcpy(s->fx, &fcw, 2);
    memcpy(s->fx + 2, &fsw, 2);
    s->fx[4] = chance(60) ? 0xff : rnd();
    memcpy(s->fx + 24, &mxcsr, 4);
    for (int k = 0; k < 8; k++)
        random_x87(s->fx + 32 + 16 * k);
    s->rip = chance(10)  ? 4096 - 1 - below(12) /* across pages */
             : chance(3) ? CODE_BYTES - 1 - below(12)
                         : 64 + below(3900);
    s->rip += segmented ? 0 : CODE_ADDR;
    s->vector = -1;
    s->in_use = 7;
    if (chance(80))
        return;
    s->in_use = below(8);
    if (!(s->in_use & 1)) {
        memset(s->fx, 0, 24);
        memset(s->fx + 32, 0, 128);
        s->fx[0] = 0x7f;
        s->fx[1] = 3;
    }
    if (!(s->in_use & 2)) {
        mxcsr = 0x1f80;
        memcpy(s->fx + 24, &mxcsr, 4);
    }
    for (int k = 0; k < 16; k++) {
        memset(s->ymm[k], 0, s->in_use & 2 ? 0 : 16);
        memset(s->ymm[k] + 16, 0, s->in_use & 4 ? 0 : 16);
    }
}

static uint64_t random_target(unsigned bytes)
{
    unsigned kind = below(100);
    uint64_t at;

    if (kind < 60)
        at = (64 + below(2 * 4096 - 256)) & ~63u;
    else if (kind < 80)
        at = 64 + below(2 * 4096 - 256);
    else if (kind < 88)
        at = 4096 - 1 - below(bytes ? bytes : 1);
    else if (kind < 94)
        at = DATA_HOLE - 1 - below(bytes ? bytes : 1);
    else
        at = DATA_READONLY + (below(4096 - 1024) & (below(2) ? ~63u : ~0u));
    return DATA_ADDR + at;
}

static int gpr_id(ZydisRegister r)
{
    return r == ZYDIS_REGISTER_NONE || r == ZYDIS_REGISTER_RIP
               ? -1
               : ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r));
}

/* Where an access by the host harms nothing: data and its guards, or no canonical address. */
static bool aimed(uint64_t at)
{
    return at - (DATA_ADDR - 4096) < DATA_BYTES + 2 * 4096 || (segmented && at - CODE_ADDR < 0x10000) ||
           (mode == 64 && at >= (1ull << 47) - 4096 && at < (0xffffull << 48) - (1 << 20));
}

static uint64_t segment_base(const struct icase *c, const ZydisDecodedOperand *m)
{
    switch (m->mem.segment) {
    case ZYDIS_REGISTER_GS: return mode == 64 ? GS_BASE : 0;
    case ZYDIS_REGISTER_CS: return ldt_base(c->cs);
    case ZYDIS_REGISTER_SS: return ldt_base(c->ss);
    case ZYDIS_REGISTER_ES: return ldt_base(c->es);
    default: return ldt_base(c->ds);
    }
}

/* After all registers have been set: does every operand still point into the data? The host must not write
 * elsewhere. */
static bool check_aim(const struct icase *c, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *m)
{
    const uint64_t *gpr = c->before.gpr;
    int base = gpr_id(m->mem.base), index = gpr_id(m->mem.index);
    uint64_t at = m->mem.disp.value;
    ZydisRegisterClass class = ZydisRegisterGetClass(m->mem.index);

    if (m->mem.base == ZYDIS_REGISTER_RIP || m->mem.base == ZYDIS_REGISTER_EIP || class == ZYDIS_REGCLASS_XMM ||
        class == ZYDIS_REGCLASS_YMM)
        return true;
    if (base >= 0)
        at += gpr[base];
    if (index >= 0)
        at += m->mem.index == ZYDIS_REGISTER_AL ? gpr[0] & 0xff : gpr[index] * m->mem.scale;
    if (z->address_width == 32 && m->mem.base != ZYDIS_REGISTER_RSP)
        at = (uint32_t)at;
    if (z->address_width == 16 || m->mem.base == ZYDIS_REGISTER_SP)
        at = (uint16_t)at;
    return aimed(at + segment_base(c, m));
}

/* The vector register of indices; the base is their origin. */
static void aim_gather(struct icase *c, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *m)
{
    uint8_t *x = c->before.ymm[ZydisRegisterGetId(m->mem.index)];
    bool wide = z->opcode & 1;

    c->before.in_use = 7;
    for (int k = 0; k < (wide ? 4 : 8); k++) {
        int64_t off = (int64_t)(random_target(8) - DATA_ADDR) / m->mem.scale;
        memcpy(x + (wide ? 8 : 4) * k, &off, wide ? 8 : 4);
    }
}

/* Makes the memory operand point into the data pages. false: not possible, try again. */
static bool aim(struct icase *c, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *m)
{
    struct state *s = &c->before;
    uint64_t target = random_target(m->size / 8), scale = m->mem.scale, value;
    int base = gpr_id(m->mem.base), index = -1;
    ZydisRegisterClass class = ZydisRegisterGetClass(m->mem.index);
    bool narrow = z->address_width == 32 && m->mem.base != ZYDIS_REGISTER_RSP;
    bool narrower = m->mem.base == ZYDIS_REGISTER_SP || (z->address_width == 16 && m->mem.base != ZYDIS_REGISTER_ESP);

    if (m->mem.base == ZYDIS_REGISTER_RIP || m->mem.base == ZYDIS_REGISTER_EIP) { /* aimed while encoding */
        c->target = s->rip + c->len + m->mem.disp.value;
        return aimed(c->target + segment_base(c, m));
    }
    if (base < 0) { /* moffs, or a displacement alone */
        c->target = m->mem.disp.value + (segmented ? segment_base(c, m) : 0);
        return aimed(m->mem.disp.value + segment_base(c, m));
    }
    if (mode == 64 && !narrow && chance(2)) /* not canonical, or just before that */
        target = chance(30) ? (1ull << 47) - 1 - below(16) : (rnd() & 0xffffffffffffull) | 0x8001ull << 47;
    c->target = target;
    if (class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM) {
        aim_gather(c, z, m);
        target = DATA_ADDR;
    } else {
        index = gpr_id(m->mem.index);
    }
    if (index >= 0 && index == base)
        return false;
    if (m->mem.index == ZYDIS_REGISTER_AL)
        s->gpr[index] &= ~0xffull;
    else if (index >= 0)
        s->gpr[index] = below(2) ? below(1024) : -(uint64_t)below(1024);
    if (m->mem.segment == ZYDIS_REGISTER_CS && segmented)
        c->target = target = CODE_ADDR + below(CODE_BYTES);
    value = target - segment_base(c, m) - m->mem.disp.value - (index >= 0 ? s->gpr[index] * scale : 0);
    if (narrow)
        value = (uint32_t)value | (mode == 64 ? rnd() << 32 : 0);
    if (narrower)
        value = (uint16_t)value | (chance(50) ? (uint32_t)rnd() << 16 : 0);
    s->gpr[base] = value;
    if (mode != 64)
        for (int k = 0; k < 8; k++)
            s->gpr[k] = (uint32_t)s->gpr[k];
    return true;
}

/* What random values would not do: EDX:EAX of XSAVE and XRSTOR, as many components as we have. */
static bool is_xsave(unsigned m)
{
    return m == ZYDIS_MNEMONIC_XSAVE || m == ZYDIS_MNEMONIC_XSAVE64 || m == ZYDIS_MNEMONIC_XSAVEC ||
           m == ZYDIS_MNEMONIC_XSAVEC64 || m == ZYDIS_MNEMONIC_XSAVEOPT || m == ZYDIS_MNEMONIC_XSAVEOPT64 ||
           m == ZYDIS_MNEMONIC_XRSTOR || m == ZYDIS_MNEMONIC_XRSTOR64;
}

static bool is_bit_test(unsigned m)
{
    return m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS || m == ZYDIS_MNEMONIC_BTR || m == ZYDIS_MNEMONIC_BTC;
}

/* Where a near branch goes: mostly where there is code, also to what is not present and what is not canonical. */
static uint64_t random_code_target(void)
{
    if (chance(80))
        return (segmented ? 0 : CODE_ADDR) + 5000 + below(1000);
    if (segmented) /* not present, beyond the limit */
        return chance(50) ? 0x9000 + below(4096) : 0x10000 + below(4096);
    if (mode != 64 || chance(30))
        return TARGET_ADDR + below(4096);
    return (rnd() & 0xffffffffffffull) | 0x8001ull << 47;
}

/* Operand size in bytes of a far transfer. */
static unsigned far_bytes(const struct icase *c)
{
    bool narrow = mode == 16;

    for (unsigned k = 0; k < c->len; k++) {
        if (c->bytes[k] == 0x66)
            narrow = mode != 16;
        if (mode == 64 && (c->bytes[k] & 0xf0) == 0x40)
            return c->bytes[k] & 8 ? 8 : narrow ? 2 : 4;
        if (c->bytes[k] >= 0xca && c->bytes[k] <= 0xcf)
            break;
    }
    return narrow ? 2 : 4;
}

/* Those of Linux's user processes and their neighbours. */
static uint16_t random_selector(void)
{
    static const uint16_t usual[] = {0, 1, 2, 3, 0x2b, 0x2b, 0x2b, 0x28, 0x23, 0x20, 0x33, 0x32, 0x10, 0x18, 0x1b, 0x40,
                                     0x0b, 0x2f, 0x4, 0x7};

    if (segmented && chance(50))
        return (uint16_t)(below(LDT_COUNT + 1) << 3 | 4 | (chance(90) ? 3 : below(4)));
    return chance(90) ? usual[below(sizeof(usual) / sizeof(usual[0]))] : (uint16_t)(rnd() | 0x800);
}

static bool takes_selector(unsigned m)
{
    return m == ZYDIS_MNEMONIC_LAR || m == ZYDIS_MNEMONIC_LSL || m == ZYDIS_MNEMONIC_VERR || m == ZYDIS_MNEMONIC_VERW ||
           m == ZYDIS_MNEMONIC_ARPL;
}

static unsigned k_last(const ZydisDecodedInstruction *z) { return z->operand_count_visible - 1u; }

static bool is_repeated(const ZydisDecodedInstruction *z)
{
    return z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
}

/* Values without which an instruction would fault nearly always, or leave the data pages. */
static bool adjust(const struct template *t, struct icase *c, const ZydisDecodedInstruction *z,
                   const ZydisDecodedOperand *op)
{
    uint64_t *gpr = c->before.gpr;

    if (is_xsave(t->mnemonic)) {
        int base = gpr_id(op[0].mem.base), index = gpr_id(op[0].mem.index);

        if (base == 0 || base == 2 || index == 0 || index == 2)
            return false;
        gpr[0] &= 7;
        gpr[2] = 0;
    }
    if (is_repeated(z)) {
        gpr[1] = chance(5) ? below(3000) : below(40);
        if (z->address_width == 32 && mode == 64)
            gpr[1] |= rnd() << 32;
        if (z->address_width == 16 && chance(50))
            gpr[1] |= (uint32_t)rnd() << 16;
    }
    if (z->meta.category == ZYDIS_CATEGORY_STRINGOP && chance(30))
        c->before.rflags ^= DF_FLAG;
    if ((t->mnemonic == ZYDIS_MNEMONIC_DIV || t->mnemonic == ZYDIS_MNEMONIC_IDIV) && below(2)) {
        gpr[2] = below(2) ? 0 : below(100);
        gpr[0] &= below(2) ? 0xff : ~0ull;
    }
    if (t->mnemonic == ZYDIS_MNEMONIC_ENTER)
        gpr[5] = random_target(8) - (segmented ? DATA_ADDR : 0);
    if (is_bit_test(t->mnemonic) && t->mem && op[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
        gpr[gpr_id(op[1].reg.value)] = (mode == 64 ? ~0ull : ~0u) & (below(1024) - 512ull);
    if (z->meta.category == ZYDIS_CATEGORY_COND_BR && chance(30)) /* LOOP, JCXZ */
        gpr[1] = (gpr[1] & ~0xffffull << below(4) * 16) | below(2);
    if (z->meta.category == ZYDIS_CATEGORY_UNCOND_BR || z->meta.category == ZYDIS_CATEGORY_CALL)
        if (op[0].type == ZYDIS_OPERAND_TYPE_REGISTER)
            gpr[gpr_id(op[0].reg.value)] = random_code_target();
    for (unsigned k = 0; k < z->operand_count; k++) { /* FS and GS are the test program's own */
        bool segment = op[k].type == ZYDIS_OPERAND_TYPE_REGISTER && op[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
                       ZydisRegisterGetClass(op[k].reg.value) == ZYDIS_REGCLASS_SEGMENT;
        if (segment && !host_has_fsgsbase() && (op[k].reg.value == ZYDIS_REGISTER_FS || op[k].reg.value == ZYDIS_REGISTER_GS))
            return false;
    }
    if (t->mnemonic == ZYDIS_MNEMONIC_MOV && op[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
        ZydisRegisterGetClass(op[0].reg.value) == ZYDIS_REGCLASS_SEGMENT)
        gpr[gpr_id(op[1].reg.value)] = random_selector() | (chance(50) ? rnd() << 16 : 0);
    if ((t->mnemonic == ZYDIS_MNEMONIC_WRFSBASE || t->mnemonic == ZYDIS_MNEMONIC_WRGSBASE) && chance(70))
        gpr[gpr_id(op[0].reg.value)] &= (1ull << 47) - 1;
    if (takes_selector(t->mnemonic) && op[k_last(z)].type == ZYDIS_OPERAND_TYPE_REGISTER)
        gpr[gpr_id(op[k_last(z)].reg.value)] = random_selector() | (chance(50) ? rnd() << 16 : 0);
    if (mode != 64)
        for (int k = 0; k < 8; k++)
            gpr[k] = (uint32_t)gpr[k];
    if (t->mnemonic == ZYDIS_MNEMONIC_INT && c->bytes[c->len - 1] == 0x80) /* a system call of Linux */
        return false;
    return true;
}

/* A relative branch must land in the code pages, where nothing is, or in itself no more. */
static bool branch_ok(const struct icase *c, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
    uint64_t to = c->before.rip + c->len + op[0].imm.value.s;

    if (segmented)
        return to < c->before.rip || to > c->before.rip + c->len;
    if (z->operand_width == 16) /* cut to 16 bits */
        return true;
    if (mode != 64)
        to = (uint32_t)to;
    if (to >= c->before.rip && to <= c->before.rip + c->len)
        return false;
    return to - CODE_ADDR + GUARD_BYTES < CODE_BYTES - 16 + 2 * GUARD_BYTES;
}

static uint64_t random_displacement(const struct template *t)
{
    if (t->moffs)
        return random_target(8) - (segmented ? DATA_ADDR : 0);
    if (t->branch)
        return chance(90) ? (uint64_t)below(2000) - 1000 : (uint64_t)below(1 << 19) - (1 << 18);
    return rnd();
}

static void random_fields(const struct template *t, struct fields *f)
{
    static const uint8_t overrides[] = {0x26, 0x2e, 0x36, 0x3e, 0x65, 0x65, 0x65};
    uint64_t imm = random_displacement(t);

    *f = (struct fields){.reg = below(16), .rm = t->fixed_rm ? t->rm : below(16), .index = below(16),
                         .vvvv = below(16), .scale = below(4), .form = below(5)};
    if (mode != 64) {
        f->reg &= 7;
        f->rm &= 7;
        f->index &= 7;
        f->vvvv &= 7;
        f->form &= 3;
    }
    if (t->vex && t->map == 2 && t->opcode >= 0x90 && t->opcode <= 0x93)
        f->form = 3;
    memcpy(f->imm, &imm, 8);
    if (t->mnemonic == ZYDIS_MNEMONIC_ENTER) { /* size, nesting level */
        f->imm[1] &= 1;
        f->imm[2] &= 3;
    }
    f->rex = below(2);
    f->vex2 = chance(50);
    f->unread = chance(30);
    if (t->imm_bytes == 1 && !t->branch && below(3))
        f->imm[0] &= 31;
    f->disp = f->form == 2 ? (int32_t)rnd() : (int8_t)rnd();
    if (f->form == 0)
        f->disp = 0;
    if (chance(12))
        f->seg = overrides[below(mode == 64 ? 7 : 4)];
    f->addr32 = t->addr32 || (chance(segmented ? 30 : 10) && (mode == 64 || segmented || !t->mem));
    if (f->form == 3 && t->mem && segmented && short_addresses(f)) /* [disp16] */
        f->disp = (int32_t)(random_target(16) - DATA_ADDR);
}

/* FNSTENV [ENV_ADDR]: the pointers of an x87 instruction. */
static void add_tail(struct icase *c)
{
    uint8_t *p = c->bytes + c->len, *start = p;
    uint32_t at = segmented ? ENV_ADDR - DATA_ADDR : ENV_ADDR;

    *p++ = 0xd9;
    *p++ = mode == 64 ? 0x34 : mode == 32 ? 0x35 : 0x36;
    if (mode == 64)
        *p++ = 0x25;
    memcpy(p, &at, 4);
    c->tail = (uint8_t)(p + (mode == 16 ? 2 : 4) - start);
}

/* Those of Linux's user processes, or of the LDT. */
static void random_segments(struct icase *c)
{
    c->mode = mode;
    c->cs = mode == 64 ? 0x33 : 0x23;
    c->ss = c->ds = c->es = 0x2b;
    if (segmented) {
        c->cs = mode == 16 ? LDT_CODE16 : LDT_CODE32;
        c->ss = mode == 16 ? LDT_DATA16 : LDT_DATA32;
        c->ds = chance(50) ? LDT_DATA16 : LDT_DATA32;
        c->es = chance(60) ? LDT_SHORT : mode == 16 ? LDT_DOWN16 : LDT_DOWN32;
    }
    c->code_base = ldt_base(c->cs);
}

static bool make_case(const struct template *t, struct icase *c)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    struct fields f;

    random_state(&c->before);
    random_segments(c);
    c->tail = 0;
    for (int attempt = 0; attempt < 40; attempt++) {
        random_fields(t, &f);
        if (f.form == 3 && f.index == 4)
            continue;
        if (t->mem && f.form == 4) {
            unsigned len = encode(t, &f, c->bytes);
            f.disp = (int64_t)(random_target(16) - (f.seg == 0x65 ? GS_BASE : 0)) - (int64_t)(c->before.rip + len);
        }
        c->len = encode(t, &f, c->bytes);
        if (!decode(c->bytes, c->len, &z, op) || z.mnemonic != t->mnemonic || z.length != c->len)
            continue;
        if (t->branch && !branch_ok(c, &z, op))
            continue;
        bool ok = true;
        uint64_t target = 0; /* of the first: the others are the stack */
        for (unsigned k = 0; k < z.operand_count; k++)
            if (op[k].type == ZYDIS_OPERAND_TYPE_MEMORY && op[k].mem.type != ZYDIS_MEMOP_TYPE_AGEN)
                ok &= aim(c, &z, &op[k]), target = target ? target : c->target;
        c->target = target;
        ok = ok && adjust(t, c, &z, op);
        for (unsigned k = 0; k < z.operand_count; k++)
            if (op[k].type == ZYDIS_OPERAND_TYPE_MEMORY && op[k].mem.type != ZYDIS_MEMOP_TYPE_AGEN)
                ok = ok && check_aim(c, &z, &op[k]);
        if (!ok)
            continue;
        c->undefined = z.cpu_flags ? z.cpu_flags->undefined & ARITH_FLAGS : 0;
        c->branch = t->branch;
        if (!t->vex && t->map == 0 && (t->opcode & 0xf8) == 0xd8 && chance(50))
            add_tail(c);
        c->wide = t->mem && op[0].size == 80;
        c->stack = z.meta.category == ZYDIS_CATEGORY_RET || (t->mem && (z.meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
                                                                        z.meta.category == ZYDIS_CATEGORY_CALL));
        return true;
    }
    return false;
}

#endif
