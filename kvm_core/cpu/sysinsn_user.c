/* Instructions that any privilege level may execute, but that read or set state of the system:
 * segment bases, protection keys, fences, random numbers.
 */
#include <sys/random.h>

#include "cpu/access.h"
#include "cpu/cpuid.h"
#include "cpu/msr.h"
#include "cpu/sem/common.h"
#include "cpu/state.h"
#include "gen/handlers.h"

#define UNUSED __attribute__((unused))
#define OP(name) const struct insn *op_##name(struct vcpu *v UNUSED, const struct insn *i UNUSED)

/* ---- FS and GS bases: SDM vol. 2, RDFSBASE -----------------------------------------------------
 */

static void need_fsgsbase(struct vcpu *v)
{
    if (!cpu_is_long(v) || !(v->cr4 & CR4_FSGSBASE))
        cpu_ud(v);
}

static const struct insn *read_base(struct vcpu *v, const struct insn *i, enum segreg s)
{
    need_fsgsbase(v);
    reg_set(v, i->dst, i->size, v->seg[s].base);
    return insn_next(i);
}

static const struct insn *write_base(struct vcpu *v, const struct insn *i, enum segreg s)
{
    uint64_t base = reg_get(v, i->dst, i->size);

    need_fsgsbase(v);
    if (v->amd ? !msr_canonical(v, base) : !cpu_canonical(v, base)) /* Intel's go by CR4.LA57 */
        cpu_gp(v, 0);
    v->seg[s].base = base;
    cpu_update_flat(v, s);
    return insn_next(i);
}

OP(rdfsbase) { return read_base(v, i, FS); }
OP(rdgsbase) { return read_base(v, i, GS); }
OP(wrfsbase) { return write_base(v, i, FS); }
OP(wrgsbase) { return write_base(v, i, GS); }

/* ---- protection keys ---------------------------------------------------------------------------
 */

OP(rdpkru)
{
    if (!(v->cr4 & CR4_PKE))
        cpu_ud(v);
    if ((uint32_t)v->gpr[RCX])
        cpu_gp(v, 0);
    v->gpr[RAX] = v->pkru;
    v->gpr[RDX] = 0;
    return insn_next(i);
}

OP(wrpkru)
{
    if (!(v->cr4 & CR4_PKE))
        cpu_ud(v);
    if ((uint32_t)v->gpr[RCX] || (uint32_t)v->gpr[RDX])
        cpu_gp(v, 0);
    if (v->pkru != (uint32_t)v->gpr[RAX]) {
        v->pkru = (uint32_t)v->gpr[RAX];
        tlb_flush_all(v); /* its tags were made under the old rights */
    }
    return insn_next(i);
}

/* ---- order -------------------------------------------------------------------------------------
 */

OP(mfence)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return insn_next(i);
}

/* Also what orders the non-temporal stores that ran natively. */
OP(sfence)
{
#if defined(__x86_64__)
    __builtin_ia32_sfence();
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
    return insn_next(i);
}

/* Instructions complete in order here: only the compiler needs telling. */
OP(lfence)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    return insn_next(i);
}

OP(serialize)
{
    if (!cpu_has(v, FEAT_SERIALIZE))
        cpu_ud(v);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    v->rip = cpu_next_rip(v, i);
    return NULL;
}

OP(pause)
{
    enum { PAUSE_WINDOW = 64 };

#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
    if (!(++v->pauses % PAUSE_WINDOW) && v->ops->pause_loop)
        v->ops->pause_loop(v);
    return insn_next(i);
}

/* A hint: no fault, no effect. */
OP(prefetch) { return insn_next(i); }

/* ---- random numbers ----------------------------------------------------------------------------
 */

/* CF: a number was there; the other arithmetic flags are cleared. SDM vol. 2, RDRAND */
static const struct insn *random_number(struct vcpu *v, const struct insn *i, enum cpu_feature f)
{
    uint64_t number = 0;
    bool ok;

    if (!cpu_has(v, f))
        cpu_ud(v);
    if (v->frozen_tsc) { /* both engines draw the same */
        number = (v->frozen_tsc ^ v->gpr[RSP]) * 0x9e3779b97f4a7c15;
        ok = true;
    } else {
        ok = getrandom(&number, sizeof(number), GRND_NONBLOCK) == sizeof(number);
    }
    reg_set(v, i->dst, i->size, ok ? number : 0);
    v->oszapc = ok ? PF_CF : 0;
    return insn_next(i);
}

OP(rdrand) { return random_number(v, i, FEAT_RDRAND); }
OP(rdseed) { return random_number(v, i, FEAT_RDSEED); }
