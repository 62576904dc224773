/* Until the decoder exists: just enough binding for vector.isa, most of it for integer.isa. */
#ifndef BIND_ALL
#define BIND_VECTOR_ONLY
#endif
#include <Zydis/Zydis.h>
static int emu_boot(struct vcpu *v) { int e = mmu_create(v); return e ? e : native_create(v); }
void codecache_written(struct vcpu *v, uint64_t gpa, unsigned size) { (void)v, (void)gpa, (void)size; }
void codecache_flush(struct vcpu *v) { (void)v; }
int codecache_create(struct vcpu *v) { (void)v; return 0; }
void codecache_destroy(struct vcpu *v) { (void)v; }
#include "gen/handlers.h"
#include <strings.h>
#include "cpu/sem/common.h"
void codecache_link(struct vcpu *v, const struct insn *i) { (void)v, (void)i; }
const struct insn *codecache_continue(struct vcpu *v, const struct insn *i) { (void)v, (void)i; return NULL; }
struct isa_entry { uint8_t form, size; insn_fn *fn; };
struct isa_row { const char *name; int klass; const struct isa_entry *entries; unsigned entry_count; bool any_form, native; insn_fn *op; };
struct isa_variant { uint16_t mnemonic; int variant; struct isa_row row; };
enum { CLASS_INNOCUOUS, CLASS_PRIVILEGED, CLASS_IO, CLASS_CONTROL, CLASS_BEHAVIOUR };
enum { VARIANT_NONE, VARIANT_ONE, VARIANT_WORD, VARIANT_STRING };
#pragma weak op_none
#include "gen/table.inc"
static ZydisDecoder bind_decoder;
static bool bind_integer(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op, struct insn *i)
{
    const struct isa_row *row = &isa_rows[z->mnemonic];
    char form[8] = ""; unsigned n = 0, regs = 0; int variant = VARIANT_NONE;
    static const char *const names[] = {"", "r", "m", "i", "rr", "rm", "mr", "ri", "mi", "rri", "rmi", "mri", "rrr", "mrr", "ir", "ii"};
    if (z->mnemonic == ZYDIS_MNEMONIC_IMUL && z->operand_count_visible == 1) variant = VARIANT_ONE;
    if ((z->mnemonic == ZYDIS_MNEMONIC_MOVZX || z->mnemonic == ZYDIS_MNEMONIC_MOVSX) && op[1].size == 16) variant = VARIANT_WORD;
    if (z->mnemonic == ZYDIS_MNEMONIC_MOVSXD && op[0].size == 16) variant = VARIANT_WORD;
    if ((z->mnemonic == ZYDIS_MNEMONIC_MOVSD || z->mnemonic == ZYDIS_MNEMONIC_CMPSD) && z->opcode_map == 0) variant = VARIANT_STRING;
    for (unsigned k = 0; variant && k < sizeof(isa_variants) / sizeof(isa_variants[0]); k++)
        if (isa_variants[k].mnemonic == z->mnemonic && isa_variants[k].variant == variant) row = &isa_variants[k].row;
    i->prefix |= (z->attributes & ZYDIS_ATTRIB_HAS_LOCK ? PFX_LOCK : 0) | (z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE) ? PFX_REP : 0) | (z->attributes & ZYDIS_ATTRIB_HAS_REPNE ? PFX_REPNE : 0);
    i->size = z->operand_width / 8;
    for (unsigned k = 0; k < z->operand_count_visible && n < 4; k++) {
        bool hidden = op[k].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
        if (hidden) continue;
        if (op[k].type == ZYDIS_OPERAND_TYPE_MEMORY) form[n++] = 'm';
        else if (op[k].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) { form[n++] = 'i'; if (op[k].imm.is_relative) i->stub = NULL; else if (z->mnemonic == ZYDIS_MNEMONIC_ENTER && k) i->imm |= (op[k].imm.value.u & 0xff) << 16; else i->imm = op[k].imm.is_signed || op[k].imm.is_relative ? (uint64_t)op[k].imm.value.s : op[k].imm.value.u; if (op[k].imm.is_relative) i->disp = op[k].imm.value.s; }
        else { form[n++] = 'r';
            ZydisRegister r = op[k].reg.value; unsigned id;
            if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH) id = (r - ZYDIS_REGISTER_AH) * 8 + 1;
            else { id = ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r)); if (op[k].size == 8) id *= 8; }
            if (regs == 1) i->src = id; else if (!regs) i->dst = id; regs++; }
    }
    if (row->op) { i->fn = row->op; return true; }
    unsigned size = z->operand_count_visible ? op[0].size / 8 : z->operand_width / 8;
    if (z->operand_count_visible && op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) size = z->operand_width / 8;
    for (unsigned k = 0; k < row->entry_count; k++)
        if (row->any_form || (strcmp(names[row->entries[k].form], form) == 0 && row->entries[k].size == size)) { i->fn = row->entries[k].fn; i->size = size; return true; }
    return false;
}
static struct insn bind_insn;
static void bind_operand(const ZydisDecodedOperand *z, struct decoded_operand *o)
{
    o->hidden = z->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN || z->visibility == ZYDIS_OPERAND_VISIBILITY_IMPLICIT;
    o->bits = z->size;
    o->action = (z->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? OPND_READ : 0) |
                (z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? OPND_WRITE : 0) |
                (z->actions & (ZYDIS_OPERAND_ACTION_CONDREAD | ZYDIS_OPERAND_ACTION_CONDWRITE) ? OPND_COND : 0);
    if (z->type == ZYDIS_OPERAND_TYPE_MEMORY)
        o->kind = OPND_MEM;
    else if (z->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        o->kind = OPND_IMM;
    else if (z->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        ZydisRegister r = z->reg.value;
        o->kind = OPND_OTHER;
        if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
            o->kind = OPND_GPR8H, o->reg = r - ZYDIS_REGISTER_AH;
        else switch (ZydisRegisterGetClass(r)) {
        case ZYDIS_REGCLASS_GPR8: case ZYDIS_REGCLASS_GPR16: case ZYDIS_REGCLASS_GPR32: case ZYDIS_REGCLASS_GPR64:
            o->kind = OPND_GPR; o->reg = ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r)); break;
        case ZYDIS_REGCLASS_XMM: o->kind = OPND_XMM; o->reg = ZydisRegisterGetId(r); break;
        case ZYDIS_REGCLASS_YMM: o->kind = OPND_YMM; o->reg = ZydisRegisterGetId(r); break;
        case ZYDIS_REGCLASS_MMX: o->kind = OPND_MMX; o->reg = ZydisRegisterGetId(r); break;
        case ZYDIS_REGCLASS_X87: o->kind = OPND_X87; o->reg = ZydisRegisterGetId(r); break;
        default: break;
        }
    }
}
static int bind_gpr(ZydisRegister r) { return r == ZYDIS_REGISTER_NONE ? REG_ZERO : r == ZYDIS_REGISTER_RIP ? REG_PAGE : ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r)); }
static const struct insn *emu_decode(struct vcpu *v, const struct icase *c)
{
    ZydisDecodedInstruction z; ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    struct decoded d = {0}; struct insn *i = &bind_insn; const ZydisDecodedOperand *mem = NULL;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&bind_decoder, c->bytes, c->len, &z, op))) return NULL;
    memset(i, 0, sizeof(*i));
    d.mnemonic = z.mnemonic; d.len = z.length; memcpy(d.bytes, c->bytes, 15);
    d.encoding = z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? ENC_VEX : ENC_LEGACY;
    d.map = z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ? 0 : z.opcode_map == ZYDIS_OPCODE_MAP_0F ? 1 : z.opcode_map == ZYDIS_OPCODE_MAP_0F38 ? 2 : z.opcode_map == ZYDIS_OPCODE_MAP_0F3A ? 3 : 9;
    d.opcode = z.opcode;
    d.rex_off = d.vex_off = 0xff;
    if (d.encoding == ENC_VEX) d.vex_off = z.raw.vex.offset, d.vex_len = z.raw.vex.size;
    else if (z.attributes & ZYDIS_ATTRIB_HAS_REX) d.rex_off = z.raw.rex.offset;
    for (int k = 0; k < z.raw.prefix_count; k++) if (z.raw.prefixes[k].type == ZYDIS_PREFIX_TYPE_MANDATORY) d.mandatory = z.raw.prefixes[k].value;
    d.has_modrm = z.attributes & ZYDIS_ATTRIB_HAS_MODRM; d.modrm_off = z.raw.modrm.offset; d.modrm = c->bytes[d.modrm_off];
    for (int k = 0; k < 2; k++) d.imm_off[k] = z.raw.imm[k].offset, d.imm_bytes[k] = z.raw.imm[k].size / 8;
    d.mode_bits = c->mode; d.operand_bits = z.operand_width; d.address_bits = z.address_width;
    d.operand_count = z.operand_count; d.explicit_count = z.operand_count_visible;
    for (int k = 0; k < z.operand_count; k++) { bind_operand(&op[k], &d.op[k]); if (d.op[k].kind == OPND_MEM && !mem) mem = &op[k]; }
    if (z.cpu_flags) d.flags_read = z.cpu_flags->tested, d.flags_written = z.cpu_flags->modified | z.cpu_flags->set_0 | z.cpu_flags->set_1, d.flags_undefined = z.cpu_flags->undefined;
    i->am = z.mnemonic >= ZYDIS_MNEMONIC_LOOP && z.mnemonic <= ZYDIS_MNEMONIC_LOOPNE ? (c->mode == 64 ? AM_FLAT64 : AM_32) : AM_NONE; i->len = z.length; i->off = c->before.rip & 4095; i->base = i->index = REG_ZERO;
    if (mem) {
        d.has_mem = true;
        i->base = d.mem_base = bind_gpr(mem->mem.base);
        d.mem_vsib = 0;
        ZydisRegisterClass cls = ZydisRegisterGetClass(mem->mem.index);
        if (cls == ZYDIS_REGCLASS_XMM || cls == ZYDIS_REGCLASS_YMM) d.mem_vsib = cls == ZYDIS_REGCLASS_XMM ? 16 : 32, d.mem_index = ZydisRegisterGetId(mem->mem.index);
        else i->index = d.mem_index = bind_gpr(mem->mem.index);
        i->scale = mem->mem.scale ? __builtin_ctz(mem->mem.scale) : 0;
        i->disp = mem->mem.disp.value;
        if (mem->mem.base == ZYDIS_REGISTER_RIP) i->disp += i->off + i->len;
        i->seg = mem->mem.segment == ZYDIS_REGISTER_SS ? SS : DS; i->am = c->mode == 64 ? AM_FLAT64 : AM_32;
    }
    if (z.attributes & ZYDIS_ATTRIB_HAS_REX && z.raw.rex.W) i->prefix |= PFX_REXW;
    if (bind_integer(&z, op, i)) return i;
    int e = native_bind(v, &d, i);
    if (e == NATIVE_FULL) { native_reset(v); e = native_bind(v, &d, i); }
    return e ? NULL : i;
}
