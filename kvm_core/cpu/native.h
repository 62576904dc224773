/* Instructions that the host processor itself executes, with their operands redirected to the guest's registers and memory.
 *
 * For each distinct instruction a stub is generated once per vCPU: it loads the guest registers that the instruction
 * names, executes it with its memory operand replaced by [rsi], and stores the registers that it writes. Results,
 * flags and rounding are therefore the host processor's own. This is the one place that needs an x86-64 host.
 */
#ifndef KVMISH_CPU_NATIVE_H
#define KVMISH_CPU_NATIVE_H

#include "cpu/cpu.h"
#include "isa/decoded.h"

int native_create(struct vcpu *v); /* -ENOMEM, -errno of memfd_create, mmap; 0 without an x86-64 host too */
void native_destroy(struct vcpu *v);

/* Binds an instruction whose table row says `native`: sets fn, stub, size and nothing else. -1: cannot be executed
 * here (#UD). NATIVE_FULL: no room for another stub; drop every decoded instruction, native_reset(), bind again. */
enum { NATIVE_FULL = -2 };
int native_bind(struct vcpu *v, const struct decoded *d, struct insn *out);
void native_reset(struct vcpu *v);

/* For an engine that has the guest's registers in the host's: the guest's MXCSR, all exceptions masked, into the host's
 * register; and its flags back, before C looks. */
void native_mxcsr_in(struct vcpu *v);
void native_mxcsr_out(struct vcpu *v);
struct native_op;
/* What the instruction does, when it is one that only loads and stores its registers around itself; else NULL. */
const struct native_op *native_plain(const struct insn *i);

/* ---- between native*.c, x87.c and vector_special.c ---------------------------------------- */

enum native_kind { NATIVE_GPR, NATIVE_SSE, NATIVE_AVX, NATIVE_MMX, NATIVE_X87 };

/* rdi, rsi, rdx. mem: the memory operand; fx: FXSAVE image with the x87 and MMX registers. */
typedef void native_code(struct vcpu *v, void *mem, uint8_t *fx);

struct native_op { /* what insn.stub points to */
    native_code *code;
    insn_fn *fn;
    uint32_t cr0_bad;   /* bits of CR0 that must be clear */
    uint32_t cr4_need;  /* bits of CR4 that must be set */
    uint8_t xcr0_need;
    uint8_t min_mode;   /* enum cpu_mode: VEX is #UD in real and virtual-8086 mode */
    uint8_t kind;       /* enum native_kind */
    uint8_t xinuse;     /* XSAVE components that it may take out of their initial state */
    uint8_t mem_bytes;  /* 0: no memory operand */
    uint8_t mem_action; /* OPND_READ | OPND_WRITE */
    uint8_t align_mask; /* of the linear address; else #GP(0) */
    uint8_t host_align; /* what only the host wants of it: the operand is copied */
    bool mxcsr;         /* uses MXCSR */
    bool any_alignment; /* of what is loaded, whatever EFLAGS.AC says */
    uint16_t fop;       /* x87 opcode, 11 bits */
    uint16_t special;   /* vector_special.c, x87.c: which */
    uint8_t dst, mask, index; /* gathers: vector register numbers; masked moves: mask, source */
    uint8_t ymm;        /* 1: 256 bits */
    uint8_t addr_bits, index_bytes;
    uint8_t element, lanes; /* bytes: of a masked move, a gather, a result that can be tiny; x87: 2 or 4 */
    uint16_t code_bytes;
    uint32_t hash;
    struct native_op *next; /* in its hash bucket */
    uint8_t bytes[20];  /* the instruction as re-encoded, for the key */
    uint8_t map[16];    /* host register + 1 of each guest register that takes part */
};

struct native_cache {
    uint8_t *rw, *rx;   /* the same memory, written and executed: W^X */
    size_t size_bytes, used_bytes;
    struct native_op *ops;
    unsigned op_count;
    struct native_op *bucket[4096];
    bool host_avx;
    bool entered;
    uint32_t host_mxcsr; /* in the register now, while `entered`; MXCSR_UNKNOWN before the first that is set */
    uint32_t home_mxcsr; /* the thread's own */
    uint8_t bounce[4096] __attribute__((aligned(64)));
    uint8_t fx_copy[512] __attribute__((aligned(64)));
    uint8_t ymm_copy[16][32] __attribute__((aligned(32)));
    uint8_t mmx_copy[128];
};

/* Around the engine's loop, on the thread that runs it. In between the host's MXCSR may be the guest's (exceptions
 * masked); without them each instruction sets and restores it. */
#define MXCSR_UNKNOWN 0xffffffffu
void native_home(struct native_cache *n); /* the thread's own MXCSR again */
static inline void native_enter(struct vcpu *v)
{
    if (v->native) {
        v->native->entered = true;
        v->native->host_mxcsr = MXCSR_UNKNOWN;
    }
}
static inline void native_leave(struct vcpu *v)
{
    struct native_cache *n = v->native;

    if (!n || !n->entered)
        return;
    if (n->host_mxcsr != MXCSR_UNKNOWN)
        native_home(n);
    n->entered = false;
}

/* native_emit.c: what the instruction does to registers, and its stub; false: not executable here. `code` has room
 * for NATIVE_CODE_MAX bytes. */
enum { NATIVE_CODE_MAX = 320 };
bool native_plan(const struct vcpu *v, const struct decoded *d, struct native_op *op, uint8_t *code);

/* native.c */
_Noreturn void native_refuse(struct vcpu *v, const struct native_op *op); /* #UD or #NM */
void native_run(struct vcpu *v, const struct native_op *op, void *mem, uint8_t *fx);
static inline void native_check(struct vcpu *v, const struct native_op *op)
{
    if (unlikely((v->cr0 & op->cr0_bad) | (~v->cr4 & op->cr4_need) | (~v->xcr0 & op->xcr0_need) |
                 (v->mode < op->min_mode)))
        native_refuse(v, op);
}
static inline uint32_t native_mxcsr(const struct vcpu *v)
{
    uint32_t m;
    __builtin_memcpy(&m, v->fx + 24, 4);
    return m;
}
static inline const struct native_op *native_op_of(const struct insn *i) { return i->stub; }

/* x87.c: sets op->fn (and `special`) for x87 and MMX */
bool x87_bind(const struct decoded *d, struct native_op *op);
insn_fn mmx_execute, x87_execute;

enum native_special { /* handlers of vector_special.c; from SPECIAL_IN_C on without a stub */
    SPECIAL_NONE, SPECIAL_MASK_LOAD, SPECIAL_MASK_STORE,
    SPECIAL_IN_C, SPECIAL_MASKMOV_XMM = SPECIAL_IN_C, SPECIAL_MASKMOV_MMX, SPECIAL_GATHER
};
/* vector_special.c: masked moves and gathers; false: not one of them */
bool special_bind(const struct decoded *d, struct native_op *op);
bool special_valid(const struct decoded *d); /* gathers: registers must differ */

#endif
