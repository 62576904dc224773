/* x87 and MMX: arithmetic runs on the host between FXRSTOR and FXSAVE; environment and control in C.
 *
 * The registers are v->fx, an FXSAVE64 image: slot k is ST(k), the abridged tag byte is by physical register.
 * FIP holds the guest's offset (real and virtual-8086 mode: linear address); FCS and FDS are beside it in the vCPU.
 */
#include "cpu/x87.h"

#include <string.h>

#include "cpu/access.h"
#include "cpu/cpuid.h"
#include "cpu/native.h"

enum { FSW_ES = 0x80, FSW_B = 0x8000, FSW_EXCEPTIONS = 0x3f, FX_FOP = 6, FX_FIP = 8, FX_FDP = 16, FX_MXCSR_MASK = 28, FX_ST = 32 };

uint16_t x87_fcw(const uint8_t *fx) { return fx[0] | fx[1] << 8; }
uint16_t x87_fsw(const uint8_t *fx) { return fx[2] | fx[3] << 8; }

static void set16(uint8_t *p, uint16_t x) { memcpy(p, &x, 2); }

static void set_fsw(uint8_t *fx, uint16_t fsw)
{
    fsw &= ~(FSW_ES | FSW_B);
    if (fsw & ~x87_fcw(fx) & FSW_EXCEPTIONS)
        fsw |= FSW_ES | FSW_B;
    set16(fx + 2, fsw);
}

static void set_fcw(uint8_t *fx, uint16_t fcw)
{
    set16(fx, (fcw & 0x1f7f) | 0x40);
    set_fsw(fx, x87_fsw(fx));
}

/* The physical registers stay where they are; what is ST(0) changes. */
static void set_top(uint8_t *fx, unsigned top)
{
    unsigned old = fx[3] >> 3 & 7;
    uint8_t st[128];

    if (top == old)
        return;
    memcpy(st, fx + FX_ST, sizeof(st));
    for (unsigned k = 0; k < 8; k++)
        memcpy(fx + FX_ST + 16 * k, st + 16 * ((k + top - old) & 7), 16);
    fx[3] = (fx[3] & ~0x38) | top << 3;
}

void x87_init(struct vcpu *v)
{
    set_top(v->fx, 0);
    memset(v->fx, 0, 24);
    set16(v->fx, 0x37f);
    v->fcs = v->fds = 0;
}

void x87_mmx_transition(uint8_t *fx)
{
    set_top(fx, 0);
    fx[4] = 0xff;
}

/* CR0.NE clear would mean FERR# and IRQ 13 through the interrupt controller: as on hardware-assisted KVM, where NE is
 * forced, #MF is raised instead. */
void x87_check_pending(struct vcpu *v)
{
    if (unlikely(v->fx[2] & FSW_ES))
        cpu_fault(v, VEC_MF);
}

/* ---- on the host ------------------------------------------------------------------------------ */

/* Memory operands are copied. Guest memory may be gone (kvm/backing.c), and C could not go on with the x87 state there is then. */

#ifdef __x86_64__
static void run_stub(struct vcpu *v, const struct native_op *op, void *mem, uint8_t *fx)
{
    uint32_t host = __builtin_ia32_stmxcsr(), mask; /* FXRSTOR loads the guest's, unmasked exceptions and all */

    memcpy(&mask, fx + FX_MXCSR_MASK, 4);
    op->code(v, mem, fx);
    memcpy(fx + FX_MXCSR_MASK, &mask, 4); /* FXSAVE stores the host's */
    __builtin_ia32_ldmxcsr(host);
}
#else
static void run_stub(struct vcpu *v, const struct native_op *op, void *mem, uint8_t *fx)
{
    (void)v, (void)op, (void)mem, (void)fx;
}
#endif

static bool keeps_selectors(const struct vcpu *v)
{
    return v->mode >= MODE_PROT && !cpu_has(v, FEAT_ZERO_FCS_FDS);
}

/* Intel's note the opcode with an unmasked exception only: SDM vol. 1, 8.1.9.1. */
void x87_set_code_pointer(struct vcpu *v, uint8_t *fx, unsigned fop, uint64_t fip)
{
    if (v->mode < MODE_PROT)
        fip = (uint32_t)(v->seg[CS].base + fip);
    if (v->amd || fx[2] & FSW_ES)
        set16(fx + FX_FOP, (uint16_t)fop);
    memcpy(fx + FX_FIP, &fip, 8);
    v->fcs = keeps_selectors(v) ? v->seg[CS].sel : 0;
}

void x87_set_data_pointer(struct vcpu *v, uint8_t *fx, unsigned seg, uint64_t fdp)
{
    if (cpu_has(v, FEAT_FDP_EXCPTN_ONLY) && !(fx[2] & FSW_ES))
        return;
    if (v->mode < MODE_PROT)
        fdp = (uint32_t)(v->seg[seg].base + fdp);
    memcpy(fx + FX_FDP, &fdp, 8);
    v->fds = keeps_selectors(v) ? v->seg[seg].sel : 0;
}

/* Last non-control instruction: SDM vol. 1, 8.1.8. */
static void set_pointers(struct vcpu *v, const struct insn *i, const struct native_op *op, uint8_t *fx,
                         const uint8_t old[24])
{
    memcpy(fx + FX_FOP, old + FX_FOP, 18);
    x87_set_code_pointer(v, fx, op->fop, cpu_this_rip(v, i));
    if (op->mem_bytes)
        x87_set_data_pointer(v, fx, i->seg, ea_offset(v, i));
}

/* Intel's processors store an m80 in two parts; the first is seen where the second faults. */
static void store_parts(struct vcpu *v, uint64_t linear, const uint8_t *value, unsigned bytes)
{
    unsigned first = bytes == 10 && !v->amd ? 8 : bytes;

    mem_write_bytes(v, linear, value, first);
    if (first < bytes)
        mem_write_bytes(v, linear + first, value + first, bytes - first);
}

/* With an unmasked exception other than precision nothing is stored, and Intel's processors do not look at the operand. */
static void store_bounced(struct vcpu *v, const struct insn *i, const struct native_op *op)
{
    struct native_cache *n = v->native;
    uint8_t *fx = n->fx_copy;

    if (v->amd)
        mem_check_write(v, ea(v, i, op->mem_bytes, true), op->mem_bytes);
    memcpy(fx, v->fx, sizeof(v->fx));
    run_stub(v, op, n->bounce, fx);
    if (!(x87_fsw(fx) & ~x87_fcw(fx) & 0x1f))
        store_parts(v, ea(v, i, op->mem_bytes, true), n->bounce, op->mem_bytes);
    set_pointers(v, i, op, fx, v->fx);
    memcpy(v->fx, fx, sizeof(v->fx));
}

const struct insn *x87_execute(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);
    uint8_t old[24];
    void *p = NULL;

    native_check(v, op);
    x87_check_pending(v);
    if (op->mem_bytes) {
        if (op->mem_action & OPND_WRITE) {
            store_bounced(v, i, op);
            v->xinuse |= 1;
            return insn_next(i);
        }
        p = v->native->bounce;
        mem_read_bytes(v, ea(v, i, op->mem_bytes, false), p, op->mem_bytes);
    }
    memcpy(old, v->fx, sizeof(old));
    run_stub(v, op, p, v->fx);
    set_pointers(v, i, op, v->fx, old);
    v->xinuse |= 1;
    return insn_next(i);
}

const struct insn *mmx_execute(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);
    uint64_t linear;
    void *p = NULL;

    native_check(v, op);
    x87_check_pending(v);
    if (op->mem_bytes) {
        bool write = op->mem_action & OPND_WRITE;

        if (write && !v->amd) /* seen after a fault */
            set_top(v->fx, 0);
        linear = ea(v, i, op->mem_bytes, write);
        if (unlikely(linear & op->align_mask))
            cpu_gp(v, 0);
        if (write) {
            uint8_t *fx = v->native->fx_copy;

            memcpy(fx, v->fx, sizeof(v->fx));
            x87_mmx_transition(fx);
            native_run(v, op, v->native->bounce, fx);
            mem_write_bytes(v, linear, v->native->bounce, op->mem_bytes);
            memcpy(v->fx, fx, sizeof(v->fx));
            v->xinuse |= op->xinuse;
            return insn_next(i);
        }
        p = v->native->bounce;
        mem_read_bytes(v, linear, p, op->mem_bytes);
    }
    x87_mmx_transition(v->fx);
    native_run(v, op, p, v->fx);
    v->xinuse |= op->xinuse;
    return insn_next(i);
}

/* ---- environment: SDM vol. 1, 8.1.10 ----------------------------------------------------------- */

static uint16_t full_tags(const uint8_t *fx)
{
    unsigned top = fx[3] >> 3 & 7;
    uint16_t tags = 0;

    for (unsigned j = 0; j < 8; j++) {
        const uint8_t *st = fx + FX_ST + 16 * ((j - top) & 7);
        unsigned exponent = (st[8] | st[9] << 8) & 0x7fff, tag;
        uint64_t mantissa;

        memcpy(&mantissa, st, 8);
        if (!(fx[4] >> j & 1))
            tag = 3;
        else if (exponent == 0 && mantissa == 0)
            tag = 1;
        else
            tag = exponent != 0 && exponent != 0x7fff && mantissa >> 63 ? 0 : 2;
        tags |= tag << 2 * j;
    }
    return tags;
}

static unsigned env_store(const struct vcpu *v, unsigned opsize, uint8_t *env)
{
    const uint8_t *fx = v->fx;
    bool real = v->mode < MODE_PROT;
    uint32_t fip, fdp, fop = (fx[FX_FOP] | fx[FX_FOP + 1] << 8) & 0x7ff;
    uint16_t tags = full_tags(fx);

    memcpy(&fip, fx + FX_FIP, 4);
    memcpy(&fdp, fx + FX_FDP, 4);
    if (opsize == 2) {
        uint16_t e[7] = {x87_fcw(fx), x87_fsw(fx), tags, fip, v->fcs, fdp, v->fds};

        if (real) {
            e[4] = (fip >> 16 & 15) << 12 | fop;
            e[6] = (fdp >> 16 & 15) << 12;
        }
        memcpy(env, e, sizeof(e));
        return sizeof(e);
    }
    uint32_t ones = 0xffff0000u;
    uint32_t e[7] = {x87_fcw(fx) | ones, x87_fsw(fx) | ones, tags | ones, fip, fop << 16 | v->fcs, fdp, ones | v->fds};
    if (real) {
        e[3] = (fip & 0xffff) | ones;
        e[4] = (fip >> 16) << 12 | fop;
        e[5] = (fdp & 0xffff) | ones;
        e[6] = (fdp >> 16) << 12;
    }
    memcpy(env, e, sizeof(e));
    return sizeof(e);
}

static void env_load(struct vcpu *v, unsigned opsize, const uint8_t *env)
{
    uint8_t *fx = v->fx;
    bool real = v->mode < MODE_PROT;
    uint32_t e[7];
    uint64_t fip, fdp;
    uint16_t fop;

    for (unsigned k = 0; k < 7; k++) {
        e[k] = 0;
        memcpy(&e[k], env + k * opsize, opsize);
    }
    if (real) {
        fop = e[4] & 0x7ff;
        fip = (e[3] & 0xffff) | (uint64_t)((e[4] >> 12 & 0xffff) << 16);
        fdp = (e[5] & 0xffff) | (uint64_t)((e[6] >> 12 & 0xffff) << 16);
    } else {
        fop = opsize == 4 ? e[4] >> 16 & 0x7ff : x87_fsw(fx) & 0;
        fip = e[3];
        fdp = e[5];
    }
    set_top(fx, e[1] >> 11 & 7);
    set16(fx, (e[0] & 0x1f7f) | 0x40);
    set_fsw(fx, e[1]);
    fx[4] = 0;
    for (unsigned j = 0; j < 8; j++)
        if ((e[2] >> 2 * j & 3) != 3)
            fx[4] |= 1u << j;
    set16(fx + FX_FOP, fop);
    memcpy(fx + FX_FIP, &fip, 8);
    memcpy(fx + FX_FDP, &fdp, 8);
    v->fcs = keeps_selectors(v) ? (uint16_t)e[4] : 0;
    v->fds = keeps_selectors(v) ? (uint16_t)e[6] : 0;
}

/* ---- control instructions ------------------------------------------------------------------------ */

static const struct insn *x87_fnstenv(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);
    uint8_t env[28];

    native_check(v, op);
    unsigned n = env_store(v, op->element, env);
    mem_write_bytes(v, ea(v, i, n, true), env, n);
    set_fcw(v->fx, x87_fcw(v->fx) | FSW_EXCEPTIONS);
    return insn_next(i);
}

static const struct insn *x87_fldenv(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);
    uint8_t env[28];
    unsigned n = 7 * op->element;

    native_check(v, op);
    x87_check_pending(v);
    mem_read_bytes(v, ea(v, i, n, false), env, n);
    env_load(v, op->element, env);
    v->xinuse |= 1;
    return insn_next(i);
}

static const struct insn *x87_fnsave(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);
    uint8_t image[108];

    native_check(v, op);
    unsigned n = env_store(v, op->element, image);
    for (unsigned k = 0; k < 8; k++, n += 10)
        memcpy(image + n, v->fx + FX_ST + 16 * k, 10);
    mem_write_bytes(v, ea(v, i, n, true), image, n);
    x87_init(v);
    return insn_next(i);
}

static const struct insn *x87_frstor(struct vcpu *v, const struct insn *i)
{
    const struct native_op *op = native_op_of(i);
    uint8_t image[108];
    unsigned env = 7 * op->element;

    native_check(v, op);
    x87_check_pending(v);
    mem_read_bytes(v, ea(v, i, env + 80, false), image, env + 80);
    env_load(v, op->element, image);
    for (unsigned k = 0; k < 8; k++)
        memcpy(v->fx + FX_ST + 16 * k, image + env + 10 * k, 10);
    v->xinuse |= 1;
    return insn_next(i);
}

static const struct insn *x87_fldcw(struct vcpu *v, const struct insn *i)
{
    native_check(v, native_op_of(i));
    x87_check_pending(v);
    set_fcw(v->fx, mem_load(v, ea(v, i, 2, false), 2));
    v->xinuse |= 1;
    return insn_next(i);
}

static const struct insn *x87_fnstcw(struct vcpu *v, const struct insn *i)
{
    native_check(v, native_op_of(i));
    mem_store(v, ea(v, i, 2, true), 2, x87_fcw(v->fx));
    return insn_next(i);
}

static const struct insn *x87_fnstsw(struct vcpu *v, const struct insn *i)
{
    native_check(v, native_op_of(i));
    mem_store(v, ea(v, i, 2, true), 2, x87_fsw(v->fx));
    return insn_next(i);
}

static const struct insn *x87_fnstsw_ax(struct vcpu *v, const struct insn *i)
{
    native_check(v, native_op_of(i));
    v->gpr[RAX] = (v->gpr[RAX] & ~0xffffull) | x87_fsw(v->fx);
    return insn_next(i);
}

static const struct insn *x87_fnclex(struct vcpu *v, const struct insn *i)
{
    native_check(v, native_op_of(i));
    set16(v->fx + 2, x87_fsw(v->fx) & 0x7f00);
    return insn_next(i);
}

static const struct insn *x87_fninit(struct vcpu *v, const struct insn *i)
{
    native_check(v, native_op_of(i));
    x87_init(v);
    return insn_next(i);
}

static const struct insn *x87_fwait(struct vcpu *v, const struct insn *i)
{
    if ((v->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
        cpu_fault(v, VEC_NM);
    x87_check_pending(v);
    return insn_next(i);
}

/* FENI, FDISI, FSETPM: of the 8087 and 80287, nothing since the 80387. */
static const struct insn *x87_nothing(struct vcpu *v, const struct insn *i)
{
    native_check(v, native_op_of(i));
    return insn_next(i);
}

static insn_fn *memory_control(unsigned opcode, unsigned digit)
{
    switch (opcode << 4 | digit) {
    case 0xd94: return x87_fldenv;
    case 0xd95: return x87_fldcw;
    case 0xd96: return x87_fnstenv;
    case 0xd97: return x87_fnstcw;
    case 0xdd4: return x87_frstor;
    case 0xdd6: return x87_fnsave;
    case 0xdd7: return x87_fnstsw;
    default: return NULL;
    }
}

static insn_fn *register_control(unsigned opcode, unsigned modrm)
{
    switch (opcode << 8 | modrm) {
    case 0xdbe0:
    case 0xdbe1:
    case 0xdbe4: return x87_nothing;
    case 0xdbe2: return x87_fnclex;
    case 0xdbe3: return x87_fninit;
    case 0xdfe0: return x87_fnstsw_ax;
    default: return NULL;
    }
}

bool x87_bind(const struct decoded *d, struct native_op *op)
{
    if (d->opcode == 0x9b) {
        op->fn = x87_fwait;
        return true;
    }
    op->fop = (d->opcode & 7) << 8 | d->modrm;
    op->element = d->operand_bits == 16 ? 2 : 4;
    op->fn = d->modrm >= 0xc0 ? register_control(d->opcode, d->modrm)
                              : memory_control(d->opcode, d->modrm >> 3 & 7);
    if (op->fn)
        return true;
    op->element = 0;
    op->fn = x87_execute;
    return false;
}

/* ---- for the translator ------------------------------------------------------------------------------ */

enum x87_class x87_class_of(const struct insn *i)
{
    static const struct {
        insn_fn *fn;
        enum x87_class is;
    } classes[] = {{x87_execute, X87_ARITHMETIC}, {x87_fldcw, X87_FLDCW},         {x87_fnstcw, X87_FNSTCW},
                   {x87_fnstsw, X87_FNSTSW},      {x87_fnstsw_ax, X87_FNSTSW_AX}, {x87_fwait, X87_FWAIT}};

    for (unsigned n = 0; n < sizeof(classes) / sizeof(classes[0]); n++)
        if (classes[n].fn == i->fn)
            return classes[n].is;
    return X87_OTHER;
}

bool x87_all_masked(const uint8_t *fx) { return (x87_fcw(fx) & FSW_EXCEPTIONS) == FSW_EXCEPTIONS; }
