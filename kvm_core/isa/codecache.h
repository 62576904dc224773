/* Decoded instructions, kept by the physical page that holds their bytes. Private to one vCPU.
 *
 * A page is found by (gpa, code size). Its instructions are decoded in stretches, each a row of consecutive `struct insn`
 * that ends with a transfer of control; entering a stretch in its middle is fine. A row never moves while
 * the vCPU is inside: a dropped page's instructions become codecache_stale, which look up again, and
 * rows are used anew only when no instruction of them can be on its way (codecache_lookup()).
 *
 * Writes by vCPUs are noticed (page_flags take away direct write access). Writes by the client, by a device's DMA, are not:
 * a page's bytes are therefore looked at each time the fetch look-aside is refilled, as after each KVM_RUN, and when more of them are
 * decoded (isa/codesum.h).
 */
#ifndef KVMISH_ISA_CODECACHE_H
#define KVMISH_ISA_CODECACHE_H

#include "cpu/vcpu.h"
#include "isa/codesum.h"
#include "isa/insn.h"

struct codepage {
    uint64_t gpa;
    uint8_t *host;
    struct memslot *slot;
    uint64_t index;        /* page within the slot */
    uint64_t lines;        /* bitmap: those that hold decoded bytes */
    codesum sum[PAGE_SUMS]; /* of these */
    struct codepage *next; /* in its bucket, or in the free list */
    uint32_t blocks;       /* the translator's: first of its blocks in this page */
    uint32_t regions;      /* bitmap: where its rows are: codepage.h */
    uint32_t before;       /* number of the instruction before the first of them */
    uint16_t number;       /* among the vCPU's pages */
    uint16_t beside;       /* stores to the page that its decoded bytes were not concerned by */
    uint8_t code_bits;
    bool stale;            /* dropped: unreachable, waits to be used anew */
    bool recent;           /* looked up since the last search for a page to drop, and the last write of what was there */
    uint16_t line[64];     /* number of the codeline; 0: nothing decoded there */
};

int codecache_create(struct vcpu *v);
void codecache_destroy(struct vcpu *v);
/* Drops everything (new memory map, new CPUID). */
void codecache_flush(struct vcpu *v);
/* [gpa, gpa + size) was written, within one page: drop the page's instructions when they are concerned. */
void codecache_written(struct vcpu *v, uint64_t gpa, unsigned size);
/* The client may have written code: pages are compared when they are next entered. Only between instructions. */
void codecache_look_anew(struct vcpu *v);
/* The instruction at v->rip, decoded; sets REG_PAGE. Raises #PF, #GP; leaves with EXIT_INTERNAL
 * where there is no memory. Only between blocks. */
const struct insn *codecache_lookup(struct vcpu *v);
/* Links the direct branch `i`, being executed, to its target when that is decoded in the same page. */
void codecache_link(struct vcpu *v, const struct insn *i);
/* A private copy of the instruction at v->rip, followed by one that ends the row: for the careful path. */
const struct insn *codecache_single(struct vcpu *v);
/* The raw bytes at rip as far as they can be fetched (for reports); returns how many. */
unsigned codecache_bytes(struct vcpu *v, uint8_t bytes[15]);

/* ---- for the translator, which builds its blocks from the rows ---------------------------------------- */

/* From now on there is a translator: drops everything, and keeps less of it. Before any instruction. */
void codecache_translated(struct vcpu *v);
/* More code is in use than was thought. */
void codecache_grow(struct vcpu *v);
/* The page at v->rip; sets REG_PAGE. Raises and leaves as codecache_lookup() does. Only between blocks. */
struct codepage *codecache_enter(struct vcpu *v);
/* The decoded instruction at an offset, or NULL. */
const struct insn *codecache_at(const struct vcpu *v, const struct codepage *p, unsigned off);
/* The bytes that the page's instructions were decoded from, each at its offset in the page. -> false: they are others by now, and
 * the page is dropped. */
bool codecache_bytes_of(struct vcpu *v, struct codepage *p, uint8_t bytes[4096]);
/* A name for an instruction of a page, good for as long as the page is; the instruction, decoded again if need be. NULL:
 * the page, or everything, has been dropped. While no row is executed. */
static inline uint32_t codecache_ref(const struct codepage *p, const struct insn *i) { return (uint32_t)p->number << 12 | i->off; }
const struct insn *codecache_insn(struct vcpu *v, uint32_t ref);
/* The page of an address of this code's, when the fetch look-aside has it, or NULL. */
struct codepage *codecache_mapped(const struct vcpu *v, uint64_t rip);
/* Decodes a little at an offset of the page, if nothing of it is. While no row is executed; may drop any page. */
void codecache_ahead(struct vcpu *v, struct codepage *p, unsigned off);
/* `i`, or what follows it when it is only the end of a row; NULL: not decoded. */
const struct insn *codecache_follow(const struct vcpu *v, const struct codepage *p, const struct insn *i);
bool codecache_is_pseudo(const struct insn *i); /* stands for no instruction, or for one that needs its own look */
insn_fn codecache_span, codecache_stale; /* of one that stands for an instruction that ends in the next page; of a dropped page */
static inline bool codecache_is_spanning(const struct insn *i) { return i->fn == codecache_span; }
static inline bool codecache_is_stale(const struct insn *i) { return i->fn == codecache_stale; }
/* Is `i`, which is being executed, no longer what stands there? Also true when its page has been dropped for another reason. */
bool codecache_is_rewritten(const struct vcpu *v, const struct insn *i);
/* What `i` stands for, when it is that and at v->rip; in 64-bit code, between blocks. Its end is in the fetch look-aside then. */
bool codecache_spanning(struct vcpu *v, const struct insn *i, struct insn *insn, uint8_t bytes[15]);
struct codepage *codecache_page(const struct vcpu *v); /* of the last lookup */

#endif
