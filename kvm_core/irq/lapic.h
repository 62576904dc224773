/* The local APIC of one vCPU: xAPIC page, x2APIC MSRs, LVT and timer (SDM vol. 3 ch. 11). */
#ifndef KVMISH_IRQ_LAPIC_H
#define KVMISH_IRQ_LAPIC_H

#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "timer.h"

#define APIC_DEFAULT_BASE 0xfee00000u
#define APIC_BASE_BSP (1u << 8)
#define APIC_BASE_EXTD (1u << 10)
#define APIC_BASE_ENABLE (1u << 11)
#define APIC_X2APIC_MSR_FIRST 0x800u
#define APIC_X2APIC_MSR_LAST 0x8ffu

/* Offsets in the register page; the x2APIC MSR is 0x800 + offset / 16. SDM table 11-1 */
enum apic_reg {
    APIC_ID = 0x20,
    APIC_VERSION = 0x30,
    APIC_TPR = 0x80,
    APIC_APR = 0x90,
    APIC_PPR = 0xa0,
    APIC_EOI = 0xb0,
    APIC_RRD = 0xc0,
    APIC_LDR = 0xd0,
    APIC_DFR = 0xe0,
    APIC_SPIV = 0xf0,
    APIC_ISR = 0x100,
    APIC_TMR = 0x180,
    APIC_IRR = 0x200,
    APIC_ESR = 0x280,
    APIC_LVT_CMCI = 0x2f0,
    APIC_ICR = 0x300,
    APIC_ICR2 = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_THERMAL = 0x330,
    APIC_LVT_PMC = 0x340,
    APIC_LVT_LINT0 = 0x350,
    APIC_LVT_LINT1 = 0x360,
    APIC_LVT_ERROR = 0x370,
    APIC_TIMER_INITIAL = 0x380,
    APIC_TIMER_CURRENT = 0x390,
    APIC_TIMER_DIVIDE = 0x3e0,
    APIC_SELF_IPI = 0x3f0,
};

struct irqchip;

enum lapic_event { LAPIC_EVENT_VECTOR = 1, LAPIC_EVENT_EXTINT = 2 };

struct lapic {
    struct irqchip *chip;
    void *owner;      /* argument of the vCPU ops */
    uint32_t vcpu_id; /* also the x2APIC id */
    bool bsp;

    _Atomic uint32_t
        events; /* enum lapic_event: what irqchip_next would find; kept true at each change */
    _Atomic uint64_t base; /* IA32_APICBASE */
    uint32_t reg[KVM_APIC_REG_SIZE / 4];

    /* from CPUID, lapic_set_cpuid */
    bool has_x2apic, has_tsc_deadline;
    uint8_t maxphyaddr;
    uint8_t lvt_entries; /* 6, or 7 with CMCI */

    uint32_t esr_pending; /* errors since the last write of ESR */
    int16_t user_extint;  /* split: vector of KVM_INTERRUPT, or -1 */
    bool rtc_pending_eoi; /* holds the RTC's vector */
    bool eoi_offered;     /* PV EOI: the vector in ISR may have been ended by the guest already */
    bool lint0_nmi;       /* counted in chip->lapics_lint0_nmi */
    uint8_t rtc_vector;

    struct timer timer;
    uint32_t divide;          /* 1..128 */
    uint64_t timer_period_ns; /* of the initial count; 0 when stopped */
    uint64_t timer_expires_ns;
    uint64_t tsc_deadline; /* IA32_TSC_DEADLINE, 0 disarmed */
};

/* Registers the LAPIC with chip and resets it. -ENOMEM, -EEXIST if the id is taken. */
int lapic_init(struct lapic *lapic, struct irqchip *chip, void *owner, uint32_t vcpu_id, bool bsp);
void lapic_destroy(struct lapic *lapic);
/* Power-up (init false) or INIT (true, APICBASE and its mode stay). SDM 11.4.7 */
void lapic_reset(struct lapic *lapic, bool init);
/* KVM_SET_CPUID2: what the guest is told. mcg_cmci: MCG_CAP[10] set by KVM_X86_SETUP_MCE. */
void lapic_set_cpuid(struct lapic *lapic, bool x2apic, bool tsc_deadline, unsigned maxphyaddr);
void lapic_set_cmci(struct lapic *lapic, bool mcg_cmci);

/* Is there anything that the vCPU could take with interrupts open? Lock-free, for each poll. */
static inline bool lapic_maybe_pending(const struct lapic *lapic)
{
    return atomic_load_explicit(&lapic->events, memory_order_acquire) != 0;
}
/* Highest vector above PPR, or -1; its acknowledgement (IRR to ISR). irqchip_take does both and the
 * PIC. */
int lapic_pending(struct lapic *lapic);
void lapic_ack(struct lapic *lapic, uint8_t vector);
/* Would an ExtINT be taken: LINT0 in ExtINT mode and unmasked, or the APIC off? */
bool lapic_accepts_extint(struct lapic *lapic);
/* KVM_INTERRUPT with a split irqchip: -ENXIO with a PIC of our own, -EEXIST if one waits. */
int lapic_user_extint(struct lapic *lapic, uint8_t vector);

/* CR8: bits 7:4 of TPR. */
void lapic_set_tpr(struct lapic *lapic, uint8_t cr8);
uint8_t lapic_get_tpr(struct lapic *lapic);
/* The word of KVM_SET_VAPIC_ADDR: TPR, class in service << 8, highest request << 24; its TPR taken back. */
uint32_t lapic_vapic_word(struct lapic *lapic);
void lapic_vapic_take(struct lapic *lapic, uint32_t word);

/* IA32_APICBASE. -EINVAL (#GP for the guest): reserved bits, or, from the guest, a forbidden
 * transition. SDM 11.12.5 */
uint64_t lapic_base_get(const struct lapic *lapic);
int lapic_base_set(struct lapic *lapic, uint64_t value, bool host_initiated);

/* Does the xAPIC page claim this access? Also true in x2APIC mode or when disabled: KVM leaves a
 * hole of 0xff there. */
static inline bool lapic_mmio_hit(const struct lapic *lapic, uint64_t gpa)
{
    uint64_t base = atomic_load_explicit(&lapic->base, memory_order_relaxed) & ~(uint64_t)0xfff;
    return gpa - base < 0x1000;
}
void lapic_read(struct lapic *lapic, uint32_t offset, unsigned size_bytes, uint64_t *value);
void lapic_write(struct lapic *lapic, uint32_t offset, unsigned size_bytes, uint64_t value);
/* MSRs 0x800-0x8ff. -EINVAL: #GP. SDM 11.12.1 */
int lapic_msr_read(struct lapic *lapic, uint32_t msr, uint64_t *value);
int lapic_msr_write(struct lapic *lapic, uint32_t msr, uint64_t value);

/* IA32_TSC_DEADLINE (0x6e0); reads 0 and ignores writes outside the deadline mode. SDM 11.5.4.1 */
uint64_t lapic_deadline_get(struct lapic *lapic);
void lapic_deadline_set(struct lapic *lapic, uint64_t value);
/* The guest TSC or its rate was changed: an armed deadline is computed anew. */
void lapic_tsc_changed(struct lapic *lapic);

void lapic_eoi(struct lapic *lapic);
/* PV EOI: may the guest end the vector in service without an exit? While the offer stands, the priority of what is in
 * service is not known here: whatever arrives kicks the vCPU, which then closes the offer. */
bool lapic_pv_eoi_offer(struct lapic *lapic);
/* ended: by the guest, so that the EOI is done here; else it comes by an exit. */
void lapic_pv_eoi_close(struct lapic *lapic, bool ended);

/* KVM_GET_LAPIC, KVM_SET_LAPIC. -EINVAL: an id that contradicts x2APIC mode. KVM API 4.57, 4.58 */
int lapic_get_state(struct lapic *lapic, struct kvm_lapic_state *state);
int lapic_set_state(struct lapic *lapic, const struct kvm_lapic_state *state);

#endif
