/* FXSAVE and XSAVE images: the instructions (SDM vol. 1, 10.5 and ch. 13), and the same state for the client. */
#include "cpu/xsave.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include "cpu/access.h"
#include "cpu/cpuid.h"
#include "cpu/x87.h"
#include "mmu/tlb.h"

enum { /* of an image, in bytes */
    IMG_X87 = 24, IMG_MXCSR = 24, IMG_ST = 32, IMG_XMM = 160, IMG_HEADER = 512, IMG_FXSAVED = 416,
    FX_POINTERS = 6
};
#define XCOMP_COMPACT (1ull << 63)

static uint32_t get_mxcsr(const struct vcpu *v)
{
    uint32_t m;

    memcpy(&m, v->fx + IMG_MXCSR, 4);
    return m;
}

static void set_mxcsr(struct vcpu *v, uint32_t m)
{
    memcpy(v->fx + IMG_MXCSR, &m, 4);
    if (m != MXCSR_DEFAULT)
        v->xinuse |= XSAVE_SSE;
}

static unsigned xmm_count(const struct vcpu *v) { return v->mode == MODE_LONG ? 16 : 8; }

static void set_pkru(struct vcpu *v, uint32_t pkru)
{
    if (v->pkru == pkru)
        return;
    v->pkru = pkru;
    tlb_flush_all(v);
}

uint64_t xsave_in_use(const struct vcpu *v)
{
    uint64_t in_use = v->xinuse & ~(uint64_t)XSAVE_PKRU;

    if (v->pkru)
        in_use |= XSAVE_PKRU;
    return in_use & XSAVE_COMPONENTS;
}

size_t xsave_size_bytes(uint64_t xcr0)
{
    return xcr0 & XSAVE_PKRU ? xsave_pkru_offset() + XSAVE_PKRU_BYTES
           : xcr0 & XSAVE_AVX ? XSAVE_AVX_OFFSET + XSAVE_AVX_BYTES
                              : XSAVE_MIN_BYTES;
}

/* Compacted format (XSAVEC, XSAVES): bytes for the components of xcomp_bv. */
static size_t xsave_compact_bytes(uint64_t xcomp_bv)
{
    return XSAVE_MIN_BYTES + (xcomp_bv & XSAVE_AVX ? XSAVE_AVX_BYTES : 0) +
           (xcomp_bv & XSAVE_PKRU ? XSAVE_PKRU_BYTES : 0);
}

static size_t component_offset(uint64_t component, uint64_t xcomp_bv, bool compact)
{
    if (component == XSAVE_AVX)
        return XSAVE_AVX_OFFSET;
    if (!compact)
        return xsave_pkru_offset();
    return xsave_compact_bytes(xcomp_bv & (XSAVE_PKRU - 1));
}

/* ---- parts of an image --------------------------------------------------------------------------- */

/* Bytes 0 to 31 and 32 to 159. wide: FIP and FDP of 64 bits (REX.W). */
static void x87_to_image(const struct vcpu *v, uint8_t *image, bool wide)
{
    uint32_t mask = MXCSR_VALID;

    memcpy(image, v->fx, IMG_XMM);
    memcpy(image + 28, &mask, 4);
    image[5] = 0;
    if (!wide) { /* 32 bits and a selector, which reads as 0 */
        memset(image + 12, 0, 4);
        memset(image + 20, 0, 4);
        memcpy(image + 12, &v->fcs, 2);
        memcpy(image + 20, &v->fds, 2);
    }
    if (v->amd && !(v->fx[2] & 0x80)) /* AMD APM vol. 2, 11.4.4: pointers only with an exception pending */
        memset(image + FX_POINTERS, 0, IMG_X87 - FX_POINTERS);
    for (unsigned k = 0; k < 8; k++)
        memset(image + IMG_ST + 16 * k + 10, 0, 6);
}

static void x87_from_image(struct vcpu *v, const uint8_t *image, bool wide)
{
    uint16_t fcw = image[0] | image[1] << 8, fsw = image[2] | image[3] << 8;

    fcw = (fcw & 0x1f7f) | 0x40;
    fsw = (fsw & ~0x8080) | (fsw & ~fcw & 0x3f ? 0x8080 : 0); /* ES and B are derived */
    memcpy(v->fx, &fcw, 2);
    memcpy(v->fx + 2, &fsw, 2);
    v->fx[4] = image[4];
    v->fx[5] = 0;
    v->fx[6] = image[6];
    v->fx[7] = image[7] & 7;
    for (unsigned k = 8; k < 24; k += 8) { /* FIP has 57 bits, sign-extended, and so has AMD's FDP */
        int64_t pointer;

        memcpy(&pointer, image + k, 8);
        if (k == 8 || v->amd)
            pointer = (int64_t)((uint64_t)pointer << 7) >> 7;
        memcpy(v->fx + k, &pointer, 8);
    }
    v->fcs = v->fds = 0;
    if (!wide) {
        if (!cpu_has(v, FEAT_ZERO_FCS_FDS)) {
            memcpy(&v->fcs, image + 12, 2);
            memcpy(&v->fds, image + 20, 2);
        }
        memset(v->fx + 12, 0, 4);
        memset(v->fx + 20, 0, 4);
    }
    memcpy(v->fx + IMG_ST, image + IMG_ST, 128);
    for (unsigned k = 0; k < 8; k++)
        memset(v->fx + IMG_ST + 16 * k + 10, 0, 6);
}

static void xmm_to_image(const struct vcpu *v, uint8_t *image, unsigned count)
{
    for (unsigned k = 0; k < count; k++)
        memcpy(image + IMG_XMM + 16 * k, v->ymm[k], 16);
}

static void xmm_from_image(struct vcpu *v, const uint8_t *image, unsigned count)
{
    for (unsigned k = 0; k < count; k++)
        memcpy(v->ymm[k], image + IMG_XMM + 16 * k, 16);
}

static void avx_to_image(const struct vcpu *v, uint8_t *area, unsigned count)
{
    for (unsigned k = 0; k < count; k++)
        memcpy(area + 16 * k, v->ymm[k] + 16, 16);
}

static void avx_from_image(struct vcpu *v, const uint8_t *area, unsigned count)
{
    for (unsigned k = 0; k < count; k++)
        memcpy(v->ymm[k] + 16, area + 16 * k, 16);
}

/* ---- FXSAVE, FXRSTOR, MXCSR ------------------------------------------------------------------------ */

static void fx_check(struct vcpu *v)
{
    if (v->cr0 & (CR0_EM | CR0_TS))
        cpu_fault(v, VEC_NM);
}

/* FXSAVE, FXRSTOR: #AC(0) of less than 4 bytes' alignment comes before all but a canonical address; SDM vol. 2: up to the processor. */
static void check_fx_alignment(struct vcpu *v, const struct insn *i)
{
    uint64_t base = v->mode != MODE_LONG || i->seg >= FS ? v->seg[i->seg].base : 0;
    uint64_t linear = base + ea_offset(v, i);

    if (v->tlb == &v->tlb_sets[TLB_USER_AC] && linear & 3 && (v->mode != MODE_LONG || cpu_canonical(v, linear)))
        cpu_fault_error(v, VEC_AC, 0);
}

static uint64_t aligned_area(struct vcpu *v, const struct insn *i, unsigned size, bool write, unsigned align)
{
    uint64_t linear = ea(v, i, size, write);

    if (!v->amd)
        mem_check_canonical(v, linear, size);
    if (linear & (align - 1))
        cpu_gp(v, 0);
    return linear;
}

/* FXSAVE's and FXRSTOR's: AMD's processors, too, look whether the address is canonical before they look at its alignment. */
static uint64_t fx_area(struct vcpu *v, const struct insn *i, bool write)
{
    mem_check_canonical(v, ea(v, i, XSAVE_LEGACY_BYTES, write), XSAVE_LEGACY_BYTES);
    return aligned_area(v, i, XSAVE_LEGACY_BYTES, write, 16);
}

const struct insn *op_fxsave(struct vcpu *v, const struct insn *i)
{
    uint8_t image[IMG_FXSAVED];
    unsigned count = xmm_count(v);

    fx_check(v);
    check_fx_alignment(v, i);
    uint64_t linear = fx_area(v, i, true);
    x87_to_image(v, image, i->prefix & PFX_REXW);
    xmm_to_image(v, image, count);
    mem_check_write(v, linear, XSAVE_LEGACY_BYTES);
    mem_write_bytes(v, linear, image, IMG_XMM + 16 * count);
    return insn_next(i);
}

const struct insn *op_fxrstor(struct vcpu *v, const struct insn *i)
{
    uint8_t image[XSAVE_LEGACY_BYTES];
    uint32_t mxcsr;

    fx_check(v);
    check_fx_alignment(v, i);
    mem_read_bytes(v, fx_area(v, i, false), image, sizeof(image));
    memcpy(&mxcsr, image + IMG_MXCSR, 4);
    if (mxcsr & ~(uint32_t)MXCSR_VALID)
        cpu_gp(v, 0);
    x87_from_image(v, image, i->prefix & PFX_REXW);
    set_mxcsr(v, mxcsr);
    xmm_from_image(v, image, xmm_count(v));
    v->xinuse |= XSAVE_X87 | XSAVE_SSE;
    return insn_next(i);
}

static const struct insn *load_mxcsr(struct vcpu *v, const struct insn *i)
{
    uint32_t m = mem_load(v, ea(v, i, 4, false), 4);

    if (m & ~(uint32_t)MXCSR_VALID)
        cpu_gp(v, 0);
    set_mxcsr(v, m);
    return insn_next(i);
}

static const struct insn *store_mxcsr(struct vcpu *v, const struct insn *i)
{
    mem_store(v, ea(v, i, 4, true), 4, get_mxcsr(v));
    return insn_next(i);
}

const struct insn *op_ldmxcsr(struct vcpu *v, const struct insn *i)
{
    sse_check(v);
    return load_mxcsr(v, i);
}

const struct insn *op_vldmxcsr(struct vcpu *v, const struct insn *i)
{
    avx_check(v);
    return load_mxcsr(v, i);
}

const struct insn *op_stmxcsr(struct vcpu *v, const struct insn *i)
{
    sse_check(v);
    return store_mxcsr(v, i);
}

const struct insn *op_vstmxcsr(struct vcpu *v, const struct insn *i)
{
    avx_check(v);
    return store_mxcsr(v, i);
}

/* ---- XSAVE ------------------------------------------------------------------------------------------- */

static void xsave_check(struct vcpu *v)
{
    if (!(v->cr4 & CR4_OSXSAVE))
        cpu_fault(v, VEC_UD);
    if (v->cr0 & CR0_TS)
        cpu_fault(v, VEC_NM);
}

static uint64_t requested(const struct vcpu *v, bool supervisor)
{
    uint64_t mask = (v->gpr[RDX] << 32) | (uint32_t)v->gpr[RAX];

    return mask & (supervisor ? v->xcr0 | v->xss : v->xcr0) & XSAVE_COMPONENTS;
}

/* Writes the components of `save`; the whole area has been checked. */
static void save_components(struct vcpu *v, uint64_t linear, uint64_t save, uint64_t rfbm, bool compact, bool wide)
{
    uint8_t image[IMG_FXSAVED], avx[XSAVE_AVX_BYTES];
    uint64_t pkru = v->pkru;
    unsigned count = xmm_count(v);

    if (save & XSAVE_X87) {
        x87_to_image(v, image, wide);
        mem_write_bytes(v, linear, image, IMG_X87);
        mem_write_bytes(v, linear + IMG_ST, image + IMG_ST, IMG_XMM - IMG_ST);
    }
    if (compact ? save & XSAVE_SSE : rfbm & (XSAVE_SSE | XSAVE_AVX)) {
        uint32_t mxcsr[2] = {get_mxcsr(v), MXCSR_VALID};

        mem_write_bytes(v, linear + IMG_MXCSR, mxcsr, sizeof(mxcsr));
    }
    if (save & XSAVE_SSE) {
        xmm_to_image(v, image, count);
        mem_write_bytes(v, linear + IMG_XMM, image + IMG_XMM, 16 * count);
    }
    if (save & XSAVE_AVX) {
        avx_to_image(v, avx, count);
        mem_write_bytes(v, linear + XSAVE_AVX_OFFSET, avx, 16 * count);
    }
    if (save & XSAVE_PKRU)
        mem_write_bytes(v, linear + component_offset(XSAVE_PKRU, rfbm, compact), &pkru, 8);
}

static const struct insn *save_standard(struct vcpu *v, const struct insn *i, bool optimise)
{
    uint64_t rfbm, in_use, bv;

    xsave_check(v);
    rfbm = requested(v, false);
    size_t size = xsave_size_bytes(rfbm);
    uint64_t linear = aligned_area(v, i, size, true, 64);
    mem_check_write(v, linear, size);
    in_use = xsave_in_use(v);
    mem_read_bytes(v, linear + IMG_HEADER, &bv, 8);
    save_components(v, linear, optimise ? rfbm & in_use : rfbm, rfbm, false, i->prefix & PFX_REXW);
    bv = (bv & ~rfbm) | (in_use & rfbm);
    mem_write_bytes(v, linear + IMG_HEADER, &bv, 8);
    return insn_next(i);
}

static const struct insn *save_compact(struct vcpu *v, const struct insn *i, bool supervisor)
{
    uint64_t rfbm, in_use, header[2];

    xsave_check(v);
    if (supervisor && v->cpl)
        cpu_gp(v, 0);
    rfbm = requested(v, supervisor);
    size_t size = xsave_compact_bytes(rfbm);
    uint64_t linear = aligned_area(v, i, size, true, 64);
    mem_check_write(v, linear, size);
    in_use = xsave_in_use(v);
    if (get_mxcsr(v) != MXCSR_DEFAULT)
        in_use |= XSAVE_SSE;
    save_components(v, linear, rfbm & in_use, rfbm, true, i->prefix & PFX_REXW);
    header[0] = in_use & rfbm;
    header[1] = rfbm | XCOMP_COMPACT;
    mem_write_bytes(v, linear + IMG_HEADER, header, sizeof(header));
    return insn_next(i);
}

const struct insn *op_xsave(struct vcpu *v, const struct insn *i) { return save_standard(v, i, false); }
const struct insn *op_xsaveopt(struct vcpu *v, const struct insn *i) { return save_standard(v, i, true); }
const struct insn *op_xsavec(struct vcpu *v, const struct insn *i) { return save_compact(v, i, false); }
const struct insn *op_xsaves(struct vcpu *v, const struct insn *i) { return save_compact(v, i, true); }

/* SDM vol. 1, 13.8.1 and 13.8.2: #GP on a header that this processor could not have written. */
static void check_header(struct vcpu *v, const uint64_t h[8], bool supervisor)
{
    uint64_t enabled = supervisor ? v->xcr0 | v->xss : v->xcr0, rest = 0;
    bool compact = h[1] & XCOMP_COMPACT;

    for (unsigned k = 2; k < 8; k++)
        if (compact || k == 2)
            rest |= h[k];
    if (compact ? (h[1] & ~XCOMP_COMPACT & ~enabled) || (h[0] & ~(h[1] & ~XCOMP_COMPACT)) : supervisor || h[1] || (h[0] & ~enabled))
        cpu_gp(v, 0);
    if (rest)
        cpu_gp(v, 0);
}

struct restore { /* read before anything is committed */
    uint8_t legacy[XSAVE_LEGACY_BYTES];
    uint8_t avx[XSAVE_AVX_BYTES];
    uint64_t pkru;
    uint32_t mxcsr;
    bool set_mxcsr;
};

/* Outside of 64-bit mode registers 8 to 15 stay as they are: what of SSE and AVX they still hold. */
static uint64_t high_in_use(const struct vcpu *v)
{
    uint64_t in_use = 0;

    for (unsigned k = 8; k < 16; k++)
        for (unsigned n = 0; n < 32; n++)
            if (v->ymm[k][n])
                in_use |= n < 16 ? XSAVE_SSE : XSAVE_AVX;
    return in_use;
}

static void commit_restore(struct vcpu *v, const struct restore *r, uint64_t rfbm, uint64_t load, bool wide)
{
    unsigned count = xmm_count(v);

    if (load & XSAVE_X87)
        x87_from_image(v, r->legacy, wide);
    else if (rfbm & XSAVE_X87) {
        x87_init(v);
        memset(v->fx + IMG_ST, 0, 128);
    }
    if (rfbm & XSAVE_SSE)
        xmm_from_image(v, r->legacy, count);
    if (rfbm & XSAVE_AVX)
        avx_from_image(v, r->avx, count);
    v->xinuse = (v->xinuse & ~rfbm) | load;
    if (count == 8)
        v->xinuse |= high_in_use(v) & rfbm;
    if (r->set_mxcsr)
        set_mxcsr(v, r->mxcsr);
    if (rfbm & XSAVE_PKRU)
        set_pkru(v, r->pkru);
}

/* Where reading these components of a compacted area ends: what AMD's processors do not load may lie beyond the segment's limit. */
static size_t compact_end(uint64_t components, uint64_t xcomp_bv)
{
    return components & XSAVE_PKRU ? component_offset(XSAVE_PKRU, xcomp_bv, true) + XSAVE_PKRU_BYTES : xsave_compact_bytes(components);
}

static const struct insn *restore_area(struct vcpu *v, const struct insn *i, bool supervisor)
{
    uint64_t header[8], rfbm, load, linear;
    struct restore r;

    xsave_check(v);
    if (supervisor && v->cpl)
        cpu_gp(v, 0);
    rfbm = requested(v, supervisor);
    linear = aligned_area(v, i, XSAVE_MIN_BYTES, false, 64);
    mem_read_bytes(v, linear + IMG_HEADER, header, sizeof(header));
    bool compact = header[1] & XCOMP_COMPACT;
    load = rfbm & header[0];
    if (v->amd)
        check_header(v, header, supervisor);
    else if (compact && header[1] & ~XCOMP_COMPACT & ~(v->xcr0 | v->xss)) /* where does the area end? */
        cpu_gp(v, 0);
    size_t end = compact ? compact_end(v->amd ? load : rfbm & header[1], header[1]) : xsave_size_bytes(rfbm);
    (void)ea(v, i, (unsigned)end, false);
    if (!compact || !v->amd) /* the end of the area is touched whether or not it is loaded from */
        (void)mem_load(v, linear + end - 1, 1);
    if (!v->amd)
        check_header(v, header, supervisor);
    memset(&r, 0, sizeof(r));
    r.mxcsr = MXCSR_DEFAULT;
    /* Standard: MXCSR goes with RFBM, whatever XSTATE_BV says; compacted: it belongs to SSE. */
    r.set_mxcsr = rfbm & (compact ? XSAVE_SSE : XSAVE_SSE | XSAVE_AVX);
    if (compact ? load & XSAVE_SSE : r.set_mxcsr)
        mem_read_bytes(v, linear + IMG_MXCSR, &r.mxcsr, 4);
    bool valid = !(r.mxcsr & ~(uint32_t)MXCSR_VALID);
    if (!valid && (!compact || v->amd))
        cpu_gp(v, 0);
    if (load & XSAVE_X87)
        mem_read_bytes(v, linear, r.legacy, IMG_XMM);
    if (load & XSAVE_SSE)
        mem_read_bytes(v, linear + IMG_XMM, r.legacy + IMG_XMM, 16 * xmm_count(v));
    if (load & XSAVE_AVX)
        mem_read_bytes(v, linear + XSAVE_AVX_OFFSET, r.avx, sizeof(r.avx)); /* all of it, whatever the mode */
    if (load & XSAVE_PKRU)
        mem_read_bytes(v, linear + component_offset(XSAVE_PKRU, header[1], compact), &r.pkru, 8);
    if (!valid) { /* by the time that Intel's processors see it, only what lies behind SSE's has not been loaded */
        r.set_mxcsr = false;
        commit_restore(v, &r, rfbm & ~(load & ~(uint64_t)(XSAVE_X87 | XSAVE_SSE)), load & (XSAVE_X87 | XSAVE_SSE), i->prefix & PFX_REXW);
        cpu_gp(v, 0);
    }
    commit_restore(v, &r, rfbm, load, i->prefix & PFX_REXW);
    return insn_next(i);
}

const struct insn *op_xrstor(struct vcpu *v, const struct insn *i) { return restore_area(v, i, false); }
const struct insn *op_xrstors(struct vcpu *v, const struct insn *i) { return restore_area(v, i, true); }

/* ---- for the client ------------------------------------------------------------------------------------ */

void xsave_export(const struct vcpu *v, uint8_t *image, size_t size_bytes, uint64_t mask)
{
    uint8_t full[XSAVE_MAX_BYTES] = {0};
    uint64_t bv, pkru = v->pkru;
    size_t n = size_bytes < sizeof(full) ? size_bytes : sizeof(full);

    bv = xsave_in_use(v) & mask;
    if (get_mxcsr(v) != MXCSR_DEFAULT)
        bv |= XSAVE_SSE & mask;
    x87_to_image(v, full, true);
    memcpy(full + FX_POINTERS, v->fx + FX_POINTERS, IMG_X87 - FX_POINTERS);
    xmm_to_image(v, full, 16);
    memcpy(full + IMG_HEADER, &bv, 8);
    if (mask & XSAVE_AVX)
        avx_to_image(v, full + XSAVE_AVX_OFFSET, 16);
    if (mask & XSAVE_PKRU)
        memcpy(full + xsave_pkru_offset(), &pkru, 8);
    memset(image, 0, size_bytes);
    memcpy(image, full, n);
}

int xsave_import(struct vcpu *v, const uint8_t *image, size_t size_bytes, uint64_t mask)
{
    uint8_t full[XSAVE_MAX_BYTES] = {0};
    uint64_t header[8], pkru;
    uint32_t mxcsr;

    if (size_bytes < XSAVE_MIN_BYTES)
        return -EINVAL;
    memcpy(full, image, size_bytes < sizeof(full) ? size_bytes : sizeof(full));
    memcpy(header, full + IMG_HEADER, sizeof(header));
    memcpy(&mxcsr, full + IMG_MXCSR, 4);
    memcpy(&pkru, full + xsave_pkru_offset(), 8);
    if (header[0] & ~mask)
        return -EINVAL;
    for (unsigned k = 1; k < 8; k++)
        if (header[k])
            return -EINVAL;
    if (size_bytes < xsave_size_bytes(header[0]) || (mxcsr & ~(uint32_t)MXCSR_VALID))
        return -EINVAL;
    if (header[0] & XSAVE_X87) {
        x87_from_image(v, full, true);
    } else {
        x87_init(v);
        memset(v->fx + IMG_ST, 0, 128);
    }
    memset(v->ymm, 0, sizeof(v->ymm));
    if (header[0] & XSAVE_SSE)
        xmm_from_image(v, full, 16);
    if (header[0] & XSAVE_AVX)
        avx_from_image(v, full + XSAVE_AVX_OFFSET, 16);
    v->xinuse = header[0] & XSAVE_COMPONENTS;
    set_mxcsr(v, header[0] & (XSAVE_SSE | XSAVE_AVX) ? mxcsr : MXCSR_DEFAULT);
    if (!(header[0] & XSAVE_PKRU))
        set_pkru(v, 0);
    else if (cpuid_client_places_pkru(v)) /* else the client has filled the other components only */
        set_pkru(v, (uint32_t)pkru);
    return 0;
}

void fpu_export(const struct vcpu *v, struct kvm_fpu *fpu)
{
    memset(fpu, 0, sizeof(*fpu));
    for (unsigned k = 0; k < 8; k++)
        memcpy(fpu->fpr[k], v->fx + IMG_ST + 16 * k, 10);
    fpu->fcw = x87_fcw(v->fx);
    fpu->fsw = x87_fsw(v->fx);
    fpu->ftwx = v->fx[4];
    memcpy(&fpu->last_opcode, v->fx + 6, 2);
    memcpy(&fpu->last_ip, v->fx + 8, 8);
    memcpy(&fpu->last_dp, v->fx + 16, 8);
    for (unsigned k = 0; k < 16; k++)
        memcpy(fpu->xmm[k], v->ymm[k], 16);
    fpu->mxcsr = get_mxcsr(v);
}

int fpu_import(struct vcpu *v, const struct kvm_fpu *fpu)
{
    uint8_t image[IMG_XMM] = {0};

    if (fpu->mxcsr & ~(uint32_t)MXCSR_VALID)
        return -EINVAL;
    memcpy(image, &fpu->fcw, 2);
    memcpy(image + 2, &fpu->fsw, 2);
    image[4] = fpu->ftwx;
    memcpy(image + 6, &fpu->last_opcode, 2);
    memcpy(image + 8, &fpu->last_ip, 8);
    memcpy(image + 16, &fpu->last_dp, 8);
    memcpy(image + IMG_ST, fpu->fpr, 128);
    x87_from_image(v, image, true);
    for (unsigned k = 0; k < 16; k++)
        memcpy(v->ymm[k], fpu->xmm[k], 16);
    set_mxcsr(v, fpu->mxcsr);
    v->xinuse |= XSAVE_X87 | XSAVE_SSE;
    return 0;
}
