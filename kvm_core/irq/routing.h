/* From a GSI to controller pins or MSI messages: the table of KVM_SET_GSI_ROUTING. */
#ifndef KVMISH_IRQ_ROUTING_H
#define KVMISH_IRQ_ROUTING_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#define ROUTING_MAX_ENTRIES 4096u /* KVM_CAP_IRQ_ROUTING on x86 */
#define ROUTING_MAX_GSI 4096u

struct irqchip;

struct routing {
    struct kvm_irq_routing_entry *entries; /* sorted by gsi, stable */
    unsigned count;
    int16_t gsi_of_pin[KVM_NR_IRQCHIPS][KVM_IOAPIC_NUM_PINS]; /* -1: not wired */
};

/* Locked by the caller. -EINVAL on a bad entry, -ENOMEM. The old table stays on failure. KVM
 * API 4.52 */
int routing_set(struct irqchip *chip, const struct kvm_irq_routing_entry *entries, unsigned count);
/* The table that KVM_CREATE_IRQCHIP installs: GSI 0-15 to PIC and I/O APIC, 16-23 to the I/O APIC.
 */
int routing_set_default(struct irqchip *chip);
void routing_destroy(struct irqchip *chip);
/* Index of the first entry with at least this gsi. */
unsigned routing_first(const struct irqchip *chip, uint32_t gsi);

#endif
