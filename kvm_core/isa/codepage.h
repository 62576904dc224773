/* Where decoded instructions live, and what goes when there is no more room: inside isa/codecache.c's cache.
 *
 * Three stores, each bounded. Pages: the one that was not looked at for longest goes. Rows of instructions: a ring of regions, the
 * oldest of which is filled anew; the pages that had rows in it lose all their rows, but not what was translated from them: who
 * needs an instruction again decodes it again. Lines: for each offset in 64 bytes of a page its instruction, as a distance in the
 * ring from the page's first one: rows that lie farther apart are not kept together. They go with the rows.
 */
#ifndef KVMISH_ISA_CODEPAGE_H
#define KVMISH_ISA_CODEPAGE_H

#include "isa/codecache.h"
#include "mmu/phys.h"

enum { PAGE_BUCKETS = 4096, ROW_REGIONS = 32, CROSS_ENTRIES = 64 };

struct codeline {
    uint16_t at[64]; /* number of the instruction in the ring, less its page's `before`; 0: not decoded */
};

struct cross { /* an instruction that spans two pages, kept by its bytes */
    uint8_t bytes[15], len, code_bits;
    uint16_t off;
    struct insn insn[2];
};

struct codecache {
    struct decoder *decoder;
    struct codepage *current; /* whose instructions are being executed */
    struct codepage *page;    /* CODE_PAGES, reserved */
    unsigned page_count;      /* so many of them have been in use */
    unsigned hand;            /* of the clock that looks for a page to drop */
    struct codekey key;       /* of the pages' sums */
    struct codepage *bucket[PAGE_BUCKETS], *free_pages, *retired;
    struct insn *row;         /* the ring, reserved; [0] is none */
    uint32_t region_insns;    /* instructions of one of its regions */
    uint32_t regions;         /* so many of ROW_REGIONS are used */
    uint32_t ring;            /* instructions in all of these */
    uint32_t region, used;    /* being filled; instructions in it */
    struct codeline *line;    /* reserved; [0] has nothing decoded */
    uint32_t lines_left, lines_touched;
    uint16_t free_line;       /* first of a list linked by at[0]; 0: none */
    struct cross cross[CROSS_ENTRIES];
    struct insn scratch[2];
    struct { /* what an instruction of two pages in `scratch` was made from */
        const struct cross *cross;
        const struct codepage *first, *second;
    } spanning;
};

int codestore_create(struct codecache *c);
void codestore_destroy(struct codecache *c);
/* How much is kept depends on what it is for. Everything has been retired. */
void codestore_size(struct codecache *c, bool translated);
void codestore_grow(struct codecache *c); /* by a region, if it has less than it may have */

struct codepage *codepage_find(const struct codecache *c, uint64_t gpa, unsigned code_bits);
/* A page without instructions; drops another when there are too many. Between blocks. */
struct codepage *codepage_new(struct vcpu *v, uint64_t gpa, const struct page_ref *ref);
/* Makes a page unreachable. Its instructions, one of which may be running, become codecache_stale. */
void codepage_retire(struct vcpu *v, struct codepage *p);
/* Between blocks: no instruction of a retired page can be on its way. */
void codepage_reuse(struct codecache *c);
/* The bytes of these lines (a bitmap), as far as they were decoded, are still what they were. */
bool codepage_unchanged(const struct codecache *c, const struct codepage *p, uint64_t lines);
/* Copies these lines, each to its place in the page, and counts them among those that were decoded. -> false: of those that were
 * before, some near them are not what they were. */
bool codepage_take(const struct codecache *c, struct codepage *p, uint64_t lines, uint8_t bytes[4096]);
/* Appends a row; its last instruction is the pseudo instruction that ends it. While no row is executed. */
void codepage_add_row(struct codecache *c, struct codepage *p, const struct insn *row, unsigned count);

static inline struct insn *codepage_at(const struct codecache *c, const struct codepage *p, unsigned off)
{
    uint32_t n = c->line[p->line[off >> 6]].at[off & 63], at = p->before + n;

    return n ? &c->row[at < c->ring ? at : at - c->ring] : NULL;
}

#endif
