/* What is decoded by the form of an instruction seen before (isa/known.c) is what decoding it alone gives: for random bytes, and
 * for the same bytes with other registers, displacements and immediates.
 *
 *     known CASES SEED
 */
#include "emu.h"

#include "isa/decode.h"
#include "isa/known.h"

enum { LONGEST = 15, OTHERS = 8 };

static uint64_t seed;
static unsigned failures, decoded;

static unsigned random_below(unsigned n)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)((seed >> 33) % n);
}

static void random_bytes(uint8_t *bytes, unsigned n)
{
    while (n--)
        *bytes++ = (uint8_t)random_below(256);
}

/* Up to two prefixes, an opcode of one or two bytes; -> how many bytes that are */
static unsigned random_head(uint8_t *bytes)
{
    static const uint8_t prefix[] = {0x48, 0x4c, 0x41, 0x40, 0x66, 0xf2, 0xf3, 0xf0, 0x65, 0x3e, 0x67};
    unsigned n = 0;

    while (n < 2 && random_below(2))
        bytes[n++] = random_below(2) ? (uint8_t)(0x40 + random_below(16)) : prefix[random_below(sizeof(prefix))];
    if (random_below(3) == 0)
        bytes[n++] = 0x0f;
    bytes[n++] = (uint8_t)random_below(256);
    return n;
}

/* The same opcode with other operands: ModRM's mode mostly stays, as do mostly SIB's special cases. */
static void vary(const uint8_t *from, unsigned head, uint8_t *to)
{
    random_bytes(to, LONGEST);
    memcpy(to, from, head);
    for (unsigned n = 0; n < head; n++)
        if ((to[n] & 0xf0) == 0x40 && random_below(2))
            to[n] ^= (uint8_t)random_below(8);
    if (random_below(4))
        to[head] = (to[head] & 0x3f) | (from[head] & 0xc0);
    if (random_below(2))
        to[head] = (to[head] & ~0x38) | (from[head] & 0x38);
    if (random_below(4) == 0)
        to[head] = (to[head] & ~7) | 4 | random_below(2);
    if (random_below(4) == 0)
        to[head + 1] = (to[head + 1] & 0xc0) | (random_below(2) ? 0x20 | random_below(8) : 5 | random_below(8) << 3);
}

static void compare(struct decoder *kept, struct decoder *alone, const uint8_t *bytes)
{
    unsigned n = random_below(4) ? LONGEST : KNOWN_BYTES + random_below(LONGEST - KNOWN_BYTES);
    uint16_t off = (uint16_t)random_below(4096);
    struct insn a = {0}, b = {0};
    bool a_ends, b_ends;
    enum decode_result by_form, by_itself;

    do {
        by_form = decode_insn(kept, emu, bytes, n, off, &a, &a_ends);
        decoder_configure(alone, emu);
        by_itself = decode_insn(alone, emu, bytes, n, off, &b, &b_ends);
        if (by_form == DECODE_FULL || by_itself == DECODE_FULL) { /* stubs are of both */
            native_reset(emu);
            decoder_configure(kept, emu);
        }
    } while (by_form == DECODE_FULL || by_itself == DECODE_FULL);
    decoded += by_itself == DECODE_OK;
    if (by_form == by_itself && (by_form != DECODE_OK || (a_ends == b_ends && !memcmp(&a, &b, sizeof(a)))))
        return;
    char text[96];
    decode_format(emu->code_bits, bytes, n, text, sizeof(text));
    printf("%u bits, %u bytes at %x:", emu->code_bits, n, off);
    for (unsigned k = 0; k < LONGEST; k++)
        printf(" %02x", bytes[k]);
    printf(": %s: result %d, by itself %d\n", text, by_form, by_itself);
    failures++;
}

int main(int argc, char **argv)
{
    static const uint8_t modes[] = {64, 64, 64, 32, 16};
    unsigned cases = argc > 1 ? (unsigned)atoi(argv[1]) : 1000;
    struct decoder *kept, *alone;

    seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    emu_create();
    kept = decoder_create();
    alone = decoder_create();
    for (unsigned n = 0; n < cases && failures < 10; n++) {
        uint8_t bytes[LONGEST + 2], other[LONGEST + 2];
        emu->code_bits = modes[random_below(sizeof(modes))];
        random_bytes(bytes, sizeof(bytes));
        unsigned head = random_head(bytes);
        compare(kept, alone, bytes);
        for (unsigned k = 0; k < OTHERS; k++) {
            vary(bytes, head, other);
            compare(kept, alone, other);
        }
    }
    decoder_destroy(kept);
    decoder_destroy(alone);
    printf("%u decoded, %u failures\n", decoded, failures);
    return failures != 0;
}
