/* The work of gzip: LZ77 by hash chains, fixed Huffman codes (RFC 1951), CRC-32; 4 KiB of text a unit. */
#include "bench.h"

enum { TEXT = 65536, UNIT = 4096, HASHES = 4096, NONE = 0xffff, LONGEST = 258, CHAIN = 16 };

static char text[TEXT];
static uint8_t output[2 * UNIT];
static uint16_t head[HASHES], previous[UNIT];
static uint32_t crc_table[256];

struct bits {
    uint32_t pending;
    int count;
    size_t length;
};

static void put(struct bits *bits, uint32_t value, int count) {
    bits->pending |= value << bits->count;
    for (bits->count += count; bits->count >= 8; bits->count -= 8, bits->pending >>= 8)
        output[bits->length++] = (uint8_t)bits->pending;
}

/* Huffman codes start with their highest bit, everything else with its lowest. */
static void put_code(struct bits *bits, uint32_t code, int count) {
    uint32_t reversed = 0;
    for (int i = 0; i < count; i++)
        reversed |= (code >> i & 1) << (count - 1 - i);
    put(bits, reversed, count);
}

/* RFC 1951, 3.2.6 */
static void put_symbol(struct bits *bits, uint32_t symbol) {
    if (symbol < 144)
        put_code(bits, 0x30 + symbol, 8);
    else if (symbol < 256)
        put_code(bits, 0x190 + symbol - 144, 9);
    else if (symbol < 280)
        put_code(bits, symbol - 256, 7);
    else
        put_code(bits, 0xc0 + symbol - 280, 8);
}

/* RFC 1951, 3.2.5: from four (two) codes of each number of extra bits on. */
static void put_match(struct bits *bits, uint32_t length, uint32_t distance) {
    uint32_t value = length - 3;
    int extra = 0;
    while (value >> (extra + 3))
        extra++;
    if (length == LONGEST) {
        put_symbol(bits, 285);
    } else {
        put_symbol(bits, 257 + (uint32_t)extra * 4 + (value >> extra));
        put(bits, value & ((1u << extra) - 1), extra);
    }
    value = distance - 1;
    extra = 0;
    while (value >> (extra + 2))
        extra++;
    put_code(bits, (uint32_t)extra * 2 + (value >> extra), 5);
    put(bits, value & ((1u << extra) - 1), extra);
}

static uint32_t longest_match(const char *input, uint32_t at, uint32_t candidate, uint32_t *distance) {
    uint32_t best = 0, limit = UNIT - at < LONGEST ? UNIT - at : LONGEST;
    for (int i = 0; i < CHAIN && candidate != NONE; i++, candidate = previous[candidate]) {
        uint32_t length = 0;
        while (length < limit && input[candidate + length] == input[at + length])
            length++;
        if (length > best) {
            best = length;
            *distance = at - candidate;
        }
    }
    return best;
}

/* Writes a raw deflate stream of one block, returns its size in bytes. */
static size_t deflate(const char *input) {
    struct bits bits = {0, 0, 0};
    for (int i = 0; i < HASHES; i++)
        head[i] = NONE;
    put(&bits, 3, 3); /* last block, fixed codes */
    for (uint32_t at = 0; at < UNIT;) {
        uint32_t length = 0, distance = 0;
        for (uint32_t end = at + 1; at < end; at++) {
            if (at + 3 > UNIT) {
                if (!length)
                    put_symbol(&bits, (uint8_t)input[at]);
                continue;
            }
            uint32_t three = (uint8_t)input[at] | (uint32_t)(uint8_t)input[at + 1] << 8 |
                             (uint32_t)(uint8_t)input[at + 2] << 16;
            uint32_t slot = three * 2654435761u >> 20;
            if (!length) {
                length = longest_match(input, at, head[slot], &distance);
                if (length >= 3) {
                    put_match(&bits, length, distance);
                    end = at + length;
                } else {
                    put_symbol(&bits, (uint8_t)input[at]);
                }
            }
            previous[at] = head[slot];
            head[slot] = (uint16_t)at;
        }
    }
    put_symbol(&bits, 256);
    put(&bits, 0, 7);
    return bits.length;
}

static uint32_t crc32(const uint8_t *bytes, size_t size) {
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < size; i++)
        crc = crc_table[(crc ^ bytes[i]) & 0xff] ^ crc >> 8;
    return ~crc;
}

static void prepare(void) {
    write_text(text, sizeof text);
    for (uint32_t i = 0; i < 256; i++) {
        crc_table[i] = i;
        for (int bit = 0; bit < 8; bit++)
            crc_table[i] = crc_table[i] >> 1 ^ (crc_table[i] & 1 ? 0xedb88320 : 0);
    }
}

static uint64_t run(long count) {
    uint64_t sum = FNV_BASIS;
    for (long unit = 0; unit < count; unit++) {
        const char *input = text + unit * 1021 % (TEXT - UNIT);
        size_t size = deflate(input);
        sum = mix(mix(sum, crc32((const uint8_t *)input, UNIT)), crc32(output, size));
    }
    return sum;
}

const struct program gzip_program = {.name = "gzip", .prepare = prepare, .run = run};
