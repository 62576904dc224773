/* Between a vCPU and its struct kvm_run: which event goes in before an entry, what an exit tells the client, and how
 * the client's answer gets back (KVM API 5).
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "kvm/kvm.h"

enum { BUDGET = 100000 }; /* instructions until immediate_exit, steal time and statistics are looked at again */

/* ---- events in --------------------------------------------------------------------------------------------------- */

static bool run_interrupt_allowed(const struct kvm_vcpu *kv)
{
    return (kv->cpu.eflags & FL_IF) && !kv->cpu.shadow;
}

static bool irq_waits(struct kvm_vcpu *kv)
{
    if (!kv->has_lapic)
        return kv->user_irq >= 0;
    return lapic_maybe_pending(&kv->lapic) && irqchip_next(&kv->vm->irq, &kv->lapic) != IRQ_NEXT_NONE;
}

/* Would it wake a halted vCPU? */
bool run_has_event(struct kvm_vcpu *kv)
{
    if (kv->pv_unhalt || kv->cpu.pending.type != EVENT_NONE)
        return true;
    if (atomic_load(&kv->nmi_queued) && !kv->cpu.nmi_masked)
        return true;
    return (kv->cpu.eflags & FL_IF) && irq_waits(kv);
}

/* May the client call KVM_INTERRUPT now? With a PIC of ours it never needs to ask. */
bool run_ready_for_injection(struct kvm_vcpu *kv)
{
    if (!run_interrupt_allowed(kv) || kv->cpu.pending.type != EVENT_NONE || kv->cpu.log.replay || irq_waits(kv))
        return false;
    return !kv->has_lapic || lapic_accepts_extint(&kv->lapic);
}

static bool take_irq(struct kvm_vcpu *kv)
{
    int vector;

    if (!kv->has_lapic) {
        vector = kv->user_irq;
        kv->user_irq = -1;
    } else {
        vector = irqchip_take(&kv->vm->irq, &kv->lapic);
    }
    if (vector < 0)
        return false;
    kv->cpu.pending = (struct event){.type = EVENT_EXTINT, .vector = (uint8_t)vector};
    kv->stat.irq_injections++;
    if (kv->has_lapic && kv->msr_pv_eoi & 1)
        pv_eoi_offer(kv);
    return true;
}

/* Whether an NMI can be taken now. While one is in service, only one more is remembered: SDM vol. 3, 6.7.1 */
static bool nmi_due(struct kvm_vcpu *kv)
{
    uint32_t n = atomic_load(&kv->nmi_queued);

    if (!kv->cpu.nmi_masked)
        return n;
    while (n > 1 && !atomic_compare_exchange_weak(&kv->nmi_queued, &n, 1))
        ;
    return false;
}

/* Chooses what the vCPU takes at this entry: reinjected events first, then NMI, then interrupts. SDM vol. 3, 6.9.
 * Returns the budget to run with. */
int run_inject(struct kvm_vcpu *kv)
{
    struct vcpu *v = &kv->cpu;
    bool waits;

    /* Not while LINT0 lets no PIC through: the window would open at once, be no window, and no instruction would run. */
    v->want_window = kv->run->request_interrupt_window && kv->vm->irq.mode != IRQCHIP_KERNEL &&
                     (!kv->has_lapic || lapic_accepts_extint(&kv->lapic));
    waits = irq_waits(kv);
    if (v->log.replay || v->pending.type != EVENT_NONE) {
        v->want_window |= waits; /* first the instruction or the event in progress */
        return nmi_due(kv) ? 1 : BUDGET;
    }
    if (nmi_due(kv)) {
        if (v->shadow)
            return 1;
        atomic_fetch_sub(&kv->nmi_queued, 1);
        v->pending = (struct event){.type = EVENT_NMI, .vector = VEC_NMI};
        v->nmi_masked = true;
        kv->stat.nmi_injections++;
        v->want_window |= waits;
        return BUDGET;
    }
    if (!waits || (kv->cpu.guest_debug & KVM_GUESTDBG_BLOCKIRQ))
        return BUDGET;
    if (!run_interrupt_allowed(kv)) {
        v->want_window = true;
        return BUDGET;
    }
    if (take_irq(kv) && irq_waits(kv))
        v->want_window = true;
    return BUDGET;
}

/* INIT and SIPI. SDM vol. 3, 8.4 */
int run_accept_ipis(struct kvm_vcpu *kv)
{
    uint32_t events = atomic_fetch_and(&kv->events, ~(uint32_t)(VCPU_INIT | VCPU_SIPI));

    if (!kv->has_lapic)
        return 0;
    if (events & VCPU_INIT) {
        vcpu_reset(kv, true);
        kv->mp_state = kv->id == kv->vm->bsp_id ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED;
    }
    if ((events & VCPU_SIPI) && kv->mp_state == KVM_MP_STATE_INIT_RECEIVED) {
        uint32_t vector = atomic_load(&kv->sipi_vector) & 0xff;
        kv->cpu.seg[CS].sel = (uint16_t)(vector << 8);
        kv->cpu.seg[CS].base = vector << 12;
        kv->cpu.rip = 0;
        cpu_update_mode(&kv->cpu);
        kv->mp_state = KVM_MP_STATE_RUNNABLE;
    }
    return 0;
}

/* ---- exits out --------------------------------------------------------------------------------------------------- */

static int exit_io(struct kvm_vcpu *kv)
{
    struct kvm_run *run = kv->run;
    const struct cpu_exit *e = &kv->cpu.exit;
    size_t bytes = (size_t)e->io.count * e->io.size;

    run->exit_reason = KVM_EXIT_IO;
    run->io.direction = e->io.write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
    run->io.size = e->io.size;
    run->io.port = e->io.port;
    run->io.count = e->io.count;
    run->io.data_offset = KVM_PAGE;
    if (e->io.write && !e->io.string)
        memcpy(kv->pio_page, kv->cpu.pio_data, sizeof(uint32_t));
    else if (e->io.write && bytes <= KVM_PAGE)
        memcpy(kv->pio_page, kv->cpu.pio_data, bytes);
    kv->stat.io_exits++;
    kv->completing = e->io.done ? EXIT_POLL : EXIT_PIO;
    return 0;
}

static int exit_mmio(struct kvm_vcpu *kv)
{
    struct kvm_run *run = kv->run;
    const struct cpu_exit *e = &kv->cpu.exit;

    run->exit_reason = KVM_EXIT_MMIO;
    run->mmio.phys_addr = e->mmio.gpa;
    run->mmio.len = e->mmio.size;
    run->mmio.is_write = e->mmio.write;
    memset(run->mmio.data, 0, sizeof(run->mmio.data));
    if (e->mmio.write)
        memcpy(run->mmio.data, &e->mmio.data, e->mmio.size);
    kv->stat.mmio_exits++;
    kv->completing = EXIT_MMIO;
    return 0;
}

static int exit_msr(struct kvm_vcpu *kv, bool write)
{
    struct kvm_run *run = kv->run;
    const struct cpu_exit *e = &kv->cpu.exit;

    run->exit_reason = write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR;
    run->msr.error = 0;
    memset(run->msr.pad, 0, sizeof(run->msr.pad));
    run->msr.reason = e->msr.reason;
    run->msr.index = e->msr.index;
    run->msr.data = write ? e->msr.data : 0;
    kv->completing = write ? EXIT_WRMSR : EXIT_RDMSR;
    return 0;
}

static int exit_halt(struct kvm_vcpu *kv)
{
    kv->stat.halt_exits++;
    if (kv->has_lapic) {
        kv->mp_state = KVM_MP_STATE_HALTED;
        return 1;
    }
    kv->run->exit_reason = KVM_EXIT_HLT;
    return 0;
}

/* A step over HLT halts, as in Linux: without a LAPIC of ours the client is told of that, not of the step. */
static int exit_debug(struct kvm_vcpu *kv)
{
    struct kvm_debug_exit_arch *d = &kv->run->debug.arch;

    if (kv->cpu.exit.debug.halted && !exit_halt(kv))
        return 0;
    kv->run->exit_reason = KVM_EXIT_DEBUG;
    d->exception = kv->cpu.exit.debug.vector;
    d->pad = 0;
    d->pc = kv->cpu.exit.debug.pc;
    d->dr6 = kv->cpu.exit.debug.dr6;
    d->dr7 = kv->cpu.exit.debug.dr7;
    return 0;
}

static int exit_internal(struct kvm_vcpu *kv)
{
    struct kvm_run *run = kv->run;
    const struct cpu_exit *e = &kv->cpu.exit;

    run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
    memset(&run->emulation_failure, 0, sizeof(run->emulation_failure));
    run->emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
    run->emulation_failure.ndata = 1;
    if (e->internal.size) {
        run->emulation_failure.ndata = 3;
        run->emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
        run->emulation_failure.insn_size = e->internal.size;
        memcpy(run->emulation_failure.insn_bytes, e->internal.bytes, sizeof(run->emulation_failure.insn_bytes));
    }
    kv->stat.emulation_fail++;
    run_cancel(kv);
    return 0;
}

/* The instruction begins anew when the client has put it right. KVM API 5, KVM_EXIT_MEMORY_FAULT */
static int exit_unbacked(struct kvm_vcpu *kv)
{
    const struct kvm_memory_fault fault = {.gpa = kv->cpu.unbacked & ~(KVM_PAGE - 1ull), .size = KVM_PAGE};

    kv->run->exit_reason = KVM_EXIT_MEMORY_FAULT;
    memcpy(kv->run->padding, &fault, sizeof(fault));
    return -EFAULT;
}

/* The client is told only when CR8 falls: something may have become deliverable. KVM API 5, KVM_EXIT_SET_TPR */
static int exit_tpr(struct kvm_vcpu *kv)
{
    uint8_t before = kv->run->cr8;

    kv->run->cr8 = kv->cpu.cr8;
    if (kv->cpu.cr8 >= before)
        return 1;
    kv->run->exit_reason = KVM_EXIT_SET_TPR;
    return 0;
}

int run_exit(struct kvm_vcpu *kv, enum cpu_exit_reason reason)
{
    kv->stat.exits++;
    switch (reason) {
    case EXIT_POLL:
    case EXIT_WINDOW: return 1;
    case EXIT_HLT: return exit_halt(kv);
    case EXIT_MWAIT: sched_yield(); return 1;
    case EXIT_PIO: return exit_io(kv);
    case EXIT_MMIO: return exit_mmio(kv);
    case EXIT_RDMSR: return exit_msr(kv, false);
    case EXIT_WRMSR: return exit_msr(kv, true);
    case EXIT_TPR: return exit_tpr(kv);
    case EXIT_DEBUG: return exit_debug(kv);
    case EXIT_HYPERCALL:
        kv->run->exit_reason = KVM_EXIT_HYPERCALL;
        kv->completing = EXIT_HYPERCALL;
        return 0;
    case EXIT_SHUTDOWN:
        kv->run->exit_reason = KVM_EXIT_SHUTDOWN;
        run_cancel(kv);
        return 0;
    case EXIT_INTERNAL: return exit_internal(kv);
    case EXIT_UNBACKED: return exit_unbacked(kv);
    }
    return 1;
}

/* ---- the client's answer ------------------------------------------------------------------------------------------- */

void run_cancel(struct kvm_vcpu *kv)
{
    kv->completing = EXIT_POLL;
    kv->cpu.log.replay = false;
    kv->cpu.log.count = kv->cpu.log.next = 0;
    kv->cpu.pio_count = 0;
}

static void complete_msr(struct kvm_vcpu *kv, bool write)
{
    uint64_t data = kv->run->msr.data;

    if (kv->run->msr.error) {
        run_cancel(kv);
        kv->cpu.pending = (struct event){.type = EVENT_FAULT, .vector = VEC_GP, .has_error = true};
        return;
    }
    cpu_answer(&kv->cpu, write ? NULL : &data);
}

void run_complete(struct kvm_vcpu *kv)
{
    struct vcpu *v = &kv->cpu;
    uint8_t mmio[8];

    switch (kv->completing) {
    case EXIT_PIO:
        if ((size_t)v->exit.io.count * v->exit.io.size <= KVM_PAGE)
            cpu_answer(v, v->exit.io.write ? NULL : kv->pio_page);
        break;
    case EXIT_MMIO:
        memcpy(mmio, kv->run->mmio.data, sizeof(mmio));
        cpu_answer(v, v->exit.mmio.write ? NULL : mmio);
        break;
    case EXIT_RDMSR: complete_msr(kv, false); break;
    case EXIT_WRMSR: complete_msr(kv, true); break;
    case EXIT_HYPERCALL:
        v->gpr[RAX] = cpu_is_long(v) ? kv->run->hypercall.ret : (uint32_t)kv->run->hypercall.ret;
        break;
    default: break;
    }
    kv->completing = EXIT_POLL;
}

/* ---- kvm_valid_regs, kvm_dirty_regs: KVM API 6.45 ------------------------------------------------------------------- */

bool run_sync_in(struct kvm_vcpu *kv, int *error)
{
    struct kvm_run *run = kv->run;
    struct kvm_sync_regs copy;
    uint64_t dirty = run->kvm_dirty_regs;

    *error = -EINVAL;
    if ((run->kvm_valid_regs | dirty) & ~(uint64_t)KVM_SYNC_X86_VALID_FIELDS)
        return false;
    *error = 0;
    if (!dirty)
        return true;
    memcpy(&copy, &run->s.regs, sizeof(copy)); /* the client can write there at any time */
    if (dirty & KVM_SYNC_X86_REGS)
        state_set_regs(kv, &copy.regs);
    if ((dirty & KVM_SYNC_X86_SREGS) && state_set_sregs(kv, &copy.sregs))
        *error = -EINVAL;
    if (!*error && (dirty & KVM_SYNC_X86_EVENTS) && state_set_events(kv, &copy.events))
        *error = -EINVAL;
    if (!*error)
        run->kvm_dirty_regs = 0;
    return !*error;
}

void run_sync_out(struct kvm_vcpu *kv)
{
    struct kvm_run *run = kv->run;
    uint64_t valid = run->kvm_valid_regs;

    run->if_flag = !!(kv->cpu.eflags & FL_IF);
    run->flags = 0;
    run->cr8 = vcpu_get_cr8(kv);
    run->apic_base = kv->has_lapic ? lapic_base_get(&kv->lapic) : APIC_DEFAULT_BASE | APIC_BASE_ENABLE;
    run->ready_for_interrupt_injection = kv->vm->irq.mode == IRQCHIP_KERNEL || run_ready_for_injection(kv);
    if (valid & KVM_SYNC_X86_REGS)
        state_get_regs(kv, &run->s.regs.regs);
    if (valid & KVM_SYNC_X86_SREGS) {
        memset(&run->s.regs.sregs, 0, sizeof(run->s.regs.sregs));
        state_get_sregs(kv, &run->s.regs.sregs);
    }
    if (valid & KVM_SYNC_X86_EVENTS) {
        memset(&run->s.regs.events, 0, sizeof(run->s.regs.events));
        state_get_events(kv, &run->s.regs.events);
    }
}
