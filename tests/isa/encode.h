/* Which encodings there are, asked of the decoder opcode by opcode, and how they fall into the rows of the instruction
 * table, operand forms and operand sizes.
 */
#ifndef TESTS_ISA_ENCODE_H
#define TESTS_ISA_ENCODE_H

#include <Zydis/Zydis.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isa/decode.h"
#include "reasons.h"
#include "state.h"

struct row { /* of the instruction table */
    char name[32], class[16];
    const char *reason; /* why it is not compared here, or NULL */
    unsigned templates;
};

struct cell { /* one operand form and size of a row */
    uint16_t row;
    char form[8];
    unsigned size_bytes, templates;
    uint64_t cases, faults, went, differences, lacking, odd_flags;
};

struct template { /* an encoding, its registers and addresses open */
    uint16_t mnemonic, cell;
    bool vex, mem, fixed_rm, no_modrm;
    uint8_t map, opcode, pfx; /* pfx: 0, 66, F2, F3, F0; 1: 66 F2 */
    bool moffs, branch, addr32;
    bool w, l, no_vvvv;
    int8_t digit; /* of ModRM.reg, or -1 */
    uint8_t rm;
    uint8_t imm_bytes;
};

enum { ROWS_MAX = 2048, CELLS_MAX = 8192 };
static struct row rows[ROWS_MAX];
static struct cell cells[CELLS_MAX];
static struct template *templates;
static unsigned row_count, cell_count, template_count;
static ZydisDecoder decoder;
static int mode = 64; /* of the code, in bits */
static bool segmented; /* segments with bases and limits, of an LDT */

/* ---- encodings ------------------------------------------------------------------------------------ */

struct fields {
    unsigned reg, rm, index, vvvv, scale;
    int form; /* memory: 0 [b], 1 [b+d8], 2 [b+d32], 3 [b+i*s+d8], 4 [rip+d32] */
    int32_t disp;
    bool rex; /* one that changes nothing, but for byte registers */
    bool vex2; /* C5 where it says all */
    bool unread; /* VEX.B and VEX.vvvv[3] outside of 64-bit mode, set */
    uint8_t seg; /* override, or 0 */
    bool addr32; /* 67 */
    uint8_t imm[8];
};

static bool short_addresses(const struct fields *f) { return mode == 64 ? false : (mode == 16) != f->addr32; }

/* 16-bit addressing: the same forms; 3, without an index register of its own, is [disp16]. SDM vol. 2, table 2-1 */
static unsigned put_modrm16(const struct template *t, const struct fields *f, uint8_t *p)
{
    static const uint8_t mods[] = {0x00, 0x40, 0x80, 0x00};
    unsigned reg = t->digit >= 0 ? (unsigned)t->digit : f->reg, rm = f->form == 3 ? 6 : f->rm & 7, n = 0;
    uint8_t mod = f->form == 0 && rm == 6 ? 0x40 : mods[f->form];

    p[n++] = mod | (reg & 7) << 3 | rm;
    if (mod == 0x40) {
        p[n++] = f->disp;
    } else if (mod == 0x80 || rm == 6) {
        memcpy(p + n, &f->disp, 2);
        n += 2;
    }
    return n;
}

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
    if (short_addresses(f))
        return put_modrm16(t, f, p);
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

/* SDM vol. 2, 2.3.5: outside of 64-bit mode the bits that would say LES and LDS are ones, and two more say nothing. */
static unsigned put_vex(const struct template *t, const struct fields *f, unsigned r, unsigned x, unsigned b, uint8_t *p)
{
    unsigned pp = t->pfx == 0x66 ? 1 : t->pfx == 0xf3 ? 2 : t->pfx == 0xf2 ? 3 : 0;
    unsigned vvvv = t->no_vvvv ? 15 : ~f->vvvv & 15;
    uint8_t last = vvvv << 3 | (t->l ? 4 : 0) | pp;

    if (f->vex2 && t->map == 1 && !t->w && !x && !b) {
        p[0] = 0xc5;
        p[1] = (r ? 0 : 0x80) | last;
        return 2;
    }
    if (f->unread && mode != 64) {
        b = 1;
        last ^= 0x40;
    }
    p[0] = 0xc4;
    p[1] = (r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | t->map;
    p[2] = (t->w ? 0x80 : 0) | last;
    return 3;
}

static unsigned encode(const struct template *t, const struct fields *f, uint8_t bytes[15])
{
    unsigned n = 0, r = t->digit >= 0 ? 0 : f->reg >> 3 & 1, x = t->mem && f->form == 3 ? f->index >> 3 & 1 : 0;
    unsigned b = t->mem && f->form == 4 ? 0 : f->rm >> 3 & 1;
    uint8_t buf[32];

    if (f->seg)
        buf[n++] = f->seg;
    if (f->addr32)
        buf[n++] = 0x67;
    if (t->vex) {
        n += put_vex(t, f, r, x, b, buf + n);
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
    unsigned imm_bytes = !t->moffs || !f->addr32 ? t->imm_bytes : mode == 16 ? 4 : t->imm_bytes / 2;
    memcpy(buf + n, f->imm, imm_bytes);
    n += imm_bytes;
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

static char operand_letter(const ZydisDecodedOperand *o)
{
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
        return 'm';
    if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        return o->imm.is_relative ? 'j' : 'i';
    if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return 'p'; /* far pointer */
    switch (ZydisRegisterGetClass(o->reg.value)) {
    case ZYDIS_REGCLASS_XMM: return 'x';
    case ZYDIS_REGCLASS_YMM: return 'y';
    case ZYDIS_REGCLASS_MMX: return 'q';
    case ZYDIS_REGCLASS_X87: return 'f';
    case ZYDIS_REGCLASS_SEGMENT: return 's';
    case ZYDIS_REGCLASS_CONTROL:
    case ZYDIS_REGCLASS_DEBUG: return 'c';
    default: return 'r';
    }
}

/* Row, operand form and operand size: false when the row takes no part. */
static bool find_cell(struct template *t, const uint8_t *bytes, const ZydisDecodedInstruction *z,
                      const ZydisDecodedOperand *op)
{
    const char *name = decode_name((unsigned)mode, bytes, 15, NULL);
    struct cell cell = {.row = 0};
    unsigned n = 0;

    while (name && cell.row < row_count && strcmp(rows[cell.row].name, name) != 0)
        cell.row++;
    if (!name || cell.row == row_count)
        return false;
    for (unsigned k = 0; k < z->operand_count_visible && n < sizeof(cell.form) - 1; k++)
        cell.form[n++] = operand_letter(&op[k]);
    cell.size_bytes = n && op[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE ? op[0].size / 8 : z->operand_width / 8;
    for (t->cell = 0; t->cell < cell_count; t->cell++) {
        const struct cell *have = &cells[t->cell];
        if (have->row == cell.row && have->size_bytes == cell.size_bytes && strcmp(have->form, cell.form) == 0)
            break;
    }
    if (t->cell == cell_count)
        cells[cell_count++] = cell;
    return rows[cell.row].reason == NULL;
}

/* Does the encoding exist? Sets mnemonic, immediate, use of vvvv and ModRM. */
static bool probe(struct template *t)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    struct fields f = {.addr32 = t->addr32, .reg = 1, .rm = t->fixed_rm ? t->rm : 2, .index = 4, .vvvv = 3};
    uint8_t bytes[32];
    ZyanStatus status;

    if (t->vex && t->map == 2 && t->mem && t->opcode >= 0x90 && t->opcode <= 0x93) {
        f.form = 3;
        f.addr32 |= mode == 16;
    }
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
    if (!ZYAN_SUCCESS(status) || z.encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW || !find_cell(t, bytes, &z, op))
        return false;
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
    rows[cells[t->cell].row].templates++;
    cells[t->cell].templates++;
}

/* All values of one opcode; ModRM.reg is open when each value of it decodes to the same instruction. */
static void enumerate_opcode(struct template t)
{
    struct template by_digit[8];
    bool valid[8], same = true;
    bool x87 = !t.vex && t.map == 0 && (t.opcode & 0xf8) == 0xd8;
    bool by_modrm = x87 || (!t.vex && t.map == 1 && (t.opcode == 0x01 || t.opcode == 0xae));

    if (by_modrm && !t.mem) {
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

/* Not opcodes: prefixes, escapes. With a memory operand 62, C4 and C5 are BOUND, LES and LDS in legacy code. */
static bool is_prefix(unsigned o, bool mem)
{
    if (mode != 64 && mem && (o == 0x62 || o == 0xc4 || o == 0xc5))
        return false;
    return o == 0x0f || o == 0x26 || o == 0x2e || o == 0x36 || o == 0x3e || o == 0x62 || (o >= 0x64 && o <= 0x67) || o == 0xf0 ||
           o == 0xf2 || o == 0xf3 || o == 0xc4 || o == 0xc5 || (mode == 64 && (o & 0xf0) == 0x40);
}

static void enumerate(void)
{
    static const uint8_t pfx[] = {0, 0x66, 0xf2, 0xf3, 1, 0xf0};

    for (unsigned k = 0; k < 2 * 4 * 6 * 2 * 2 * 2 * 256; k++) {
        struct template t = {.opcode = k & 255, .mem = k >> 8 & 1, .w = k >> 9 & 1, .l = k >> 10 & 1,
                             .vex = k >> 11 & 1, .map = k >> 12 & 3, .pfx = pfx[(k >> 14) % 6]};

        if (mode != 64 && t.w && !t.vex)
            continue;
        if (t.map == 0 && (t.opcode == 0xe0 || t.opcode == 0xe1) && (t.pfx == 0xf2 || t.pfx == 0xf3 || t.pfx == 1))
            continue; /* LOOPcc with REP: reserved, and AMD's processors let the prefix choose */
        if (t.vex ? t.map == 0 || t.pfx == 1 || t.pfx == 0xf0 : t.l || (t.map == 0 && is_prefix(t.opcode, t.mem)))
            continue;
        enumerate_opcode(t);
        t.addr32 = true;
        if (t.map == 0 && t.opcode == 0xe3) /* the counter's size is part of JCXZ's name */
            enumerate_opcode(t);
    }
}

/* The rows of one .isa file. */
static void read_rows(const char *directory, const char *file)
{
    char line[256], path[512];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s.isa", directory, file);
    f = fopen(path, "r");
    if (!f) {
        perror(path);
        exit(2);
    }
    while (fgets(line, sizeof(line), f)) {
        struct row *row = &rows[row_count];

        *row = (struct row){.templates = 0};
        if (line[0] == '#' || sscanf(line, "%31s %*s %*s %*s %15s", row->name, row->class) != 2)
            continue;
        row->name[strcspn(row->name, "@")] = row->name[strcspn(row->name, "@")] ? '_' : 0;
        row->reason = reason_not_compared(row->name, mode);
        row_count++;
    }
    fclose(f);
}

static void decoder_init(void)
{
    if (mode == 64)
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (mode == 32)
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16);
    if (__builtin_cpu_is("amd")) /* 66 in front of a near branch counts */
        ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
}

#endif
