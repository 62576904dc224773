/* Finding and keeping decoded instructions by their bytes: see known.h. */
#include "isa/known.h"

#include <string.h>

#include "cpu/vcpu.h"

static uint64_t word_of(const uint8_t *bytes)
{
    uint64_t word;

    memcpy(&word, bytes, sizeof(word));
    return word;
}

/* By opcode and ModRM, as far as one can tell: one byte more behind a prefix. */
static unsigned set_of(uint64_t word)
{
    uint8_t first = (uint8_t)word;
    bool prefix = (first & 0xf0) == 0x40 || first == 0x0f || first == 0x66 || first == 0xf2 || first == 0xf3;

    return (uint32_t)(word & (prefix ? 0xffffff : 0xffff)) * 0x9e3779b1u >> 23 & (KNOWN_SETS - 1);
}

const struct known *known_find(const struct known_set *sets, unsigned code_bits, const uint8_t *bytes)
{
    uint64_t word = word_of(bytes);
    const struct known_set *s = &sets[set_of(word)];

    for (unsigned n = 0; n < KNOWN_WAYS; n++)
        if (((word ^ s->bytes[n]) & s->mask[n]) == 0 && s->mask[n] && s->known[n].code_bits == code_bits)
            return &s->known[n];
    return NULL;
}

void known_add(struct known_set *sets, unsigned code_bits, const uint8_t *bytes, const struct insn *i, bool ends)
{
    uint64_t word = word_of(bytes);
    struct known_set *s = &sets[set_of(word)];
    unsigned n = s->next;

    if (i->len > KNOWN_BYTES || i->base == REG_PAGE) /* whose displacement is from the page */
        return;
    s->bytes[n] = word;
    s->mask[n] = ~0ull >> (64 - 8 * i->len);
    s->known[n] = (struct known){*i, (uint8_t)code_bits, ends};
    s->next = (n + 1) % KNOWN_WAYS;
}
