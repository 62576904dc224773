/* What the controllers of one VM ask of each other; private to irq/, irqchip lock held. */
#ifndef KVMISH_IRQ_INTERNAL_H
#define KVMISH_IRQ_INTERNAL_H

#include "irqchip.h"
#include "lapic.h"

/* Delivery modes, bits 10:8 of ICR, LVT, redirection entry and MSI data. SDM 11.6.1 */
enum delivery_mode {
    DELIVER_FIXED = 0,
    DELIVER_LOWEST = 1,
    DELIVER_SMI = 2,
    DELIVER_REMOTE_READ = 3,
    DELIVER_NMI = 4,
    DELIVER_INIT = 5,
    DELIVER_SIPI = 6,
    DELIVER_EXTINT = 7,
};

/* Destination shorthands, bits 19:18 of the ICR. */
enum shorthand { SHORT_NONE = 0, SHORT_SELF = 1, SHORT_ALL = 2, SHORT_OTHERS = 3 };

/* One interrupt message on its way to the LAPICs. */
struct irq_message {
    uint32_t dest;
    uint8_t vector;
    enum delivery_mode mode;
    enum shorthand shorthand;
    bool logical, level_triggered, assert;
    bool redirect_hint; /* MSI: lowest priority among the destinations */
    bool track_rtc;     /* remember who holds it, for the RTC's coalescing */
};

#define IOAPIC_MASKED (1u << 16)
#define IOAPIC_LEVEL (1u << 15)
#define IOAPIC_REMOTE_IRR (1u << 14)

#define LVT_MASKED (1u << 16)
#define LVT_LEVEL (1u << 15)
#define SPIV_ENABLED (1u << 8)
#define SPIV_NO_EOI_BROADCAST (1u << 12)
#define VERSION_DIRECTED_EOI (1u << 24)

/* The wired-or of a line's sources. */
static inline bool line_level(uint32_t *sources, unsigned source_id, bool level)
{
    if (level)
        *sources |= 1u << source_id;
    else
        *sources &= ~(1u << source_id);
    return *sources != 0;
}

/* A controller pin was acknowledged, unmasked. */
void irqchip_pin_acked(struct irqchip *chip, unsigned irqchip, unsigned pin);
void irqchip_pin_unmasked(struct irqchip *chip, unsigned irqchip, unsigned pin);

/* Number of LAPICs that accepted it; -1 if nobody was addressed. source NULL: not an IPI. */
int irq_deliver(struct irqchip *chip, struct lapic *source, const struct irq_message *message);
/* -EINVAL on a message that the VM's x2APIC format forbids. */
int irq_message_from_msi(const struct irqchip *chip, uint32_t address_low, uint32_t address_high,
                         uint32_t data, struct irq_message *message);
/* Does a level-triggered route of a user space I/O APIC pin use this vector? */
bool routing_split_eoi_wanted(const struct irqchip *chip, uint8_t vector);

static inline uint32_t lapic_reg(const struct lapic *lapic, uint32_t offset)
{
    return lapic->reg[offset / 4];
}
static inline void lapic_reg_set(struct lapic *lapic, uint32_t offset, uint32_t value)
{
    lapic->reg[offset / 4] = value;
}
static inline uint64_t lapic_base(const struct lapic *lapic)
{
    return atomic_load_explicit(&lapic->base, memory_order_relaxed);
}
static inline bool lapic_hw_enabled(const struct lapic *lapic)
{
    return lapic_base(lapic) & APIC_BASE_ENABLE;
}
static inline bool lapic_x2apic(const struct lapic *lapic)
{
    return (lapic_base(lapic) & (APIC_BASE_ENABLE | APIC_BASE_EXTD)) ==
           (APIC_BASE_ENABLE | APIC_BASE_EXTD);
}
static inline bool lapic_sw_enabled(const struct lapic *lapic)
{
    return lapic_reg(lapic, APIC_SPIV) & SPIV_ENABLED;
}

/* Recomputes PPR and events, and kicks the vCPU if there is news for it. */
void lapic_update(struct lapic *lapic);
bool lapic_accept(struct lapic *lapic, const struct irq_message *message);
bool lapic_vector_set(const struct lapic *lapic, uint32_t bank, uint8_t vector);
bool lapic_deliver_local_locked(struct lapic *lapic, enum apic_reg lvt);
void lapic_eoi_locked(struct lapic *lapic);
int lapic_take_locked(struct lapic *lapic);
/* Sets a bit of ESR and raises the error LVT. SDM 11.5.3 */
void lapic_error(struct lapic *lapic, uint32_t bit);
#define ESR_SEND_ILLEGAL_VECTOR (1u << 5)
#define ESR_RECEIVE_ILLEGAL_VECTOR (1u << 6)
#define ESR_ILLEGAL_REGISTER (1u << 7)
/* Counts this LAPIC as a receiver of the PIT's watchdog NMI, or not, by its LINT0. */
void lapic_watch_lint0(struct lapic *lapic);
/* Forgets that the RTC's vector is held here. */
void lapic_rtc_forget(struct lapic *lapic);

void lapic_timer_init(struct lapic *lapic);
void lapic_timer_reset(struct lapic *lapic);
void lapic_timer_lvt_write(struct lapic *lapic, uint32_t value);
void lapic_timer_initial_write(struct lapic *lapic, uint32_t value);
void lapic_timer_divide_write(struct lapic *lapic, uint32_t value);
uint32_t lapic_timer_current(struct lapic *lapic);
/* Continues from the current count of a state that was just loaded. */
void lapic_timer_resume(struct lapic *lapic, uint32_t current);

#endif
