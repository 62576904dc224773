/* Decoded instructions, kept by the physical page that holds their bytes. Private to one vCPU.
 *
 * A page is found by (gpa, code size). Its instructions are decoded in stretches, each a row of consecutive `struct insn`
 * that ends with a transfer of control; entering a stretch in its middle is fine. A row never moves while
 * the vCPU is inside: a dropped page's instructions become `op_stale`, which look up again, and its
 * rows are used anew only when no instruction of them can be on its way (codecache_lookup()).
 *
 * Writes by vCPUs are noticed (page_flags take away direct write access). Writes by the client, by a device's DMA, are not:
 * a page's bytes are therefore compared each time the fetch look-aside is refilled.
 */
#ifndef KVMISH_ISA_CODECACHE_H
#define KVMISH_ISA_CODECACHE_H

#include "cpu/vcpu.h"
#include "isa/insn.h"

enum {
    CHUNK_INSNS = 128, /* instructions of a chunk: the unit in which rows are allocated */
    PAGE_CHUNKS = 96   /* of one page at most; then it is dropped and starts anew */
};

struct codepage {
    uint64_t gpa;
    uint8_t code_bits;
    bool stale;               /* dropped: unreachable, waits to be used anew */
    uint8_t *host;
    struct memslot *slot;
    uint64_t index;           /* page within the slot */
    uint64_t lines;           /* 64-byte lines that hold decoded bytes */
    uint32_t blocks;          /* the translator's: first of its blocks in this page */
    unsigned chunks, used;    /* used: instructions in the last chunk */
    struct codepage *next;    /* in its bucket, or in the free list */
    struct insn *chunk[PAGE_CHUNKS];
    uint16_t at[4096];        /* 1 + number of the instruction at an offset; 0: not decoded */
    uint8_t bytes[4096];      /* what was decoded */
};

int codecache_create(struct vcpu *v);
void codecache_destroy(struct vcpu *v);
/* Drops everything (new memory map, new CPUID). */
void codecache_flush(struct vcpu *v);
/* [gpa, gpa + size) was written, within one page: drop the page's instructions when they are concerned. */
void codecache_written(struct vcpu *v, uint64_t gpa, unsigned size);
/* The instruction at v->rip, decoded; sets REG_PAGE. Raises #PF, #GP; leaves with EXIT_INTERNAL
 * where there is no memory. Only between blocks. */
const struct insn *codecache_lookup(struct vcpu *v);
/* Links the direct branch `i`, being executed, to its target when that is decoded in the same page. */
void codecache_link(struct vcpu *v, const struct insn *i);
/* A private copy of the instruction at v->rip, followed by one that ends the row: for the careful path. */
const struct insn *codecache_single(struct vcpu *v);
bool codecache_is_row_end(const struct insn *i);
/* The raw bytes at rip as far as they can be fetched (for reports); returns how many. */
unsigned codecache_bytes(struct vcpu *v, uint8_t bytes[15]);

/* ---- for the translator, which builds its blocks from the rows ---------------------------------------- */

/* The decoded instruction at an offset, or NULL. */
static inline const struct insn *codecache_at(const struct codepage *p, unsigned off)
{
    unsigned n = p->at[off] - 1u;

    return p->at[off] ? &p->chunk[n / CHUNK_INSNS][n % CHUNK_INSNS] : NULL;
}
/* `i`, or what follows it when it is only the end of a row; NULL: not decoded. */
const struct insn *codecache_follow(const struct codepage *p, const struct insn *i);
bool codecache_is_pseudo(const struct insn *i); /* stands for no instruction, or for one that needs its own look */
bool codecache_is_stale(const struct insn *i);
struct codepage *codecache_page(const struct vcpu *v); /* of the last lookup */
struct insn *codecache_pool(const struct vcpu *v);     /* all instructions of pages lie behind it */

#endif
