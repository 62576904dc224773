/* What the 32-bit and the long-mode images share: text to port 0xe9, its checksum, snippets. */
#ifndef KVMISH_TESTS_METAL_COMMON_H
#define KVMISH_TESTS_METAL_COMMON_H

#include <stdint.h>

void *memcpy(void *to, const void *from, unsigned long n);
void *memset(void *to, int c, unsigned long n);
uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t ar);
void put(const char *s);
void put_hex(unsigned long value, unsigned digits);
void put_char(char c);
void sum32(uint32_t value); /* into the checksum of the line */
void line_end(void);        /* prints and clears it */

void tests(void); /* the image's own */

/* SNIPPET(name, "assembly"): code that runs at any privilege. */
#define SNIPPET(name, code)                                                                        \
    extern const char name[] __attribute__((unused));                                              \
    __asm__(".text\n.balign 16\n" #name ":\n" code "\nint $0x40\n")

/* Of a list of X(name, code): the snippets s_NAME, and `snippets`, their table. */
#define SNIPPET_DEFINE(name, code) SNIPPET(s_##name, code);
#define SNIPPET_ENTRY(name, code) {#name, s_##name},
#define SNIPPET_TABLE(LIST)                                                                        \
    LIST(SNIPPET_DEFINE)                                                                           \
    static const struct {                                                                          \
        const char *name, *code;                                                                   \
    } snippets[] = {LIST(SNIPPET_ENTRY)}

#endif
