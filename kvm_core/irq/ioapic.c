/* The I/O APIC: lines in, messages out, EOIs back (82093AA data sheet, order 290566). */
#include "ioapic.h"

#include <string.h>

#include "internal.h"

/* A level that stays up makes an interrupt per EOI; after this many in a row its redelivery waits a
 * little. */
#define STORM_EOIS 10000u
#define STORM_DELAY_NS 10000000u

enum { REG_SELECT = 0x00, REG_WINDOW = 0x10 };
enum { INDEX_ID = 0, INDEX_VERSION = 1, INDEX_ARBITRATION = 2, INDEX_REDIRECT = 0x10 };

static bool masked(uint64_t entry)
{
    return entry & IOAPIC_MASKED;
}

static bool level_triggered(uint64_t entry)
{
    return entry & IOAPIC_LEVEL;
}

/* Sends the pin's message: LAPICs reached, 0 none took it, -1 masked or still in service. */
static int service(struct irqchip *chip, unsigned pin, bool line_status)
{
    struct ioapic *ioapic = &chip->ioapic;
    uint64_t entry = ioapic->redirect[pin];
    struct irq_message message;
    int reached;

    if (masked(entry) || (level_triggered(entry) && (entry & IOAPIC_REMOTE_IRR)))
        return -1;
    message = (struct irq_message){
        .dest = (uint32_t)(entry >> 56),
        .vector = (uint8_t)entry,
        .mode = (enum delivery_mode)((entry >> 8) & 7),
        .logical = (entry >> 11) & 1,
        .level_triggered = level_triggered(entry),
        .assert = true,
        .track_rtc = pin == IOAPIC_PIN_RTC && line_status,
    };
    if (!message.level_triggered)
        ioapic->delivered |= 1u << pin;
    reached = irq_deliver(chip, NULL, &message);
    if (reached > 0 && message.level_triggered)
        ioapic->redirect[pin] |= IOAPIC_REMOTE_IRR;
    return reached;
}

static int set_input(struct irqchip *chip, unsigned pin, bool level, bool line_status)
{
    struct ioapic *ioapic = &chip->ioapic;
    uint32_t bit = 1u << pin;
    bool was_up = ioapic->irr & bit;

    if (!level) {
        ioapic->irr &= ~bit;
        return 1;
    }
    if (pin == IOAPIC_PIN_RTC && line_status && ioapic->rtc_pending_eoi)
        return 0;
    ioapic->irr |= bit;
    if (!level_triggered(ioapic->redirect[pin])) {
        ioapic->delivered &= ~bit;
        if (was_up)
            return 0;
    }
    return service(chip, pin, line_status);
}

int ioapic_set_line(struct irqchip *chip, unsigned pin, unsigned source_id, bool level,
                    bool line_status)
{
    level = line_level(&chip->ioapic.line_levels[pin], source_id, level);
    return set_input(chip, pin, level, line_status);
}

static void storm_over(struct timer *timer, void *arg)
{
    struct irqchip *chip = arg;
    struct ioapic *ioapic = &chip->ioapic;

    (void)timer;
    for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
        if (level_triggered(ioapic->redirect[pin]) && (ioapic->irr & (1u << pin)) &&
            !(ioapic->redirect[pin] & IOAPIC_REMOTE_IRR))
            service(chip, pin, false);
}

static void eoi_pin(struct irqchip *chip, struct lapic *lapic, unsigned pin, uint8_t vector)
{
    struct ioapic *ioapic = &chip->ioapic;

    irqchip_pin_acked(chip, KVM_IRQCHIP_IOAPIC, pin);
    if (!lapic_vector_set(lapic, APIC_TMR, vector) ||
        (lapic_reg(lapic, APIC_SPIV) & SPIV_NO_EOI_BROADCAST))
        return;
    ioapic->redirect[pin] &= ~(uint64_t)IOAPIC_REMOTE_IRR;
    if (masked(ioapic->redirect[pin]) || !(ioapic->irr & (1u << pin))) {
        ioapic->eoi_burst[pin] = 0;
        return;
    }
    if (++ioapic->eoi_burst[pin] < STORM_EOIS) {
        service(chip, pin, false);
        return;
    }
    ioapic->eoi_burst[pin] = 0;
    timer_after_ns(&chip->timers, &ioapic->storm, STORM_DELAY_NS);
}

void ioapic_eoi(struct irqchip *chip, struct lapic *lapic, uint8_t vector)
{
    if (lapic->rtc_pending_eoi && lapic->rtc_vector == vector)
        lapic_rtc_forget(lapic);
    for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
        if ((uint8_t)chip->ioapic.redirect[pin] == vector)
            eoi_pin(chip, lapic, pin, vector);
}

bool ioapic_handles_vector(const struct irqchip *chip, uint8_t vector)
{
    for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
        if ((uint8_t)chip->ioapic.redirect[pin] == vector &&
            level_triggered(chip->ioapic.redirect[pin]))
            return true;
    return false;
}

static uint32_t read_window(const struct ioapic *ioapic)
{
    unsigned pin;

    switch (ioapic->select) {
    case INDEX_VERSION:
        return (KVM_IOAPIC_NUM_PINS - 1) << 16 | IOAPIC_VERSION;
    case INDEX_ID:
    case INDEX_ARBITRATION:
        return (ioapic->id & 0xf) << 24;
    }
    pin = (ioapic->select - INDEX_REDIRECT) >> 1;
    if (ioapic->select < INDEX_REDIRECT || pin >= KVM_IOAPIC_NUM_PINS)
        return UINT32_MAX;
    return (uint32_t)(ioapic->select & 1 ? ioapic->redirect[pin] >> 32 : ioapic->redirect[pin]);
}

static void write_redirect(struct irqchip *chip, unsigned pin, bool high, uint32_t value)
{
    struct ioapic *ioapic = &chip->ioapic;
    uint64_t *entry = &ioapic->redirect[pin];
    bool was_masked = masked(*entry);
    /* delivery status and remote IRR are read-only */
    const uint32_t read_only = IOAPIC_REMOTE_IRR | 1u << 12;

    if (high) {
        *entry = (uint64_t)value << 32 | (uint32_t)*entry;
    } else {
        *entry = (*entry & (0xffffffff00000000u | read_only)) | (value & ~read_only);
        /* an edge-triggered entry has no remote IRR: guests set edge and back to clear it */
        if (!level_triggered(*entry))
            *entry &= ~(uint64_t)IOAPIC_REMOTE_IRR;
    }
    if (was_masked && !masked(*entry))
        irqchip_pin_unmasked(chip, KVM_IRQCHIP_IOAPIC, pin);
    if (level_triggered(*entry) && (ioapic->irr & (1u << pin)))
        service(chip, pin, false);
}

uint32_t ioapic_mmio_read_locked(struct irqchip *chip, uint32_t offset)
{
    switch (offset & 0xff) {
    case REG_SELECT:
        return chip->ioapic.select;
    case REG_WINDOW:
        return read_window(&chip->ioapic);
    }
    return 0;
}

void ioapic_mmio_write_locked(struct irqchip *chip, uint32_t offset, uint32_t value)
{
    struct ioapic *ioapic = &chip->ioapic;

    switch (offset & 0xff) {
    case REG_SELECT:
        ioapic->select = value & 0xff;
        break;
    case REG_WINDOW:
        if (ioapic->select == INDEX_ID)
            ioapic->id = (value >> 24) & 0xf;
        else if (ioapic->select >= INDEX_REDIRECT &&
                 ioapic->select < INDEX_REDIRECT + 2 * KVM_IOAPIC_NUM_PINS)
            write_redirect(chip, (ioapic->select - INDEX_REDIRECT) >> 1, ioapic->select & 1, value);
        break;
    }
}

static void ioapic_reset(struct irqchip *chip)
{
    struct ioapic *ioapic = &chip->ioapic;

    timer_cancel(&chip->timers, &ioapic->storm);
    ioapic->base = IOAPIC_DEFAULT_BASE;
    ioapic->select = ioapic->id = ioapic->irr = ioapic->delivered = 0;
    memset(ioapic->eoi_burst, 0, sizeof(ioapic->eoi_burst));
    memset(ioapic->line_levels, 0, sizeof(ioapic->line_levels));
    for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
        ioapic->redirect[pin] = IOAPIC_MASKED;
}

void ioapic_init(struct irqchip *chip)
{
    timer_init(&chip->ioapic.storm, storm_over, chip);
    ioapic_reset(chip);
}

/* Edges that were sent are not pending any more, though their line may still be up. */
void ioapic_get_state(struct irqchip *chip, struct kvm_ioapic_state *state)
{
    const struct ioapic *ioapic = &chip->ioapic;

    memset(state, 0, sizeof(*state));
    state->base_address = ioapic->base;
    state->ioregsel = ioapic->select;
    state->id = ioapic->id;
    state->irr = ioapic->irr & ~ioapic->delivered;
    for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
        state->redirtbl[pin].bits = ioapic->redirect[pin];
}

void ioapic_set_state(struct irqchip *chip, const struct kvm_ioapic_state *state)
{
    struct ioapic *ioapic = &chip->ioapic;

    ioapic->base = state->base_address;
    ioapic->select = state->ioregsel & 0xff;
    ioapic->id = state->id;
    ioapic->irr = ioapic->delivered = 0;
    for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
        ioapic->redirect[pin] = state->redirtbl[pin].bits;
    for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
        if (state->irr & (1u << pin))
            set_input(chip, pin, true, false);
}
