/* The I/O APIC as KVM presents it: 24 pins, version 0x11, no EOI register (82093AA data sheet). */
#ifndef KVMISH_IRQ_IOAPIC_H
#define KVMISH_IRQ_IOAPIC_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "timer.h"

#define IOAPIC_DEFAULT_BASE 0xfec00000u
#define IOAPIC_MMIO_BYTES 0x100u
#define IOAPIC_VERSION 0x11u
#define IOAPIC_PIN_RTC 8u

struct irqchip;
struct lapic;

struct ioapic {
    uint64_t base;
    uint32_t select;    /* IOREGSEL */
    uint32_t id;        /* APIC id, bits 27:24 */
    uint32_t irr;       /* input levels seen; an edge stays until the line falls */
    uint32_t delivered; /* edges of irr that were already sent */
    uint64_t redirect[KVM_IOAPIC_NUM_PINS];
    uint32_t line_levels[KVM_IOAPIC_NUM_PINS]; /* bitmap of source ids */
    uint32_t eoi_burst[KVM_IOAPIC_NUM_PINS];   /* EOIs in a row that found the level still up */
    struct timer storm;                        /* delays redelivery when eoi_burst runs away */
    unsigned rtc_pending_eoi;                  /* vCPUs that still hold the RTC's vector */
};

/* All of these run with the irqchip lock held. */
void ioapic_init(struct irqchip *chip);
int ioapic_set_line(struct irqchip *chip, unsigned pin, unsigned source_id, bool level,
                    bool line_status);
/* EOI broadcast of one LAPIC. */
void ioapic_eoi(struct irqchip *chip, struct lapic *lapic, uint8_t vector);
/* True if some pin uses this vector: EOIs of it matter to the I/O APIC. */
bool ioapic_handles_vector(const struct irqchip *chip, uint8_t vector);
uint32_t ioapic_mmio_read_locked(struct irqchip *chip, uint32_t offset);
void ioapic_mmio_write_locked(struct irqchip *chip, uint32_t offset, uint32_t value);
void ioapic_get_state(struct irqchip *chip, struct kvm_ioapic_state *state);
void ioapic_set_state(struct irqchip *chip, const struct kvm_ioapic_state *state);

#endif
