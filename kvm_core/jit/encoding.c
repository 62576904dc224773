/* Takes an instruction's encoding apart, and puts what only 32-bit code has into the form that 64-bit code has for it. */
#include "jit/build.h"

static bool opcode_has_modrm(unsigned map, unsigned o)
{
    if (map == 0)
        return (o < 0x40 && (o & 7) < 4) || o == 0x63 || o == 0x69 || o == 0x6b || (o >= 0x80 && o <= 0x8f) ||
               (o & ~1u) == 0xc0 || (o & ~1u) == 0xc6 || (o >= 0xd0 && o <= 0xd3) || (o & 0xf8) == 0xd8 || (o & ~1u) == 0xf6 ||
               (o & ~1u) == 0xfe;
    return map > 1 || (o & 0xf8) != 0xc8;
}

static unsigned parse_prefixes(const uint8_t *b, bool may_have_rex, struct encoding *x)
{
    for (unsigned n = 0;; n++) {
        bool rex = may_have_rex && (b[n] & 0xf0) == 0x40;

        if (b[n] == 0x66)
            x->p66 = true;
        else if (b[n] == 0xf0)
            x->lock = true;
        else if (b[n] == 0xf2 || b[n] == 0xf3)
            x->mandatory = b[n];
        else if ((b[n] & 0xe7) != 0x26 && b[n] != 0x64 && b[n] != 0x65 && b[n] != 0x67 && !rex)
            return n;
        x->has_rex = rex; /* counts directly before the opcode only */
        x->rex = rex ? b[n] : 0;
    }
}

/* INC and DEC in one byte, where 64-bit code has REX; the alias of Group 1. SDM vol. 2, appendix A, table A-2 */
static void replace_legacy(struct encoding *x)
{
    unsigned o = x->opcode;

    if (x->map)
        return;
    if ((o & 0xf0) == 0x40) {
        x->opcode = 0xff;
        x->modrm = 0xc0 | (o & 15);
        x->has_modrm = true;
    } else if (o == 0x82) {
        x->opcode = 0x80;
    }
}

/* MOV between the accumulator and an absolute address, as the MOV that any register can have. */
static void replace_moffs(struct encoding *x)
{
    if (x->map || (x->opcode & 0xfc) != 0xa0)
        return;
    x->opcode = 0x88 | ((x->opcode & 3) ^ 2);
    x->modrm = 5;
    x->has_modrm = true;
    x->imm_bytes = 0;
}

void parse_encoding(const struct build *build, const struct insn *i, struct encoding *x)
{
    const uint8_t *b = bytes_of(build, i);
    bool wide = build->word == 8;
    unsigned n;

    *x = (struct encoding){0};
    n = parse_prefixes(b, wide, x);
    x->opcode = b[n++];
    if (x->opcode == 0x0f) {
        x->map = 1;
        x->opcode = b[n++];
        if (x->opcode == 0x38 || x->opcode == 0x3a) {
            x->map = x->opcode == 0x38 ? 2 : 3;
            x->opcode = b[n++];
        }
    }
    x->has_modrm = opcode_has_modrm(x->map, x->opcode);
    if (x->has_modrm) {
        unsigned mod, disp = 0;
        x->modrm = b[n++];
        mod = x->modrm >> 6;
        if (mod != 3 && (x->modrm & 7) == 4) {
            if (mod == 0 && (b[n] & 7) == 5)
                disp = 4;
            n++;
        }
        n += mod == 1 ? 1 : mod == 2 || (mod == 0 && (x->modrm & 7) == 5) ? 4 : disp;
    }
    x->imm_off = (uint8_t)n;
    x->imm_bytes = (uint8_t)(i->len - n);
    if (!wide)
        replace_legacy(x);
    replace_moffs(x);
}

static void roles_one_byte(const struct encoding *x, struct roles *r)
{
    unsigned o = x->opcode, digit = x->modrm >> 3 & 7;
    bool wide = o & 1;

    r->reg8 = r->rm8 = !wide;
    if (o < 0x40) {
        r->rm_write = !(o & 2) && o >> 3 != 7;
        r->reg_write = o & 2 && o >> 3 != 7;
        return;
    }
    switch (o) {
    case 0x63:
    case 0x69:
    case 0x6b:
        r->reg8 = r->rm8 = false;
        r->rm_write = false;
        break;
    case 0x84:
    case 0x85: r->reg_write = r->rm_write = false; break;
    case 0x88:
    case 0x89: r->reg_write = false; break;
    case 0x8a:
    case 0x8b: r->rm_write = false; break;
    case 0x80:
    case 0x81:
    case 0x83:
        r->reg_is_digit = true;
        r->rm_write = digit != 7;
        break;
    case 0xf6:
    case 0xf7:
        r->reg_is_digit = true;
        r->rm_write = digit == 2 || digit == 3;
        break;
    case 0x86:
    case 0x87: break;
    default: r->reg_is_digit = true; break; /* C0, C1, C6, C7, D0 to D3, FE, FF */
    }
}

static void roles_two_bytes(const struct encoding *x, struct roles *r)
{
    unsigned o = x->opcode;

    if ((o & 0xf0) == 0x40 || o == 0xaf || o == 0xbc || o == 0xbd) { /* CMOVcc, IMUL, BSF, BSR */
        r->rm_write = false;
    } else if ((o & 0xf0) == 0x90) { /* SETcc */
        r->reg_is_digit = r->rm8 = true;
    } else if ((o & 0xf6) == 0xb6) { /* MOVZX, MOVSX */
        r->rm8 = !(o & 1);
        r->rm_write = false;
    } else if (o == 0xa3) { /* BT */
        r->reg_write = r->rm_write = false;
    } else if ((o & 0xf6) == 0xa4 || o == 0xb0 || o == 0xb1) { /* SHLD, SHRD, CMPXCHG */
        r->reg_write = false;
        r->reg8 = r->rm8 = o == 0xb0;
    } else if (o == 0xc7) { /* CMPXCHG8B, CMPXCHG16B */
        r->reg_is_digit = true;
    } else if (o == 0xba) {
        r->reg_is_digit = true;
        r->rm_write = (x->modrm >> 3 & 7) != 4;
    } else if (o == 0xc0) {
        r->reg8 = r->rm8 = true;
    }
}

/* MOV, MOVZX, MOVSX, MOVSXD, IMUL by an immediate: their destination is only written. */
static bool only_writes(const struct encoding *x)
{
    unsigned o = x->opcode;

    if (x->map == 0)
        return (o >= 0x88 && o <= 0x8b) || (o & ~1u) == 0xc6 || o == 0x63 || o == 0x69 || o == 0x6b;
    return x->map == 1 && (o & 0xf6) == 0xb6;
}

void find_roles(const struct encoding *x, struct roles *r)
{
    *r = (struct roles){.reg_read = true, .reg_write = true, .rm_read = true, .rm_write = true};
    if (x->map == 0)
        roles_one_byte(x, r);
    else if (x->map == 1)
        roles_two_bytes(x, r);
    /* map 2: MOVBE */
    bool whole = x->rex & 8 || !x->p66; /* else a part of the register stays */
    if (!only_writes(x) || !whole)
        return;
    if (r->rm_write)
        r->rm_read = r->rm8;
    else
        r->reg_read = r->reg8;
}
