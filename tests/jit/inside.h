/* For tests that look into the translator: its header beside the emulator's, whose name for something else is the same. */
#ifndef TESTS_JIT_INSIDE_H
#define TESTS_JIT_INSIDE_H

#define CODE_BYTES CODE_CACHE_BYTES /* not that of state.h */
#include "jit/jit.h"
#undef CODE_BYTES
#include "../isa/emu.h"

static unsigned failures;

static inline void expect(const char *what, uint64_t got, uint64_t want)
{
    if (got == want)
        return;
    printf("%s: %llx instead of %llx\n", what, (unsigned long long)got, (unsigned long long)want);
    failures++;
}

#endif
