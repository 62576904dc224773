/* Which LAPICs an interrupt message addresses: ids, clusters, broadcasts (SDM 11.6.2). */
#include <errno.h>

#include "internal.h"

#define XAPIC_BROADCAST 0xffu
#define X2APIC_BROADCAST 0xffffffffu

static bool is_broadcast(const struct lapic *target, uint32_t dest)
{
    return dest == (lapic_x2apic(target) ? X2APIC_BROADCAST : XAPIC_BROADCAST);
}

/* KVM reaches an id above 255 even in xAPIC mode, so that hot-plugged vCPUs can be woken. */
static bool matches_physical(const struct lapic *target, uint32_t dest)
{
    if (is_broadcast(target, dest))
        return true;
    if (lapic_x2apic(target) || dest > 0xff)
        return dest == target->vcpu_id;
    return dest == lapic_reg(target, APIC_ID) >> 24;
}

static bool matches_logical(const struct lapic *target, uint32_t dest)
{
    uint32_t ldr = lapic_reg(target, APIC_LDR);

    if (is_broadcast(target, dest))
        return true;
    if (lapic_x2apic(target))
        return ldr >> 16 == dest >> 16 && (ldr & dest & 0xffff);
    ldr >>= 24;
    switch (lapic_reg(target, APIC_DFR) >> 28) {
    case 0xf: /* flat */
        return ldr & dest;
    case 0x0: /* cluster */
        return ldr >> 4 == dest >> 4 && (ldr & dest & 0xf);
    }
    return false;
}

static bool addressed(const struct irqchip *chip, const struct lapic *source,
                      const struct lapic *target, const struct irq_message *message)
{
    uint32_t dest = message->dest;

    switch (message->shorthand) {
    case SHORT_SELF:
        return target == source;
    case SHORT_ALL:
        return true;
    case SHORT_OTHERS:
        return target != source;
    case SHORT_NONE:
        break;
    }
    /* a device's 0xff still means everybody to an x2APIC, unless the quirk was disabled. KVM
     * API 7.5 */
    if (!source && dest == XAPIC_BROADCAST && !chip->x2apic_no_broadcast_quirk &&
        lapic_x2apic(target))
        dest = X2APIC_BROADCAST;
    return message->logical ? matches_logical(target, dest) : matches_physical(target, dest);
}

/* The vector chooses among the candidates, as KVM's vector hashing does: a vector stays on one
 * vCPU. */
static struct lapic *lowest_priority(struct irqchip *chip, const struct lapic *source,
                                     const struct irq_message *message)
{
    unsigned candidates = 0, chosen;

    for (unsigned i = 0; i < chip->lapics; i++) {
        struct lapic *target = chip->lapic[i];

        candidates += lapic_hw_enabled(target) && lapic_sw_enabled(target) &&
                      addressed(chip, source, target, message);
    }
    if (!candidates)
        return NULL;
    chosen = message->vector % candidates;
    for (unsigned i = 0; i < chip->lapics; i++) {
        struct lapic *target = chip->lapic[i];

        if (lapic_hw_enabled(target) && lapic_sw_enabled(target) &&
            addressed(chip, source, target, message) && !chosen--)
            return target;
    }
    return NULL;
}

int irq_deliver(struct irqchip *chip, struct lapic *source, const struct irq_message *message)
{
    struct irq_message copy = *message;
    int reached = -1;

    if (copy.mode == DELIVER_LOWEST || copy.redirect_hint) {
        /* a physical broadcast has no lowest priority: it is fixed */
        bool everybody =
            !copy.logical && copy.dest == XAPIC_BROADCAST && copy.shorthand == SHORT_NONE;

        if (!everybody) {
            struct lapic *target = lowest_priority(chip, source, &copy);

            return target ? lapic_accept(target, &copy) : -1;
        }
        if (copy.mode == DELIVER_LOWEST)
            copy.mode = DELIVER_FIXED;
    }
    for (unsigned i = 0; i < chip->lapics; i++) {
        struct lapic *target = chip->lapic[i];

        if (!lapic_hw_enabled(target) || !addressed(chip, source, target, &copy))
            continue;
        reached = (reached < 0 ? 0 : reached) + lapic_accept(target, &copy);
    }
    return reached;
}

/* SDM 11.11; the upper 24 bits of an x2APIC id travel in address_high. KVM API 7.5 */
int irq_message_from_msi(const struct irqchip *chip, uint32_t address_low, uint32_t address_high,
                         uint32_t data, struct irq_message *message)
{
    if (chip->x2apic_32bit_ids && (address_high & 0xff))
        return -EINVAL;
    *message = (struct irq_message){
        .dest = (address_low >> 12) & 0xff,
        .vector = (uint8_t)data,
        .mode = (enum delivery_mode)((data >> 8) & 7),
        .logical = (address_low >> 2) & 1,
        .redirect_hint = (address_low >> 3) & 1,
        .level_triggered = (data >> 15) & 1,
        .assert = true,
    };
    if (chip->x2apic_32bit_ids)
        message->dest |= address_high & 0xffffff00;
    return 0;
}
