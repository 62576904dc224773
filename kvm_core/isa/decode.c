/* The only file that knows Zydis: decodes an instruction and binds it to its row of the instruction table. */
#include "isa/decode.h"

#include <Zydis/Zydis.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "cpu/native.h"
#include "cpu/sem/common.h"
#include "gen/handlers.h"
#include "isa/decoded.h"
#include "isa/known.h"

struct isa_entry {
    uint8_t form, size;
    insn_fn *fn;
};
enum isa_class { CLASS_INNOCUOUS, CLASS_PRIVILEGED, CLASS_IO, CLASS_CONTROL, CLASS_BEHAVIOUR };
struct isa_row {
    const char *name;
    uint8_t klass; /* enum isa_class */
    bool any_form, native;
    const struct isa_entry *entries;
    unsigned entry_count;
    insn_fn *op;
};
enum isa_variant_kind { /* instructions that share a mnemonic with others */
    VARIANT_NONE, VARIANT_ONE, VARIANT_WORD, VARIANT_STRING, VARIANT_FAR, VARIANT_SREG,
    VARIANT_FROM_SREG, VARIANT_TO_SREG, VARIANT_FROM_CR,
    VARIANT_TO_CR, VARIANT_FROM_DR, VARIANT_TO_DR
};
struct isa_variant {
    uint16_t mnemonic;
    uint8_t variant;
    struct isa_row row;
};

#include "gen/table.inc"

struct decoder {
    ZydisDecoder mode[3]; /* 16, 32, 64 bits */
    bool configured;
    struct known_set known[KNOWN_SETS];
};

struct decoder *decoder_create(void)
{
    return calloc(1, sizeof(struct decoder));
}

void decoder_destroy(struct decoder *d)
{
    free(d);
}

static void configure(ZydisDecoder *z, unsigned bits, const struct vcpu *v)
{
    if (bits == 64)
        ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (bits == 32)
        ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    if (v) {
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_LZCNT, cpu_has(v, FEAT_LZCNT));
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_TZCNT, cpu_has(v, FEAT_BMI1));
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_AMD_BRANCHES, v->amd);
    }
}

void decoder_configure(struct decoder *d, const struct vcpu *v)
{
    configure(&d->mode[0], 16, v);
    configure(&d->mode[1], 32, v);
    configure(&d->mode[2], 64, v);
    memset(d->known, 0, sizeof(d->known));
    d->configured = true;
}

/* ---- features --------------------------------------------------------------------------------- */

/* What an instruction set needs in CPUID. Sets not listed belong to every processor that we offer. */
static const struct {
    uint8_t set;     /* ZYDIS_ISA_SET_* */
    uint8_t feature; /* enum cpu_feature */
} set_feature[] = {
    {ZYDIS_ISA_SET_ADOX_ADCX, FEAT_ADX}, {ZYDIS_ISA_SET_AES, FEAT_AES}, {ZYDIS_ISA_SET_AVXAES, FEAT_AES},
    {ZYDIS_ISA_SET_AVX, FEAT_AVX}, {ZYDIS_ISA_SET_AVX2, FEAT_AVX2}, {ZYDIS_ISA_SET_AVX2GATHER, FEAT_AVX2},
    {ZYDIS_ISA_SET_BMI1, FEAT_BMI1}, {ZYDIS_ISA_SET_BMI2, FEAT_BMI2}, {ZYDIS_ISA_SET_CLFLUSHOPT, FEAT_CLFLUSHOPT},
    {ZYDIS_ISA_SET_CLWB, FEAT_CLWB}, {ZYDIS_ISA_SET_CLFSH, FEAT_CLFLUSH}, {ZYDIS_ISA_SET_CMPXCHG16B, FEAT_CX16},
    {ZYDIS_ISA_SET_CMOV, FEAT_CMOV}, {ZYDIS_ISA_SET_F16C, FEAT_F16C}, {ZYDIS_ISA_SET_FMA, FEAT_FMA},
    {ZYDIS_ISA_SET_FXSAVE, FEAT_FXSR}, {ZYDIS_ISA_SET_FXSAVE64, FEAT_FXSR}, {ZYDIS_ISA_SET_INVPCID, FEAT_INVPCID},
    {ZYDIS_ISA_SET_LZCNT, FEAT_LZCNT}, {ZYDIS_ISA_SET_MONITOR, FEAT_MONITOR}, {ZYDIS_ISA_SET_MOVBE, FEAT_MOVBE},
    {ZYDIS_ISA_SET_PCLMULQDQ, FEAT_PCLMUL}, {ZYDIS_ISA_SET_PENTIUMMMX, FEAT_MMX}, {ZYDIS_ISA_SET_PKU, FEAT_PKU},
    {ZYDIS_ISA_SET_POPCNT, FEAT_POPCNT}, {ZYDIS_ISA_SET_RDPID, FEAT_RDPID}, {ZYDIS_ISA_SET_RDRAND, FEAT_RDRAND},
    {ZYDIS_ISA_SET_RDSEED, FEAT_RDSEED}, {ZYDIS_ISA_SET_RDTSCP, FEAT_RDTSCP},
    {ZYDIS_ISA_SET_RDWRFSGS, FEAT_FSGSBASE}, {ZYDIS_ISA_SET_SERIALIZE, FEAT_SERIALIZE},
    {ZYDIS_ISA_SET_SHA, FEAT_SHA}, {ZYDIS_ISA_SET_SMAP, FEAT_SMAP}, {ZYDIS_ISA_SET_SSE, FEAT_SSE},
    {ZYDIS_ISA_SET_SSEMXCSR, FEAT_SSE}, {ZYDIS_ISA_SET_SSE2, FEAT_SSE2}, {ZYDIS_ISA_SET_SSE2MMX, FEAT_SSE2},
    {ZYDIS_ISA_SET_SSE3, FEAT_SSE3}, {ZYDIS_ISA_SET_SSE3X87, FEAT_SSE3}, {ZYDIS_ISA_SET_SSSE3, FEAT_SSSE3},
    {ZYDIS_ISA_SET_SSSE3MMX, FEAT_SSSE3}, {ZYDIS_ISA_SET_SSE4, FEAT_SSE4_1}, {ZYDIS_ISA_SET_SSE42, FEAT_SSE4_2},
    {ZYDIS_ISA_SET_SSE4A, FEAT_SSE4A}, {ZYDIS_ISA_SET_VAES, FEAT_VAES}, {ZYDIS_ISA_SET_VPCLMULQDQ, FEAT_VPCLMULQDQ},
    {ZYDIS_ISA_SET_XSAVE, FEAT_XSAVE}, {ZYDIS_ISA_SET_XSAVEC, FEAT_XSAVEC}, {ZYDIS_ISA_SET_XSAVEOPT, FEAT_XSAVEOPT},
    {ZYDIS_ISA_SET_XSAVES, FEAT_XSAVES},
};

/* No model has EVEX (AVX-512) or XOP, but many of their instructions have a mnemonic, and so a row, with one of VEX. */
static bool offered(const struct vcpu *v, const ZydisDecodedInstruction *z)
{
    if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && z->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX &&
        z->encoding != ZYDIS_INSTRUCTION_ENCODING_3DNOW)
        return false;
    for (unsigned n = 0; n < sizeof(set_feature) / sizeof(set_feature[0]); n++)
        if (set_feature[n].set == z->meta.isa_set)
            return cpu_has(v, (enum cpu_feature)set_feature[n].feature);
    return true;
}

/* ---- Zydis to our terms ------------------------------------------------------------------------ */

static uint8_t gpr_number(ZydisRegister r)
{
    if (r == ZYDIS_REGISTER_NONE)
        return REG_ZERO;
    if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
        return REG_PAGE;
    return (uint8_t)ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r));
}

static void register_operand(ZydisRegister r, struct decoded_operand *o)
{
    o->kind = OPND_OTHER;
    o->reg = (uint8_t)ZydisRegisterGetId(r);
    if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH) {
        o->kind = OPND_GPR8H;
        o->reg = (uint8_t)(r - ZYDIS_REGISTER_AH);
        return;
    }
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        o->kind = OPND_GPR;
        o->reg = gpr_number(r);
        break;
    case ZYDIS_REGCLASS_XMM: o->kind = OPND_XMM; break;
    case ZYDIS_REGCLASS_YMM: o->kind = OPND_YMM; break;
    case ZYDIS_REGCLASS_MMX: o->kind = OPND_MMX; break;
    case ZYDIS_REGCLASS_X87: o->kind = OPND_X87; break;
    case ZYDIS_REGCLASS_SEGMENT: o->kind = OPND_SREG; break;
    case ZYDIS_REGCLASS_CONTROL: o->kind = OPND_CR; break;
    case ZYDIS_REGCLASS_DEBUG: o->kind = OPND_DR; break;
    default: break;
    }
}

static void operand(const ZydisDecodedOperand *z, struct decoded_operand *o)
{
    o->hidden = z->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT;
    o->bits = z->size;
    o->action = (uint8_t)((z->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? OPND_READ : 0) |
                          (z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? OPND_WRITE : 0) |
                          (z->actions & (ZYDIS_OPERAND_ACTION_CONDREAD | ZYDIS_OPERAND_ACTION_CONDWRITE) ? OPND_COND : 0));
    switch (z->type) {
    case ZYDIS_OPERAND_TYPE_MEMORY:
        o->kind = z->mem.type == ZYDIS_MEMOP_TYPE_AGEN ? OPND_AGEN : OPND_MEM;
        break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE: o->kind = OPND_IMM; break;
    case ZYDIS_OPERAND_TYPE_POINTER: o->kind = OPND_FARPTR; break;
    case ZYDIS_OPERAND_TYPE_REGISTER: register_operand(z->reg.value, o); break;
    default: o->kind = OPND_NONE; break;
    }
}

static uint8_t prefixes(const ZydisDecodedInstruction *z)
{
    uint8_t p = 0;

    if (z->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        p |= PFX_LOCK;
    if (z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
        p |= PFX_REP;
    if (z->attributes & ZYDIS_ATTRIB_HAS_REPNE)
        p |= PFX_REPNE;
    if (z->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE)
        p |= PFX_OPSIZE;
    if (z->attributes & ZYDIS_ATTRIB_HAS_REX && z->raw.rex.W)
        p |= PFX_REXW;
    if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        p |= PFX_VEX;
    return p;
}

static void encoding(const ZydisDecodedInstruction *z, const uint8_t *bytes, struct decoded *d)
{
    d->mnemonic = (uint16_t)z->mnemonic;
    d->len = z->length;
    memcpy(d->bytes, bytes, z->length);
    d->encoding = z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX     ? ENC_VEX
                  : z->encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW ? ENC_3DNOW
                                                                    : ENC_LEGACY;
    d->map = z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ? 0
             : z->opcode_map == ZYDIS_OPCODE_MAP_0F    ? 1
             : z->opcode_map == ZYDIS_OPCODE_MAP_0F38  ? 2
             : z->opcode_map == ZYDIS_OPCODE_MAP_0F3A  ? 3
                                                       : 9;
    d->opcode = z->opcode;
    d->rex_off = d->vex_off = 0xff;
    if (d->encoding == ENC_VEX) {
        d->vex_off = z->raw.vex.offset;
        d->vex_len = z->raw.vex.size;
    } else if (z->attributes & ZYDIS_ATTRIB_HAS_REX) {
        d->rex_off = z->raw.rex.offset;
    }
    for (unsigned k = 0; k < z->raw.prefix_count; k++)
        if (z->raw.prefixes[k].type == ZYDIS_PREFIX_TYPE_MANDATORY)
            d->mandatory = z->raw.prefixes[k].value;
    d->has_modrm = z->attributes & ZYDIS_ATTRIB_HAS_MODRM;
    d->has_sib = z->attributes & ZYDIS_ATTRIB_HAS_SIB;
    d->modrm_off = z->raw.modrm.offset;
    d->modrm = d->has_modrm ? bytes[d->modrm_off] : 0;
    d->disp_off = z->raw.disp.offset;
    d->disp_bytes = z->raw.disp.size / 8;
    for (unsigned k = 0; k < 2; k++) {
        d->imm_off[k] = z->raw.imm[k].offset;
        d->imm_bytes[k] = z->raw.imm[k].size / 8;
    }
    d->operand_bits = z->operand_width;
    d->address_bits = z->address_width;
    d->prefix = prefixes(z);
    if (z->cpu_flags) {
        d->flags_read = z->cpu_flags->tested;
        d->flags_written = z->cpu_flags->modified | z->cpu_flags->set_0 | z->cpu_flags->set_1;
        d->flags_undefined = z->cpu_flags->undefined;
    }
}

static uint8_t address_mode(const ZydisDecodedInstruction *z, uint8_t seg, unsigned code_bits)
{
    if (code_bits != 64)
        return z->address_width == 16 ? AM_16 : AM_32;
    if (z->address_width == 32)
        return AM_64A32;
    return seg == FS || seg == GS ? AM_SEG64 : AM_FLAT64;
}

/* The memory operand into *d and *i. */
static void memory(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *m, unsigned code_bits, struct decoded *d,
                   struct insn *i)
{
    ZydisRegisterClass index = ZydisRegisterGetClass(m->mem.index);
    bool no_base = z->attributes & ZYDIS_ATTRIB_HAS_SIB && z->raw.modrm.mod == 0 && z->raw.sib.base == 5; /* whatever REX.B */
    int64_t disp = no_base ? z->raw.disp.value : m->mem.disp.value;

    d->has_mem = true;
    i->base = d->mem_base = no_base ? REG_ZERO : gpr_number(m->mem.base);
    if (index == ZYDIS_REGCLASS_XMM || index == ZYDIS_REGCLASS_YMM) {
        d->mem_vsib = index == ZYDIS_REGCLASS_XMM ? 16 : 32;
        d->mem_index = (uint8_t)ZydisRegisterGetId(m->mem.index);
    } else {
        i->index = d->mem_index = gpr_number(m->mem.index);
    }
    d->mem_scale = i->scale = m->mem.scale ? (uint8_t)__builtin_ctz(m->mem.scale) : 0;
    d->mem_seg = i->seg = (uint8_t)ZydisRegisterGetId(m->mem.segment);
    d->mem_disp = disp;
    i->am = address_mode(z, i->seg, code_bits);
    if (i->base == REG_PAGE)
        disp += i->off + i->len;
    i->disp = (int32_t)disp;
    if (i->base == REG_PAGE && i->disp != disp) { /* at the edge of 2 GiB */
        i->index = REG_EDGE;
        i->scale = 3;
        i->disp = (int32_t)(disp - (4096 << 3));
    } else if (z->address_width == 64 && i->disp != disp) { /* MOV moffs64 */
        i->disp = 0;
        i->imm = (uint64_t)disp;
        i->base = REG_ZERO;
    }
}

static bool has_prefix(const ZydisDecodedInstruction *z, uint8_t prefix)
{
    for (unsigned k = 0; k < z->raw.prefix_count; k++)
        if (z->raw.prefixes[k].value == prefix)
            return true;
    return false;
}

/* ---- binding -------------------------------------------------------------------------------------- */

static unsigned variant_of(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_IMUL: return z->operand_count_visible == 1 ? VARIANT_ONE : VARIANT_NONE;
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX: return op[1].size == 16 ? VARIANT_WORD : VARIANT_NONE;
    case ZYDIS_MNEMONIC_MOVSXD: return op[0].size == 16 ? VARIANT_WORD : VARIANT_NONE;
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_CMPSD: return z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ? VARIANT_STRING : VARIANT_NONE;
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_RET:
        return z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? VARIANT_FAR : VARIANT_NONE;
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_MOV: break;
    default: return VARIANT_NONE;
    }
    for (unsigned k = 0; k < z->operand_count_visible; k++) {
        if (op[k].type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        switch (ZydisRegisterGetClass(op[k].reg.value)) {
        case ZYDIS_REGCLASS_SEGMENT:
            if (z->mnemonic != ZYDIS_MNEMONIC_MOV)
                return VARIANT_SREG;
            return k ? VARIANT_FROM_SREG : VARIANT_TO_SREG;
        case ZYDIS_REGCLASS_CONTROL: return k ? VARIANT_FROM_CR : VARIANT_TO_CR;
        case ZYDIS_REGCLASS_DEBUG: return k ? VARIANT_FROM_DR : VARIANT_TO_DR;
        default: break;
        }
    }
    return VARIANT_NONE;
}

static const struct isa_row *find_row(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
    unsigned variant = variant_of(z, op);

    for (unsigned k = 0; variant && k < sizeof(isa_variants) / sizeof(isa_variants[0]); k++)
        if (isa_variants[k].mnemonic == z->mnemonic && isa_variants[k].variant == variant)
            return &isa_variants[k].row;
    return &isa_rows[z->mnemonic];
}

/* Register and immediate operands into *i; the form as letters. */
static void visible_operands(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op, const struct decoded *d,
                             struct insn *i, char form[5])
{
    unsigned n = 0, regs = 0;

    for (unsigned k = 0; k < z->operand_count_visible && n < 4; k++) {
        const struct decoded_operand *o = &d->op[k];
        switch (o->kind) {
        case OPND_MEM:
        case OPND_AGEN: form[n++] = 'm'; break;
        case OPND_IMM:
            form[n++] = 'i';
            if (op[k].imm.is_relative) {
                i->target = NULL;
                i->disp = (int32_t)op[k].imm.value.s;
            } else if (z->mnemonic == ZYDIS_MNEMONIC_ENTER && k) {
                i->imm |= (op[k].imm.value.u & 0xff) << 16;
            } else {
                i->imm = op[k].imm.is_signed ? (uint64_t)op[k].imm.value.s : op[k].imm.value.u;
            }
            break;
        case OPND_FARPTR:
            form[n++] = 'i';
            i->imm = op[k].ptr.offset | (uint64_t)op[k].ptr.segment << 32;
            break;
        case OPND_NONE: break;
        default: {
            uint8_t id = o->kind == OPND_GPR8H ? (uint8_t)(o->reg * 8 + 1)
                         : o->kind == OPND_GPR && o->bits == 8 ? (uint8_t)(o->reg * 8)
                                                               : o->reg;
            form[n++] = 'r';
            if (regs == 0)
                i->dst = id;
            else if (regs == 1)
                i->src = id;
            regs++;
        }
        }
    }
    form[n] = 0;
}

static uint8_t form_of(const char *form)
{
    static const char *const names[] = {
        [FORM_NONE] = "",    [FORM_R] = "r",     [FORM_M] = "m",     [FORM_I] = "i",     [FORM_RR] = "rr",  [FORM_RM] = "rm",
        [FORM_MR] = "mr",    [FORM_RI] = "ri",   [FORM_MI] = "mi",   [FORM_RRI] = "rri", [FORM_RMI] = "rmi",
        [FORM_MRI] = "mri",  [FORM_RRR] = "rrr", [FORM_MRR] = "mrr", [FORM_IR] = "ir",   [FORM_II] = "ii"};

    for (uint8_t n = 0; n < sizeof(names) / sizeof(names[0]); n++)
        if (strcmp(names[n], form) == 0)
            return n;
    return 0xff;
}

/* Size that selects the specialisation: the first operand's; for branches and immediates the operand size. In 64-bit mode
 * the operand-size prefix of a near branch is Intel's to ignore, and AMD's to obey (APM vol. 3, 1.2.4).
 */
static unsigned row_size(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op, const struct vcpu *v)
{
    bool branch = z->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;

    if (branch && v->code_bits == 64)
        return v->amd && has_prefix(z, 0x66) && !z->raw.rex.W ? 2 : 8;
    if (branch || !z->operand_count_visible || op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return z->operand_width / 8;
    return op[0].size / 8;
}

static enum decode_result bind(struct vcpu *v, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op,
                               const struct decoded *d, struct insn *i)
{
    const struct isa_row *row = find_row(z, op);
    unsigned size = row_size(z, op, v);
    char letters[5];
    uint8_t form;

    visible_operands(z, op, d, i, letters);
    if (row->native) {
        int error = native_bind(v, d, i);
        return error == NATIVE_FULL ? DECODE_FULL : error ? DECODE_INVALID : DECODE_OK;
    }
    i->size = z->operand_width / 8;
    if (row->op) {
        i->fn = row->op;
        return DECODE_OK;
    }
    form = form_of(letters);
    for (unsigned k = 0; k < row->entry_count; k++) {
        const struct isa_entry *e = &row->entries[k];
        if (row->any_form || (e->form == form && e->size == size)) {
            i->fn = e->fn;
            if (!row->any_form)
                i->size = (uint8_t)size;
            return DECODE_OK;
        }
    }
    return DECODE_INVALID;
}

static bool never_falls_through(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2: return true;
    default: return false;
    }
}

/* MOV with a 64-bit absolute address, which does not fit `disp`: it stands in `imm`. */
static const struct insn *op_mov_moffs(struct vcpu *v, const struct insn *i)
{
    uint64_t linear = i->imm + (i->seg == FS || i->seg == GS ? v->seg[i->seg].base : 0);

    if (i->src)
        mem_store(v, linear, i->size, reg_get(v, RAX, i->size));
    else
        reg_set(v, RAX, i->size, mem_load(v, linear, i->size));
    return insn_next(i);
}

/* What AMD's processors refuse although the decoder knows it: 0F 0D with a register is no prefetch (Intel: a reserved
 * NOP); VPEXTRD and VPINSRD with VEX.W outside of 64-bit mode (Intel: W is ignored). */
static bool refused(const struct vcpu *v, const ZydisDecodedInstruction *z)
{
    if (!v->amd)
        return false;
    if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && v->code_bits != 64 && z->raw.vex.W)
        return z->opcode_map == ZYDIS_OPCODE_MAP_0F3A && (z->opcode == 0x16 || z->opcode == 0x22);
    return z->opcode_map == ZYDIS_OPCODE_MAP_0F && z->opcode == 0x0d && z->raw.modrm.mod == 3;
}

static unsigned skip_prefixes(const uint8_t *bytes, unsigned n, unsigned code_bits)
{
    unsigned k = 0;

    while (k < n && (bytes[k] == 0x66 || bytes[k] == 0x67 || bytes[k] == 0xf0 || bytes[k] == 0xf2 || bytes[k] == 0xf3 ||
                     (bytes[k] & 0xe7) == 0x26 || bytes[k] == 0x64 || bytes[k] == 0x65 ||
                     (code_bits == 64 && (bytes[k] & 0xf0) == 0x40)))
        k++;
    return k;
}

/* #UD even where what follows cannot be fetched or makes the instruction too long: XOP, which without it is POP with a
 * ModRM.reg that is not 0; and UD0 (0F FF) and UD1 (0F B9), behind which AMD's processors read no ModRM. */
static bool is_ud_at_once(const struct vcpu *v, const uint8_t *bytes, unsigned n)
{
    unsigned k = skip_prefixes(bytes, n, v->code_bits);

    if (k + 1 >= n)
        return false;
    if (bytes[k] == 0x8f)
        return bytes[k + 1] & 0x38;
    return v->amd && bytes[k] == 0x0f && (bytes[k + 1] == 0xff || bytes[k + 1] == 0xb9);
}

/* F3 90 with REX.B is PAUSE to Intel's processors, to AMD's XCHG r8, rAX: the prefix is replaced by one that says nothing in
 * 64-bit mode. */
static void copy_without_rep(const uint8_t *bytes, const ZydisDecodedInstruction *z, uint8_t copy[15])
{
    memcpy(copy, bytes, z->length);
    for (unsigned k = 0; k < z->length; k++)
        if (copy[k] == 0xf3)
            copy[k] = 0x3e;
}

/* Which field of insn a register operand is in, number `regs` among them. */
static uint8_t known_operand(const struct decoded_operand *o, unsigned regs)
{
    return (uint8_t)((regs ? OPERAND_SRC : OPERAND_DST) | (o->kind == OPND_GPR8H || o->bits == 8 ? OPERAND_BYTE : 0));
}

/* What of the instruction the bytes say in places of their own. A stub has registers and immediate in it. */
static struct known_fields fields_of(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op, const struct decoded *d,
                                     const struct insn *i)
{
    struct known_fields f = {.modrm_off = d->modrm_off, .rex_off = d->rex_off};
    unsigned regs = 0;

    if (d->has_mem && d->disp_bytes <= 4 && i->index != REG_EDGE) {
        f.disp_off = d->disp_off;
        f.disp_bytes = d->disp_bytes;
    }
    f.imm_off = d->imm_off[0];
    f.imm_bytes = d->imm_bytes[0] + d->imm_bytes[1];
    if (find_row(z, op)->native)
        return f;
    for (unsigned k = 0; k < z->operand_count_visible; k++) {
        bool general = d->op[k].kind == OPND_GPR || d->op[k].kind == OPND_GPR8H;
        if (op[k].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && d->imm_bytes[0] && !d->imm_bytes[1])
            f.imm = op[k].imm.is_relative ? IMM_BRANCH : op[k].imm.is_signed ? IMM_SIGNED : IMM_UNSIGNED;
        if (general && op[k].encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
            f.reg = known_operand(&d->op[k], regs);
        if (general && op[k].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
            f.rm = known_operand(&d->op[k], regs);
        regs += op[k].type == ZYDIS_OPERAND_TYPE_REGISTER;
    }
    return f;
}

static enum decode_result decode_new(struct decoder *dec, struct vcpu *v, const uint8_t *bytes, unsigned n, uint16_t off,
                                     struct known *new)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    struct decoded d = {0};
    struct insn *out = &new->insn;
    const ZydisDecodedOperand *mem = NULL;
    ZyanStatus status;

    *new = (struct known){.code_bits = v->code_bits, .ends = true};
    status = ZydisDecoderDecodeFull(&dec->mode[v->code_bits / 32], bytes, n, &z, op);
    if ((status == ZYDIS_STATUS_NO_MORE_DATA || status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) && is_ud_at_once(v, bytes, n))
        return DECODE_INVALID;
    if (status == ZYDIS_STATUS_NO_MORE_DATA)
        return n >= 15 ? DECODE_TOO_LONG : DECODE_MORE;
    if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        return DECODE_TOO_LONG;
    if (!ZYAN_SUCCESS(status) || !offered(v, &z) || refused(v, &z))
        return DECODE_INVALID;
    if (v->amd && z.mnemonic == ZYDIS_MNEMONIC_PAUSE && z.attributes & ZYDIS_ATTRIB_HAS_REX && z.raw.rex.B) {
        uint8_t copy[15];
        copy_without_rep(bytes, &z, copy);
        return decode_new(dec, v, copy, z.length, off, new);
    }
    new->ends = never_falls_through(&z);
    *out = (struct insn){.len = z.length, .off = off, .base = REG_ZERO, .index = REG_ZERO, .am = AM_NONE, .seg = DS};
    encoding(&z, bytes, &d);
    d.mode_bits = v->code_bits;
    out->prefix = d.prefix;
    d.operand_count = z.operand_count;
    d.explicit_count = z.operand_count_visible;
    for (unsigned k = 0; k < z.operand_count; k++) {
        operand(&op[k], &d.op[k]);
        if (op[k].type == ZYDIS_OPERAND_TYPE_MEMORY && (!mem || gpr_number(op[k].mem.base) == RSI))
            mem = &op[k]; /* MOVS, OUTS: the source, whose segment can be chosen */
    }
    bool stack_only = mem && mem->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
                      (gpr_number(mem->mem.base) == RSP || gpr_number(mem->mem.base) == RBP); /* PUSH, LEAVE ... */
    if (mem && !stack_only)
        memory(&z, mem, v->code_bits, &d, out);
    if (z.meta.category == ZYDIS_CATEGORY_COND_BR) /* JCXZ, LOOP: the counter's size */
        out->am = address_mode(&z, DS, v->code_bits);
    if (mem && z.mnemonic == ZYDIS_MNEMONIC_MOV && mem->mem.base == ZYDIS_REGISTER_NONE && out->imm) {
        out->fn = op_mov_moffs;
        out->size = z.operand_width / 8;
        if (op[0].size == 8)
            out->size = 1;
        out->src = op[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
        return DECODE_OK;
    }
    new->fields = fields_of(&z, op, &d, out);
    return bind(v, &z, op, &d, out);
}

enum decode_result decode_insn(struct decoder *dec, struct vcpu *v, const uint8_t *bytes, unsigned n, uint16_t off,
                               struct insn *out, bool *ends)
{
    struct known new;

    if (!dec->configured)
        decoder_configure(dec, v);
    if (n >= KNOWN_BYTES && known_find(dec->known, v->code_bits, bytes, n, off, out, ends))
        return DECODE_OK;
    enum decode_result result = decode_new(dec, v, bytes, n, off, &new);
    *ends = new.ends;
    if (result != DECODE_OK)
        return result;
    *out = new.insn;
    if (n >= KNOWN_BYTES)
        known_add(dec->known, bytes, &new);
    return result;
}

/* ---- for reports ------------------------------------------------------------------------------------ */

void decode_format(unsigned code_bits, const uint8_t *bytes, unsigned n, char *text, size_t size_bytes)
{
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

    configure(&decoder, code_bits, NULL);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    if (size_bytes)
        text[0] = 0;
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, n, &z, op)))
        ZydisFormatterFormatInstruction(&formatter, &z, op, z.operand_count_visible, text, size_bytes,
                                        ZYDIS_RUNTIME_ADDRESS_NONE, NULL);
}

const char *decode_name(unsigned code_bits, const uint8_t *bytes, unsigned n, const char **klass)
{
    static const char *const names[] = {"innocuous", "privileged", "io", "control", "behaviour"};
    ZydisDecoder decoder;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    const struct isa_row *row;

    configure(&decoder, code_bits, NULL);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, n, &z, op)))
        return NULL;
    row = find_row(&z, op);
    if (klass)
        *klass = names[row->klass];
    return row->name;
}

unsigned decode_length(unsigned code_bits, const uint8_t *bytes, unsigned n)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction z;

    configure(&decoder, code_bits, NULL);
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, bytes, n, &z)) ? z.length : 0;
}
