/* Until the decoder exists. */
#include <Zydis/Zydis.h>
static int emu_boot(struct vcpu *v) { int e = mmu_create(v); return e ? e : native_create(v); }
void codecache_written(struct vcpu *v, uint64_t gpa, unsigned size) { (void)v, (void)gpa, (void)size; }
void codecache_flush(struct vcpu *v) { (void)v; }
int codecache_create(struct vcpu *v) { (void)v; return 0; }
void codecache_destroy(struct vcpu *v) { (void)v; }
#include "gen/handlers.h"
#include <strings.h>
static const struct { const char *name; insn_fn *fn; } bind_ops[] = {{"EMMS", op_emms}, {"VZEROUPPER", op_vzeroupper},
    {"VZEROALL", op_vzeroall}, {"LDMXCSR", op_ldmxcsr}, {"STMXCSR", op_stmxcsr}, {"VLDMXCSR", op_vldmxcsr},
    {"VSTMXCSR", op_vstmxcsr}, {"FXSAVE", op_fxsave}, {"FXSAVE64", op_fxsave}, {"FXRSTOR", op_fxrstor},
    {"FXRSTOR64", op_fxrstor}, {"XSAVE", op_xsave}, {"XSAVE64", op_xsave}, {"XSAVEOPT", op_xsaveopt},
    {"XSAVEOPT64", op_xsaveopt}, {"XSAVEC", op_xsavec}, {"XSAVEC64", op_xsavec}, {"XRSTOR", op_xrstor},
    {"XRSTOR64", op_xrstor}};
static ZydisDecoder bind_decoder;
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
    i->am = AM_NONE; i->len = z.length; i->off = c->before.rip & 4095; i->base = i->index = REG_ZERO;
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
    for (unsigned k = 0; k < sizeof(bind_ops) / sizeof(bind_ops[0]); k++)
        if (strcasecmp(bind_ops[k].name, ZydisMnemonicGetString(z.mnemonic)) == 0) { i->fn = bind_ops[k].fn; return i; }
    int e = native_bind(v, &d, i);
    if (e == NATIVE_FULL) { native_reset(v); e = native_bind(v, &d, i); }
    return e ? NULL : i;
}
