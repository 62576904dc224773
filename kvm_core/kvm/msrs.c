/* Model-specific registers as the client and the machine see them: lists, GET/SET_MSRS, filter, APIC and PV registers. */
#include "cpu/msr.h"
#include "cpu/msr_index.h"

#include <errno.h>
#include <stdlib.h>

#include "kvm/kvm.h"
#include "kvm/pv.h"

enum { LIST_MAX = 512 };
enum { MSR_TSC = 0x10, MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0 };

/* What KVM_GET_MSR_INDEX_LIST adds to the processor's. */
static const uint32_t machine_index[] = {
    MSR_KVM_WALL_CLOCK, MSR_KVM_SYSTEM_TIME,  MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW,
    MSR_KVM_STEAL_TIME, MSR_KVM_PV_EOI_EN,    MSR_KVM_POLL_CONTROL,   MSR_KVM_ASYNC_PF_EN,
    MSR_KVM_ASYNC_PF_INT, MSR_KVM_ASYNC_PF_ACK, MSR_TSC_DEADLINE};
enum { MACHINE_MSRS = sizeof(machine_index) / sizeof(*machine_index) };

/* KVM API 4.3. -E2BIG with the count filled in */
int msrs_get_index_list(const struct client *c, uintptr_t arg, bool feature)
{
    uint32_t list[LIST_MAX + MACHINE_MSRS], n, room;
    struct kvm_msr_list head;

    if (GET(c, head, arg))
        return -EFAULT;
    room = head.nmsrs;
    n = feature ? msr_feature_list(list, LIST_MAX) : msr_index_list(list, LIST_MAX);
    for (unsigned i = 0; !feature && i < MACHINE_MSRS; i++)
        list[n++] = machine_index[i];
    head.nmsrs = n;
    if (PUT(c, arg, head))
        return -EFAULT;
    if (room < n)
        return -E2BIG;
    return client_write(c, arg + sizeof(head), list, n * sizeof(*list));
}

/* ---- reads and writes ----------------------------------------------------------------------------------------- */

/* 0 done, -1 refused, 1 unknown. */
static int machine_read(struct kvm_vcpu *kv, uint32_t index, uint64_t *value, bool host)
{
    if (index == MSR_APIC_BASE) {
        *value = kv->has_lapic ? lapic_base_get(&kv->lapic)
                               : APIC_DEFAULT_BASE | APIC_BASE_ENABLE | (kv->id == kv->vm->bsp_id ? APIC_BASE_BSP : 0);
        return 0;
    }
    if (index >= APIC_X2APIC_MSR_FIRST && index <= APIC_X2APIC_MSR_LAST)
        return kv->has_lapic && !lapic_msr_read(&kv->lapic, index, value) ? 0 : -1;
    if (index == MSR_TSC_DEADLINE) {
        *value = kv->has_lapic ? lapic_deadline_get(&kv->lapic) : 0; /* whatever CPUID says, as in KVM */
        return 0;
    }
    return clock_read_msr(kv, index, value, host);
}

static int machine_write(struct kvm_vcpu *kv, uint32_t index, uint64_t value, bool host)
{
    if (index == MSR_APIC_BASE) {
        if (!kv->has_lapic)
            return 0;
        return lapic_base_set(&kv->lapic, value, host) ? -1 : 0;
    }
    if (index >= APIC_X2APIC_MSR_FIRST && index <= APIC_X2APIC_MSR_LAST)
        return kv->has_lapic && !lapic_msr_write(&kv->lapic, index, value) ? 0 : -1;
    if (index == MSR_TSC_DEADLINE) {
        if (kv->has_lapic)
            lapic_deadline_set(&kv->lapic, value);
        return 0;
    }
    return clock_write_msr(kv, index, value, host);
}

/* Is this refusal one that the client wants to decide (KVM_CAP_X86_USER_SPACE_MSR)? 1 exit, -1 #GP */
static int refused(struct vcpu *v, int result, uint32_t reason)
{
    if (!result)
        return 0;
    if (result < 0)
        reason = KVM_MSR_EXIT_REASON_INVAL;
    v->exit.msr.reason = reason;
    return kvm_of(v)->vm->user_msr_reasons & reason ? 1 : -1;
}

int ops_rdmsr(struct vcpu *v, uint32_t index, uint64_t *value)
{
    uint32_t reason = v->exit.msr.reason;

    if (reason != KVM_MSR_EXIT_REASON_UNKNOWN)
        return kvm_of(v)->vm->user_msr_reasons & reason ? 1 : -1;
    return refused(v, machine_read(kvm_of(v), index, value, false), reason);
}

int ops_wrmsr(struct vcpu *v, uint32_t index, uint64_t value)
{
    uint32_t reason = v->exit.msr.reason;

    if (reason != KVM_MSR_EXIT_REASON_UNKNOWN)
        return kvm_of(v)->vm->user_msr_reasons & reason ? 1 : -1;
    return refused(v, machine_write(kvm_of(v), index, value, false), reason);
}

static int host_read(struct kvm_vcpu *kv, struct kvm_msr_entry *e)
{
    uint64_t value = 0;
    int result = msr_read(&kv->cpu, e->index, &value, true);

    if (result > 0)
        result = machine_read(kv, e->index, &value, true);
    e->data = value;
    return result;
}

static int host_write(struct kvm_vcpu *kv, struct kvm_msr_entry *e)
{
    int result = msr_write(&kv->cpu, e->index, e->data, true);

    if (result > 0)
        result = machine_write(kv, e->index, e->data, true);
    if (!result && e->index == MSR_TSC)
        clock_tsc_written(kv, e->data);
    return result;
}

static int feature_read(struct kvm_vcpu *kv, struct kvm_msr_entry *e)
{
    uint64_t value = 0;
    int result = msr_feature(e->index, &value);

    (void)kv;
    e->data = value;
    return result;
}

/* Number of entries done before the first that failed. KVM API 4.18, 4.19 */
static int msr_io(struct kvm_vcpu *kv, const struct client *c, uintptr_t arg,
                  int (*one)(struct kvm_vcpu *, struct kvm_msr_entry *), bool writeback)
{
    struct kvm_msrs head;
    struct kvm_msr_entry *entries;
    unsigned n;
    int err;

    if (GET(c, head, arg))
        return -EFAULT;
    if (head.nmsrs >= MSR_IO_MAX)
        return -E2BIG;
    entries = client_read_array(c, arg + sizeof(head), head.nmsrs, sizeof(*entries), &err);
    if (!entries)
        return err;
    for (n = 0; n < head.nmsrs; n++)
        if (one(kv, &entries[n]))
            break;
    if (writeback && client_write(c, arg + sizeof(head), entries, head.nmsrs * sizeof(*entries)))
        n = (unsigned)-EFAULT;
    free(entries);
    return (int)n;
}

int msrs_get_system(const struct client *c, uintptr_t arg)
{
    return msr_io(NULL, c, arg, feature_read, true);
}

int msrs_get(struct kvm_vcpu *kv, const struct client *c, uintptr_t arg)
{
    return msr_io(kv, c, arg, host_read, true);
}

int msrs_set(struct kvm_vcpu *kv, const struct client *c, uintptr_t arg)
{
    return msr_io(kv, c, arg, host_write, false);
}

/* ---- KVM_X86_SET_MSR_FILTER: KVM API 4.97 --------------------------------------------------------------------------- */

void msrs_filter_free(struct msr_filter *f)
{
    for (unsigned i = 0; f && i < f->count; i++)
        free(f->range[i].bitmap);
    free(f);
}

static int filter_add(struct msr_filter *f, const struct client *c, const struct kvm_msr_filter_range *r)
{
    size_t bytes = (r->nmsrs + 63ul) / 64 * 8;
    int err;

    if (!r->nmsrs)
        return 0;
    if (!r->flags || (r->flags & ~(uint32_t)(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)) || bytes > 0x600)
        return -EINVAL;
    f->range[f->count].bitmap = client_read_array(c, (uintptr_t)r->bitmap, bytes, 1, &err);
    if (!f->range[f->count].bitmap)
        return err;
    f->range[f->count].flags = r->flags;
    f->range[f->count].base = r->base;
    f->range[f->count++].count = r->nmsrs;
    return 0;
}

static int read_compat(const struct client *c, uintptr_t arg, struct kvm_msr_filter *out)
{
    struct kvm_msr_filter_compat in;

    if (GET(c, in, arg))
        return -EFAULT;
    out->flags = in.flags;
    for (unsigned i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++)
        out->ranges[i] = (struct kvm_msr_filter_range){
            .flags = in.ranges[i].flags, .nmsrs = in.ranges[i].nmsrs, .base = in.ranges[i].base,
            .bitmap = (void *)(uintptr_t)in.ranges[i].bitmap};
    return 0;
}

int msrs_set_filter(struct kvm_vm *vm, const struct client *c, unsigned long req, uintptr_t arg)
{
    struct kvm_msr_filter in;
    struct msr_filter *f, *old;
    bool empty = true;
    int err = 0;

    if (req == KVM_X86_SET_MSR_FILTER ? GET(c, in, arg) : read_compat(c, arg, &in))
        return -EFAULT;
    if (in.flags & ~(uint32_t)KVM_MSR_FILTER_DEFAULT_DENY)
        return -EINVAL;
    for (unsigned i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++)
        empty &= !in.ranges[i].nmsrs;
    if (empty && (in.flags & KVM_MSR_FILTER_DEFAULT_DENY))
        return -EINVAL;
    f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->default_allow = !(in.flags & KVM_MSR_FILTER_DEFAULT_DENY);
    for (unsigned i = 0; !err && i < KVM_MSR_FILTER_MAX_RANGES; i++)
        err = filter_add(f, c, &in.ranges[i]);
    if (err) {
        msrs_filter_free(f);
        return err;
    }
    pthread_mutex_lock(&vm->lock);
    old = atomic_exchange(&vm->msr_filter, f);
    vm_quiesce(vm, REQ_TLB_FLUSH, NULL); /* nobody looks at the old one any more */
    pthread_mutex_unlock(&vm->lock);
    msrs_filter_free(old);
    return 0;
}

bool ops_msr_allowed(struct vcpu *v, uint32_t index, bool write)
{
    const struct msr_filter *f = atomic_load(&kvm_of(v)->vm->msr_filter);
    uint32_t kind = write ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ;

    if (index == MSR_IA32_PLATFORM_INFO && !write && kvm_of(v)->vm->hides_platform_info)
        return false;
    if (!f || (index >= APIC_X2APIC_MSR_FIRST && index <= APIC_X2APIC_MSR_LAST))
        return true;
    for (unsigned i = 0; i < f->count; i++) {
        const struct msr_range *r = &f->range[i];
        uint32_t at = index - r->base;
        if (at < r->count && (r->flags & kind))
            return r->bitmap[at / 8] >> at % 8 & 1;
    }
    return f->default_allow;
}
