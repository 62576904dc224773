/* For tests of code whose result is in EAX: it is run some times, so that it is translated, linked and run from the links. */
#ifndef TESTS_JIT_EAX_H
#define TESTS_JIT_EAX_H

#include "../isa/emu.h"

enum { EAX_RUNS = 4 };

static inline unsigned run_at(uint64_t rip, struct state *after)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};

    c.before.rip = rip;
    c.before.gpr[RSP] = DATA_ADDR + 3800;
    emu_go(&c, after, 1000, false);
    return (unsigned)after->gpr[RAX];
}

/* Ends the program when it is not so. */
static inline void expect_eax(const char *what, uint64_t rip, unsigned eax)
{
    struct state after;

    for (unsigned n = 0; n < EAX_RUNS; n++) {
        unsigned got = run_at(rip, &after);
        if (got != eax || after.vector != -1) {
            printf("%s, run %u: EAX %x, vector %d; wanted %x\n", what, n, got, after.vector, eax);
            exit(1);
        }
    }
}

#endif
