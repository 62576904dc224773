/* Instructions that have been decoded before, by their bytes: code repeats itself, and a decoder's time is most of what
 * cold code costs. What is kept does not depend on where it stands. */
#ifndef KVMISH_ISA_KNOWN_H
#define KVMISH_ISA_KNOWN_H

#include <stdbool.h>

#include "isa/insn.h"

enum { KNOWN_BYTES = 8, KNOWN_SETS = 512, KNOWN_WAYS = 8 };

struct known_set {
    uint64_t bytes[KNOWN_WAYS], mask[KNOWN_WAYS]; /* mask: as many as the instruction has; 0: absent */
    struct known {
        struct insn insn;
        uint8_t code_bits;
        bool ends; /* control never reaches what follows */
    } known[KNOWN_WAYS];
    unsigned next; /* to be replaced */
};

/* At least KNOWN_BYTES bytes may be read. NULL: not known. */
const struct known *known_find(const struct known_set *sets, unsigned code_bits, const uint8_t *bytes);
void known_add(struct known_set *sets, unsigned code_bits, const uint8_t *bytes, const struct insn *i, bool ends);

#endif
