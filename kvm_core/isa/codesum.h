/* Are code bytes what they were when they were decoded? Their copies would be 2 MiB of a booted Linux; this is 64 bytes a page.
 *
 * A sum is NH, the hash of UMAC (RFC 4418, 5.2), of 64-bit words: a number that nobody knows is added to each word, and the
 * products of neighbours are added up. Whatever two texts one takes, they have the same sum under one of 2^64 keys. A guest sees nothing of
 * key or sum but whether they differed, so that it cannot look for such texts; and the code that it would execute in vain is its own.
 */
#ifndef KVMISH_ISA_CODESUM_H
#define KVMISH_ISA_CODESUM_H

#include <stdint.h>
#include <string.h>

enum { LINE_BYTES = 64, LINE_WORDS = LINE_BYTES / 8, PAGE_LINES = 4096 / LINE_BYTES, SUM_LINES = 16, PAGE_SUMS = PAGE_LINES / SUM_LINES };

__extension__ typedef unsigned __int128 codesum;
struct codekey { /* a word's is that of its place in the page, so that lines that change places are noticed */
    uint64_t word[PAGE_LINES][LINE_WORDS];
};

int codekey_create(struct codekey *k); /* 0 or -errno of getrandom(2) */

/* A line's part in the sum of those that it is among. */
static inline codesum codesum_line(const struct codekey *k, unsigned line, const uint8_t *page)
{
    const uint64_t *key = k->word[line];
    uint64_t word[LINE_WORDS];
    codesum sum = 0;

    memcpy(word, page + LINE_BYTES * line, sizeof(word));
    for (unsigned n = 0; n < LINE_WORDS; n += 2)
        sum += (codesum)(word[n] + key[n]) * (word[n + 1] + key[n + 1]);
    return sum;
}

#endif
