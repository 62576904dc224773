/* A strip while it is planned (strip.c, nest.c) and rendered (gate.c and copies.c too). */
#ifndef KVMISH_JIT_STRIP_H
#define KVMISH_JIT_STRIP_H

#include "jit/build.h"

enum { STREAMS_MAX = STRIP_STREAMS, EXITS_MAX = 12, COPIES_MAX = 4, COPIED_MAX = 64 /* instructions, in all copies */ };
enum { STRIDE_MAX = 384 /* bytes */ };
enum { SHORT = 8 }; /* iterations, in which a gate has cost more than it saved */
enum { NO_REGISTER = 0xff };

struct stream {
    struct insn at;        /* base, index, scale */
    bool write;
    uint8_t align_mask;    /* of the linear address at distance `align_at` */
    uint8_t host;          /* register with the host's address less the registers that move: base_moves, index_moves */
    uint8_t by;            /* the register that an iteration adds, shifted; or NO_REGISTER */
    uint8_t by_shift;
    bool base_moves, index_moves;
    bool window;           /* nest.c: asked for before each time of the inner loop */
    int64_t stride;        /* bytes that an iteration adds */
    int64_t low, high;     /* of its operands, from the base and index as an iteration finds them */
    int64_t align_at;
};

struct strip {
    unsigned last;         /* instruction of the body: a branch to its start */
    unsigned fewest;       /* instructions of the shortest way through it */
    unsigned first, back;  /* nest.c: the inner loop's first instruction, 0: there is none; its branch back */
    int16_t owed;          /* what r15 lacks at the place being rendered: to be added before other code counts by it */
    unsigned copies;       /* copies.c: of the body, or of the inner loop's; 1: none */
    uint8_t *out[COPIES_MAX]; /* the jump out of each, */
    int16_t out_owed[COPIES_MAX]; /* and `owed` there */
    struct values end;     /* behind `last` */
    uint8_t by[16];        /* the register that an iteration adds to each; NO_REGISTER */
    uint16_t wild;         /* registers that an iteration changes otherwise than by that or a constant */
    uint8_t of[BLOCK_OPS]; /* stream of an instruction's operand, from 1 */
    unsigned streams;
    struct stream stream[STREAMS_MAX];
    uint8_t need;          /* VECTOR_* */
    uint16_t lent;         /* guest registers whose host registers the strip uses otherwise */
    uint16_t housed;       /* guest registers in one of these instead of in memory, */
    int8_t house[16];      /* and in which */
    unsigned selves;       /* the gate's way in for each of build.self */
    const uint8_t *way_in[SELF_EDGES_MAX];
    const uint8_t *next, *top; /* the gate for who comes back from inside; the first iteration */
    unsigned fails;        /* jumps that find the gate closed */
    uint8_t *fail[3 * STREAMS_MAX];
    /* nest.c: jumps that are taken ... */
    uint8_t *unfit;        /* because of the vector registers: closed, before any register was lent */
    uint8_t *to_inner;     /* from the gate to the inner loop */
    uint8_t *elsewhere[STREAMS_MAX]; /* because a stream is not in its window */
    /* ... and where: */
    const uint8_t *found[STREAMS_MAX]; /* that stream's window has been moved */
    const uint8_t *round, *behind;     /* the next turn through the copies; behind them, out of the inner loop */
};

/* Not RAX, RCX and RDX: instructions use them without naming them. */
enum { LENDABLE = 1 << RBX | 1 << RSP | 1 << RBP | 1 << RSI | 1 << RDI | 1 << R12 | 1 << R13 | 1 << R14 };

/* strip.c */
bool strip_asks(const struct build *b, const struct strip *s, unsigned n); /* instruction n's operand has a probe */
void strip_stream(struct strip *s, unsigned n, const struct stream *g, unsigned max); /* of instruction n; one of at most max */
void strip_registers(const struct build *b, struct strip *s, unsigned named, unsigned free);

/* gate.c */
void gate_begin(const struct build *b); /* the loop has not been short yet */
void gate_put(struct build *b);
void gate_put_fails(struct build *b);   /* the block does an iteration */
/* For a jump of the block to instruction n; after so many short strips it leads there for good. */
void gate_put_way_in(struct build *b, const uint8_t *edge, unsigned n, unsigned short_max);
void gate_put_lent(struct build *b); /* lends registers, and gives others homes */
/* r10: offset in the page of the stream's lowest operand; -> the jump that is taken when it is not aligned as it must be */
uint8_t *gate_put_aligned(struct build *b, const struct stream *g);
void gate_put_stream(struct build *b, const struct stream *g, bool *first);
void gate_put_mark(struct build *b, unsigned instructions); /* who leaves sooner has had a short strip */
void gate_put_home(struct build *b); /* the guest's registers where other code expects them */
void gate_put_top(struct build *b);  /* the gate ends here */
void gate_put_landing(struct build *b); /* for who has met memory that is gone: sites.c */

/* copies.c: of instructions `first` to `last`, a branch back. */
/* How many, that have at most so many instructions together. */
unsigned copies_of(const struct build *b, unsigned first, unsigned last, unsigned most);
bool copies_put(struct build *b, unsigned first, unsigned last, int owed); /* by the first of them */
void copies_join(struct build *b, const uint8_t *behind);                  /* who leaves the loop goes on there */

/* nest.c */
bool nest_plan(const struct build *b, struct strip *s);
bool nest_render(struct build *b);

#endif
