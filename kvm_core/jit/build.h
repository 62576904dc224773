/* Between block.c, lower.c and flow.c: a block while it is being built. */
#ifndef KVMISH_JIT_BUILD_H
#define KVMISH_JIT_BUILD_H

#include "jit/emit.h"

enum { FLAGS_IN_HOST = 1, FLAGS_IN_MEMORY = 2 }; /* where the guest's arithmetic flags are valid; 0: nobody needs them */

struct op { /* an instruction of the block */
    const struct insn *i;
    const struct lowering_row *row; /* NULL: interpreted */
    uint8_t effect;                 /* enum flag_effect, FLAGS_SHIFT resolved */
    bool live;                      /* the flags before it are needed, by it or later */
};

enum cold_kind { COLD_INTERPRET, COLD_VECTORS, COLD_POLL, COLD_LINK, COLD_EDGE };
struct cold { /* code behind the block for what is rare */
    uint8_t kind;
    bool restore, save;  /* INTERPRET: the flags must be in the host behind it; EDGE: they are only there */
    uint8_t *from;       /* the jump that leads here */
    const uint8_t *join; /* INTERPRET: where it goes on; NULL: nowhere */
    uint32_t ref, executed;
    uint64_t linear;     /* distance of the target from the start of the page, signed */
};

struct build {
    struct emit e;
    struct vcpu *v;
    struct jit *j;
    struct codepage *page;
    struct block *block; /* NULL: used once */
    unsigned kind;       /* enum tlb_set_kind */
    bool precise;        /* flags are exact wherever the block can be left */
    uint8_t flags;       /* FLAGS_IN_* now */
    uint8_t vectors;     /* VECTOR_* that are known to hold */
    unsigned count;
    struct op op[BLOCK_OPS];
    unsigned colds;
    struct cold cold[4 * BLOCK_OPS + 8];
};

struct encoding { /* of an instruction without VEX */
    uint8_t rex, map, opcode, modrm, imm_off, imm_bytes;
    bool has_rex, p66, lock, has_modrm;
    uint8_t mandatory; /* F2, F3, 0 */
};
void parse_encoding(const uint8_t *bytes, unsigned len, struct encoding *x);

static inline const uint8_t *bytes_of(const struct build *b, const struct insn *i) { return b->page->bytes + i->off; }
static inline uint32_t ref_of(const struct build *b, const struct insn *i) { return (uint32_t)(i - codecache_pool(b->v)); }

/* block.c */
struct cold *cold_add(struct build *b, enum cold_kind kind, uint8_t *from, unsigned n);
void flags_want(struct build *b);                       /* into the host; r11 is lost */
void flags_keep(struct build *b, const struct op *op);  /* what follows clobbers them; r10 is lost */
void put_interpreted(struct build *b, unsigned n);      /* the whole instruction */

/* lower.c. -> false: to be interpreted, nothing was written */
bool lower(struct build *b, unsigned n);
int host_of(unsigned guest); /* host register of a guest register, -1: in memory */
bool put_address(struct build *b, const struct insn *i, unsigned to); /* the memory operand's linear address */
bool can_address(const struct insn *i);
/* r10: linear -> host address, for `size` bytes; what does not hit interprets instruction n. Clobbers flags and r11. */
struct cold *put_probe(struct build *b, unsigned n, bool write, unsigned size);

/* vector.c */
bool lower_vector(struct build *b, unsigned n);
uint8_t vector_effect(const struct build *b, const struct insn *i);

/* flow.c */
bool lower_flow(struct build *b, unsigned n);
/* Leaves the block, `executed` instructions of it behind; to `distance` from the start of the page. */
void put_edge(struct build *b, int64_t distance, unsigned executed, bool linkable);
void put_cold_edge(struct build *b, const struct cold *c);
uint8_t effect_of(const struct build *b, const struct insn *i, const struct lowering_row *row); /* enum flag_effect */
bool flags_needed_at(const struct build *b, int64_t distance);

#endif
