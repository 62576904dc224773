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
};

/* Locked by the caller. -EINVAL on a bad entry, -ENOMEM. The old table stays on failure. KVM API 4.52 */
int routing_set(struct irqchip *chip, const struct kvm_irq_routing_entry *entries, unsigned count);
/* The table that KVM_CREATE_IRQCHIP installs: GSI 0-15 to PIC and I/O APIC, 16-23 to the I/O APIC. */
int routing_set_default(struct irqchip *chip);
void routing_destroy(struct irqchip *chip);
/* The GSI wired to a controller pin, or -1. */
int routing_gsi_of_pin(const struct irqchip *chip, unsigned irqchip, unsigned pin);

#endif
