/* General registers, events, multiprocessor state, debug and floating-point state in and out. */
#include <errno.h>
#include <string.h>

#include "cpu/state.h"
#include "cpu/xsave.h"
#include "kvm/kvm.h"

/* ---- general registers: KVM API 4.11, 4.12 ------------------------------------------------------------------- */

/* Order of struct kvm_regs: rax rbx rcx rdx rsi rdi rsp rbp r8-r15 */
static const uint8_t regs_order[16] = {RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, R8, R9, R10, R11, R12, R13, R14, R15};

void state_get_regs(const struct kvm_vcpu *kv, struct kvm_regs *r)
{
    uint64_t *out = (uint64_t *)r;

    for (unsigned i = 0; i < 16; i++)
        out[i] = kv->cpu.gpr[regs_order[i]];
    r->rip = kv->cpu.rip;
    r->rflags = cpu_get_eflags(&kv->cpu);
}

int state_set_regs(struct kvm_vcpu *kv, const struct kvm_regs *r)
{
    const uint64_t *in = (const uint64_t *)r;

    if (r->rip != kv->cpu.rip)
        run_cancel(kv); /* whatever the instruction was doing, the client has sent the vCPU elsewhere */
    for (unsigned i = 0; i < 16; i++)
        kv->cpu.gpr[regs_order[i]] = in[i];
    kv->cpu.rip = r->rip;
    cpu_set_eflags(&kv->cpu, r->rflags);
    if (kv->cpu.pending.type == EVENT_FAULT || kv->cpu.pending.type == EVENT_TRAP)
        kv->cpu.pending.type = EVENT_NONE; /* as KVM: new registers, no stale exception */
    return 0;
}

/* ---- events: KVM API 4.31, 4.32 ---------------------------------------------------------------------------------- */

static bool is_exception(uint8_t type)
{
    return type == EVENT_FAULT || type == EVENT_TRAP || type == EVENT_SOFTEXC || type == EVENT_ICEBP;
}

void state_get_events(struct kvm_vcpu *kv, struct kvm_vcpu_events *e)
{
    struct vcpu *v = &kv->cpu;
    struct event *p = &v->pending;

    if (is_exception(p->type)) {
        e->exception.injected = 1;
        e->exception.nr = p->vector;
        e->exception.has_error_code = p->has_error;
        e->exception.error_code = p->error;
        if (p->vector == VEC_PF && p->type == EVENT_FAULT)
            v->cr2 = p->payload; /* the client reads it with the sregs */
        else if (p->vector == VEC_DB && p->type != EVENT_ICEBP)
            v->dr[6] |= p->payload;
    }
    e->interrupt.injected = p->type == EVENT_EXTINT || p->type == EVENT_SOFTINT || (!kv->has_lapic && kv->user_irq >= 0);
    e->interrupt.nr = p->type == EVENT_NONE && kv->user_irq >= 0 ? (uint8_t)kv->user_irq
                      : e->interrupt.injected                    ? p->vector
                                                                 : 0;
    e->interrupt.soft = p->type == EVENT_SOFTINT;
    e->interrupt.shadow = (v->shadow & SHADOW_STI ? KVM_X86_SHADOW_INT_STI : 0) |
                          (v->shadow & SHADOW_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS : 0);
    e->nmi.injected = p->type == EVENT_NMI;
    e->nmi.pending = (uint8_t)atomic_load(&kv->nmi_queued);
    e->nmi.masked = v->nmi_masked;
    e->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
    if (kv->vm->exception_payload)
        e->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
    if (kv->vm->triple_fault_event) {
        e->triple_fault.pending = !!(atomic_load(&kv->events) & VCPU_TRIPLE_FAULT);
        e->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    }
}

static int events_check(const struct kvm_vcpu *kv, const struct kvm_vcpu_events *e)
{
    bool payload = e->flags & KVM_VCPUEVENT_VALID_PAYLOAD;

    if (e->flags & ~(uint32_t)(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
                               KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD |
                               KVM_VCPUEVENT_VALID_TRIPLE_FAULT))
        return -EINVAL;
    if (payload && (!kv->vm->exception_payload || (e->exception.pending && e->exception.injected)))
        return -EINVAL;
    if ((e->exception.injected || (payload && e->exception.pending)) &&
        (e->exception.nr > 31 || e->exception.nr == VEC_NMI))
        return -EINVAL;
    if ((e->flags & KVM_VCPUEVENT_VALID_SMM) && (e->smi.smm || e->smi.pending))
        return -EINVAL; /* no system management mode */
    if ((e->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && !kv->vm->triple_fault_event)
        return -EINVAL;
    return 0;
}

static struct event exception_in(const struct kvm_vcpu *kv, const struct kvm_vcpu_events *e)
{
    struct event p = {.type = EVENT_FAULT, .vector = e->exception.nr, .has_error = e->exception.has_error_code,
                      .error = e->exception.error_code};

    if (p.vector == VEC_BP || p.vector == VEC_OF) {
        p.type = EVENT_SOFTEXC;
        p.insn_len = 1;
    } else if (p.vector == VEC_DB) {
        p.type = EVENT_TRAP;
        p.payload = kv->cpu.dr[6] & 0xe00f;
    }
    if (p.vector == VEC_PF)
        p.payload = kv->cpu.cr2;
    if ((e->flags & KVM_VCPUEVENT_VALID_PAYLOAD) && e->exception.pending && e->exception_has_payload)
        p.payload = e->exception_payload;
    return p;
}

int state_set_events(struct kvm_vcpu *kv, const struct kvm_vcpu_events *e)
{
    bool pending = (e->flags & KVM_VCPUEVENT_VALID_PAYLOAD) && e->exception.pending;
    int err = events_check(kv, e);
    struct vcpu *v = &kv->cpu;

    if (err)
        return err;
    v->pending = (struct event){.type = EVENT_NONE};
    kv->user_irq = -1;
    if (e->exception.injected || pending)
        v->pending = exception_in(kv, e);
    else if (e->nmi.injected)
        v->pending = (struct event){.type = EVENT_NMI, .vector = VEC_NMI};
    else if (e->interrupt.injected)
        v->pending = (struct event){.type = e->interrupt.soft ? EVENT_SOFTINT : EVENT_EXTINT,
                                    .vector = e->interrupt.nr, .insn_len = e->interrupt.soft ? 2 : 0};
    if (e->flags & KVM_VCPUEVENT_VALID_SHADOW)
        v->shadow = (e->interrupt.shadow & KVM_X86_SHADOW_INT_STI ? SHADOW_STI : 0) |
                    (e->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? SHADOW_MOV_SS : 0);
    if (e->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
        atomic_store(&kv->nmi_queued, e->nmi.pending ? 1 : 0);
    v->nmi_masked = e->nmi.masked;
    if ((e->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR) && kv->has_lapic)
        atomic_store(&kv->sipi_vector, e->sipi_vector);
    if (e->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) {
        if (e->triple_fault.pending)
            atomic_fetch_or(&kv->events, VCPU_TRIPLE_FAULT);
        else
            atomic_fetch_and(&kv->events, ~(uint32_t)VCPU_TRIPLE_FAULT);
    }
    return 0;
}

/* ---- multiprocessor state: KVM API 4.38, 4.39 ------------------------------------------------------------------------ */

void state_get_mp(struct kvm_vcpu *kv, struct kvm_mp_state *m)
{
    run_accept_ipis(kv);
    m->mp_state = kv->mp_state == KVM_MP_STATE_HALTED && kv->pv_unhalt ? KVM_MP_STATE_RUNNABLE : kv->mp_state;
}

int state_set_mp(struct kvm_vcpu *kv, const struct kvm_mp_state *m)
{
    switch (m->mp_state) {
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED:
    case KVM_MP_STATE_HALTED:
    case KVM_MP_STATE_SIPI_RECEIVED:
        if (!kv->has_lapic)
            return -EINVAL;
        break;
    case KVM_MP_STATE_RUNNABLE: break;
    default: return -EINVAL;
    }
    if (m->mp_state == KVM_MP_STATE_SIPI_RECEIVED) {
        kv->mp_state = KVM_MP_STATE_INIT_RECEIVED;
        atomic_fetch_or(&kv->events, VCPU_SIPI);
    } else {
        kv->mp_state = m->mp_state;
    }
    return 0;
}

/* ---- debugging: KVM API 4.34, 4.65, 4.87 ----------------------------------------------------------------------------- */

void state_get_debugregs(struct kvm_vcpu *kv, struct kvm_debugregs *d)
{
    memcpy(d->db, kv->cpu.dr, sizeof(d->db));
    d->dr6 = kv->cpu.dr[6];
    d->dr7 = kv->cpu.dr[7];
}

static void debug_changed(struct kvm_vcpu *kv)
{
    cpu_update_slow(&kv->cpu);
    __atomic_fetch_or(&kv->cpu.requests, REQ_TLB_FLUSH, __ATOMIC_SEQ_CST); /* watched pages are not in the TLB */
}

int state_set_debugregs(struct kvm_vcpu *kv, const struct kvm_debugregs *d)
{
    if (d->flags || d->dr6 >> 32 || d->dr7 >> 32)
        return -EINVAL;
    memcpy(kv->cpu.dr, d->db, sizeof(d->db));
    kv->cpu.dr[6] = d->dr6;
    kv->cpu.dr[7] = d->dr7;
    debug_changed(kv);
    return 0;
}

int state_guest_debug(struct kvm_vcpu *kv, const struct kvm_guest_debug *d)
{
    struct vcpu *v = &kv->cpu;

    if (d->control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP)) {
        if (is_exception(v->pending.type))
            return -EBUSY;
        if (d->control & KVM_GUESTDBG_INJECT_DB)
            v->pending = (struct event){.type = EVENT_TRAP, .vector = VEC_DB};
        else
            v->pending = (struct event){.type = EVENT_SOFTEXC, .vector = VEC_BP, .insn_len = 1};
    }
    v->guest_debug = d->control & KVM_GUESTDBG_ENABLE ? d->control : 0;
    if (v->guest_debug & KVM_GUESTDBG_USE_HW_BP)
        memcpy(v->guest_debug_dr, d->arch.debugreg, sizeof(v->guest_debug_dr));
    debug_changed(kv);
    return 0;
}

/* ---- floating point: KVM API 4.17, 4.18, 4.42, 4.43, 4.44, 4.45 ----------------------------------------------------- */

void state_get_fpu(struct kvm_vcpu *kv, struct kvm_fpu *f)
{
    fpu_export(&kv->cpu, f);
}

int state_set_fpu(struct kvm_vcpu *kv, const struct kvm_fpu *f)
{
    return fpu_import(&kv->cpu, f);
}

void state_get_xsave(struct kvm_vcpu *kv, struct kvm_xsave *x)
{
    xsave_export(&kv->cpu, (uint8_t *)x->region, sizeof(x->region), cpuid_xcr0_supported());
}

int state_set_xsave(struct kvm_vcpu *kv, const struct kvm_xsave *x)
{
    return xsave_import(&kv->cpu, (const uint8_t *)x->region, sizeof(x->region), cpuid_xcr0_supported());
}

void state_get_xcrs(struct kvm_vcpu *kv, struct kvm_xcrs *x)
{
    x->nr_xcrs = 1;
    x->xcrs[0].value = kv->cpu.xcr0;
}

int state_set_xcrs(struct kvm_vcpu *kv, const struct kvm_xcrs *x)
{
    if (x->nr_xcrs > KVM_MAX_XCRS || x->flags)
        return -EINVAL;
    for (unsigned i = 0; i < x->nr_xcrs; i++) {
        uint64_t value = x->xcrs[i].value;
        if (x->xcrs[i].xcr)
            continue;
        if (!(value & XSAVE_X87) || (value & ~cpuid_xcr0_supported()) || ((value & XSAVE_AVX) && !(value & XSAVE_SSE)))
            return -EINVAL;
        kv->cpu.xcr0 = value;
        return 0;
    }
    return 0;
}
