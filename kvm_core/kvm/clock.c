/* KVM's clocks: the guest's TSC, kvmclock pages, wall clock, steal time; the MSRs that set them up.
 *
 * The guest's TSC is the host's plus an offset, at the same rate, so one pair (TSC, ns) serves all vCPUs for good:
 * kvmclock = base ns + (TSC - base TSC), scaled.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kvm/kvm.h"
#include "kvm/pv.h"

#define NS_PER_S 1000000000ull

static uint64_t now_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static uint64_t ticks_to_ns(uint64_t ticks, uint32_t khz)
{
    return (uint64_t)((unsigned __int128)ticks * 1000000 / khz);
}

void clock_vm_init(struct kvm_vm *vm)
{
    pthread_mutex_init(&vm->clock_lock, NULL);
    vm->tsc_khz = host_tsc_khz();
    vm->clock_base_tsc = host_tsc();
    vm->clock_base_ns = 0;
    vm->tsc_offset = -vm->clock_base_tsc;
    vm->tsc_written_at = vm->clock_base_tsc;
}

/* ---- the TSCs of a VM ------------------------------------------------------------------------------------------------ */

/* A guest whose TSCs differ must not read one vCPU's time page with another's TSC: PV_TIME_STABLE says it may. */
static bool tsc_matched(struct kvm_vm *vm)
{
    unsigned n = atomic_load(&vm->vcpus);

    for (unsigned i = 1; i < n; i++)
        if (vm->vcpu[i]->cpu.tsc_offset != vm->vcpu[0]->cpu.tsc_offset)
            return false;
    return true;
}

void clock_tsc_moved(struct kvm_vcpu *kv)
{
    struct kvm_vm *vm = kv->vm;
    unsigned n = atomic_load(&vm->vcpus);

    for (unsigned i = 0; i < n; i++)
        vcpu_post(vm->vcpu[i], VCPU_CLOCK);
    if (kv->has_lapic)
        lapic_tsc_changed(&kv->lapic);
}

void ops_tsc_moved(struct vcpu *v)
{
    clock_tsc_moved(kvm_of(v));
}

/* A client sets vCPU after vCPU to one value, and means one time: a value within a second of what the last one
 * would have become, or 0, joins the vCPU to the others, as KVM does it. */
void clock_tsc_written(struct kvm_vcpu *kv, uint64_t value)
{
    struct kvm_vm *vm = kv->vm;
    uint64_t now = host_tsc(), second = (uint64_t)kv->cpu.tsc_khz * 1000, expected;

    pthread_mutex_lock(&vm->clock_lock);
    expected = vm->tsc_written + (now - vm->tsc_written_at);
    if (!value || (value < expected + second && value + second > expected))
        kv->cpu.tsc_offset = vm->tsc_offset;
    else
        vm->tsc_offset = kv->cpu.tsc_offset;
    vm->tsc_written = value ? value : now + vm->tsc_offset;
    vm->tsc_written_at = now;
    pthread_mutex_unlock(&vm->clock_lock);
    clock_tsc_moved(kv);
}

/* ---- kvmclock -------------------------------------------------------------------------------------------------------- */

static uint64_t vm_clock_ns(struct kvm_vm *vm, uint64_t tsc)
{
    return (uint64_t)vm->clock_base_ns + ticks_to_ns(tsc - vm->clock_base_tsc, vm->tsc_khz);
}

static uint64_t clock_guest_ns(struct kvm_vm *vm)
{
    uint64_t ns;

    pthread_mutex_lock(&vm->clock_lock);
    ns = vm_clock_ns(vm, host_tsc());
    pthread_mutex_unlock(&vm->clock_lock);
    return ns;
}

int clock_get(struct kvm_vm *vm, struct kvm_clock_data *d)
{
    memset(d, 0, sizeof(*d));
    d->host_tsc = host_tsc();
    d->realtime = now_ns(CLOCK_REALTIME);
    pthread_mutex_lock(&vm->clock_lock);
    d->clock = vm_clock_ns(vm, d->host_tsc);
    pthread_mutex_unlock(&vm->clock_lock);
    d->flags = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
    return 0;
}

/* KVM API 4.30. -EINVAL: flags that cannot be set */
int clock_set(struct kvm_vm *vm, const struct kvm_clock_data *d)
{
    uint64_t value = d->clock, now = now_ns(CLOCK_REALTIME);

    if (d->flags & ~(uint32_t)(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC))
        return -EINVAL;
    if ((d->flags & KVM_CLOCK_REALTIME) && now > d->realtime)
        value += now - d->realtime;
    pthread_mutex_lock(&vm->clock_lock);
    vm->clock_base_tsc = host_tsc();
    vm->clock_base_ns = (int64_t)value;
    pthread_mutex_unlock(&vm->clock_lock);
    for (unsigned i = 0; i < vm->vcpus; i++)
        vcpu_post(vm->vcpu[i], VCPU_CLOCK);
    return 0;
}

/* ns = (ticks << shift) * mul >> 32, a negative shift to the right; mul as large as 32 bits allow. */
static uint32_t scale_of(uint32_t khz, int8_t *shift)
{
    uint64_t hz = (uint64_t)khz * 1000;

    for (*shift = 0; hz > 2 * NS_PER_S; --*shift)
        hz >>= 1;
    for (; hz <= NS_PER_S; ++*shift)
        hz <<= 1;
    return (uint32_t)((NS_PER_S << 32) / hz);
}

/* False: it is not there, which the guest does not learn. A client elsewhere may have mapped it after it made the slot: KVM_RUN
 * looks for it before the next instruction, and the clocks are written again. */
static bool read_there(struct kvm_vcpu *kv, uint64_t gpa, void *old, size_t n)
{
    if (!vcpu_guest_read(kv, gpa, old, n))
        return true;
    kv->late = gpa | LATE;
    vcpu_kick(kv);
    return false;
}

static void time_page_write(struct kvm_vcpu *kv)
{
    uint64_t gpa = kv->msr_system_time & ~1ull;
    struct kvm_vm *vm = kv->vm;
    struct pv_time t, old;
    int8_t shift;

    if (!(kv->msr_system_time & 1) || !read_there(kv, gpa, &old, sizeof(old)))
        return;
    memset(&t, 0, sizeof(t));
    pthread_mutex_lock(&vm->clock_lock);
    t.tsc_timestamp = vm->clock_base_tsc + kv->cpu.tsc_offset;
    t.system_time_ns = (uint64_t)vm->clock_base_ns;
    pthread_mutex_unlock(&vm->clock_lock);
    t.tsc_to_system_mul = scale_of(kv->cpu.tsc_khz, &shift);
    t.tsc_shift = shift;
    t.flags = (tsc_matched(vm) ? PV_TIME_STABLE : 0) | (old.flags & PV_TIME_GUEST_STOPPED) |
              (kv->clock_stopped ? PV_TIME_GUEST_STOPPED : 0);
    kv->clock_stopped = false;
    t.version = (old.version + 1) | 1;
    vcpu_guest_write(kv, gpa, &t.version, sizeof(t.version));
    atomic_thread_fence(memory_order_seq_cst);
    vcpu_guest_write(kv, gpa + sizeof(t.version), (char *)&t + sizeof(t.version), sizeof(t) - sizeof(t.version));
    atomic_thread_fence(memory_order_seq_cst);
    t.version++;
    vcpu_guest_write(kv, gpa, &t.version, sizeof(t.version));
}

static void wall_clock_write(struct kvm_vcpu *kv, uint64_t gpa)
{
    uint64_t boot = now_ns(CLOCK_REALTIME) - clock_guest_ns(kv->vm);
    struct pv_wall_clock w = {.version = 0, .sec = (uint32_t)(boot / NS_PER_S), .nsec = (uint32_t)(boot % NS_PER_S)};
    uint32_t version;

    kv->wall_clock_late = 0;
    if (!gpa)
        return;
    if (!read_there(kv, gpa, &version, sizeof(version))) {
        kv->wall_clock_late = gpa;
        return;
    }
    w.version = (version + 2) & ~1u;
    vcpu_guest_write(kv, gpa, &w, sizeof(w));
}

void clock_update(struct kvm_vcpu *kv)
{
    kv->late = 0;
    time_page_write(kv);
    wall_clock_write(kv, kv->wall_clock_late);
}

void clock_has_come(struct kvm_vcpu *kv)
{
    kv->steal_tsc = 0;
    atomic_fetch_or(&kv->events, VCPU_CLOCK);
}

/* KVM API 4.67. -EINVAL: the guest has no kvmclock */
int clock_ctrl(struct kvm_vcpu *kv)
{
    if (!(kv->msr_system_time & 1))
        return -EINVAL;
    kv->clock_stopped = true;
    clock_update(kv);
    return 0;
}

/* ---- steal time ------------------------------------------------------------------------------------------------ */

/* Time that this thread was runnable and did not run: second field of schedstat. */
static uint64_t run_delay_ns(void)
{
    unsigned long long ran, waited = 0;
    char path[64];
    FILE *f;

    snprintf(path, sizeof(path), "/proc/self/task/%ld/schedstat", syscall(SYS_gettid));
    f = fopen(path, "re");
    if (!f)
        return 0;
    if (fscanf(f, "%llu %llu", &ran, &waited) != 2)
        waited = 0;
    fclose(f);
    return waited;
}

/* How often it was switched away: at none but these times it may have waited for a processor. */
static uint64_t switched_away(void)
{
    struct rusage r;

    return getrusage(RUSAGE_THREAD, &r) ? 0 : (uint64_t)r.ru_nvcsw + (uint64_t)r.ru_nivcsw;
}

/* At most every 200 us, which is as good as at each entry: whoever steals does so for longer. Asking for switches takes 0.3 us,
 * reading the delay 7. */
void clock_steal(struct kvm_vcpu *kv)
{
    uint64_t gpa = kv->msr_steal & ~(uint64_t)0x3f, now = host_tsc(), self = (uint64_t)pthread_self(), switches, delay;
    bool goes_on = kv->steal_thread == self;
    struct pv_steal s;

    if (!(kv->msr_steal & 1) || (kv->steal_tsc && now - kv->steal_tsc < host_tsc_khz() / 5))
        return;
    kv->steal_tsc = now;
    switches = switched_away();
    if (goes_on && switches == kv->steal_switches)
        return;
    delay = run_delay_ns();
    if (!read_there(kv, gpa, &s, sizeof(s)))
        return;
    if (goes_on && delay > kv->steal_ns)
        s.steal_ns += delay - kv->steal_ns;
    kv->steal_thread = self;
    kv->steal_switches = switches;
    kv->steal_ns = delay;
    s.preempted = 0;
    s.version = (s.version + 2) & ~1u;
    vcpu_guest_write(kv, gpa, &s, sizeof(s));
}

/* ---- MSRs ------------------------------------------------------------------------------------------------------- */

static bool pv_allowed(const struct kvm_vcpu *kv, unsigned feature, bool host) { return host || pv_has(kv, feature); }

/* 0 done, -1 #GP, 1 unknown. */
int clock_write_msr(struct kvm_vcpu *kv, uint32_t index, uint64_t value, bool host)
{
    switch (index) {
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_NEW:
        if (!pv_allowed(kv, index == MSR_KVM_WALL_CLOCK ? PV_CLOCK : PV_CLOCK2, host))
            return 1;
        kv->vm->wall_clock_msr = value;
        if (!host)
            wall_clock_write(kv, value);
        return 0;
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_NEW:
        if (!pv_allowed(kv, index == MSR_KVM_SYSTEM_TIME ? PV_CLOCK : PV_CLOCK2, host))
            return 1;
        kv->msr_system_time = value;
        kv->clock_boot_msr = index == MSR_KVM_SYSTEM_TIME;
        atomic_fetch_or(&kv->events, VCPU_CLOCK);
        clock_update(kv);
        return 0;
    case MSR_KVM_STEAL_TIME:
        if (!pv_allowed(kv, PV_STEAL, host))
            return 1;
        if (value & 0x3e)
            return -1;
        kv->msr_steal = value;
        kv->steal_tsc = kv->steal_thread = 0;
        clock_steal(kv);
        return 0;
    case MSR_KVM_PV_EOI_EN:
        if (!pv_allowed(kv, PV_EOI, host))
            return 1;
        if (value & 2 || (value & 1 && !vcpu_guest_has(kv, value & ~1ull)))
            return -1;
        pv_eoi_check(kv);
        kv->msr_pv_eoi = value;
        return 0;
    case MSR_KVM_POLL_CONTROL:
        if (!pv_allowed(kv, PV_POLL_CONTROL, host))
            return 1;
        if (value & ~1ull)
            return -1;
        kv->msr_poll_control = value;
        return 0;
    /* Guest memory is never paged out by us: no fault is ever sent, so that it matters not who has the LAPIC. */
    case MSR_KVM_ASYNC_PF_EN:
        if (!pv_allowed(kv, PV_ASYNC_PF, host))
            return 1;
        if (value & 0x30 || ((value & 8) && !pv_has(kv, PV_ASYNC_PF_INT)))
            return -1;
        kv->msr_apf_en = value;
        return value & 1 && !vcpu_guest_has(kv, value & ~0x3full) ? -1 : 0; /* Linux keeps the value, too */
    case MSR_KVM_ASYNC_PF_INT:
        if (!pv_allowed(kv, PV_ASYNC_PF_INT, host))
            return 1;
        if (value >> 8)
            return -1;
        kv->msr_apf_int = value;
        return 0;
    case MSR_KVM_ASYNC_PF_ACK: return pv_allowed(kv, PV_ASYNC_PF_INT, host) ? 0 : 1;
    default: return 1;
    }
}

int clock_read_msr(struct kvm_vcpu *kv, uint32_t index, uint64_t *value, bool host)
{
    switch (index) {
    case MSR_KVM_WALL_CLOCK: *value = kv->vm->wall_clock_msr; return pv_allowed(kv, PV_CLOCK, host) ? 0 : 1;
    case MSR_KVM_WALL_CLOCK_NEW: *value = kv->vm->wall_clock_msr; return pv_allowed(kv, PV_CLOCK2, host) ? 0 : 1;
    case MSR_KVM_SYSTEM_TIME: *value = kv->msr_system_time; return pv_allowed(kv, PV_CLOCK, host) ? 0 : 1;
    case MSR_KVM_SYSTEM_TIME_NEW: *value = kv->msr_system_time; return pv_allowed(kv, PV_CLOCK2, host) ? 0 : 1;
    case MSR_KVM_STEAL_TIME: *value = kv->msr_steal; return pv_allowed(kv, PV_STEAL, host) ? 0 : 1;
    case MSR_KVM_PV_EOI_EN: *value = kv->msr_pv_eoi; return pv_allowed(kv, PV_EOI, host) ? 0 : 1;
    case MSR_KVM_POLL_CONTROL: *value = kv->msr_poll_control; return pv_allowed(kv, PV_POLL_CONTROL, host) ? 0 : 1;
    case MSR_KVM_ASYNC_PF_EN: *value = kv->msr_apf_en; return pv_allowed(kv, PV_ASYNC_PF, host) ? 0 : 1;
    case MSR_KVM_ASYNC_PF_INT: *value = kv->msr_apf_int; return pv_allowed(kv, PV_ASYNC_PF_INT, host) ? 0 : 1;
    case MSR_KVM_ASYNC_PF_ACK: *value = 0; return pv_allowed(kv, PV_ASYNC_PF_INT, host) ? 0 : 1;
    default: return 1;
    }
}
