/* Segmentation: effective addresses, limits and rights of legacy code. SDM vol. 3, chapter 5. */
#include "cpu/access.h"

static _Noreturn void segment_violation(struct vcpu *v, enum segreg s)
{
    cpu_fault_error(v, s == SS ? VEC_SS : VEC_GP, 0);
}

uint64_t seg_linear(struct vcpu *v, enum segreg s, uint64_t off, unsigned size, bool write)
{
    const struct segment *seg = &v->seg[s];

    if (v->mode == MODE_LONG)
        return s == FS || s == GS ? seg->base + off : off;
    off = (uint32_t)off;
    if (likely(seg->flat))
        return off;
    if (seg->ar & AR_UNUSABLE)
        segment_violation(v, s);
    if (cpu_protected(v)) {
        bool code = seg->ar & AR_CODE;
        if (write && (code || !(seg->ar & AR_WRITABLE)))
            segment_violation(v, s);
        if (!write && code && !(seg->ar & AR_READABLE))
            segment_violation(v, s);
    }
    uint64_t last = off + size - 1;
    if (!(seg->ar & AR_CODE) && seg->ar & AR_EXPAND_DOWN) {
        uint64_t top = seg->ar & AR_DB ? 0xffffffffull : 0xffffull;
        if (off <= seg->limit || last > top)
            segment_violation(v, s);
    } else if (last > seg->limit) {
        segment_violation(v, s);
    }
    return (uint32_t)(seg->base + off);
}

uint64_t ea_offset(struct vcpu *v, const struct insn *i)
{
    uint64_t sum = v->gpr[i->base] + (v->gpr[i->index] << i->scale) + (int64_t)i->disp;

    switch (i->am) {
    case AM_FLAT64:
    case AM_SEG64: return sum;
    case AM_16: return (uint16_t)sum;
    default: return (uint32_t)sum;
    }
}

uint64_t ea_slow(struct vcpu *v, const struct insn *i, unsigned size, bool write)
{
    uint64_t off = ea_offset(v, i);

    switch (i->am) {
    case AM_FLAT64: return off;
    case AM_SEG64:
    case AM_64A32: return i->seg == FS || i->seg == GS ? v->seg[i->seg].base + off : off;
    default: return seg_linear(v, i->seg, off, size, write);
    }
}
