/* Bytes that are no instruction: #UD on both processors, or the fault of a fetch. */
#ifndef TESTS_ISA_INVALID_H
#define TESTS_ISA_INVALID_H

#include "cases.h"

/* Random bytes with an opcode of any map behind up to three prefixes. */
static void random_bytes(struct icase *c)
{
    static const uint8_t prefix[] = {0x66, 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26};
    unsigned n = 0, kind = below(10);

    for (unsigned k = below(4); k; k--)
        c->bytes[n++] = prefix[below(sizeof(prefix))];
    if (kind == 9) {
        c->bytes[n++] = below(2) ? 0xc4 : 0xc5;
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

/* Not compared: what may be an instruction that the decoder does not know (EVEX, opmasks, XOP, 3DNow!), two REX prefixes (one
 * byte too many may be #GP), VMCALL with prefixes (the hypervisor's), and what AMD's processors do with a LOCK prefix in front of
 * VERR and VERW (nothing), MOV CR (CR8, which the model has not got), C7 /1 to /6 and VEX behind five prefixes (the immediate
 * may make it 16 bytes long, which is #GP on the host before it is #UD).
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
    if (bytes[k] == 0x62 || bytes[k] == 0x8f || (bytes[k] == 0xc4 && (bytes[k + 1] & 0x1f) > 3))
        return true;
    if ((bytes[k] == 0xc4 || bytes[k] == 0xc5) && is_opmask(bytes + k))
        return true;
    if (bytes[k] != 0x0f)
        return false;
    return bytes[k + 1] == 0x0f || (bytes[k + 1] == 0x01 && bytes[k + 2] == 0xc1) ||
           (lock && (bytes[k + 1] == 0 || (bytes[k + 1] & 0xfc) == 0x20));
}

static void make_invalid(struct icase *c)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

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
    while (is_excepted(c->bytes) || decode(c->bytes, 15, &z, op));
    c->len = 15;
}

#endif
