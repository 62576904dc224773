/* A block while it is being built: what the renderers (lower.c, flow.c, vector.c ...) know of it and share with block.c, which calls
 * them. "The guest's flags" are the arithmetic ones; "a probe" is a look into the TLB for an operand (translator.md, 4). */
#ifndef KVMISH_JIT_BUILD_H
#define KVMISH_JIT_BUILD_H

#include "jit/emit.h"

enum { FLAGS_IN_HOST = 1, FLAGS_IN_MEMORY = 2 }; /* where the guest's flags are valid: EFLAGS, vcpu.oszapc; 0: nobody needs them */

struct encoding { /* of an instruction without VEX, as 64-bit code has it */
    uint8_t rex, map, opcode, modrm, imm_off, imm_bytes;
    bool has_rex, p66, lock, has_modrm;
    uint8_t mandatory; /* F2, F3, 0 */
};

struct op { /* an instruction of the block */
    const struct insn *i;
    const struct lowering_row *row; /* NULL: interpreted */
    uint8_t effect;                 /* enum flag_effect, FLAGS_SHIFT resolved */
    bool live;                      /* the flags before it are needed, by it or later */
    struct encoding x;              /* if it has a row */
};

enum cold_kind { /* what has happened */
    COLD_INTERPRET, /* an instruction is the interpreter's: its probe did not hit, or something is not as its rendering wants it */
    COLD_GROUP,     /* the same, of a probe that several operands share */
    COLD_VECTORS,   /* the vector registers are not as an instruction wants them: jit_vectors() */
    COLD_POLL,      /* the slice is used up */
    COLD_LINK,      /* a jump is taken whose target has not been linked yet: C links it */
    COLD_EDGE,      /* a branch out of the block's straight way was taken */
    COLD_NEXT_PAGE, /* as LINK, where the block runs on into another page */
    COLD_FAR,       /* as LINK, of a branch to another page, which the interpreter does meanwhile */
    COLD_FAR_CALL,  /* the same of a call */
    COLD_STRIP,     /* a strip's iterations are over */
    COLD_CALLS,     /* no room to remember another call: all are forgotten */
    COLD_MISMATCH   /* a return goes elsewhere than the remembered call came from */
};
struct cold { /* code behind the block for what is rare. Whatever is not explained is as it was at the jump that leads here */
    uint8_t kind;
    uint8_t set;         /* enum tlb_set_kind: build.kind */
    int16_t owed;        /* strip.owed */
    bool restore, save;  /* INTERPRET: the flags must be in the host behind it; EDGE: they are only there */
    bool zero;           /* EDGE: build.zero */
    uint8_t *from;       /* the jump that leads here; NULL: it has been rendered already */
    uint8_t *also_from;  /* INTERPRET, NEXT_PAGE, FAR, FAR_CALL, MISMATCH: another, or NULL */
    const uint8_t *again; /* INTERPRET, GROUP: the part of the probe that is repeated once its entry is there; NULL: no probe */
    bool write;           /* of that: it looks for an entry for writing */
    const uint8_t *join; /* INTERPRET, GROUP, VECTORS, CALLS, POLL: where it goes on; NULL: nowhere */
    uint32_t ref, executed; /* the instruction, by codecache_ref(), and its number (VECTORS: | VECTOR_* << 16); POLL, EDGE: how many
                             * are counted on the way out */
    bool shared;         /* INTERPRET: of a probe that answers for later operands too, to become a GROUP with the first of these */
    uint8_t last, flags_before, flags_after, vectors, vectors_after; /* GROUP: from instruction `executed` to `last` */
    uint64_t linear;     /* POLL, LINK, EDGE, NEXT_PAGE: distance of the target from the start of the page, signed */
};

struct values { /* what is known of the guest's registers at a place, by comparison with another place */
    uint8_t any[16];     /* how often each has changed so far, */
    uint8_t version[16]; /* how often otherwise than by the addition of a constant, */
    int64_t added[16];   /* and the sum of these constants */
};

struct operand { /* in memory */
    struct insn at;   /* its address: what the interpreter takes from these fields of an instruction */
    bool write;
    bool only_loaded; /* and r11 is free until then, so that half of the address may be left there */
    uint8_t size; /* bytes */
};

struct place { /* of an operand, in the host's terms; NO_INDEX */
    uint8_t base, index, scale;
    int32_t disp;
};
static inline unsigned place_index(const struct place *p) { return p->index == NO_INDEX ? 0 : p->index; }

struct held { /* what a probe has found: the host address of [low, high) */
    bool write;
    bool shared;          /* by another operand at least */
    uint8_t first;        /* the instruction that asked for it */
    uint8_t aligned_mask; /* the host address + aligned_at has none of these bits: put_aligned() has looked */
    int32_t aligned_at;
    int64_t low, high;    /* distances from base and index as they were at the block's start */
    struct insn at;       /* base, index, scale */
};

struct span { /* an instruction that ends in the next page */
    struct insn insn;
    uint8_t bytes[15];
};

struct again { /* again.c */
    uint8_t *top;      /* behind the block's start, where the flags are in the host; NULL: it is no such loop */
    uint8_t *edge;     /* the branch back, `executed` instructions behind; NULL: not come to yet */
    unsigned poll;     /* the instruction before which the slice's end is looked for */
    unsigned executed, self;
};

enum { /* what of the guest's state is not where it is everywhere else in the block */
    SITE_FLAGS = 1,     /* the flags are in the host alone */
    SITE_FROM = 2,      /* RSI is a host address */
    SITE_TO = 4,        /* RDI is one */
    SITE_SWAPPED = 8,   /* the lower two bytes of a register are exchanged: of RAX, RCX, RDX or RBX, whose number is in bits 5:4 */
    SITE_REGISTER = 4   /* the first of these bits */
};
struct site { /* a place that touches guest memory: sites.c */
    uint16_t at, landing; /* from the block's entry: the access; where to go when it faults, 0: exit_rip */
    uint16_t off;         /* of the guest's instruction in the page */
    uint8_t n, how;       /* its number in the block; SITE_* */
    bool in_strip;
    int8_t owed;          /* strip.owed there */
};

struct strip;
enum { SELF_EDGES_MAX = 8, DUES_MAX = 2 * BLOCK_OPS };
struct due { /* a jump to be linked when the block is whole, if its target is translated; more of them are when they are taken */
    uint32_t patch;
    uint16_t off;   /* of the target */
    uint8_t kind;
};

struct build {
    struct emit e;
    uint32_t entry;      /* where the block begins, behind its prologue */
    struct vcpu *v;
    struct jit *j;
    struct codepage *page;
    struct block *block; /* NULL: used once */
    unsigned kind;       /* enum tlb_set_kind */
    uint8_t word;        /* bytes of an address and of a stack slot: 8, in 32-bit code 4 */
    bool precise;        /* flags are exact wherever the block can be left */
    uint8_t flags;       /* FLAGS_IN_* now */
    bool zero;           /* and their values are known, those of a result of zero: zero_tells_all() */
    uint8_t vectors;     /* VECTOR_* that are known to hold */
    uint8_t bytes[4096]; /* the page's, where it is decoded */
    const struct span *span; /* the block is that alone; NULL: it lies in its page */
    bool sharing;        /* operands may share a probe */
    bool copies;         /* for a shared one that misses, its operands are rendered once more, each with its own: put_group() */
    bool holds;          /* r10 has the host address of `held` */
    struct held held;
    unsigned keeps;      /* so many elements of vcpu.run.kept have those of `kept` */
    struct held kept[KEPT_PLACES];
    int shared_by;       /* the instruction whose probe has answered for the operand just rendered, or -1 */
    struct values before[BLOCK_OPS + 1]; /* each instruction */
    struct operand operand[BLOCK_OPS];   /* of each; size 0: none, or it is not known beforehand */
    uint64_t barriers;                   /* instructions behind which no register is known, a bit each */
    int8_t host[16];     /* the host's register that holds each of the guest's; -1: in memory */
    struct strip *strip; /* being rendered, or NULL */
    struct again again;
    unsigned selves;     /* jumps from the block to its own start: strip.c leads them to the gate */
    uint8_t *self[SELF_EDGES_MAX];
    uint8_t *inward;     /* the first jump back into its middle, by instruction inward_from: nest.c; NULL: none */
    unsigned inward_from;
    unsigned dues;
    struct due due[DUES_MAX];
    unsigned sites;
    struct site site[SITES_MAX];
    unsigned count;
    struct op op[BLOCK_OPS];
    unsigned colds;
    struct cold cold[9 * BLOCK_OPS];
};

static inline bool is_span(const struct build *b, const struct insn *i) { return b->span && i == &b->span->insn; }
static inline const uint8_t *bytes_of(const struct build *b, const struct insn *i)
{
    return is_span(b, i) ? b->span->bytes : b->bytes + i->off;
}
static inline uint32_t ref_of(const struct build *b, const struct insn *i) { return codecache_ref(b->page, i); }

static inline bool ends_block(const struct lowering_row *row)
{
    return row && (row->how == LOWER_JMP || row->how == LOWER_CALL || row->how == LOWER_RET || row->how == LOWER_END);
}

/* flags.c */
uint8_t effect_of(const struct build *b, const struct insn *i, const struct lowering_row *row); /* enum flag_effect */
/* FL_* that somebody looks at before they are written, as far as the page's code tells. */
uint16_t flags_wanted_at(const struct build *b, int64_t distance);
void flags_find(struct build *b, unsigned behind); /* `effect` and `live` of all instructions; `behind` follows the last */
/* Whether ZF, where instruction n finds it set, says what all others are. In a strip it may have come from elsewhere. */
bool zero_tells_all(const struct build *b, unsigned n);

/* encoding.c */
struct roles { /* what the two ModRM operands are */
    bool reg_is_digit, reg8, rm8;
    bool reg_read, reg_write, rm_read, rm_write;
};
void parse_encoding(const struct build *b, const struct insn *i, struct encoding *x);
void find_roles(const struct encoding *x, struct roles *r);

/* block.c */
struct cold *cold_add(struct build *b, enum cold_kind kind, uint8_t *from, unsigned n);
void cold_join(struct build *b, struct cold *c); /* comes back here, c may be NULL */
void put_colds(struct build *b);
void flags_want(struct build *b);                       /* into the host; r11 is lost */
void flags_keep(struct build *b, const struct op *op);  /* what follows clobbers them; r11 is lost */
void put_interpret(struct build *b, uint32_t ref, int executed); /* the call alone; EXECUTED_ALL */

/* span.c: what `i` stands for, NULL: not to be translated; and that the next page still has its end, or the interpreter. */
struct span *span_of(struct vcpu *v, const struct insn *i, struct span *s);
void put_span_check(struct build *b);

/* lower.c. -> false: to be interpreted, nothing was written */
bool lower(struct build *b, unsigned n);
void registers_at_home(struct build *b);
int host_of(const struct build *b, unsigned guest); /* host register of a guest register, -1: in memory */
bool operand_is_written(const struct op *op, const struct encoding *x);
uint8_t operand_size(const struct encoding *x, const struct insn *i); /* bytes of memory */

/* address.c */
bool can_address(const struct insn *i); /* else the instruction is interpreted */
bool has_segment(const struct insn *i); /* whose base is not 0 */
unsigned in_register(struct build *b, unsigned guest, unsigned temp); /* the host's; loaded into temp when in memory */
void put_offset(struct build *b, const struct insn *i, unsigned to, bool wide); /* the effective address; r11 is lost */
/* The host address of `size` bytes at the memory operand into r10. What does not hit interprets instruction n. Clobbers
 * flags and r11. */
struct cold *put_address(struct build *b, unsigned n, const struct insn *i, bool write, unsigned size);
/* The same for an operand without a segment that is only loaded, at r10 + r11: that is sooner than their sum. */
struct cold *put_address_apart(struct build *b, unsigned n, const struct insn *i, unsigned size);
struct cold *put_host(struct build *b, unsigned n, const struct insn *i, bool write, unsigned size); /* of the one in r10 */
/* r10: linear address -> offset in the page that the TLB's entry for it is for, 4096 and more when that is another; -> where
 * the entries are, of which that one is r11 bytes behind. Clobbers flags. */
int32_t put_tlb_offset(struct build *b, bool write);

/* operand.c */
void operands_find(struct build *b); /* of all instructions, before the first is rendered */
/* Where the operand of instruction n is, by way of r10, and of r11 if it is only loaded; flags are kept if need be. -> what happens
 * when it does not hit, to be told where to go on; NULL: an earlier probe answers for it. */
struct cold *put_operand(struct build *b, unsigned n, const struct operand *a, struct place *at);
void operands_forget(struct build *b);             /* no probe answers for what follows */
void operands_extend(struct build *b, unsigned n); /* instruction n has been rendered */
/* #GP, by the interpreter, if the operand's address has one of these bits. */
void put_aligned(struct build *b, unsigned n, int32_t disp, unsigned mask);
/* The same, where the block may be a strip. */
struct cold *put_place(struct build *b, unsigned n, const struct operand *a, struct place *at);
bool operand_ahead(const struct build *b, const struct op *op, struct operand *a); /* of an instruction still to come */
bool operand_of_stack(const struct build *b, struct operand *a, bool write, int32_t disp); /* a slot at RSP + disp; true */
void values_after(const struct build *b, unsigned n, struct values *s);
unsigned registers_named(const struct op *op); /* bits; the implicit RAX, RCX and RDX may lack */
unsigned registers_implied(const struct op *op); /* all three, if one may be */

/* system.c */
bool lower_system(struct build *b, unsigned n);
bool lower_divide(struct build *b, unsigned n);
bool holds_interrupts(const struct build *b, unsigned n); /* STI, with the instruction behind it rendered in this block too ... */
void put_shadow_end(struct build *b);                     /* ... which is over now; flags are kept */

/* string.c */
bool lower_string(struct build *b, unsigned n);
bool is_bit_string(const struct encoding *x);
bool lower_bit_string(struct build *b, unsigned n, const struct encoding *x);

/* vector.c */
bool lower_vector(struct build *b, unsigned n);
uint8_t vector_need(const struct build *b, const struct op *op); /* VECTOR_* */
uint8_t vector_alignment(const struct op *op);                   /* of its memory operand, less one */
uint8_t vector_effect(const struct build *b, const struct insn *i);
/* VECTOR_* of `need` hold, or the code behind the block sees to it. */
void want_vectors(struct build *b, unsigned n, unsigned need);

/* x87.c */
bool lower_x87(struct build *b, unsigned n);
uint8_t x87_effect(const struct build *b, const struct insn *i);

/* sites.c */
void site_add(struct build *b, unsigned n, unsigned how); /* what is emitted next touches guest memory for instruction n; SITE_* */
void sites_land(struct build *b); /* those in the strip land here */
void sites_keep(struct build *b); /* of the block, which has been rendered */

/* strip.c */
bool strip_answers(const struct build *b, unsigned n); /* instruction n's operand needs no probe */
bool strip_place(struct build *b, unsigned n, struct place *at);
/* To `distance`, the flags being where they are wanted there; false: that is not in the strip. */
bool strip_again(struct build *b, int64_t distance, unsigned executed);
int strip_owed(const struct build *b); /* what r15 lacks here */
void strip_go_on(struct build *b, int owed);
void strip_add(struct build *b);                      /* to a block that has been rendered */

/* gate.c */
void strip_leave(struct build *b); /* everything is where other code expects it; clobbers flags */
void strip_end(struct build *b);   /* its iterations are over */

/* again.c */
void again_begin(struct build *b);                    /* before the first instruction */
void again_poll(struct build *b, unsigned n);         /* before instruction n */
void again_edge(struct build *b, unsigned executed);  /* the block is about to go to its own start */
void again_end(struct build *b);                      /* it has been rendered, with its strip */

/* flow.c */
bool lower_flow(struct build *b, unsigned n);
/* Leaves the block, `executed` instructions of it behind; to `distance` from the start of the page. */
void put_edge(struct build *b, int64_t distance, unsigned executed, bool linkable);
void put_cold_edge(struct build *b, const struct cold *c);
void put_cold_far(struct build *b, const struct cold *c); /* the branch that ends in another page, counted already */
void flags_leave(struct build *b); /* in memory, for a block that nothing is known of */
static inline bool in_page(int64_t distance) { return distance >= 0 && distance < 4096; }
static inline int64_t target_of(const struct insn *i) { return (int64_t)i->off + i->len + i->disp; } /* of a direct branch */
void lea_word(struct build *b, unsigned to, unsigned base, int32_t disp); /* an address of code or stack */
void put_linear(struct build *b, unsigned to, int64_t distance); /* of what is so far from the start of the page */
static inline int64_t page_of(int64_t distance) { return distance - (distance & 4095); }
bool in_reach(const struct build *b, int64_t distance); /* of one displacement from the start of the page */
/* On into the page behind this one; poll: a jump for when the slice is used up, or NULL. */
void put_to_next_page(struct build *b, int64_t distance, uint8_t *poll);
void put_cold_to_next_page(struct build *b, const struct cold *c);
void put_target(struct build *b, unsigned n);                    /* of an indirect branch, into r10 */
/* r11: where in the jump cache the address in r10 stands; -> the jump for when it does not */
uint8_t *put_jump_lookup(struct build *b);
#define JUMP_FIELD(b, f)                                                                                                          \
    (FIELD(jumps) + (int32_t)(((b)->kind + ((b)->word == 8 ? JUMPS_LONG : JUMPS_FLAT32)) * sizeof(struct jump_cache) +           \
                              offsetof(struct jump_cache, entry[0].f)))
enum { NEAR_CALL = 2, NEAR_JMP = 4 };                     /* digits of opcode FF */
void put_jump_code(struct build *b, unsigned digit);      /* to what was found */
void put_count(struct build *b, unsigned executed);
void put_poll(struct build *b, unsigned executed);        /* counts; may give up the slice, the next instruction being at r10 */
/* The same behind put_count(), where the flags say whether the slice is used up, `executed` instructions not being counted; the next
 * instruction is at `distance`. r10 is lost. */
void put_poll_in_page(struct build *b, int64_t distance, unsigned executed);
void put_link(struct build *b, uint8_t *jump, int64_t distance); /* a jump or call to there, when it is translated */
void link_not_due(struct build *b, const uint8_t *jump); /* it leads elsewhere now */
void link_dues(struct build *b);
int32_t put_stack(struct build *b, unsigned n, bool write, int32_t disp, struct cold **c); /* [RSP + disp] is r10 + the result */

/* calls.c */
bool lower_call(struct build *b, unsigned n);
bool lower_ret(struct build *b, unsigned n);
void put_cold_call(struct build *b, const struct cold *c);

#endif
