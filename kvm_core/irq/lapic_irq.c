/* How a LAPIC accepts and ranks interrupts: IRR, ISR, TMR, PPR, EOI, local sources (SDM 11.8). */
#include <errno.h>

#include "internal.h"

/* The eight words of a 256-bit bank lie 16 bytes apart. */
static uint32_t *bank_word(struct lapic *lapic, uint32_t bank, uint8_t vector)
{
    return &lapic->reg[bank / 4 + (vector >> 5) * 4];
}

bool lapic_vector_set(const struct lapic *lapic, uint32_t bank, uint8_t vector)
{
    return lapic->reg[bank / 4 + (vector >> 5) * 4] & (1u << (vector & 31));
}

static void bank_put(struct lapic *lapic, uint32_t bank, uint8_t vector, bool value)
{
    uint32_t *word = bank_word(lapic, bank, vector), bit = 1u << (vector & 31);

    *word = value ? *word | bit : *word & ~bit;
}

static int highest(const struct lapic *lapic, uint32_t bank)
{
    for (int word = 7; word >= 0; word--) {
        uint32_t bits = lapic->reg[bank / 4 + (uint32_t)word * 4];

        if (bits)
            return word * 32 + 31 - __builtin_clz(bits);
    }
    return -1;
}

/* SDM 11.8.3.1 */
static uint32_t processor_priority(const struct lapic *lapic)
{
    uint32_t tpr = lapic_reg(lapic, APIC_TPR) & 0xff;
    int in_service = highest(lapic, APIC_ISR);
    uint32_t service_class = in_service < 0 ? 0 : (uint32_t)in_service & 0xf0;

    return (tpr & 0xf0) >= service_class ? tpr : service_class;
}

static int deliverable(const struct lapic *lapic)
{
    int vector;

    if (!lapic_hw_enabled(lapic))
        return -1;
    vector = highest(lapic, APIC_IRR);
    if (vector < 0 || ((uint32_t)vector & 0xf0) <= (lapic_reg(lapic, APIC_PPR) & 0xf0))
        return -1;
    return vector;
}

/* KVM's virtual wire: the PIC's INTR passes LINT0 in ExtINT mode, or a LAPIC that is off. */
static bool lapic_accepts_extint_locked(const struct lapic *lapic)
{
    uint32_t lvt = lapic_reg(lapic, APIC_LVT_LINT0);

    return !lapic_hw_enabled(lapic) || (!(lvt & LVT_MASKED) && ((lvt >> 8) & 7) == DELIVER_EXTINT);
}

static bool extint_waits(const struct lapic *lapic)
{
    if (!lapic_accepts_extint_locked(lapic))
        return false;
    if (lapic->chip->mode == IRQCHIP_SPLIT)
        return lapic->user_extint >= 0;
    return lapic->chip->mode == IRQCHIP_KERNEL && lapic->chip->pic.output;
}

void lapic_update(struct lapic *lapic)
{
    uint32_t events = 0, old;

    lapic_reg_set(lapic, APIC_PPR, processor_priority(lapic));
    if (deliverable(lapic) >= 0 || (lapic->eoi_offered && highest(lapic, APIC_IRR) >= 0))
        events |= LAPIC_EVENT_VECTOR;
    if (extint_waits(lapic))
        events |= LAPIC_EVENT_EXTINT;
    old = atomic_load_explicit(&lapic->events, memory_order_relaxed);
    if (events == old)
        return;
    atomic_store_explicit(&lapic->events, events, memory_order_release);
    if (events & ~old)
        lapic->chip->ops.kick(lapic->owner);
}

/* An interrupt that waits in IRR: accepted even if it waits there already. */
static bool accept_vector(struct lapic *lapic, const struct irq_message *message)
{
    if (message->level_triggered && !message->assert)
        return false;
    if (!lapic_hw_enabled(lapic) || !lapic_sw_enabled(lapic))
        return false;
    if (message->vector < 16) {
        lapic_error(lapic, ESR_RECEIVE_ILLEGAL_VECTOR);
        return false;
    }
    bank_put(lapic, APIC_TMR, message->vector, message->level_triggered);
    bank_put(lapic, APIC_IRR, message->vector, true);
    if (message->track_rtc && !lapic->rtc_pending_eoi) {
        lapic->rtc_pending_eoi = true;
        lapic->rtc_vector = message->vector;
        lapic->chip->ioapic.rtc_pending_eoi++;
    }
    lapic_update(lapic);
    return true;
}

bool lapic_accept(struct lapic *lapic, const struct irq_message *message)
{
    const struct irq_ops *ops = &lapic->chip->ops;

    switch (message->mode) {
    case DELIVER_FIXED:
    case DELIVER_LOWEST:
        return accept_vector(lapic, message);
    case DELIVER_NMI:
        ops->nmi(lapic->owner);
        return true;
    case DELIVER_INIT:
        /* the level de-assert only synchronized arbitration ids; SDM 11.6.1 */
        if (message->level_triggered && !message->assert)
            return false;
        ops->init_ipi(lapic->owner);
        return true;
    case DELIVER_SIPI:
        ops->sipi(lapic->owner, message->vector);
        return true;
    case DELIVER_SMI: /* there is no SMM */
    case DELIVER_REMOTE_READ:
    case DELIVER_EXTINT: /* comes by LINT0 only */
        break;
    }
    return false;
}

bool lapic_deliver_local_locked(struct lapic *lapic, enum apic_reg lvt)
{
    uint32_t entry = lapic_reg(lapic, lvt);
    struct irq_message message = {
        .vector = (uint8_t)entry,
        .mode = lvt == APIC_LVT_TIMER || lvt == APIC_LVT_ERROR
                    ? DELIVER_FIXED
                    : (enum delivery_mode)((entry >> 8) & 7),
        .level_triggered = entry & LVT_LEVEL,
        .assert = true,
    };
    bool accepted;

    if (!lapic_hw_enabled(lapic) || (entry & LVT_MASKED))
        return false;
    accepted = lapic_accept(lapic, &message);
    if (accepted && lvt == APIC_LVT_PMC) /* SDM 20.6.3: masked by its own interrupt */
        lapic_reg_set(lapic, lvt, entry | LVT_MASKED);
    return accepted;
}

void lapic_error(struct lapic *lapic, uint32_t bit)
{
    bool first = !lapic->esr_pending;

    lapic->esr_pending |= bit;
    if (first) /* armed again by a write of ESR */
        lapic_deliver_local_locked(lapic, APIC_LVT_ERROR);
}

void lapic_watch_lint0(struct lapic *lapic)
{
    uint32_t lvt = lapic_reg(lapic, APIC_LVT_LINT0);
    bool nmi = !(lvt & LVT_MASKED) && ((lvt >> 8) & 7) == DELIVER_NMI;

    if (nmi == lapic->lint0_nmi)
        return;
    lapic->lint0_nmi = nmi;
    lapic->chip->lapics_lint0_nmi += nmi ? 1u : -1u;
}

void lapic_rtc_forget(struct lapic *lapic)
{
    if (!lapic->rtc_pending_eoi)
        return;
    lapic->rtc_pending_eoi = false;
    lapic->chip->ioapic.rtc_pending_eoi--;
}

void lapic_eoi_locked(struct lapic *lapic)
{
    struct irqchip *chip = lapic->chip;
    int vector = highest(lapic, APIC_ISR);

    if (vector < 0)
        return;
    bank_put(lapic, APIC_ISR, (uint8_t)vector, false);
    lapic_update(lapic);
    if (chip->mode == IRQCHIP_KERNEL)
        ioapic_eoi(chip, lapic, (uint8_t)vector);
    else if (chip->ops.ioapic_eoi_exit && lapic_vector_set(lapic, APIC_TMR, (uint8_t)vector) &&
             routing_split_eoi_wanted(chip, (uint8_t)vector))
        chip->ops.ioapic_eoi_exit(lapic->owner, (uint8_t)vector);
}

void lapic_eoi(struct lapic *lapic)
{
    irqchip_lock(lapic->chip);
    lapic_eoi_locked(lapic);
    irqchip_unlock(lapic->chip);
}

/* Nothing else waits, and no controller must hear of the EOI. */
bool lapic_pv_eoi_offer(struct lapic *lapic)
{
    struct irqchip *chip = lapic->chip;
    int vector;

    irqchip_lock(chip);
    vector = highest(lapic, APIC_ISR);
    if (vector >= 0 && highest(lapic, APIC_IRR) < 0 && !lapic->rtc_pending_eoi) {
        if (chip->mode == IRQCHIP_KERNEL)
            lapic->eoi_offered = !ioapic_handles_vector(chip, (uint8_t)vector);
        else
            lapic->eoi_offered = !routing_split_eoi_wanted(chip, (uint8_t)vector);
    }
    irqchip_unlock(chip);
    return lapic->eoi_offered;
}

void lapic_pv_eoi_close(struct lapic *lapic, bool ended)
{
    irqchip_lock(lapic->chip);
    lapic->eoi_offered = false;
    if (ended)
        lapic_eoi_locked(lapic);
    else
        lapic_update(lapic);
    irqchip_unlock(lapic->chip);
}

static void acknowledge(struct lapic *lapic, uint8_t vector)
{
    bank_put(lapic, APIC_IRR, vector, false);
    bank_put(lapic, APIC_ISR, vector, true);
    lapic_update(lapic);
}

int lapic_take_locked(struct lapic *lapic)
{
    int vector;

    if (extint_waits(lapic)) {
        if (lapic->chip->mode == IRQCHIP_KERNEL)
            return pic_acknowledge(lapic->chip);
        vector = lapic->user_extint;
        lapic->user_extint = -1;
        lapic_update(lapic);
        return vector;
    }
    vector = deliverable(lapic);
    if (vector >= 0)
        acknowledge(lapic, (uint8_t)vector);
    return vector;
}

int lapic_pending(struct lapic *lapic)
{
    int vector;

    irqchip_lock(lapic->chip);
    vector = deliverable(lapic);
    irqchip_unlock(lapic->chip);
    return vector;
}

void lapic_ack(struct lapic *lapic, uint8_t vector)
{
    irqchip_lock(lapic->chip);
    acknowledge(lapic, vector);
    irqchip_unlock(lapic->chip);
}

bool lapic_accepts_extint(struct lapic *lapic)
{
    bool accepts;

    irqchip_lock(lapic->chip);
    accepts = lapic_accepts_extint_locked(lapic);
    irqchip_unlock(lapic->chip);
    return accepts;
}

int lapic_user_extint(struct lapic *lapic, uint8_t vector)
{
    int err = 0;

    irqchip_lock(lapic->chip);
    if (lapic->chip->mode == IRQCHIP_KERNEL) {
        err = -ENXIO;
    } else if (lapic->user_extint >= 0) {
        err = -EEXIST;
    } else {
        lapic->user_extint = vector;
        lapic_update(lapic);
    }
    irqchip_unlock(lapic->chip);
    return err;
}

uint32_t lapic_vapic_word(struct lapic *lapic)
{
    int in_service, request;
    uint32_t tpr;

    irqchip_lock(lapic->chip);
    tpr = lapic_reg(lapic, APIC_TPR) & 0xff;
    in_service = highest(lapic, APIC_ISR);
    request = highest(lapic, APIC_IRR);
    irqchip_unlock(lapic->chip);
    return tpr | (in_service < 0 ? 0 : ((uint32_t)in_service & 0xf0) << 8) | (request < 0 ? 0 : (uint32_t)request << 24);
}

void lapic_vapic_take(struct lapic *lapic, uint32_t word)
{
    irqchip_lock(lapic->chip);
    if (lapic_reg(lapic, APIC_TPR) != (word & 0xff)) {
        lapic_reg_set(lapic, APIC_TPR, word & 0xff);
        lapic_update(lapic);
    }
    irqchip_unlock(lapic->chip);
}
