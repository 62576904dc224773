/* Instructions that the host executes itself: the cache of stubs, and the handlers that call them (native.h). */
#include "cpu/native.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/access.h"

#ifdef __x86_64__
#define HOST_X86_64 1
#else
#define HOST_X86_64 0
#endif

#ifndef MFD_EXEC
#define MFD_EXEC 0x10u
#endif

enum { OPS_MAX = 1 << 16, CODE_BYTES = 16 << 20, MXCSR_FLAGS = 0x3f, MXCSR_MASKS = 0x1f80 };

#if HOST_X86_64
static uint32_t host_mxcsr_get(void) { return __builtin_ia32_stmxcsr(); }
static void host_mxcsr_set(uint32_t m) { __builtin_ia32_ldmxcsr(m); }
#else
static uint32_t host_mxcsr_get(void) { return MXCSR_MASKS; }
static void host_mxcsr_set(uint32_t m) { (void)m; }
#endif

/* ---- life ---------------------------------------------------------------------------------- */

static int map_code(struct native_cache *n)
{
    int err = 0, fd = memfd_create("kvmish-native", MFD_CLOEXEC | MFD_EXEC);

    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create("kvmish-native", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, CODE_BYTES))
        err = -errno;
    n->size_bytes = CODE_BYTES;
    if (!err) {
        n->rw = mmap(NULL, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        n->rx = mmap(NULL, CODE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
        if (n->rw == MAP_FAILED || n->rx == MAP_FAILED)
            err = -errno;
    }
    close(fd);
    if (!err) { /* a child has no vCPU: it must not write into ours */
        madvise(n->rw, CODE_BYTES, MADV_DONTFORK);
        madvise(n->rx, CODE_BYTES, MADV_DONTFORK);
    }
    return err;
}

int native_create(struct vcpu *v)
{
    struct native_cache *n;
    int err;

    if (!HOST_X86_64)
        return 0;
    n = aligned_alloc(64, (sizeof(*n) + 63) & ~(size_t)63);
    if (!n)
        return -ENOMEM;
    memset(n, 0, sizeof(*n));
    n->rw = n->rx = MAP_FAILED;
    v->native = n;
#if HOST_X86_64
    n->host_avx = __builtin_cpu_supports("avx");
#endif
    err = map_code(n);
    n->ops = mmap(NULL, OPS_MAX * sizeof(struct native_op), PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!err && n->ops == MAP_FAILED)
        err = -ENOMEM;
    if (err)
        native_destroy(v);
    return err;
}

void native_destroy(struct vcpu *v)
{
    struct native_cache *n = v->native;

    if (!n)
        return;
    if (n->rw != MAP_FAILED)
        munmap(n->rw, n->size_bytes);
    if (n->rx != MAP_FAILED)
        munmap(n->rx, n->size_bytes);
    if (n->ops != MAP_FAILED)
        munmap(n->ops, OPS_MAX * sizeof(struct native_op));
    free(n);
    v->native = NULL;
}

void native_reset(struct vcpu *v)
{
    struct native_cache *n = v->native;

    if (!n)
        return;
    memset(n->bucket, 0, sizeof(n->bucket));
    n->op_count = 0;
    n->used_bytes = 0;
}

void native_home(struct native_cache *n)
{
    if (n->host_mxcsr != n->home_mxcsr)
        host_mxcsr_set(n->home_mxcsr);
}

/* ---- running a stub ------------------------------------------------------------------------- */

void native_refuse(struct vcpu *v, const struct native_op *op)
{
    bool ud = v->mode < op->min_mode || (~v->cr4 & op->cr4_need) || (~v->xcr0 & op->xcr0_need);

    if (op->kind == NATIVE_X87)
        ud = false;
    else if (v->cr0 & op->cr0_bad & CR0_EM)
        ud = true;
    cpu_fault(v, ud ? VEC_UD : VEC_NM);
}

static void switch_mxcsr(struct native_cache *n, uint32_t want)
{
    if (n->entered && n->host_mxcsr == want)
        return;
    if (!n->entered || n->host_mxcsr == MXCSR_UNKNOWN)
        n->home_mxcsr = host_mxcsr_get();
    n->host_mxcsr = want;
    host_mxcsr_set(want);
}

static void keep_mxcsr(struct native_cache *n, uint32_t now)
{
    n->host_mxcsr = now;
    if (!n->entered)
        host_mxcsr_set(n->home_mxcsr);
}

void native_mxcsr_in(struct vcpu *v) { switch_mxcsr(v->native, native_mxcsr(v)); }

void native_mxcsr_out(struct vcpu *v)
{
    uint32_t guest = host_mxcsr_get();

    memcpy(v->fx + 24, &guest, 4);
    keep_mxcsr(v->native, guest);
}

/* A result that is tiny and exact raises #U only where that is unmasked: the masked run does not say so. */
static bool tiny_result(const struct vcpu *v, const struct native_op *op)
{
    const uint8_t *p = v->ymm[op->dst];

    for (unsigned k = 0; k < op->lanes; k++, p += op->element) {
        uint64_t x = 0;
        unsigned mantissa = op->element == 8 ? 52 : 23;

        memcpy(&x, p, op->element);
        x &= ~(1ull << (op->element * 8 - 1));
        if (x && !(x >> mantissa))
            return true;
    }
    return false;
}

enum { MX_IE = 1, MX_DE = 2, MX_ZE = 4, MX_OE = 8, MX_UE = 16, MX_PE = 32, MX_UM = 0x800, MX_FTZ = 0x8000 };

/* Some exception is unmasked: run with all of them masked and flags clear, then see. Packed operands: SDM vol. 1, 11.5.2;
 * pre-computation exceptions keep the others from being detected. Not exact: whether PE accompanies an unmasked OE or
 * UE (it belongs to a result of unlimited exponent), and the stages of DPPS and DPPD. */
static void run_unmasked(struct vcpu *v, const struct native_op *op, void *mem, uint8_t *fx, uint32_t guest)
{
    struct native_cache *n = v->native;
    uint64_t gpr[16];
    uint32_t oszapc = v->oszapc, raised, want, unmasked = ~(guest >> 7) & MXCSR_FLAGS;

    memcpy(gpr, v->gpr, sizeof(gpr));
    memcpy(n->ymm_copy, v->ymm, sizeof(v->ymm));
    if (fx)
        memcpy(n->mmx_copy, fx + 32, sizeof(n->mmx_copy));
    want = (guest & ~(uint32_t)MXCSR_FLAGS) | MXCSR_MASKS;
    if (unmasked & MX_UE) /* FTZ acts on masked underflows only */
        want &= ~(uint32_t)MX_FTZ;
    switch_mxcsr(n, want);
    op->code(v, mem, fx);
    raised = host_mxcsr_get();
    keep_mxcsr(n, raised);
    raised &= MXCSR_FLAGS;
    if (raised & unmasked & (MX_IE | MX_DE | MX_ZE))
        raised &= MX_IE | MX_DE | MX_ZE;
    else if ((unmasked & MX_UE) && tiny_result(v, op))
        raised |= MX_UE;
    guest |= raised;
    memcpy(v->fx + 24, &guest, 4);
    if (!(raised & unmasked))
        return;
    memcpy(v->gpr, gpr, sizeof(gpr));
    memcpy(v->ymm, n->ymm_copy, sizeof(v->ymm));
    if (fx)
        memcpy(fx + 32, n->mmx_copy, sizeof(n->mmx_copy));
    v->oszapc = oszapc;
    cpu_fault(v, v->cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
}

void native_run(struct vcpu *v, const struct native_op *op, void *mem, uint8_t *fx)
{
    struct native_cache *n = v->native;
    uint32_t guest;

    if (!op->mxcsr) {
        op->code(v, mem, fx);
        return;
    }
    guest = native_mxcsr(v);
    if (unlikely((guest & MXCSR_MASKS) != MXCSR_MASKS)) {
        run_unmasked(v, op, mem, fx, guest);
        return;
    }
    switch_mxcsr(n, guest);
    op->code(v, mem, fx);
    guest = host_mxcsr_get(); /* sticky flags only grow */
    memcpy(v->fx + 24, &guest, 4);
    keep_mxcsr(n, guest);
}

/* ---- handlers: no memory operand, load, store ----------------------------------------------- */

static const struct insn *run_reg(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);

    native_check(v, op);
    op->code(v, NULL, NULL);
    v->xinuse |= op->xinuse;
    return insn_next(i);
}

static const struct insn *run_reg_mxcsr(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);

    native_check(v, op);
    native_run(v, op, NULL, NULL);
    v->xinuse |= op->xinuse;
    return insn_next(i);
}

static inline uint64_t operand_linear(struct vcpu *v, const struct insn *i, const struct native_op *op, bool write)
{
    uint64_t linear = ea(v, i, op->mem_bytes, write);

    if (unlikely(linear & op->align_mask))
        cpu_gp(v, 0);
    return linear;
}

static const struct insn *run_load(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);

    native_check(v, op);
    uint64_t linear = operand_linear(v, i, op, false);
    void *p = mem_probe_read(v, linear, op->mem_bytes);
    if (unlikely(!p || (uintptr_t)p & op->host_align)) {
        p = v->native->bounce;
        if (op->any_alignment)
            mem_read_elements(v, linear, p, op->mem_bytes);
        else
            mem_read_bytes(v, linear, p, op->mem_bytes);
    }
    native_run(v, op, p, NULL);
    v->xinuse |= op->xinuse;
    return insn_next(i);
}

static const struct insn *run_store(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);

    native_check(v, op);
    uint64_t linear = operand_linear(v, i, op, true);
    void *p = mem_probe_write(v, linear, op->mem_bytes);
    if (likely(p)) {
        op->code(v, p, NULL);
        return insn_next(i);
    }
    op->code(v, v->native->bounce, NULL);
    mem_write_bytes(v, linear, v->native->bounce, op->mem_bytes);
    return insn_next(i);
}

/* VCVTPS2PH: AMD's processors look at the operand before MXCSR is changed, Intel's store after that, at any alignment (SDM vol. 2,
 * exceptions type 11). */
static const struct insn *run_store_mxcsr(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);

    native_check(v, op);
    if (v->amd)
        mem_check_write(v, ea(v, i, op->mem_bytes, true), op->mem_bytes);
    native_run(v, op, v->native->bounce, NULL);
    mem_write_elements(v, ea(v, i, op->mem_bytes, true), v->native->bounce, op->mem_bytes);
    return insn_next(i);
}

static insn_fn *handler_for(const struct native_op *op)
{
    if (op->kind == NATIVE_MMX)
        return mmx_execute;
    if (!op->mem_bytes)
        return op->mxcsr ? run_reg_mxcsr : run_reg;
    return !(op->mem_action & OPND_WRITE) ? run_load : op->mxcsr ? run_store_mxcsr : run_store;
}

const struct native_op *native_plain(const struct insn *i)
{
    bool plain = i->fn == run_reg || i->fn == run_reg_mxcsr || i->fn == run_load || i->fn == run_store ||
                 i->fn == run_store_mxcsr || i->fn == mmx_execute || i->fn == x87_execute;

    return plain && !native_op_of(i)->host_align ? native_op_of(i) : NULL;
}

/* ---- binding -------------------------------------------------------------------------------- */

static uint32_t hash_bytes(uint32_t h, const void *data, size_t n)
{
    const uint8_t *p = data;

    while (n--)
        h = (h ^ *p++) * 16777619u; /* FNV-1a */
    return h;
}

/* The same but for where its code lies. */
static bool same_op(const struct native_cache *n, const struct native_op *a, const struct native_op *b,
                    const uint8_t *code)
{
    struct native_op x;

    memcpy(&x, a, sizeof(x)); /* padding too */
    x.code = b->code;
    x.next = b->next;
    if (memcmp(&x, b, sizeof(x)) != 0)
        return false;
    return !a->code_bytes || memcmp(n->rw + ((uint8_t *)a->code - n->rx), code, a->code_bytes) == 0;
}

static struct native_op *op_intern(struct native_cache *n, struct native_op *op, const uint8_t *code)
{
    struct native_op **slot, *o;

    op->hash = hash_bytes(hash_bytes(2166136261u, op, sizeof(*op)), code, op->code_bytes);
    slot = &n->bucket[op->hash % 4096];
    for (o = *slot; o; o = o->next)
        if (o->hash == op->hash && same_op(n, o, op, code))
            return o;
    if (n->op_count == OPS_MAX || n->used_bytes + op->code_bytes + 16 > n->size_bytes)
        return NULL;
    o = &n->ops[n->op_count++];
    memcpy(o, op, sizeof(*o));
    if (op->code_bytes) {
        memcpy(n->rw + n->used_bytes, code, op->code_bytes);
        o->code = (native_code *)(n->rx + n->used_bytes);
        n->used_bytes += (op->code_bytes + 15u) & ~15u;
    }
    o->next = *slot;
    *slot = o;
    return o;
}

int native_bind(struct vcpu *v, const struct decoded *d, struct insn *out)
{
    uint8_t code[NATIVE_CODE_MAX];
    struct native_op plan, *op;

    if (!v->native || !native_plan(v, d, &plan, code))
        return -1;
    if (!plan.fn)
        plan.fn = handler_for(&plan);
    op = op_intern(v->native, &plan, code);
    if (!op)
        return NATIVE_FULL;
    out->fn = op->fn;
    out->stub = op;
    if (op->mem_bytes)
        out->size = op->mem_bytes;
    return 0;
}
