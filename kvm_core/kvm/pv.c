/* KVM's paravirtual shortcuts for interrupts: PV EOI, the virtual APIC word, hypercalls. Numbers and layouts: pv.h. */
#include <errno.h>
#include <string.h>

#include "cpu/cpu.h"
#include "kvm/kvm.h"
#include "kvm/pv.h"

/* ---- PV EOI: bit 0 of a guest word, set by us when the vector in service may be ended by clearing it ------------- */

void pv_eoi_check(struct kvm_vcpu *kv)
{
    uint8_t word;

    if (!kv->pv_eoi_set)
        return;
    if (vcpu_guest_read(kv, kv->msr_pv_eoi & ~3ull, &word, 1))
        return;
    kv->pv_eoi_set = false;
    if (word & 1) { /* not ended yet: take the offer back, another interrupt may be about to nest */
        uint8_t without = word & 0xfe;
        vcpu_guest_write(kv, kv->msr_pv_eoi & ~3ull, &without, 1);
    }
    lapic_pv_eoi_close(&kv->lapic, !(word & 1));
}

void pv_eoi_offer(struct kvm_vcpu *kv)
{
    uint8_t word;

    if (!(kv->msr_pv_eoi & 1) || !lapic_pv_eoi_offer(&kv->lapic))
        return;
    if (!vcpu_guest_read(kv, kv->msr_pv_eoi & ~3ull, &word, 1)) {
        word |= 1;
        kv->pv_eoi_set = !vcpu_guest_write(kv, kv->msr_pv_eoi & ~3ull, &word, 1);
    }
    if (!kv->pv_eoi_set)
        lapic_pv_eoi_close(&kv->lapic, false);
}

/* ---- the virtual APIC word: KVM_SET_VAPIC_ADDR, KVM API 4.57 ------------------------------------------------------- */

/* A client's option ROM patches a guest's TPR accesses so that they go to this word: TPR in bits 7:0, the class in
 * service in 15:8, the highest request in 31:24. TPR is taken back after an exit and before an access
 * of the LAPIC itself, the word written anew before an entry and after one. */
void vapic_publish(struct kvm_vcpu *kv)
{
    uint32_t word;

    if (!kv->vapic_addr)
        return;
    word = lapic_vapic_word(&kv->lapic);
    vcpu_guest_write(kv, kv->vapic_addr, &word, sizeof(word));
}

void vapic_collect(struct kvm_vcpu *kv)
{
    uint32_t word;

    if (kv->vapic_addr && !vcpu_guest_read(kv, kv->vapic_addr, &word, sizeof(word)))
        lapic_vapic_take(&kv->lapic, word);
}

/* -EINVAL: no LAPIC of ours, or no memory there */
int vapic_set(struct kvm_vcpu *kv, uint64_t gpa)
{
    uint32_t word;

    if (!kv->has_lapic || (gpa && vcpu_guest_read(kv, gpa, &word, sizeof(word))))
        return -EINVAL;
    kv->vapic_addr = gpa;
    return 0;
}

/* The leaf of KVM's features comes after that of its signature, which is further up where Hyper-V's leaves are the first. */
struct kvm_cpuid_entry2 *pv_leaf(struct kvm_cpuid_entry2 *entries, unsigned n)
{
    enum { FIRST = 0x40000000, END = 0x40010000, APART = 0x100 };
    uint32_t base = END;

    for (struct kvm_cpuid_entry2 *e = entries; e < entries + n; e++) {
        const uint32_t name[3] = {e->ebx, e->ecx, e->edx};
        if (e->function >= FIRST && e->function < base && e->function % APART == 0 && !memcmp(name, "KVMKVMKVM\0\0", sizeof(name)))
            base = e->function;
    }
    for (struct kvm_cpuid_entry2 *e = entries; e < entries + n; e++)
        if (base < END && e->function == base + 1)
            return e;
    return NULL;
}

/* KVM_CAP_ENFORCE_PV_FEATURE_CPUID: a service whose bit is clear does not exist. */
bool pv_has(const struct kvm_vcpu *kv, enum pv_feature feature)
{
    return !kv->enforce_pv || kv->pv_features >> feature & 1;
}

/* ---- hypercalls ---------------------------------------------------------------------------------------------------- */

/* Guest pages shared or private: the client's to note. Comes back only to refuse. KVM API 5, KVM_EXIT_HYPERCALL */
static uint64_t map_gpa_range(struct kvm_vcpu *kv, const uint64_t a[4])
{
    struct kvm_run *run = kv->run;

    if (!(kv->vm->hypercall_exits >> HC_MAP_GPA_RANGE & 1))
        return (uint64_t)-PV_ENOSYS;
    if (a[0] % KVM_PAGE || !a[1] || a[0] / KVM_PAGE + a[1] <= a[0] / KVM_PAGE)
        return (uint64_t)-PV_EINVAL;
    memset(&run->hypercall, 0, sizeof(run->hypercall));
    run->hypercall.nr = HC_MAP_GPA_RANGE;
    memcpy(run->hypercall.args, a, 3 * sizeof(*a));
    run->hypercall.longmode = cpu_is_long(&kv->cpu);
    cpu_leave(&kv->cpu, EXIT_HYPERCALL);
}

static uint64_t hypercall(struct kvm_vcpu *kv, uint64_t nr, const uint64_t a[4])
{
    switch (nr) {
    case HC_VAPIC_POLL_IRQ:
        vcpu_kick(kv); /* out to vapic_collect(), and in again with what has become deliverable */
        return 0;
    case HC_KICK_CPU: {
        if (!pv_has(kv, PV_UNHALT))
            break;
        struct lapic *target = kv->has_lapic ? irqchip_find_lapic(&kv->vm->irq, (uint32_t)a[1]) : NULL;
        if (target)
            vcpu_post(target->owner, VCPU_PV_KICK);
        return 0;
    }
    case HC_SEND_IPI:
        if (!kv->has_lapic || !pv_has(kv, PV_SEND_IPI))
            break;
        return (uint64_t)irqchip_pv_send_ipi(&kv->vm->irq, a[0], a[1], (uint32_t)a[2], a[3], cpu_is_long(&kv->cpu));
    case HC_SCHED_YIELD:
        if (!pv_has(kv, PV_SCHED_YIELD))
            break;
        return 0;
    case HC_MAP_GPA_RANGE: return map_gpa_range(kv, a);
    default: break;
    }
    return (uint64_t)-PV_ENOSYS;
}

/* VMCALL, VMMCALL: number in RAX, arguments in RBX, RCX, RDX, RSI; answer in RAX. */
bool ops_hypercall(struct vcpu *v)
{
    struct kvm_vcpu *kv = kvm_of(v);
    bool wide = cpu_is_long(v);
    uint64_t mask = wide ? ~0ull : 0xffffffff, ret;
    uint64_t a[4] = {v->gpr[RBX] & mask, v->gpr[RCX] & mask, v->gpr[RDX] & mask, v->gpr[RSI] & mask};

    kv->stat.hypercalls++;
    ret = v->cpl ? (uint64_t)-PV_EPERM : hypercall(kv, v->gpr[RAX] & mask, a);
    v->gpr[RAX] = ret & mask;
    return true;
}
