/* Instructions that have been decoded before: code repeats itself, and a decoder's time is most of what cold code costs.
 * What is looked for is an instruction's form: its bytes but for displacement and immediate and, where ModRM does nothing
 * else than to name operands, for registers. These are filled in. */
#ifndef KVMISH_ISA_KNOWN_H
#define KVMISH_ISA_KNOWN_H

#include <stdbool.h>

#include "isa/insn.h"

enum { KNOWN_BYTES = 8 /* as many are looked at */, KNOWN_SETS = 256, KNOWN_WAYS = 8 };

enum known_imm { IMM_COMPARED /* or there is none */, IMM_SIGNED, IMM_UNSIGNED, IMM_BRANCH /* distance: insn.disp */ };
enum known_operand { OPERAND_NONE, OPERAND_DST, OPERAND_SRC, OPERAND_BYTE = 4 /* | */ };
struct known_fields { /* where is what is filled in */
    uint8_t disp_off, disp_bytes; /* 0: none */
    uint8_t imm_off, imm_bytes, imm; /* enum known_imm */
    uint8_t modrm_off, rex_off; /* rex_off: or 0xff */
    uint8_t reg, rm; /* enum known_operand: what ModRM names as a register; rm: when that is no memory operand */
};

struct known {
    struct insn insn;
    struct known_fields fields;
    uint8_t code_bits;
    bool ends; /* control never reaches what follows */
};

struct known_set {
    uint64_t key[KNOWN_WAYS], mask[KNOWN_WAYS]; /* mask: which bits are compared; 0: absent */
    struct known known[KNOWN_WAYS];
    unsigned next; /* to be replaced */
};

/* At least KNOWN_BYTES of the n bytes. `off`: of the first one in its page. */
bool known_find(const struct known_set *sets, unsigned code_bits, const uint8_t *bytes, unsigned n, uint16_t off, struct insn *out,
                bool *ends);
void known_add(struct known_set *sets, const uint8_t *bytes, const struct known *new);

#endif
