/* Bytes that are no instruction: #UD on both processors, or the fault of a fetch. */
#ifndef TESTS_ISA_INVALID_H
#define TESTS_ISA_INVALID_H

#include "cases.h"

/* A VEX encoded instruction in which W, L, vvvv, the prefix or the map is another, or which has a prefix that it may not. */
static unsigned nearly_vex(uint8_t *p)
{
    static const uint8_t forbidden[] = {0x66, 0xf2, 0xf3, 0xf0, 0x40, 0x48};
    const struct template *t;
    struct fields f;
    unsigned n = 0;

    do
        t = &templates[below(template_count)];
    while (!t->vex);
    random_fields(t, &f);
    if (chance(20)) /* 40, 48: INC, DEC where they are no REX */
        p[n++] = forbidden[below(mode == 64 ? 6 : 4)];
    unsigned vex = n, last;
    n += encode(t, &f, p + n);
    while (p[vex] != 0xc4 && p[vex] != 0xc5)
        vex++;
    last = vex + 1 + (p[vex] == 0xc4);
    p[last] ^= below(128) & (chance(50) ? 0x7f : 4 << below(5));
    if (p[vex] == 0xc4 && chance(30))
        p[last] ^= 0x80;
    if (p[vex] == 0xc4 && chance(20)) /* VEX.mmmmm */
        p[vex + 1] ^= 1 << below(5);
    if (mode != 64)
        p[vex + 1] |= 0xc0;
    return n;
}

/* XOP: POP with a ModRM.reg that is not 0, to a processor that has not got it. */
static unsigned xop(uint8_t *p)
{
    p[0] = 0x8f;
    p[1] = (uint8_t)(rnd() & 0xe0) | (8 + below(chance(70) ? 3 : 24));
    return 2;
}

/* Random bytes with an opcode of any map behind up to three prefixes. */
static void random_bytes(struct icase *c)
{
    static const uint8_t prefix[] = {0x66, 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26};
    unsigned n = 0, kind = below(16);

    for (unsigned k = below(4); k; k--)
        c->bytes[n++] = prefix[below(sizeof(prefix))];
    if (kind == 9) {
        c->bytes[n++] = below(2) ? 0xc4 : 0xc5;
    } else if (kind > 12) {
        n = nearly_vex(c->bytes);
    } else if (kind > 9) {
        n += xop(c->bytes + n);
    } else {
        if (mode == 64 && chance(40))
            c->bytes[n++] = 0x40 | below(16);
        if (kind > 2)
            c->bytes[n++] = 0x0f;
        if (kind > 6)
            c->bytes[n++] = kind == 7 ? 0x38 : 0x3a;
    }
    while (n < 15)
        c->bytes[n++] = rnd();
}

/* AVX-512's instructions on mask registers, which are VEX encoded (SDM vol. 2, KADD to KXOR): a host may have them. */
static bool is_opmask(const uint8_t *vex)
{
    unsigned map = vex[0] == 0xc5 ? 1 : vex[1] & 0x1f;
    uint8_t opcode = vex[vex[0] == 0xc5 ? 2 : 3];

    return map == 1 ? (opcode & 0xf0) == 0x40 || (opcode & 0xf4) == 0x90 : map == 3 && (opcode & 0xfc) == 0x30;
}

/* Not compared: what may be an instruction that the decoder does not know (EVEX and XOP where the host has them, opmasks, the
 * maps that VEX has got of late, 3DNow!), two REX prefixes (one byte too many may be #GP), VMCALL with prefixes (the
 * hypervisor's), and what AMD's processors do with a LOCK prefix in front of VERR and VERW (nothing), MOV CR (CR8, which the
 * model has not got), C7 /1 to /6 and VEX behind five prefixes (the immediate may make it 16 bytes long, which is #GP on the
 * host before it is #UD).
 */
static bool is_excepted(const uint8_t *bytes)
{
    unsigned k = 0, rex = 0;
    bool lock = false;

    while (bytes[k] == 0x66 || bytes[k] == 0x67 || bytes[k] >= 0xf0 || (bytes[k] & 0xe7) == 0x26 || bytes[k] == 0x64 ||
           bytes[k] == 0x65 || (mode == 64 && (bytes[k] & 0xf0) == 0x40)) {
        lock |= bytes[k] == 0xf0;
        rex += (bytes[k] & 0xf0) == 0x40;
        if (++k == 6 || rex == 2)
            return true;
    }
    if ((bytes[k] == 0xc7 || bytes[k] == 0xc4) && k == 5)
        return true;
    if ((bytes[k] == 0x62 && __builtin_cpu_supports("avx512f")) || (bytes[k] == 0x8f && __builtin_cpu_supports("xop")) ||
        (bytes[k] == 0xc4 && (bytes[k + 1] & 0x1c) == 4))
        return true;
    if ((bytes[k] == 0xc4 || bytes[k] == 0xc5) && is_opmask(bytes + k))
        return true;
    if (bytes[k] != 0x0f)
        return false;
    return bytes[k + 1] == 0x0f || (bytes[k + 1] == 0x01 && bytes[k + 2] == 0xc1) ||
           (lock && (bytes[k + 1] == 0 || (bytes[k + 1] & 0xfc) == 0x20));
}

/* Of those whose encodings no model has, only what the host has not got comes here: is_excepted(). */
static bool is_instruction(const uint8_t *bytes)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

    return decode(bytes, 15, &z, op) && z.encoding != ZYDIS_INSTRUCTION_ENCODING_XOP && z.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX;
}

static void make_invalid(struct icase *c)
{
    do /* all bytes there: where they end early, how many are wanted first is up to the processor */
        random_state(&c->before);
    while ((c->before.rip & (CODE_BYTES - 1)) > CODE_BYTES - 16);
    random_segments(c);
    c->tail = 0;
    c->branch = c->stack = c->wide = false;
    c->undefined = 0;
    c->target = 0;
    c->before.in_use = 7;
    for (int k = 0; k < 16; k++)
        c->before.gpr[k] = mode != 64 && k > 7 ? 0 : (segmented ? 0 : DATA_ADDR) + 64 * below(64);
    do
        random_bytes(c);
    while (is_excepted(c->bytes) || is_instruction(c->bytes));
    c->len = 15;
}

#endif
