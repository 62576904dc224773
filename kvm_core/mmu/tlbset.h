/* The tables that generated code reads at a constant distance from the vCPU: TLB sets and jump caches.
 *
 * A TLB entry is two words of one line of the cache; generated code finds it by its offset in bytes. A tag is the linear address
 * of the page, so that (linear ^ tag) is the offset in it when it hits, and at least 4096 when it does not: one unsigned compare
 * with 4096 - size answers for the page, the rights and a crossing of the page's end. An absent entry's tag belongs to another
 * index, whatever the address.
 */
#ifndef KVMISH_MMU_TLBSET_H
#define KVMISH_MMU_TLBSET_H

#include <stdbool.h>
#include <stdint.h>

enum { TLB_ENTRIES = 8192, JUMP_ENTRIES = 32768, CODE_PAGES = 8192, STRIP_COUNTERS = 1024, STRIP_STREAMS = 8, KEPT_PLACES = 8 };

enum tlb_set_kind { /* what an access is allowed: one set each */
    TLB_SUPER,      /* CPL 0-2, SMAP off or EFLAGS.AC set */
    TLB_SUPER_SMAP, /* CPL 0-2 with SMAP in force; the processor's own accesses */
    TLB_USER,       /* CPL 3 */
    TLB_USER_AC,    /* CPL 3 with alignment checks on: never filled, so that every access takes the slow path */
    TLB_SET_COUNT
};

/* Which entries of a table a flush is about, so that it need not look at all of them. Some may be replaced since. */
enum { FILLS_MAX = 1024 };
struct fills {
    uint16_t count; /* more than FILLS_MAX: it must look */
    uint16_t at[FILLS_MAX];
};
static inline void fills_add(struct fills *f, unsigned n)
{
    if (f->count && f->count <= FILLS_MAX && f->at[f->count - 1] == n) /* who invalidates a page and touches it again */
        return;
    if (f->count < FILLS_MAX)
        f->at[f->count] = (uint16_t)n;
    if (f->count <= FILLS_MAX)
        f->count++;
}

/* Pages that need a look (clean, dirty-logged, holding code, watched, MMIO) have no tag for that kind of access. Reading and
 * writing have tables of their own, so that a copy between places that share an index does not miss at every step. */
struct tlb_table {
    struct tlb_entry {
        uint64_t tag;
        uint64_t host; /* the page in this process */
    } entry[TLB_ENTRIES] __attribute__((aligned(64)));
    uint64_t global[TLB_ENTRIES / 64]; /* bitmap: survives MOV CR3 */
};

struct tlb_set {
    struct tlb_table read, write;
    struct fills fills, nonglobal; /* since the last flush: all, and what does not survive MOV CR3 */
};

/* Where the translated code of a linear address is, for indirect branches: one for each tlb_set_kind that executes, and for
 * 64-bit and 32-bit code apart. A hint: the code itself looks, in vcpu.code_at, whether its page is still mapped there, so that
 * only what takes the code away takes it out of here. */
enum { JUMPS_LONG = 0, JUMPS_FLAT32 = TLB_SET_COUNT /* first, by tlb_set_kind */, JUMP_CACHES = 2 * TLB_SET_COUNT };
struct jump_cache {
    struct jump_entry {
        uint64_t rip, code; /* absent: rip belongs to another index */
    } entry[JUMP_ENTRIES] __attribute__((aligned(64)));
    bool used;
};

/* vcpu.code_at[CPL 3][number of a code page]: the linear address at which the fetch look-aside has it, CODE_NOWHERE: it has not. */
#define CODE_NOWHERE 1ull

enum { DIRECTORIES = 64 };
struct directory { /* a page directory: mmu/walk.c */
    uint64_t tag, table, rights;
};

enum { JUMP_SHIFT = 15 }; /* the index is bits 15:1, so that it is scaled as it is found */
static inline unsigned jump_index(uint64_t rip) { return (rip ^ rip >> JUMP_SHIFT) >> 1 & (JUMP_ENTRIES - 1); }
static inline uint64_t jump_none(unsigned index) { return index ? 0 : 2; }
static inline unsigned tlb_index(uint64_t linear) { return linear >> 12 & (TLB_ENTRIES - 1); }
/* A tag that no address with this index matches. */
static inline uint64_t tlb_none(unsigned index) { return (uint64_t)(index ^ 1) << 12; }

#endif
