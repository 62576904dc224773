/* The life of a LAPIC: creation, reset, IA32_APICBASE, KVM's state image (SDM 11.4, 11.12.5). */
#include "lapic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define SPIV_RESET 0xffu
#define LVT_EXTINT ((uint32_t)DELIVER_EXTINT << 8)

/* Integrated APIC 0x14, with the highest LVT entry. SDM 11.4.8 */
static uint32_t lapic_version(const struct lapic *lapic)
{
    uint32_t version = 0x14u | (lapic->lvt_entries - 1u) << 16;

    /* KVM's own I/O APIC has no EOI register, so it offers no directed EOI */
    if (lapic->has_x2apic && lapic->chip->mode != IRQCHIP_KERNEL)
        version |= VERSION_DIRECTED_EOI;
    return version;
}

/* Cluster in the upper, one bit in the lower half. SDM 11.12.10.2 */
static uint32_t x2apic_ldr(uint32_t id)
{
    return (id >> 4) << 16 | 1u << (id & 0xf);
}

static void set_id(struct lapic *lapic)
{
    if (lapic_x2apic(lapic)) {
        lapic_reg_set(lapic, APIC_ID, lapic->vcpu_id);
        lapic_reg_set(lapic, APIC_LDR, x2apic_ldr(lapic->vcpu_id));
    } else {
        lapic_reg_set(lapic, APIC_ID, lapic->vcpu_id << 24);
    }
}

static void reset_locked(struct lapic *lapic, bool init)
{
    static const enum apic_reg lvts[] = {APIC_LVT_TIMER, APIC_LVT_THERMAL, APIC_LVT_PMC,
                                         APIC_LVT_LINT0, APIC_LVT_LINT1,   APIC_LVT_ERROR,
                                         APIC_LVT_CMCI};
    uint32_t id = lapic_reg(lapic, APIC_ID);

    if (!init) {
        uint64_t base = APIC_DEFAULT_BASE | APIC_BASE_ENABLE | (lapic->bsp ? APIC_BASE_BSP : 0);

        atomic_store_explicit(&lapic->base, base, memory_order_relaxed);
    }
    memset(lapic->reg, 0, sizeof(lapic->reg));
    if (init)
        lapic_reg_set(lapic, APIC_ID, id);
    if (!init || lapic_x2apic(lapic))
        set_id(lapic);
    lapic_reg_set(lapic, APIC_VERSION, lapic_version(lapic));
    lapic_reg_set(lapic, APIC_DFR, 0xffffffff);
    lapic_reg_set(lapic, APIC_SPIV, SPIV_RESET);
    for (unsigned i = 0; i < lapic->lvt_entries; i++)
        lapic_reg_set(lapic, lvts[i], LVT_MASKED);
    if (lapic->bsp) /* the virtual wire is there before firmware asks
                       (KVM_X86_QUIRK_LINT0_REENABLED) */
        lapic_reg_set(lapic, APIC_LVT_LINT0, LVT_EXTINT);
    lapic->esr_pending = 0;
    lapic->eoi_offered = false;
    lapic_timer_reset(lapic);
    lapic_rtc_forget(lapic);
    lapic_watch_lint0(lapic);
    lapic_update(lapic);
}

int lapic_init(struct lapic *lapic, struct irqchip *chip, void *owner, uint32_t vcpu_id, bool bsp)
{
    struct lapic **grown;
    int err;

    memset(lapic, 0, sizeof(*lapic));
    lapic->chip = chip;
    lapic->owner = owner;
    lapic->vcpu_id = vcpu_id;
    lapic->bsp = bsp;
    lapic->maxphyaddr = 36;
    lapic->lvt_entries = 6;
    lapic->user_extint = -1;
    lapic_timer_init(lapic);
    irqchip_lock(chip);
    for (unsigned i = 0; i < chip->lapics; i++) {
        if (chip->lapic[i]->vcpu_id == vcpu_id) {
            irqchip_unlock(chip);
            return -EEXIST;
        }
    }
    err = timers_reserve(&chip->timers, chip->lapics + 3);
    grown = err ? NULL : realloc(chip->lapic, (chip->lapics + 1) * sizeof(*grown));
    if (grown) {
        chip->lapic = grown;
        chip->lapic[chip->lapics++] = lapic;
        reset_locked(lapic, false);
    }
    irqchip_unlock(chip);
    return grown ? 0 : -ENOMEM;
}

void lapic_destroy(struct lapic *lapic)
{
    struct irqchip *chip = lapic->chip;

    irqchip_lock(chip);
    timer_cancel(&chip->timers, &lapic->timer);
    lapic_rtc_forget(lapic);
    lapic_reg_set(lapic, APIC_LVT_LINT0, LVT_MASKED);
    lapic_watch_lint0(lapic);
    for (unsigned i = 0; i < chip->lapics; i++) {
        if (chip->lapic[i] != lapic)
            continue;
        chip->lapics--;
        memmove(&chip->lapic[i], &chip->lapic[i + 1], (chip->lapics - i) * sizeof(*chip->lapic));
        break;
    }
    irqchip_unlock(chip);
}

void lapic_reset(struct lapic *lapic, bool init)
{
    irqchip_lock(lapic->chip);
    reset_locked(lapic, init);
    irqchip_unlock(lapic->chip);
}

void lapic_set_cpuid(struct lapic *lapic, bool x2apic, bool tsc_deadline, unsigned maxphyaddr)
{
    irqchip_lock(lapic->chip);
    lapic->has_x2apic = x2apic;
    lapic->has_tsc_deadline = tsc_deadline;
    lapic->maxphyaddr = (uint8_t)(maxphyaddr < 32 ? 32 : maxphyaddr > 52 ? 52 : maxphyaddr);
    lapic_reg_set(lapic, APIC_VERSION, lapic_version(lapic));
    irqchip_unlock(lapic->chip);
}

void lapic_set_cmci(struct lapic *lapic, bool mcg_cmci)
{
    irqchip_lock(lapic->chip);
    if (mcg_cmci && lapic->lvt_entries < 7)
        lapic_reg_set(lapic, APIC_LVT_CMCI, LVT_MASKED);
    lapic->lvt_entries = mcg_cmci ? 7 : 6;
    lapic_reg_set(lapic, APIC_VERSION, lapic_version(lapic));
    irqchip_unlock(lapic->chip);
}

uint64_t lapic_base_get(const struct lapic *lapic)
{
    return lapic_base(lapic);
}

static int check_base(const struct lapic *lapic, uint64_t value, bool host_initiated)
{
    uint64_t reserved = ~((1ull << lapic->maxphyaddr) - 1) | 0x2ff;
    bool was_x2apic = lapic_x2apic(lapic), was_enabled = lapic_hw_enabled(lapic);
    bool enable = value & APIC_BASE_ENABLE, extd = value & APIC_BASE_EXTD;

    if (!lapic->has_x2apic)
        reserved |= APIC_BASE_EXTD;
    if ((value & reserved) || (extd && !enable))
        return -EINVAL;
    if (host_initiated)
        return 0;
    /* the way from x2APIC to xAPIC mode is through disabled; into x2APIC mode, through xAPIC */
    if ((was_x2apic && enable && !extd) || (!was_enabled && extd))
        return -EINVAL;
    return 0;
}

int lapic_base_set(struct lapic *lapic, uint64_t value, bool host_initiated)
{
    uint64_t old;
    int err;

    irqchip_lock(lapic->chip);
    err = check_base(lapic, value, host_initiated);
    if (!err) {
        old = lapic_base(lapic);
        atomic_store_explicit(&lapic->base, value, memory_order_relaxed);
        if (((old ^ value) & (APIC_BASE_ENABLE | APIC_BASE_EXTD)) && (value & APIC_BASE_ENABLE))
            set_id(lapic);
        lapic_update(lapic);
    }
    irqchip_unlock(lapic->chip);
    return err;
}

/*
 * KVM's page is the registers as the guest sees them, but for two things in x2APIC mode: the id
 * stands in the top byte unless KVM_CAP_X2APIC_API asked for 32-bit ids, and ICR2 holds the upper
 * half of the ICR. KVM API 4.57
 */
int lapic_get_state(struct lapic *lapic, struct kvm_lapic_state *state)
{
    uint32_t current, id;

    irqchip_lock(lapic->chip);
    current = lapic_timer_current(lapic); /* first: it may find the timer expired */
    memcpy(state->regs, lapic->reg, sizeof(state->regs));
    memcpy(state->regs + APIC_TIMER_CURRENT, &current, sizeof(current));
    if (lapic_x2apic(lapic) && !lapic->chip->x2apic_32bit_ids) {
        id = lapic->vcpu_id << 24;
        memcpy(state->regs + APIC_ID, &id, sizeof(id));
    }
    irqchip_unlock(lapic->chip);
    return 0;
}

int lapic_set_state(struct lapic *lapic, const struct kvm_lapic_state *state)
{
    uint32_t id;

    irqchip_lock(lapic->chip);
    memcpy(&id, state->regs + APIC_ID, sizeof(id));
    if (lapic_x2apic(lapic) && lapic->chip->x2apic_32bit_ids && id != lapic->vcpu_id) {
        irqchip_unlock(lapic->chip);
        return -EINVAL;
    }
    memcpy(lapic->reg, state->regs, sizeof(lapic->reg));
    if (lapic_x2apic(lapic))
        set_id(lapic);
    lapic_reg_set(lapic, APIC_VERSION, lapic_version(lapic));
    lapic->esr_pending = 0;
    lapic_rtc_forget(lapic);
    lapic_timer_resume(lapic, lapic_reg(lapic, APIC_TIMER_CURRENT));
    lapic_watch_lint0(lapic);
    lapic_update(lapic);
    irqchip_unlock(lapic->chip);
    return 0;
}
