/* What the parts of the translator share: where guest state is while translated code runs, blocks, the code cache.
 *
 * Host registers. Guest registers keep their numbers but for these:
 *     rsp   the host's stack        r8  guest RSP        r9  the vCPU + 128, so that its hot fields have 8-bit displacements
 *     r10, r11  scratch             r15 instructions left in this slice (32 bits, signed)
 * Guest R8 to R11 and R15 are in vcpu.gpr. The guest's arithmetic flags are in EFLAGS, or packed in vcpu.oszapc, or of
 * no further use: the builder knows at each point. Between blocks they are in vcpu.oszapc, unless the next block does
 * not look at them.
 *
 * vcpu.gpr[REG_PAGE] is always right, so that code does not depend on the linear address it is mapped at.
 */
#ifndef KVMISH_JIT_JIT_H
#define KVMISH_JIT_JIT_H

#include <stdio.h>

#include "cpu/cpu.h"
#include "isa/codecache.h"
#include "mmu/tlb.h"

enum lowering { /* the names of isa/README.md */
    LOWER_INTERPRET, LOWER_LOAD, LOWER_STORE, LOWER_RMW, LOWER_PLAIN, LOWER_LEA, LOWER_NOP, LOWER_JCC, LOWER_JMP,
    LOWER_CALL, LOWER_RET, LOWER_PUSH, LOWER_POP, LOWER_LEAVE, LOWER_END,
    LOWER_DIVIDE, LOWER_SYSTEM, LOWER_STRING
};
enum flag_effect { FLAGS_NONE, FLAGS_READ, FLAGS_WRITE, FLAGS_UNDEFINED, FLAGS_PART, FLAGS_SHIFT };

struct lowering_row {
    insn_fn *fn;
    uint8_t how, effect, form, size;
};
/* The row of a handler, or NULL: the interpreter is called. */
const struct lowering_row *lowering_of(const struct insn *i);

/* ---- blocks ---------------------------------------------------------------------------------- */

enum { BLOCK_OPS = 48, BLOCK_BYTES_MAX = 24 << 10 };
enum { /* the code cache: thunks and a block that is used once, then the regions: blocks.c */
    CODE_HEAD = 32 << 10, REGION_BYTES = 1 << 20, REGION_BLOCKS = 4096, REGIONS_MIN = 7, REGIONS_MAX = 38,
    CODE_BYTES = CODE_HEAD + REGIONS_MAX * REGION_BYTES, HEAT_ENTRIES = 1 << 16
};
enum { /* places that touch guest memory: sites.c */
    SITES_MAX = 5 * BLOCK_OPS + 128 + 1, /* of a block: at most two of an instruction, twice; a strip's, its copies'; a span's bytes */
    SITE_WORDS_MAX = 2 * SITES_MAX + 8, REGION_SITES = 1 << 16 /* words; the first are the block's that is used once */
};

struct block { /* straight guest code within a page, left by branches; entered at its start only */
    struct codepage *page;
    uint32_t entry;             /* offset in the code cache: for who stays in the page or returns to it; before it: JIT_PROLOGUE, JIT_FAR */
    uint32_t next_in_page;      /* 0: none */
    uint32_t links_to, links_from; /* first of each: links.c */
    uint16_t off;               /* of its first instruction in the page */
    uint8_t kind;               /* enum tlb_set_kind: privilege and SMAP are part of what it was made for */
    uint8_t count;              /* instructions */
    uint16_t sites;             /* where they begin in the region's: sites.c */
    uint8_t missed;             /* how often a probe that several operands share did not hit */
    bool diverted;              /* because of that: leads to C, to be translated anew */
};
enum { CALLS_MAX = 128, CALL_BYTES = 16 }; /* calls that are remembered on the host's stack: calls.c */
enum { SLICE_MAX = 16384 }; /* instructions between two looks at `kick` */
enum { /* bytes before a block */
    JIT_PROLOGUE = 20,           /* sets REG_PAGE from r10, the linear address of the block, if it is still that */
    JIT_FAR = 13,                /* the same from the address of its page */
    JIT_HEAD = JIT_PROLOGUE + 5  /* where it goes if not */
};

enum refill_kind { /* a probe's page is not to be had: on behind the jump, or C is called, with the words that stand there */
    REFILL_SKIP, REFILL_INTERPRET, REFILL_GROUP, REFILL_KINDS
};

struct link;
struct profile;
struct region { /* of the code cache, and of the blocks with code in it */
    uint32_t used, blocks; /* bytes; blocks */
    uint32_t live;         /* blocks that have not been dropped */
    uint32_t begun;        /* a number that grows; 0: never */
    uint32_t again;        /* blocks that had been dropped for lack of room */
    uint32_t sites;        /* words */
};

struct jit {
    struct translator base; /* first */
    uint8_t *rw, *rx;       /* the same memory, written and executed */
    uint32_t scratch;       /* a block that is used once */
    bool bmi2, x87;         /* x87: jit_x87_host() */
    bool at_once, exact;    /* translate_at_once() */
    uint8_t x87_pointers[18]; /* FOP, FIP, FDP when the registers were loaded */
    struct block *blocks;   /* REGION_BLOCKS of each region, in the order of their code; [0]: used once */
    struct region region[REGIONS_MAX];
    uint32_t *sites;        /* REGION_SITES of each region */
    unsigned regions, filling;
    uint32_t *index;        /* blocks.c */
    uint64_t *ghosts;
    uint32_t index_mask;
    struct link *links;     /* links.c; [0] unused */
    uint32_t links_used, free_link;
    uint32_t patch;         /* of the last exit, for as long as nothing came in between: the jump that may be linked */
    uint8_t heat[HEAT_ENTRIES];
    void (*enter)(struct vcpu *v, const void *code);
    /* thunks: offsets in the code cache */
    uint32_t renew, exit_rip, exit_stale, exit_return, exit_page, exit_link, exit_edge, interpret, vectors, group;
    uint32_t refill[REFILL_KINDS][2];
    struct profile *profile; /* NULL: nobody asked */
    FILE *perf_map;
    uint64_t stat_blocks, stat_reclaimed, stat_exits, stat_rows;
};
static inline struct jit *jit_of(const struct vcpu *v) { return (struct jit *)v->translator; }

/* cache.c */
int jit_cache_possible(void); /* 0, or -errno: no memory can be made executable */
int jit_cache_create(struct vcpu *v, struct jit *j);
void jit_cache_destroy(struct jit *j);

/* blocks.c */
int jit_blocks_create(struct jit *j);
void jit_blocks_destroy(struct jit *j);
struct block *jit_block_find(struct jit *j, unsigned page, unsigned off, unsigned kind); /* page: its number */
/* Where a block of BLOCK_BYTES_MAX can be written; may drop others, and decoded instructions. Between blocks only. */
uint32_t jit_code_room(struct vcpu *v);
/* A block whose code, from `entry`, is in that room. */
struct block *jit_block_add(struct jit *j, struct codepage *p, unsigned off, unsigned kind, uint32_t entry);
/* The block whose code, or what stands before it, that is. */
struct block *jit_block_at(const struct jit *j, uint32_t at);
void jit_code_used(struct jit *j, uint32_t end); /* the room begins there now */
void jit_block_drop(struct jit *j, struct block *b); /* between blocks */
/* A probe of the block that several operands share did not hit. When that goes on, the block is translated anew. */
void jit_block_missed(struct jit *j, unsigned page, unsigned off, unsigned kind);
/* There was a block, and it had to go for lack of room (or so it seems: it is a hash). */
bool jit_was_dropped(struct jit *j, const struct codepage *p, unsigned off);
void jit_page_retired(struct vcpu *v, struct codepage *p);

/* links.c */
int jit_links_create(struct jit *j);
void jit_links_destroy(struct jit *j);
/* Lets the jump at `patch` go to `b`, if that is in the same page; | PATCH_FAR: wherever it is, to its prologue, with the linear
 * address of its page in r10. */
enum { PATCH_FAR = 1 << 29 };
void jit_link(struct jit *j, uint32_t patch, struct block *b);
void jit_links_cut(struct jit *j, struct block *b);     /* no other block leads straight to it any more */
void jit_links_cut_far(struct jit *j, struct block *b); /* no other page does */
void jit_links_forget(struct jit *j, struct block *b); /* nor it to any other: it is not executed any more */

/* block.c: translates the code at `off` of the page, whose first instruction is decoded; NULL: that one is not for
 * translated code. `once`: a single instruction, in memory that the next such call uses again. */
struct block *jit_build(struct vcpu *v, struct codepage *p, unsigned off, unsigned kind);
const uint8_t *jit_build_once(struct vcpu *v, struct codepage *p, unsigned off, unsigned kind);
unsigned jit_prologue_off(uint64_t prologue); /* the block's, from its code */

/* sites.c: struct translator's */
bool jit_fault(struct vcpu *v, long long *regs);

/* profile.c */
void jit_profile_create(struct jit *j);
void jit_profile_destroy(struct jit *j);
int32_t jit_profile_slice(const struct profile *p, int32_t slice); /* as much of it as until the next sample */
void jit_profile_count(struct vcpu *v, int32_t instructions);      /* so many were executed; rip is what comes next */
void jit_perf_map(const struct jit *j, const struct block *b, uint32_t end, uint64_t rip);

/* translate.c: called by translated code. Executes instruction `ref` (codecache_ref()), `executed` instructions of its block not
 * being counted yet; in one word, since there are so many places that say it. */
enum {
    RESULT_NEXT, RESULT_LEAVE /* v->rip is set */, RESULT_VECTORS /* on, with the vector registers loaded */,
    RESULT_GO /* v->rip is set, and v->run.target[1] is its code */
};
enum { REF_BITS = 25, EXECUTED_ALL = -1 /* it is counted too */ };
static inline uint32_t jit_place(uint32_t ref, int executed) { return ref | (uint32_t)executed << REF_BITS; }
int jit_interpret(struct vcpu *v, uint32_t place);
/* In two words, when the vector registers are not as the instruction wants them (VECTOR_* << 16 in `executed`): RESULT_VECTORS:
 * try again. */
int jit_vectors(struct vcpu *v, uint32_t ref, uint32_t executed);
/* Executes, from `ref` on, the instructions of a block whose operands share a probe that did not hit. group: its first and
 * last instruction's number in the block, 6 bits each; VECTOR_* that must hold behind it, 5; the block: 12 its offset in the
 * page, 3 its kind. */
int jit_group(struct vcpu *v, uint32_t ref, uint32_t group);

/* vector.c */
enum {
    VECTOR_LOADED = 1, VECTOR_SSE_USED = 2, VECTOR_AVX_USED = 4, VECTOR_AVX = 8 /* the guest may use AVX */,
    VECTOR_X87 = 16 /* x87 and MMX are loaded too */
};
uint8_t jit_vectors_left(struct vcpu *v); /* translated code has put them into `ymm`; what of VECTOR_* held until then */
/* Before it loads them, as far as `want` says; false: something must stay where it is, and all does. */
bool jit_vectors_enter(struct vcpu *v, uint8_t want);

/* x87.c: the same for x87 and MMX; and whether the host can */
bool jit_x87_host(void);
bool jit_x87_enter(struct vcpu *v);
void jit_x87_left(struct vcpu *v);

#endif
