/* The GSI routing table, sorted so that a line finds its routes by bisection (KVM API 4.52). */
#include "routing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static int check_entry(const struct irqchip *chip, const struct kvm_irq_routing_entry *entry)
{
    struct irq_message message;

    if (entry->gsi >= ROUTING_MAX_GSI)
        return -EINVAL;
    switch (entry->type) {
    case KVM_IRQ_ROUTING_IRQCHIP:
        if (entry->flags || chip->mode != IRQCHIP_KERNEL)
            return -EINVAL;
        switch (entry->u.irqchip.irqchip) {
        case KVM_IRQCHIP_PIC_MASTER:
        case KVM_IRQCHIP_PIC_SLAVE:
            return entry->u.irqchip.pin < 8 ? 0 : -EINVAL;
        case KVM_IRQCHIP_IOAPIC:
            return entry->u.irqchip.pin < KVM_IOAPIC_NUM_PINS ? 0 : -EINVAL;
        }
        return -EINVAL;
    case KVM_IRQ_ROUTING_MSI:
        if (entry->flags & ~KVM_MSI_VALID_DEVID)
            return -EINVAL;
        return irq_message_from_msi(chip, entry->u.msi.address_lo, entry->u.msi.address_hi,
                                    entry->u.msi.data, &message);
    }
    return -EINVAL;
}

/* One GSI may reach several controllers, each once; an MSI route stands alone. */
static bool may_share_gsi(const struct kvm_irq_routing_entry *a,
                          const struct kvm_irq_routing_entry *b)
{
    return a->type == KVM_IRQ_ROUTING_IRQCHIP && b->type == KVM_IRQ_ROUTING_IRQCHIP &&
           a->u.irqchip.irqchip != b->u.irqchip.irqchip;
}

static int by_gsi(const void *a, const void *b)
{
    const struct kvm_irq_routing_entry *left = a, *right = b;

    return (left->gsi > right->gsi) - (left->gsi < right->gsi);
}

static void map_pins(struct routing *routing)
{
    memset(routing->gsi_of_pin, 0xff, sizeof(routing->gsi_of_pin));
    for (unsigned i = 0; i < routing->count; i++) {
        const struct kvm_irq_routing_entry *entry = &routing->entries[i];

        if (entry->type == KVM_IRQ_ROUTING_IRQCHIP)
            routing->gsi_of_pin[entry->u.irqchip.irqchip][entry->u.irqchip.pin] =
                (int16_t)entry->gsi;
    }
}

int routing_set(struct irqchip *chip, const struct kvm_irq_routing_entry *entries, unsigned count)
{
    struct kvm_irq_routing_entry *copy = NULL;
    int err = 0;

    if (count > ROUTING_MAX_ENTRIES)
        return -EINVAL;
    if (count) {
        copy = malloc(count * sizeof(*copy));
        if (!copy)
            return -ENOMEM;
        memcpy(copy, entries, count * sizeof(*copy));
        qsort(copy, count, sizeof(*copy), by_gsi);
    }
    for (unsigned i = 0; i < count && !err; i++) {
        err = check_entry(chip, &copy[i]);
        for (unsigned j = i; j-- > 0 && copy[j].gsi == copy[i].gsi && !err;)
            if (!may_share_gsi(&copy[i], &copy[j]))
                err = -EINVAL;
    }
    if (err) {
        free(copy);
        return err;
    }
    free(chip->routing.entries);
    chip->routing.entries = copy;
    chip->routing.count = count;
    map_pins(&chip->routing);
    return 0;
}

int routing_set_default(struct irqchip *chip)
{
    struct kvm_irq_routing_entry entries[KVM_IOAPIC_NUM_PINS + 16];
    unsigned count = 0;

    memset(entries, 0, sizeof(entries));
    for (unsigned gsi = 0; gsi < KVM_IOAPIC_NUM_PINS; gsi++) {
        entries[count].gsi = gsi;
        entries[count].type = KVM_IRQ_ROUTING_IRQCHIP;
        entries[count].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
        entries[count++].u.irqchip.pin = gsi;
        if (gsi >= 16)
            continue;
        entries[count].gsi = gsi;
        entries[count].type = KVM_IRQ_ROUTING_IRQCHIP;
        entries[count].u.irqchip.irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
        entries[count++].u.irqchip.pin = gsi & 7;
    }
    return routing_set(chip, entries, count);
}

void routing_destroy(struct irqchip *chip)
{
    free(chip->routing.entries);
    chip->routing.entries = NULL;
    chip->routing.count = 0;
    map_pins(&chip->routing);
}

unsigned routing_first(const struct irqchip *chip, uint32_t gsi)
{
    unsigned low = 0, high = chip->routing.count;

    while (low < high) {
        unsigned middle = low + (high - low) / 2;

        if (chip->routing.entries[middle].gsi < gsi)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool routing_split_eoi_wanted(const struct irqchip *chip, uint8_t vector)
{
    for (unsigned i = 0; i < chip->routing.count; i++) {
        const struct kvm_irq_routing_entry *entry = &chip->routing.entries[i];

        if (entry->gsi >= chip->reserved_pins)
            break;
        if (entry->type == KVM_IRQ_ROUTING_MSI && (entry->u.msi.data & 0x8000) &&
            (uint8_t)entry->u.msi.data == vector)
            return true;
    }
    return false;
}
