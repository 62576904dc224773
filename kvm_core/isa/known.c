/* Finding and keeping decoded instructions by their form: see known.h. */
#include "isa/known.h"

#include <string.h>

#include "cpu/vcpu.h"

static uint64_t bytes_mask(unsigned n) { return n ? ~0ull >> (64 - 8 * n) : 0; }

/* ---- the form of an instruction --------------------------------------------------------------- */

struct form {
    uint64_t key;  /* its first bytes, with 0 for what is filled in as far as ModRM goes */
    unsigned set;
    bool registers; /* they are filled in */
    bool is_memory;
    bool is_group; /* ModRM.reg says which instruction it is */
};

static bool is_prefix(uint8_t byte, unsigned code_bits)
{
    return (code_bits == 64 && (byte & 0xf0) == 0x40) || byte == 0x66 || byte == 0xf2 || byte == 0xf3 || byte == 0xf0 || byte == 0x65;
}

/* ModRM.reg is a part of the opcode (SDM vol. 2, A.4), or nothing: SETcc. */
static bool is_group(bool two_bytes, uint8_t opcode)
{
    if (two_bytes)
        return opcode == 0xba || (opcode & 0xf0) == 0x90;
    switch (opcode) {
    case 0x80 ... 0x83:
    case 0xc0 ... 0xc1:
    case 0xc6 ... 0xc7:
    case 0xd0 ... 0xd3:
    case 0xf6 ... 0xf7:
    case 0xfe ... 0xff: return true;
    default: return false;
    }
}

/* Opcodes whose ModRM names general registers and memory, and does nothing else. */
static bool names_registers(bool two_bytes, uint8_t opcode)
{
    if (!two_bytes)
        return (opcode < 0x40 && !(opcode & 4)) || opcode == 0x63 || opcode == 0x69 || opcode == 0x6b ||
               (opcode >= 0x84 && opcode <= 0x8b) || opcode == 0x8d || is_group(false, opcode);
    switch (opcode) {
    case 0x1f:
    case 0x40 ... 0x4f:
    case 0x90 ... 0x9f:
    case 0xa3:
    case 0xab:
    case 0xaf ... 0xb1:
    case 0xb3:
    case 0xb6 ... 0xb7:
    case 0xba ... 0xbb:
    case 0xbe ... 0xc1: return true;
    default: return false;
    }
}

/* Common opcodes without ModRM. */
static bool stands_alone(bool two_bytes, uint8_t opcode)
{
    if (two_bytes)
        return (opcode & 0xf0) == 0x80 || (opcode & 0xf8) == 0xc8;
    switch (opcode) {
    case 0x00 ... 0x3f: return opcode & 4;
    case 0x50 ... 0x5f:
    case 0x68:
    case 0x6a:
    case 0x70 ... 0x7f:
    case 0x90 ... 0xbf:
    case 0xc2 ... 0xc3:
    case 0xc8 ... 0xcf:
    case 0xe0 ... 0xef: return true;
    default: return false;
    }
}

/* ModRM and SIB without the registers. */
static unsigned shape_of(unsigned modrm, unsigned sib, unsigned rex, bool group, unsigned *bytes)
{
    unsigned mod = modrm & 0xc0, rm = modrm & 7, shape = mod | (group ? modrm & 0x38 : 0);

    *bytes = 1;
    if (mod == 0xc0)
        return shape;
    if (rm == 4) {
        *bytes = 2;
        bool no_index = (sib & 0x38) == 0x20 && !(rex & 2), no_base = (sib & 7) == 5 && !mod;
        return shape | 4 | (no_index ? 0x20 : 0) << 8 | (no_base ? 5 : 0) << 8;
    }
    return shape | (rm == 5 && !mod ? 5 : 0);
}

static struct form form_of(const uint8_t *bytes, unsigned code_bits)
{
    struct form f = {0};
    unsigned n = 0, rex = 0, length;
    bool two_bytes;
    uint8_t opcode;

    memcpy(&f.key, bytes, sizeof(f.key));
    while (n < 3 && is_prefix(bytes[n], code_bits))
        n++;
    if (code_bits == 64 && n && (bytes[n - 1] & 0xf0) == 0x40)
        rex = bytes[n - 1];
    two_bytes = bytes[n] == 0x0f;
    n += two_bytes;
    opcode = bytes[n++];
    f.registers = code_bits != 16 && names_registers(two_bytes, opcode);
    if (f.registers) {
        f.is_memory = bytes[n] < 0xc0;
        f.is_group = is_group(two_bytes, opcode);
        uint64_t shape = shape_of(bytes[n], bytes[n + 1], rex, f.is_group, &length);
        f.key = (f.key & bytes_mask(n)) | shape << 8 * n;
        if (rex)
            f.key &= ~(7ull << 8 * (n - 2 - two_bytes));
        n += length;
    } else if (!stands_alone(two_bytes, opcode)) {
        n++;
    }
    f.set = (unsigned)((f.key & bytes_mask(n)) * 0x9e3779b97f4a7c15ull >> 48) & (KNOWN_SETS - 1);
    return f;
}

/* ---- what is filled in ------------------------------------------------------------------------ */

static int64_t number(const uint8_t *bytes, unsigned n)
{
    uint64_t value = 0;

    memcpy(&value, bytes, n);
    return (int64_t)(value << (64 - 8 * n)) >> (64 - 8 * n);
}

static void fill_register(struct insn *out, unsigned operand, unsigned reg, bool rex)
{
    uint8_t id = !(operand & OPERAND_BYTE) ? (uint8_t)reg : reg >= 4 && !rex ? (uint8_t)((reg - 4) * 8 + 1) : (uint8_t)(reg * 8);

    if (operand & OPERAND_DST)
        out->dst = id;
    if (operand & OPERAND_SRC)
        out->src = id;
}

static void fill_registers(const struct known_fields *f, const uint8_t *bytes, struct insn *out)
{
    unsigned modrm = bytes[f->modrm_off], sib = bytes[f->modrm_off + 1], rm = modrm & 7;
    bool has_rex = f->rex_off != 0xff;
    unsigned rex = has_rex ? bytes[f->rex_off] : 0, b = (rex & 1) << 3;

    fill_register(out, f->reg, (modrm >> 3 & 7) | (rex & 4) << 1, has_rex);
    if (modrm >= 0xc0) {
        fill_register(out, f->rm, rm | b, has_rex);
        return;
    }
    if (rm == 4) {
        unsigned index = (sib >> 3 & 7) | (rex & 2) << 2;
        if (index != RSP) {
            out->index = (uint8_t)index;
            out->scale = sib >> 6;
        }
        rm = sib & 7;
    }
    if (rm == 5 && modrm < 0x40) /* none, or RIP */
        return;
    out->base = (uint8_t)(rm | b);
    if (out->seg == SS || out->seg == DS)
        out->seg = out->base == RSP || out->base == RBP ? SS : DS;
}

/* -> false: its operand is farther away than `disp` reaches */
static bool fill(const struct known *k, const uint8_t *bytes, uint16_t off, struct insn *out)
{
    const struct known_fields *f = &k->fields;

    *out = k->insn;
    out->off = off;
    if (f->modrm_off)
        fill_registers(f, bytes, out);
    if (f->disp_bytes) {
        int64_t disp = number(bytes + f->disp_off, f->disp_bytes);
        if (out->base == REG_PAGE)
            disp += off + out->len;
        out->disp = (int32_t)disp;
        if (out->disp != disp)
            return false;
    }
    switch (f->imm) {
    case IMM_SIGNED: out->imm = (uint64_t)number(bytes + f->imm_off, f->imm_bytes); break;
    case IMM_UNSIGNED: out->imm = (uint64_t)number(bytes + f->imm_off, f->imm_bytes) & bytes_mask(f->imm_bytes); break;
    case IMM_BRANCH: out->disp = (int32_t)number(bytes + f->imm_off, f->imm_bytes); break;
    default: break;
    }
    return true;
}

/* ---- the table -------------------------------------------------------------------------------- */

bool known_find(const struct known_set *sets, unsigned code_bits, const uint8_t *bytes, unsigned n, uint16_t off, struct insn *out,
                bool *ends)
{
    struct form form = form_of(bytes, code_bits);
    const struct known_set *s = &sets[form.set];

    for (unsigned way = 0; way < KNOWN_WAYS; way++) {
        const struct known *k = &s->known[way];
        if (((form.key ^ s->key[way]) & s->mask[way]) || !s->mask[way] || k->code_bits != code_bits)
            continue;
        *ends = k->ends;
        return k->insn.len <= n && fill(k, bytes, off, out);
    }
    return false;
}

static bool is_filled(const struct known_fields *f, unsigned byte)
{
    return byte - f->disp_off < f->disp_bytes || (f->imm != IMM_COMPARED && byte - f->imm_off < f->imm_bytes);
}

/* Which bits of the key tell it from all others; 0: it cannot be kept. */
static uint64_t mask_of(const struct known *new, const struct form *form)
{
    const struct known_fields *f = &new->fields;
    uint64_t mask = 0;

    if (new->insn.base == REG_PAGE && !f->disp_bytes) /* its place counts */
        return 0;
    if (form->registers)
        return (form->is_group || f->reg) && (form->is_memory || f->rm) && (f->imm != IMM_COMPARED || !f->imm_bytes) ? ~0ull : 0;
    for (unsigned n = 0; n < new->insn.len; n++) {
        if (is_filled(f, n))
            continue;
        if (n >= KNOWN_BYTES)
            return 0;
        mask |= 0xffull << 8 * n;
    }
    return mask;
}

void known_add(struct known_set *sets, const uint8_t *bytes, const struct known *new)
{
    struct form form = form_of(bytes, new->code_bits);
    struct known_set *s = &sets[form.set];
    uint64_t mask = mask_of(new, &form);

    if (!mask)
        return;
    s->key[s->next] = form.key;
    s->mask[s->next] = mask;
    s->known[s->next] = *new;
    if (!form.registers)
        s->known[s->next].fields.modrm_off = 0;
    s->next = (s->next + 1) % KNOWN_WAYS;
}
