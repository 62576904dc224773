/* Which encodings there are (asked of Zydis, row by row of the instruction table), and random cases of each. */
#ifndef TESTS_ISA_CASES_H
#define TESTS_ISA_CASES_H

#include <Zydis/Zydis.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

struct row { /* a mnemonic of the table that takes part */
    bool wanted;
    unsigned templates;
    uint64_t cases, faults, differences, undefined;
};

struct template { /* an encoding, its registers and addresses open */
    uint16_t mnemonic;
    bool vex, mem, fixed_rm, no_modrm;
    uint8_t map, opcode, pfx; /* pfx: 0, 66, F2, F3, F0; 1: 66 F2 */
    bool moffs, branch;
    bool w, l, no_vvvv;
    int8_t digit; /* of ModRM.reg, or -1 */
    uint8_t rm;
    uint8_t imm_bytes;
};

static struct row rows[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static struct template *templates;
static unsigned template_count;
static ZydisDecoder decoder;
static int mode = 64; /* of the code, in bits */

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

/* ---- encodings ------------------------------------------------------------------------------------ */

struct fields {
    unsigned reg, rm, index, vvvv, scale;
    int form; /* memory: 0 [b], 1 [b+d8], 2 [b+d32], 3 [b+i*s+d8], 4 [rip+d32] */
    int32_t disp;
    bool rex; /* one that changes nothing, but for byte registers */
    uint8_t imm[8];
};

static bool needs_sib(const struct fields *f) { return f->form == 3 || (f->form < 3 && (f->rm & 7) == 4); }

static unsigned put_modrm(const struct template *t, const struct fields *f, uint8_t *p)
{
    static const uint8_t mods[] = {0x00, 0x40, 0x80, 0x40, 0x00};
    unsigned n = 0, reg = t->digit >= 0 ? (unsigned)t->digit : f->reg;
    uint8_t mod = mods[f->form];

    if (!t->mem) {
        p[n++] = 0xc0 | (reg & 7) << 3 | (f->rm & 7);
        return n;
    }
    if (f->form == 0 && (f->rm & 7) == 5)
        mod = 0x40;
    p[n++] = mod | (reg & 7) << 3 | (f->form == 4 ? 5 : needs_sib(f) ? 4 : f->rm & 7);
    if (needs_sib(f))
        p[n++] = (f->form == 3 ? f->scale << 6 | (f->index & 7) << 3 : 0x20) | (f->rm & 7);
    if (f->form == 4 || mod == 0x80) {
        memcpy(p + n, &f->disp, 4);
        n += 4;
    } else if (mod == 0x40) {
        p[n++] = f->disp;
    }
    return n;
}

static unsigned encode(const struct template *t, const struct fields *f, uint8_t bytes[15])
{
    unsigned n = 0, r = t->digit >= 0 ? 0 : f->reg >> 3 & 1, x = t->mem && f->form == 3 ? f->index >> 3 & 1 : 0;
    unsigned b = t->mem && f->form == 4 ? 0 : f->rm >> 3 & 1;
    uint8_t buf[24];

    if (t->vex) {
        unsigned pp = t->pfx == 0x66 ? 1 : t->pfx == 0xf3 ? 2 : t->pfx == 0xf2 ? 3 : 0;
        unsigned vvvv = t->no_vvvv ? 15 : ~f->vvvv & 15;

        buf[n++] = 0xc4;
        buf[n++] = (r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | t->map;
        buf[n++] = (t->w ? 0x80 : 0) | vvvv << 3 | (t->l ? 4 : 0) | pp;
    } else {
        if (t->pfx == 0x66 || t->pfx == 1)
            buf[n++] = 0x66;
        if (t->pfx == 1)
            buf[n++] = 0xf2;
        else if (t->pfx == 0xf2 || t->pfx == 0xf3 || t->pfx == 0xf0)
            buf[n++] = t->pfx;
        if (mode == 64 && (t->w || r || x || b || f->rex))
            buf[n++] = 0x40 | (t->w ? 8 : 0) | r << 2 | x << 1 | b;
        if (t->map)
            buf[n++] = 0x0f;
        if (t->map == 2)
            buf[n++] = 0x38;
        if (t->map == 3)
            buf[n++] = 0x3a;
    }
    buf[n++] = t->opcode;
    if (!t->no_modrm)
        n += put_modrm(t, f, buf + n);
    memcpy(buf + n, f->imm, t->imm_bytes);
    n += t->imm_bytes;
    if (n > 15)
        return 0;
    memset(bytes, 0, 15);
    memcpy(bytes, buf, n);
    return n;
}

static bool decode(const uint8_t *bytes, unsigned len, ZydisDecodedInstruction *z, ZydisDecodedOperand *op)
{
    return len && ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, len, z, op));
}

/* Does the encoding exist? Sets mnemonic, immediate, use of vvvv and ModRM. */
static bool probe(struct template *t)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    struct fields f = {.reg = 1, .rm = t->fixed_rm ? t->rm : 2, .index = 4, .vvvv = 3};
    uint8_t bytes[32];
    ZyanStatus status;

    if (t->vex && t->map == 2 && t->mem && t->opcode >= 0x90 && t->opcode <= 0x93)
        f.form = 3;
    for (int attempt = 0; attempt < 2; attempt++) {
        t->no_vvvv = attempt;
        t->imm_bytes = 0;
        if (!encode(t, &f, bytes))
            return false;
        memset(bytes + 15, 0, 17);
        status = ZydisDecoderDecodeFull(&decoder, bytes, 15, &z, op);
        if (ZYAN_SUCCESS(status) || !t->vex)
            break;
    }
    if (!ZYAN_SUCCESS(status) || z.encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW || !rows[z.mnemonic].wanted ||
        z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return false;
    for (unsigned k = 0; k < z.operand_count_visible; k++) { /* not user-level, or not comparable */
        ZydisRegisterClass class = ZydisRegisterGetClass(op[k].reg.value);
        if (op[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (class == ZYDIS_REGCLASS_SEGMENT || class == ZYDIS_REGCLASS_CONTROL || class == ZYDIS_REGCLASS_DEBUG))
            return false;
    }
    if (!(z.attributes & ZYDIS_ATTRIB_HAS_MODRM)) { /* once is enough */
        if (t->mem || t->digit > 0)
            return false;
        t->no_modrm = true;
        t->moffs = z.raw.disp.size != 0;
        t->imm_bytes = z.raw.disp.size / 8;
    }
    t->mnemonic = z.mnemonic;
    t->imm_bytes += (z.raw.imm[0].size + z.raw.imm[1].size) / 8;
    t->branch = z.raw.imm[0].is_relative;
    return true;
}

static void keep(const struct template *t)
{
    if (template_count % 1024 == 0)
        templates = realloc(templates, (template_count + 1024) * sizeof(*templates));
    templates[template_count++] = *t;
    rows[t->mnemonic].templates++;
}

/* All values of one opcode; ModRM.reg is open when each value of it decodes to the same instruction. */
static void enumerate_opcode(struct template t)
{
    struct template by_digit[8];
    bool valid[8], same = true;
    bool x87 = !t.vex && t.map == 0 && (t.opcode & 0xf8) == 0xd8;

    if (x87 && !t.mem) {
        for (unsigned modrm = 0; modrm < 64; modrm++) {
            struct template one = t;
            one.digit = modrm >> 3;
            one.rm = modrm & 7;
            one.fixed_rm = true;
            if (probe(&one))
                keep(&one);
        }
        return;
    }
    for (int d = 0; d < 8; d++) {
        by_digit[d] = t;
        by_digit[d].digit = d;
        valid[d] = probe(&by_digit[d]);
        same &= valid[d] == valid[0] && (!valid[d] || by_digit[d].mnemonic == by_digit[0].mnemonic);
    }
    t.digit = -1;
    if (same && valid[0] && probe(&t)) {
        keep(&t);
        return;
    }
    for (int d = 0; d < 8; d++)
        if (valid[d])
            keep(&by_digit[d]);
}

/* Not opcodes: prefixes, escapes. */
static bool is_prefix(unsigned o)
{
    return o == 0x0f || o == 0x26 || o == 0x2e || o == 0x36 || o == 0x3e || o == 0x62 || (o >= 0x64 && o <= 0x67) || o == 0xf0 ||
           o == 0xf2 || o == 0xf3 || o == 0xc4 || o == 0xc5 || (mode == 64 && (o & 0xf0) == 0x40);
}

static void enumerate(void)
{
    static const uint8_t pfx[] = {0, 0x66, 0xf2, 0xf3, 1, 0xf0};

    for (unsigned k = 0; k < 2 * 4 * 6 * 2 * 2 * 2 * 256; k++) {
        struct template t = {.opcode = k & 255, .mem = k >> 8 & 1, .w = k >> 9 & 1, .l = k >> 10 & 1,
                             .vex = k >> 11 & 1, .map = k >> 12 & 3, .pfx = pfx[(k >> 14) % 6]};

        if (mode == 32 && t.w && !t.vex)
            continue;
        if (t.map == 0 && (t.opcode == 0xe0 || t.opcode == 0xe1) && (t.pfx == 0xf2 || t.pfx == 0xf3 || t.pfx == 1))
            continue; /* LOOPcc with REP: reserved, and AMD's processors let the prefix choose */
        if (t.vex ? t.map == 0 || t.pfx == 1 || t.pfx == 0xf0 : t.l || (t.map == 0 && is_prefix(t.opcode)))
            continue;
        enumerate_opcode(t);
    }
}

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
    s->rflags = rnd() & (ARITH_FLAGS | (chance(10) ? DF_FLAG : 0));
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
    s->rip = CODE_ADDR + 64 + below(3900);
    s->vector = -1;
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

/* Makes the memory operand(s) of the decoded instruction point into the data pages. false: not possible, try again. */
static int gpr_id(ZydisRegister r)
{
    return r == ZYDIS_REGISTER_NONE || r == ZYDIS_REGISTER_RIP
               ? -1
               : ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r));
}

static bool aimed(uint64_t at) { return at - (DATA_ADDR - 64) < DATA_BYTES + 128; }

/* After all registers have been set: does every operand still point into the data? The host must not write
 * elsewhere. */
static bool check_aim(const struct icase *c, const ZydisDecodedOperand *m)
{
    const uint64_t *gpr = c->before.gpr;
    int base = gpr_id(m->mem.base), index = gpr_id(m->mem.index);
    uint64_t at = m->mem.disp.value;
    ZydisRegisterClass class = ZydisRegisterGetClass(m->mem.index);

    if (m->mem.base == ZYDIS_REGISTER_RIP || class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM)
        return true;
    if (base >= 0)
        at += gpr[base];
    if (index >= 0)
        at += m->mem.index == ZYDIS_REGISTER_AL ? gpr[0] & 0xff : gpr[index] * m->mem.scale;
    return aimed(mode == 32 ? (uint32_t)at : at);
}

static bool aim(struct icase *c, const ZydisDecodedOperand *m)
{
    struct state *s = &c->before;
    uint64_t target = random_target(m->size / 8), scale = m->mem.scale;
    int base = gpr_id(m->mem.base), index;

    if (m->mem.base == ZYDIS_REGISTER_RIP) { /* aimed while encoding */
        c->target = s->rip + c->len + m->mem.disp.value;
        return true;
    }
    c->target = target;
    if (base < 0) { /* moffs, or a displacement alone */
        c->target = m->mem.disp.value;
        return aimed(m->mem.disp.value);
    }
    if (ZydisRegisterGetClass(m->mem.index) == ZYDIS_REGCLASS_XMM ||
        ZydisRegisterGetClass(m->mem.index) == ZYDIS_REGCLASS_YMM) {
        uint8_t *x = s->ymm[ZydisRegisterGetId(m->mem.index)];
        bool wide = c->bytes[1] & 0x1f ? c->bytes[3] & 1 : false;

        for (int k = 0; k < (wide ? 4 : 8); k++) {
            int64_t off = (int64_t)(random_target(8) - DATA_ADDR) / (int64_t)scale;
            memcpy(x + (wide ? 8 : 4) * k, &off, wide ? 8 : 4);
        }
        s->gpr[base] = DATA_ADDR - m->mem.disp.value;
        if (mode == 32)
            s->gpr[base] = (uint32_t)s->gpr[base];
        return true;
    }
    index = gpr_id(m->mem.index);
    if (index >= 0 && index == base)
        return false;
    if (m->mem.index == ZYDIS_REGISTER_AL)
        s->gpr[index] &= ~0xffull;
    else if (index >= 0)
        s->gpr[index] = below(2) ? below(1024) : -(uint64_t)below(1024);
    s->gpr[base] = target - m->mem.disp.value - (index >= 0 ? s->gpr[index] * scale : 0);
    if (mode == 32)
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
    if (z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
        gpr[1] = below(40);
    if ((t->mnemonic == ZYDIS_MNEMONIC_DIV || t->mnemonic == ZYDIS_MNEMONIC_IDIV) && below(2)) {
        gpr[2] = below(2) ? 0 : below(100);
        gpr[0] &= below(2) ? 0xff : ~0ull;
    }
    if (t->mnemonic == ZYDIS_MNEMONIC_ENTER)
        gpr[5] = random_target(8);
    if (is_bit_test(t->mnemonic) && t->mem && op[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
        gpr[gpr_id(op[1].reg.value)] = below(256);
    if (z->meta.category == ZYDIS_CATEGORY_UNCOND_BR || z->meta.category == ZYDIS_CATEGORY_CALL)
        if (op[0].type == ZYDIS_OPERAND_TYPE_REGISTER)
            gpr[gpr_id(op[0].reg.value)] = CODE_ADDR + 5000 + below(1000);
    return true;
}

/* A relative branch must land in the code pages, and not in itself. */
static bool branch_ok(const struct icase *c, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
    uint64_t to = c->before.rip + c->len + op[0].imm.value.s;

    (void)z;
    return to - CODE_ADDR < CODE_BYTES - 16 && (to < c->before.rip || to > c->before.rip + c->len);
}

static bool make_case(const struct template *t, struct icase *c)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    struct fields f;

    random_state(&c->before);
    c->mode = mode;
    for (int attempt = 0; attempt < 40; attempt++) {
        f = (struct fields){.reg = below(16), .rm = t->fixed_rm ? t->rm : below(16), .index = below(16),
                            .vvvv = below(16), .scale = below(4), .form = below(5)};
        if (mode == 32) {
            f.reg &= 7;
            f.rm &= 7;
            f.index &= 7;
            f.vvvv &= 7;
            f.form &= 3;
        }
        if (f.form == 3 && f.index == 4)
            continue;
        if (t->vex && t->map == 2 && t->opcode >= 0x90 && t->opcode <= 0x93)
            f.form = 3;
        uint64_t imm = t->moffs ? random_target(8) : t->branch ? (uint64_t)(int64_t)(int16_t)(below(2000) - 1000) : rnd();
        memcpy(f.imm, &imm, 8);
        if (t->mnemonic == ZYDIS_MNEMONIC_ENTER) { /* size, nesting level */
            f.imm[1] &= 1;
            f.imm[2] &= 3;
        }
        f.rex = below(2);
        if (t->imm_bytes == 1 && !t->branch && below(3))
            f.imm[0] &= 31;
        f.disp = f.form == 2 ? (int32_t)rnd() : (int8_t)rnd();
        if (f.form == 0)
            f.disp = 0;
        if (t->mem && f.form == 4) {
            unsigned len = encode(t, &f, c->bytes);
            f.disp = (int64_t)random_target(16) - (int64_t)(c->before.rip + len);
        }
        c->len = encode(t, &f, c->bytes);
        if (!decode(c->bytes, c->len, &z, op) || z.mnemonic != t->mnemonic || z.length != c->len)
            continue;
        if (t->branch && !branch_ok(c, &z, op))
            continue;
        bool ok = true;
        for (unsigned k = 0; k < z.operand_count; k++)
            if (op[k].type == ZYDIS_OPERAND_TYPE_MEMORY && op[k].mem.type != ZYDIS_MEMOP_TYPE_AGEN)
                ok &= aim(c, &op[k]);
        ok = ok && adjust(t, c, &z, op);
        for (unsigned k = 0; k < z.operand_count; k++)
            if (op[k].type == ZYDIS_OPERAND_TYPE_MEMORY && op[k].mem.type != ZYDIS_MEMOP_TYPE_AGEN)
                ok = ok && check_aim(c, &op[k]);
        if (!ok)
            continue;
        c->undefined = z.cpu_flags ? z.cpu_flags->undefined & ARITH_FLAGS : 0;
        c->stack = z.meta.category == ZYDIS_CATEGORY_RET || (t->mem && (z.meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
                                                                        z.meta.category == ZYDIS_CATEGORY_CALL));
        return true;
    }
    return false;
}

/* Unprivileged mnemonics of a .isa file whose handler is `handler`, or all of them. */
static void want_rows(const char *path, const char *handler)
{
    char line[256], name[64], how[64], class[64];
    FILE *f = fopen(path, "r");

    if (!f) {
        perror(path);
        exit(2);
    }
    while (fgets(line, sizeof(line), f)) {
        if (line[0] == '#' || sscanf(line, "%63s %63s %*s %*s %63s", name, how, class) != 3 ||
            (handler && strcmp(how, handler) != 0) || strcmp(class, "innocuous") != 0)
            continue;
        name[strcspn(name, "@")] = 0;
        for (char *p = name; *p; p++)
            *p = tolower(*p);
        for (unsigned m = 1; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
            if (strcmp(ZydisMnemonicGetString(m), name) == 0)
                rows[m].wanted = true;
    }
    fclose(f);
}

#endif
