/* A virtual processor as the client sees it: its life, its file, its ioctls. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu/lockstep.h"
#include "cpu/msr.h"
#include "kvm/engines.h"
#include "kvm/kvm.h"
#include "kvm/pv.h"
#include "mmu/tlb.h"

/* ---- kicks ------------------------------------------------------------------------------------------------------- */

void vcpu_kick(struct kvm_vcpu *kv)
{
    __atomic_store_n(&kv->cpu.kick, 1, __ATOMIC_SEQ_CST);
    if (atomic_load(&kv->waiting))
        syscall(SYS_futex, &kv->cpu.kick, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}

void vcpu_post(struct kvm_vcpu *kv, uint32_t event)
{
    atomic_fetch_or(&kv->events, event);
    vcpu_kick(kv);
}

void vcpu_interrupt(struct kvm_vcpu *kv)
{
    atomic_store(&kv->signalled, 1);
    vcpu_kick(kv);
}

enum { LOCKSTEP_STRETCH = 200 }; /* instructions between two comparisons */

/* ---- life -------------------------------------------------------------------------------------------------------- */

/* The file that the client maps: kvm_run, port data, ring. Sealed, so that the client cannot cut it short under us. */
static int map_file(struct kvm_vcpu *kv)
{
    kv->fd = memfd_create("kvm-vcpu", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (kv->fd < 0)
        return -errno;
    if (ftruncate(kv->fd, VCPU_MAP_BYTES) || fcntl(kv->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        return -errno;
    kv->run = mmap(NULL, VCPU_MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, kv->fd, 0);
    if (kv->run == MAP_FAILED) {
        kv->run = NULL;
        return -ENOMEM;
    }
    kv->pio_page = (uint8_t *)kv->run + KVM_PAGE;
    return 0;
}

void vcpu_reset(struct kvm_vcpu *kv, bool init)
{
    cpu_reset(&kv->cpu, init);
    if (kv->has_lapic)
        lapic_reset(&kv->lapic, init);
    run_cancel(kv);
    atomic_store(&kv->nmi_queued, 0);
    kv->user_irq = -1;
    kv->cpu.cr8 = 0;
    kv->msr_pv_eoi = 0;
    kv->pv_eoi_set = false;
    kv->vapic_addr = 0;
    if (!init) {
        kv->msr_system_time = kv->msr_steal = kv->msr_apf_en = kv->msr_apf_int = 0;
        kv->msr_poll_control = 1;
    }
}

/* ---- a new one: what is the same for any machine, then what is not --------------------------------------------------- */

static struct kvm_vcpu *body_new(const struct engine *engine, int *err)
{
    /* Zero pages that come when they are touched: most of it is tables that a small guest never fills. */
    struct kvm_vcpu *kv = mmap(NULL, sizeof(*kv), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    *err = -ENOMEM;
    if (kv == MAP_FAILED)
        return NULL;
    kv->fd = kv->stat_fd = -1;
    kv->user_irq = -1;
    kv->completing = EXIT_POLL;
    pthread_mutex_init(&kv->mutex, NULL);
    kv->cpu.ops = &vm_machine_ops;
    kv->cpu.machine = kv;
    kv->cpu.requests = REQ_PHYS_CHANGED;
    kv->engine = engine;
    *err = map_file(kv);
    if (!*err)
        *err = cpu_create(&kv->cpu);
    if (!*err)
        *err = engine_prepare(engine, &kv->cpu);
    if (!*err)
        return kv;
    vcpu_destroy(kv);
    return NULL;
}

static struct kvm_vcpu *_Atomic body_ahead;

int vcpu_ahead(void)
{
    const struct engine *engine = engine_chosen();
    struct kvm_vcpu *kv;
    int err, fd;

    if (!engine)
        return -EINVAL;
    kv = body_new(engine, &err);
    if (!kv)
        return err;
    vcpu_reset(kv, false); /* touches what a new one needs */
    fd = kv->fd;
    kv = atomic_exchange(&body_ahead, kv);
    if (kv)
        vcpu_destroy(kv);
    return fd;
}

static int vcpu_new(struct kvm_vm *vm, uint32_t id, struct kvm_vcpu **made)
{
    struct kvm_vcpu *kv = atomic_exchange(&body_ahead, NULL);
    const struct engine *engine = kv ? kv->engine : engine_chosen();
    int err = engine ? 0 : -EINVAL;

    if (engine && !kv)
        kv = body_new(engine, &err);
    if (!kv)
        return err;
    kv->vm = vm;
    kv->id = id;
    kv->index = vm->vcpus;
    kv->cpu.index = (uint16_t)kv->index;
    kv->mp_state = !vm_has_irqchip(vm) || id == vm->bsp_id ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED;
    if (vm_has_irqchip(vm)) {
        err = lapic_init(&kv->lapic, &vm->irq, kv, id, id == vm->bsp_id);
        kv->has_lapic = !err;
    }
    if (err) {
        vcpu_destroy(kv);
        return err;
    }
    vcpu_reset(kv, false);
    if (getenv("KVMISH_LOCKSTEP") && (kv->index || !lockstep_create(&kv->cpu, kv->engine, LOCKSTEP_STRETCH))) {
        vcpu_destroy(kv); /* lockstep is for one vCPU */
        return -ENOMEM;
    }
    kv->cpu.tsc_khz = vm->tsc_khz; /* all processors of a machine count alike */
    kv->cpu.tsc_offset = vm->tsc_offset;
    *made = kv;
    return 0;
}

void vcpu_destroy(struct kvm_vcpu *kv)
{
    running_remove(kv);
    if (kv->has_lapic)
        lapic_destroy(&kv->lapic);
    lockstep_destroy(kv->cpu.lockstep);
    cpu_destroy(&kv->cpu);
    if (kv->run)
        munmap(kv->run, VCPU_MAP_BYTES);
    if (kv->fd >= 0)
        close(kv->fd);
    stats_free(kv->stat_fd, kv->stat_page);
    pthread_mutex_destroy(&kv->mutex);
    munmap(kv, sizeof(*kv));
}

/* KVM API 4.7. -EINVAL: id or count too large, or the environment names no engine of ours; -EEXIST */
int vcpu_create(struct kvm_vm *vm, const struct client *c, uint64_t id)
{
    struct kvm_vcpu *kv = NULL;
    int fd;

    if (id >= VCPU_IDS_MAX)
        return -EINVAL;
    pthread_mutex_lock(&vm->lock);
    if (!vm->max_vcpu_ids)
        vm->max_vcpu_ids = VCPU_IDS_MAX;
    if (vm->vcpus >= VCPUS_MAX || id >= vm->max_vcpu_ids)
        fd = -EINVAL;
    else if (vm_vcpu_by_id(vm, (uint32_t)id))
        fd = -EEXIST;
    else
        fd = vcpu_new(vm, (uint32_t)id, &kv);
    if (kv) {
        vm_get(vm);
        fd = c->ops->install(c, OBJECT_VCPU, kv, kv->fd);
        if (fd < 0) {
            vcpu_destroy(kv);
            atomic_fetch_sub(&vm->refs, 1); /* the caller holds another */
        } else {
            if (!kv->index)
                atomic_store(&vm->ring, (struct kvm_coalesced_mmio_ring *)((char *)kv->run + RING_PAGE * KVM_PAGE));
            vm->vcpu[kv->index] = kv;
            atomic_store(&vm->vcpus, kv->index + 1);
        }
    }
    pthread_mutex_unlock(&vm->lock);
    return fd;
}

/* ---- ioctls ------------------------------------------------------------------------------------------------------- */

/* KVM API 4.20. -EINVAL: not what it was, after KVM_RUN */
static int take_cpuid(struct kvm_vcpu *kv, struct kvm_cpuid_entry2 *entries, unsigned n)
{
    struct kvm_cpuid_entry2 *pv = pv_leaf(entries, n);
    int err;

    if (pv && kv->vm->disabled_exits & KVM_X86_DISABLE_EXITS_HLT) /* who is never scheduled out needs no kick */
        pv->eax &= ~(1u << PV_UNHALT);
    if (kv->ran)
        return cpuid_equal(&kv->cpu, entries, n) ? 0 : -EINVAL;
    kv->pv_features = pv ? pv->eax : 0;
    err = cpuid_set(&kv->cpu, entries, n);
    if (!err && kv->has_lapic)
        lapic_set_cpuid(&kv->lapic, cpu_has(&kv->cpu, FEAT_X2APIC), cpu_has(&kv->cpu, FEAT_TSC_DEADLINE),
                        kv->cpu.maxphyaddr);
    return err;
}

static int set_cpuid(struct kvm_vcpu *kv, const struct client *c, unsigned long req, uintptr_t arg)
{
    struct kvm_cpuid2 head; /* struct kvm_cpuid has the same head */
    struct kvm_cpuid_entry2 *entries;
    int err;

    if (GET(c, head, arg))
        return -EFAULT;
    if (head.nent > CPUID_MAX)
        return -E2BIG;
    if (req == KVM_SET_CPUID) {
        struct kvm_cpuid_entry *old = client_read_array(c, arg + sizeof(head), head.nent, sizeof(*old), &err);
        if (!old)
            return err;
        entries = calloc(head.nent + 1, sizeof(*entries));
        for (unsigned i = 0; entries && i < head.nent; i++)
            entries[i] = (struct kvm_cpuid_entry2){.function = old[i].function, .eax = old[i].eax, .ebx = old[i].ebx,
                                                   .ecx = old[i].ecx, .edx = old[i].edx};
        free(old);
        if (!entries)
            return -ENOMEM;
    } else {
        entries = client_read_array(c, arg + sizeof(head), head.nent, sizeof(*entries), &err);
        if (!entries)
            return err;
    }
    err = take_cpuid(kv, entries, head.nent);
    free(entries);
    return err;
}

static int get_cpuid(struct kvm_vcpu *kv, const struct client *c, uintptr_t arg)
{
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 *entries;
    int n, err;

    if (GET(c, head, arg))
        return -EFAULT;
    entries = calloc(CPUID_MAX, sizeof(*entries));
    if (!entries)
        return -ENOMEM;
    n = cpuid_get(&kv->cpu, entries, CPUID_MAX);
    err = n < 0 ? n : (unsigned)n > head.nent ? -E2BIG : 0;
    if (!err)
        err = client_write(c, arg + sizeof(head), entries, (size_t)n * sizeof(*entries));
    free(entries);
    head.nent = (uint32_t)n;
    return err ? err : PUT(c, arg, head) ? -EFAULT : 0;
}

static int set_signal_mask(struct kvm_vcpu *kv, const struct client *c, uintptr_t arg)
{
    struct kvm_signal_mask mask;
    uint64_t bits;

    if (!arg) {
        kv->has_sigmask = false;
        return 0;
    }
    if (GET(c, mask, arg))
        return -EFAULT;
    if (mask.len != sizeof(bits))
        return -EINVAL;
    if (GET(c, bits, arg + sizeof(mask)))
        return -EFAULT;
    sigemptyset(&kv->sigmask);
    memcpy(&kv->sigmask, &bits, sizeof(bits));
    sigdelset(&kv->sigmask, SIGSEGV); /* guest memory that is not there raises them: backing.c */
    sigdelset(&kv->sigmask, SIGBUS);
    kv->has_sigmask = true;
    return 0;
}

static int interrupt(struct kvm_vcpu *kv, const struct client *c, uintptr_t arg)
{
    struct kvm_interrupt irq;

    if (GET(c, irq, arg))
        return -EFAULT;
    if (irq.irq > 255)
        return -EINVAL;
    if (kv->has_lapic)
        return lapic_user_extint(&kv->lapic, (uint8_t)irq.irq);
    kv->user_irq = (int)irq.irq;
    return 0;
}

static int translate(struct kvm_vcpu *kv, const struct client *c, uintptr_t arg)
{
    struct kvm_translation t;
    bool writable = false, user = false;
    uint64_t gpa = 0;

    if (GET(c, t, arg))
        return -EFAULT;
    pthread_mutex_lock(&kv->vm->slots_lock);
    vcpu_take_map(kv); /* the next entry drains what is still asked */
    t.valid = mmu_translate(&kv->cpu, t.linear_address, &gpa, &writable, &user) && gpa != ~0ull; /* KVM's "none" */
    pthread_mutex_unlock(&kv->vm->slots_lock);
    __atomic_fetch_or(&kv->cpu.requests, REQ_PHYS_CHANGED, __ATOMIC_SEQ_CST);
    t.physical_address = t.valid ? gpa : ~0ull;
    t.writeable = 1; /* as KVM: rights are not looked at */
    t.usermode = 0;
    return PUT(c, arg, t);
}

static int setup_mce(struct kvm_vcpu *kv, const struct client *c, uintptr_t arg)
{
    uint64_t cap;
    int err;

    if (GET(c, cap, arg))
        return -EFAULT;
    if (!(cap & 0xff) || (cap & 0xff) > MCE_BANKS_MAX || (cap & ~(MCG_CAP_SUPPORTED | 0xff | 0xff0000)))
        return -EINVAL;
    err = msr_setup_mce(&kv->cpu, cap);
    if (!err && kv->has_lapic)
        lapic_set_cmci(&kv->lapic, cap & 1 << 10);
    return err;
}

static int set_mce(struct kvm_vcpu *kv, const struct client *c, uintptr_t arg)
{
    struct kvm_x86_mce mce;
    uint64_t *bank;

    if (GET(c, mce, arg))
        return -EFAULT;
    if (mce.bank >= (kv->cpu.mcg_cap & 0xff) || !(mce.status & 1ull << 63))
        return -EINVAL;
    bank = kv->cpu.mc_bank + mce.bank * 4;
    if ((mce.status & 1ull << 61) && ((kv->cpu.mcg_cap & 1 << 8 && kv->cpu.mcg_ctl != ~0ull) || bank[0] != ~0ull))
        return 0; /* uncorrected, reporting is off */
    bank[1] = mce.status;
    bank[2] = mce.addr;
    bank[3] = mce.misc;
    if (mce.status & 1ull << 61) {
        if ((kv->cpu.mcg_status & 4) || !(kv->cpu.cr4 & CR4_MCE)) {
            vcpu_post(kv, VCPU_TRIPLE_FAULT);
            return 0;
        }
        kv->cpu.mcg_status = mce.mcg_status;
        kv->cpu.pending = (struct event){.type = EVENT_FAULT, .vector = VEC_MC};
    }
    return 0;
}

/* Like a processor whose TPR accesses need no help: reporting may be switched on, there is never anything to report, and
 * KVM_CAP_VAPIC says so by its absence. KVM API 4.56 */
static int tpr_reporting(const struct client *c, uintptr_t arg)
{
    struct kvm_tpr_access_ctl t;

    if (GET(c, t, arg))
        return -EFAULT;
    if (t.flags)
        return -EINVAL;
    return PUT(c, arg, t);
}

static int lapic_state(struct kvm_vcpu *kv, const struct client *c, bool set, uintptr_t arg)
{
    struct kvm_lapic_state s;
    int err;

    if (!kv->has_lapic)
        return -EINVAL;
    if (set) {
        if (GET(c, s, arg))
            return -EFAULT;
        err = lapic_set_state(&kv->lapic, &s);
        vcpu_kick(kv);
        return err;
    }
    err = lapic_get_state(&kv->lapic, &s);
    return err ? err : PUT(c, arg, s);
}

static int set_vapic(struct kvm_vcpu *kv, const struct client *c, uintptr_t arg)
{
    struct kvm_vapic_addr va;

    return !kv->has_lapic ? -EINVAL : GET(c, va, arg) ? -EFAULT : vapic_set(kv, va.vapic_addr);
}

/* KVM_VCPU_TSC_CTRL / KVM_VCPU_TSC_OFFSET. KVM API, devices/vcpu.rst 4 */
static int vcpu_attr(struct kvm_vcpu *kv, const struct client *c, unsigned long req, uintptr_t arg)
{
    struct kvm_device_attr a;
    uint64_t offset = kv->cpu.tsc_offset;

    if (GET(c, a, arg))
        return -EFAULT;
    if (a.group != KVM_VCPU_TSC_CTRL || a.attr != KVM_VCPU_TSC_OFFSET)
        return -ENXIO;
    if (req == KVM_HAS_DEVICE_ATTR)
        return 0;
    if (req == KVM_GET_DEVICE_ATTR)
        return PUT(c, a.addr, offset);
    if (GET(c, offset, a.addr))
        return -EFAULT;
    kv->cpu.tsc_offset = offset;
    clock_tsc_moved(kv);
    return 0;
}

static int vcpu_set_tsc_khz(struct kvm_vcpu *kv, uintptr_t khz)
{
    uint32_t host = host_tsc_khz();

    if (khz && (khz > host + host / 4000 || khz < host - host / 4000))
        return -EINVAL;
    kv->cpu.tsc_khz = khz ? (uint32_t)khz : host;
    return 0;
}

static int vcpu_enable_cap(struct kvm_vcpu *kv, const struct client *c, uintptr_t arg)
{
    struct kvm_enable_cap cap;

    return GET(c, cap, arg) ? -EFAULT : caps_enable_vcpu(kv, &cap);
}

/* A fixed-size structure in or out, through the functions of vcpu_state.c */
#define STATE_GET(type, fn)                                                                             \
    {                                                                                                   \
        type s;                                                                                         \
        memset(&s, 0, sizeof(s));                                                                       \
        fn(kv, &s);                                                                                     \
        return PUT(c, arg, s);                                                                          \
    }
#define STATE_SET(type, fn)                                                                             \
    {                                                                                                   \
        type s;                                                                                         \
        return GET(c, s, arg) ? -EFAULT : fn(kv, &s);                                                   \
    }

static int get_state(struct kvm_vcpu *kv, const struct client *c, unsigned long req, uintptr_t arg)
{
    switch (req) {
    case KVM_GET_REGS: STATE_GET(struct kvm_regs, state_get_regs)
    case KVM_GET_SREGS: STATE_GET(struct kvm_sregs, state_get_sregs)
    case KVM_GET_SREGS2: STATE_GET(struct kvm_sregs2, state_get_sregs2)
    case KVM_GET_VCPU_EVENTS: STATE_GET(struct kvm_vcpu_events, state_get_events)
    case KVM_GET_MP_STATE: STATE_GET(struct kvm_mp_state, state_get_mp)
    case KVM_GET_DEBUGREGS: STATE_GET(struct kvm_debugregs, state_get_debugregs)
    case KVM_GET_FPU: STATE_GET(struct kvm_fpu, state_get_fpu)
    case KVM_GET_XCRS: STATE_GET(struct kvm_xcrs, state_get_xcrs)
    case KVM_GET_XSAVE:
    case KVM_GET_XSAVE2: STATE_GET(struct kvm_xsave, state_get_xsave)
    default: return -EINVAL;
    }
}

static int set_state(struct kvm_vcpu *kv, const struct client *c, unsigned long req, uintptr_t arg)
{
    switch (req) {
    case KVM_SET_REGS: STATE_SET(struct kvm_regs, state_set_regs)
    case KVM_SET_SREGS: STATE_SET(struct kvm_sregs, state_set_sregs)
    case KVM_SET_SREGS2: STATE_SET(struct kvm_sregs2, state_set_sregs2)
    case KVM_SET_VCPU_EVENTS: STATE_SET(struct kvm_vcpu_events, state_set_events)
    case KVM_SET_MP_STATE: STATE_SET(struct kvm_mp_state, state_set_mp)
    case KVM_SET_DEBUGREGS: STATE_SET(struct kvm_debugregs, state_set_debugregs)
    case KVM_SET_FPU: STATE_SET(struct kvm_fpu, state_set_fpu)
    case KVM_SET_XCRS: STATE_SET(struct kvm_xcrs, state_set_xcrs)
    case KVM_SET_XSAVE: STATE_SET(struct kvm_xsave, state_set_xsave)
    case KVM_SET_GUEST_DEBUG: STATE_SET(struct kvm_guest_debug, state_guest_debug)
    default: return get_state(kv, c, req, arg);
    }
}

static int vcpu_ioctl_locked(struct kvm_vcpu *kv, const struct client *c, unsigned long req, uintptr_t arg)
{
    switch (req) {
    case KVM_RUN: return arg ? -EINVAL : vcpu_run(kv, c);
    case KVM_SET_CPUID:
    case KVM_SET_CPUID2: return set_cpuid(kv, c, req, arg);
    case KVM_GET_CPUID2: return get_cpuid(kv, c, arg);
    case KVM_GET_MSRS: return msrs_get(kv, c, arg);
    case KVM_SET_MSRS: return msrs_set(kv, c, arg);
    case KVM_GET_LAPIC: return lapic_state(kv, c, false, arg);
    case KVM_SET_LAPIC: return lapic_state(kv, c, true, arg);
    case KVM_INTERRUPT: return interrupt(kv, c, arg);
    case KVM_NMI: vm_irq_ops.nmi(kv); return 0;
    case KVM_SMI: return -EINVAL; /* no system management mode */
    case KVM_SET_SIGNAL_MASK: return set_signal_mask(kv, c, arg);
    case KVM_TRANSLATE: return translate(kv, c, arg);
    case KVM_X86_SETUP_MCE: return setup_mce(kv, c, arg);
    case KVM_X86_SET_MCE: return set_mce(kv, c, arg);
    case KVM_TPR_ACCESS_REPORTING: return tpr_reporting(c, arg);
    case KVM_SET_VAPIC_ADDR: return set_vapic(kv, c, arg);
    case KVM_KVMCLOCK_CTRL: return clock_ctrl(kv);
    case KVM_GET_TSC_KHZ: return (int)kv->cpu.tsc_khz;
    case KVM_SET_TSC_KHZ: return vcpu_set_tsc_khz(kv, arg);
    case KVM_ENABLE_CAP: return vcpu_enable_cap(kv, c, arg);
    case KVM_HAS_DEVICE_ATTR:
    case KVM_GET_DEVICE_ATTR:
    case KVM_SET_DEVICE_ATTR: return vcpu_attr(kv, c, req, arg);
    case KVM_GET_STATS_FD: return stats_vcpu_fd(kv, c);
    default: return set_state(kv, c, req, arg);
    }
}

int vcpu_ioctl(struct kvm_vcpu *kv, const struct client *c, unsigned long req, uintptr_t arg)
{
    int ret;

    pthread_mutex_lock(&kv->mutex);
    ret = vcpu_ioctl_locked(kv, c, req, arg);
    pthread_mutex_unlock(&kv->mutex);
    return ret;
}
