/* Vector instructions whose memory accesses depend on data: masked moves and gathers; VZEROUPPER and VZEROALL.
 *
 * Elements that the mask leaves out are not accessed: they cannot fault. Each element is an access of its own.
 */
#include <string.h>

#include "cpu/access.h"
#include "cpu/native.h"
#include "cpu/x87.h"
#include "cpu/xsave.h"

/* ---- VMASKMOVPS/PD, VPMASKMOVD/Q: on the host, with a bounce when the operand is not plain memory ---------- */

static bool masked(const uint8_t *mask, unsigned k, unsigned element)
{
    return mask[(k + 1) * element - 1] & 0x80;
}

/* Intel's processors look at the addresses of all elements before they look for their pages. */
static void check_canonical(struct vcpu *v, const uint8_t *mask, const struct native_op *op, uint64_t linear)
{
    for (unsigned k = 0; !v->amd && k < op->mem_bytes / op->element; k++)
        if (masked(mask, k, op->element))
            mem_check_canonical(v, linear + k * op->element, op->element);
}

static bool masked_any(const uint8_t *mask, const struct native_op *op)
{
    for (unsigned k = 0; k < op->mem_bytes / op->element; k++)
        if (masked(mask, k, op->element))
            return true;
    return false;
}

static const struct insn *mask_load(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);
    const uint8_t *mask = v->ymm[op->mask];
    unsigned n = op->element;

    native_check(v, op);
    bool any = masked_any(mask, op); /* else no access, not even to the segment */
    uint64_t linear = any ? ea(v, i, op->mem_bytes, false) : 0;
    void *p = any ? mem_probe_read(v, linear, op->mem_bytes) : NULL;
    if (unlikely(!p)) {
        uint8_t *bounce = v->native->bounce;

        if (any)
            check_canonical(v, mask, op, linear);
        for (unsigned k = 0; k < op->mem_bytes / n; k++)
            if (masked(mask, k, n))
                mem_read_elements(v, linear + k * n, bounce + k * n, n);
        p = bounce;
    }
    op->code(v, p, NULL);
    v->xinuse |= op->xinuse;
    return insn_next(i);
}

static const struct insn *mask_store(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);
    const uint8_t *mask = v->ymm[op->mask], *data = v->ymm[op->dst];
    unsigned n = op->element;

    native_check(v, op);
    if (!masked_any(mask, op)) /* no access, not even to the segment */
        return insn_next(i);
    uint64_t linear = ea(v, i, op->mem_bytes, true);
    void *p = mem_probe_write(v, linear, op->mem_bytes);
    if (likely(p)) {
        op->code(v, p, NULL);
        return insn_next(i);
    }
    check_canonical(v, mask, op, linear);
    for (unsigned k = 0; k < op->mem_bytes / n; k++)
        if (masked(mask, k, n))
            mem_check_elements(v, linear + k * n, n);
    for (unsigned k = 0; k < op->mem_bytes / n; k++)
        if (masked(mask, k, n))
            mem_write_elements(v, linear + k * n, data + k * n, n);
    return insn_next(i);
}

/* ---- MASKMOVDQU, MASKMOVQ: bytes to [rDI] --------------------------------------------------------------------- */

static void byte_masked_store(struct vcpu *v, const struct insn *i, const uint8_t *data, const uint8_t *mask,
                              unsigned n)
{
    uint64_t linear = ea(v, i, n, true);

    /* Whatever the mask says: up to the implementation (SDM vol. 2, MASKMOVDQU), and so on both vendors'. Alignment: of 8 bytes */
    mem_check_write(v, linear, 8);
    mem_check_write(v, linear + n - 8, 8);
    for (unsigned k = 0; k < n; k++)
        if (mask[k] & 0x80)
            mem_write_bytes(v, linear + k, data + k, 1);
}

static const struct insn *maskmov_xmm(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);

    native_check(v, op);
    byte_masked_store(v, i, v->ymm[op->dst], v->ymm[op->mask], 16);
    return insn_next(i);
}

static const struct insn *maskmov_mmx(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);

    native_check(v, op);
    x87_check_pending(v);
    x87_mmx_transition(v->fx); /* before any fault; register k is ST(k) now */
    byte_masked_store(v, i, v->fx + 32 + 16 * (op->dst & 7), v->fx + 32 + 16 * (op->mask & 7), 8);
    v->xinuse |= XSAVE_X87;
    return insn_next(i);
}

/* ---- gathers ------------------------------------------------------------------------------------------------- */

static uint64_t gather_linear(struct vcpu *v, const struct insn *i, const struct native_op *op, unsigned k)
{
    unsigned index_bytes = op->index_bytes;
    int64_t index = 0;
    uint64_t off;

    if (index_bytes == 8) {
        memcpy(&index, v->ymm[op->index] + 8 * k, 8);
    } else {
        int32_t narrow;

        memcpy(&narrow, v->ymm[op->index] + 4 * k, 4);
        index = narrow;
    }
    off = v->gpr[i->base] + ((uint64_t)index << i->scale) + (int64_t)i->disp;
    if (i->am == AM_FLAT64)
        return off;
    if (op->addr_bits == 32)
        off = (uint32_t)off;
    if (v->mode == MODE_LONG)
        return off + (i->seg >= FS ? v->seg[i->seg].base : 0);
    return seg_linear(v, i->seg, off, op->element, false);
}

/* One element by the slow path. A fault comes after what has been gathered is committed (`progress`); an exit to
 * the client commits nothing, since the instruction is executed again with its answers. */
struct progress {
    const struct native_op *op;
    uint8_t *dst, *mask;
};

static void commit_progress(struct vcpu *v, const struct progress *p)
{
    memcpy(v->ymm[p->op->dst], p->dst, 32);
    memcpy(v->ymm[p->op->mask], p->mask, 32);
}

static void gather_slow(struct vcpu *v, const struct insn *i, const struct progress *p, unsigned k)
{
    way_out out;

    memcpy(out, v->out, sizeof(out));
    if (__builtin_setjmp(v->out)) {
        memcpy(v->out, out, sizeof(out));
        if (v->left == LEFT_FAULT) {
            commit_progress(v, p);
            v->xinuse |= p->op->xinuse;
        }
        cpu_jump_out(v, v->left);
    }
    mem_read_elements(v, gather_linear(v, i, p->op, k), p->dst + k * p->op->element, p->op->element);
    memcpy(v->out, out, sizeof(out));
}

static const struct insn *gather(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);
    unsigned n = op->element, bytes = op->ymm ? 32 : 16;
    unsigned count = bytes / (n > op->index_bytes ? n : op->index_bytes);
    uint8_t dst[32], mask[32];
    struct progress progress = {op, dst, mask};

    native_check(v, op);
    memcpy(dst, v->ymm[op->dst], 32);
    memcpy(mask, v->ymm[op->mask], 32);
    if (!v->amd) { /* SDM: the mask is first widened to all bits of an element; seen after a fault, like the upper halves */
        for (unsigned k = 0; k < bytes / n; k++)
            memset(mask + k * n, masked(mask, k, n) ? 0xff : 0, n);
        memset(mask + bytes, 0, sizeof(mask) - bytes);
    }
    for (unsigned k = 0; k < count; k++) {
        if (masked(mask, k, n)) {
            const void *p = NULL;
            if (likely(i->am == AM_FLAT64))
                p = mem_probe_read(v, gather_linear(v, i, op, k), n);
            if (likely(p))
                memcpy(dst + k * n, p, n);
            else
                gather_slow(v, i, &progress, k);
            if (!v->amd)
                memset(dst + bytes, 0, sizeof(dst) - bytes);
        }
        memset(mask + k * n, 0, n);
    }
    memset(dst + count * n, 0, sizeof(dst) - count * n);
    memset(mask + count * n, 0, sizeof(mask) - count * n);
    commit_progress(v, &progress);
    v->xinuse |= op->xinuse;
    return insn_next(i);
}

bool special_valid(const struct decoded *d)
{
    if (d->mem_vsib == 0)
        return true;
    unsigned a = d->op[0].reg, m = d->op[2].reg, x = d->mem_index;

    return a != m && a != x && m != x;
}

/* ---- binding ---------------------------------------------------------------------------------------------------- */

static void bind_gather(const struct decoded *d, struct native_op *op)
{
    bool w = d->bytes[d->vex_off + 2] & 0x80;

    op->special = SPECIAL_GATHER;
    op->fn = gather;
    op->dst = d->op[0].reg;
    op->mask = d->op[2].reg;
    op->index = d->mem_index;
    op->element = w ? 8 : 4;
    op->index_bytes = d->opcode & 1 ? 8 : 4;
    op->ymm = d->bytes[d->vex_off + 2] >> 2 & 1;
    op->mem_bytes = op->element;
    op->xinuse = XSAVE_SSE | XSAVE_AVX;
}

bool special_bind(const struct decoded *d, struct native_op *op)
{
    bool vex = d->encoding == ENC_VEX;
    unsigned o = d->opcode;

    if (d->map == 1 && o == 0xf7) {
        bool mmx = !vex && d->mandatory != 0x66;

        op->special = mmx ? SPECIAL_MASKMOV_MMX : SPECIAL_MASKMOV_XMM;
        op->fn = mmx ? maskmov_mmx : maskmov_xmm;
        op->dst = d->op[0].reg;
        op->mask = d->op[1].reg;
        return true;
    }
    if (!vex || d->map != 2)
        return false;
    if (o >= 0x90 && o <= 0x93) {
        bind_gather(d, op);
        return true;
    }
    bool load = o == 0x2c || o == 0x2d || o == 0x8c, store = o == 0x2e || o == 0x2f || o == 0x8e;
    if (!load && !store)
        return false;
    op->special = load ? SPECIAL_MASK_LOAD : SPECIAL_MASK_STORE;
    op->fn = load ? mask_load : mask_store;
    op->mask = d->op[1].reg;
    op->dst = store ? d->op[2].reg : d->op[0].reg;
    op->element = o >= 0x80 ? (d->bytes[d->vex_off + 2] & 0x80 ? 8 : 4) : (o & 1 ? 8 : 4);
    op->mem_bytes = op->ymm ? 32 : 16;
    return true;
}

/* ---- clearing registers ---------------------------------------------------------------------------------------- */

const struct insn *op_vzeroupper(struct vcpu *v, const struct insn *i)
{
    unsigned count = v->mode == MODE_LONG ? 16 : 8;

    avx_check(v);
    for (unsigned k = 0; k < count; k++)
        memset(v->ymm[k] + 16, 0, 16);
    if (count == 16)
        v->xinuse &= ~(uint64_t)XSAVE_AVX;
    return insn_next(i);
}

const struct insn *op_vzeroall(struct vcpu *v, const struct insn *i)
{
    avx_check(v);
    memset(v->ymm, 0, (v->mode == MODE_LONG ? 16 : 8) * sizeof(v->ymm[0]));
    if (v->mode == MODE_LONG)
        v->xinuse &= ~(uint64_t)XSAVE_AVX;
    return insn_next(i);
}

const struct insn *op_emms(struct vcpu *v, const struct insn *i)
{
    if (v->cr0 & CR0_EM)
        cpu_fault(v, VEC_UD);
    if (v->cr0 & CR0_TS)
        cpu_fault(v, VEC_NM);
    x87_check_pending(v);
    x87_mmx_transition(v->fx);
    v->fx[4] = 0;
    v->xinuse |= XSAVE_X87;
    return insn_next(i);
}
