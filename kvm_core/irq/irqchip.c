/* Puts a VM's controllers together: creation, lines and messages, state, what a vCPU takes. */
#include "irqchip.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

int irqchip_init(struct irqchip *chip, const struct irq_ops *ops, void *vm_owner,
                 struct clock *clock)
{
    int err;

    memset(chip, 0, sizeof(*chip));
    chip->ops = *ops;
    chip->vm_owner = vm_owner;
    err = -pthread_mutex_init(&chip->lock, NULL);
    if (err)
        return err;
    err = timers_init(&chip->timers, &chip->lock, clock);
    if (!err)
        err = timers_reserve(&chip->timers, 2); /* PIT, I/O APIC */
    if (err) {
        pthread_mutex_destroy(&chip->lock);
        return err;
    }
    pic_reset(chip);
    ioapic_init(chip);
    routing_destroy(chip);
    return 0;
}

void irqchip_destroy(struct irqchip *chip)
{
    timers_destroy(&chip->timers);
    routing_destroy(chip);
    free(chip->lapic);
    chip->lapic = NULL;
    chip->lapics = 0;
    pthread_mutex_destroy(&chip->lock);
}

int irqchip_create(struct irqchip *chip, bool has_vcpus)
{
    int err = 0;

    irqchip_lock(chip);
    if (chip->mode != IRQCHIP_NONE) {
        err = -EEXIST;
    } else if (has_vcpus) {
        err = -EINVAL;
    } else {
        chip->mode = IRQCHIP_KERNEL;
        err = routing_set_default(chip);
        if (err)
            chip->mode = IRQCHIP_NONE;
    }
    irqchip_unlock(chip);
    return err;
}

int irqchip_create_split(struct irqchip *chip, uint64_t reserved_pins, bool has_vcpus)
{
    int err = 0;

    if (reserved_pins > ROUTING_MAX_ENTRIES)
        return -EINVAL;
    irqchip_lock(chip);
    if (chip->mode != IRQCHIP_NONE || has_vcpus) {
        err = -EEXIST;
    } else {
        chip->mode = IRQCHIP_SPLIT;
        chip->reserved_pins = (unsigned)reserved_pins;
    }
    irqchip_unlock(chip);
    return err;
}

int irqchip_create_pit(struct irqchip *chip, uint32_t flags)
{
    int err = 0;

    if (flags & ~(uint32_t)KVM_PIT_SPEAKER_DUMMY)
        return -EINVAL;
    irqchip_lock(chip);
    if (chip->has_pit) {
        err = -EEXIST;
    } else if (chip->mode != IRQCHIP_KERNEL) {
        err = -ENOENT;
    } else {
        pit_init(chip, flags);
        chip->has_pit = true;
    }
    irqchip_unlock(chip);
    return err;
}

void irqchip_pin_acked(struct irqchip *chip, unsigned irqchip, unsigned pin)
{
    int gsi = chip->routing.gsi_of_pin[irqchip][pin];

    if (gsi < 0)
        return;
    if (gsi == 0 && chip->has_pit)
        pit_acknowledged(chip);
    if (chip->ops.gsi_acked)
        chip->ops.gsi_acked(chip->vm_owner, (uint32_t)gsi);
}

void irqchip_pin_unmasked(struct irqchip *chip, unsigned irqchip, unsigned pin)
{
    if (chip->routing.gsi_of_pin[irqchip][pin] == 0 && chip->has_pit)
        pit_unmasked(chip);
}

static int set_route(struct irqchip *chip, const struct kvm_irq_routing_entry *entry,
                     unsigned source_id, bool level, bool line_status)
{
    struct irq_message message;

    if (entry->type == KVM_IRQ_ROUTING_MSI) {
        if (!level || irq_message_from_msi(chip, entry->u.msi.address_lo, entry->u.msi.address_hi,
                                           entry->u.msi.data, &message))
            return -1;
        return irq_deliver(chip, NULL, &message);
    }
    switch (entry->u.irqchip.irqchip) {
    case KVM_IRQCHIP_PIC_MASTER:
        return pic_set_line(chip, entry->u.irqchip.pin, source_id, level);
    case KVM_IRQCHIP_PIC_SLAVE:
        return pic_set_line(chip, entry->u.irqchip.pin + 8, source_id, level);
    }
    return ioapic_set_line(chip, entry->u.irqchip.pin, source_id, level, line_status);
}

int irqchip_set_line_locked(struct irqchip *chip, uint32_t gsi, unsigned source_id, bool level,
                            bool line_status)
{
    int sum = -1;

    for (unsigned i = routing_first(chip, gsi); i < chip->routing.count; i++) {
        const struct kvm_irq_routing_entry *entry = &chip->routing.entries[i];
        int status;

        if (entry->gsi != gsi)
            break;
        status = set_route(chip, entry, source_id, level, line_status);
        if (status >= 0)
            sum = status + (sum < 0 ? 0 : sum);
    }
    return sum;
}

int irqchip_set_line(struct irqchip *chip, uint32_t gsi, unsigned source_id, bool level,
                     bool line_status)
{
    int status;

    irqchip_lock(chip);
    status = irqchip_set_line_locked(chip, gsi, source_id, level, line_status);
    irqchip_unlock(chip);
    return status;
}

int irqchip_send_msi(struct irqchip *chip, const struct kvm_msi *msi)
{
    struct irq_message message;
    int status;

    irqchip_lock(chip);
    if (chip->mode == IRQCHIP_NONE || (msi->flags & ~(uint32_t)KVM_MSI_VALID_DEVID))
        status = -EINVAL;
    else
        status = irq_message_from_msi(chip, msi->address_lo, msi->address_hi, msi->data, &message);
    if (!status)
        status = irq_deliver(chip, NULL, &message);
    irqchip_unlock(chip);
    return status;
}

int irqchip_set_routing(struct irqchip *chip, const struct kvm_irq_routing_entry *entries,
                        unsigned count)
{
    int err;

    irqchip_lock(chip);
    err = chip->mode == IRQCHIP_NONE ? -EINVAL : routing_set(chip, entries, count);
    irqchip_unlock(chip);
    return err;
}

int irqchip_get_state(struct irqchip *chip, struct kvm_irqchip *state)
{
    int err = 0;

    irqchip_lock(chip);
    memset(&state->chip, 0, sizeof(state->chip));
    if (chip->mode != IRQCHIP_KERNEL)
        err = -ENXIO;
    else if (state->chip_id <= KVM_IRQCHIP_PIC_SLAVE)
        pic_get_state(chip, state->chip_id, &state->chip.pic);
    else if (state->chip_id == KVM_IRQCHIP_IOAPIC)
        ioapic_get_state(chip, &state->chip.ioapic);
    else
        err = -EINVAL;
    irqchip_unlock(chip);
    return err;
}

int irqchip_set_state(struct irqchip *chip, const struct kvm_irqchip *state)
{
    int err = 0;

    irqchip_lock(chip);
    if (chip->mode != IRQCHIP_KERNEL)
        err = -ENXIO;
    else if (state->chip_id <= KVM_IRQCHIP_PIC_SLAVE)
        pic_set_state(chip, state->chip_id, &state->chip.pic);
    else if (state->chip_id == KVM_IRQCHIP_IOAPIC)
        ioapic_set_state(chip, &state->chip.ioapic);
    else
        err = -EINVAL;
    irqchip_unlock(chip);
    return err;
}

int irqchip_get_pit(struct irqchip *chip, struct kvm_pit_state2 *state)
{
    int err = -ENXIO;

    irqchip_lock(chip);
    if (chip->has_pit) {
        pit_get_state(chip, state);
        err = 0;
    }
    irqchip_unlock(chip);
    return err;
}

int irqchip_set_pit(struct irqchip *chip, const struct kvm_pit_state2 *state)
{
    int err = -ENXIO;

    irqchip_lock(chip);
    if (chip->has_pit) {
        pit_set_state(chip, state);
        err = 0;
    }
    irqchip_unlock(chip);
    return err;
}

int irqchip_get_pit1(struct irqchip *chip, struct kvm_pit_state *state)
{
    struct kvm_pit_state2 both;
    int err = irqchip_get_pit(chip, &both);

    if (!err)
        memcpy(state->channels, both.channels, sizeof(state->channels));
    return err;
}

int irqchip_set_pit1(struct irqchip *chip, const struct kvm_pit_state *state)
{
    struct kvm_pit_state2 both;
    int err = -ENXIO;

    irqchip_lock(chip);
    if (chip->has_pit) {
        pit_get_state(chip, &both);
        memcpy(both.channels, state->channels, sizeof(both.channels));
        pit_set_state(chip, &both);
        err = 0;
    }
    irqchip_unlock(chip);
    return err;
}

int irqchip_set_reinject(struct irqchip *chip, bool reinject)
{
    int err = -ENXIO;

    irqchip_lock(chip);
    if (chip->has_pit) {
        pit_set_reinject(chip, reinject);
        err = 0;
    }
    irqchip_unlock(chip);
    return err;
}

static bool is_pit_port(uint16_t port)
{
    return (port >= 0x40 && port <= 0x43) || port == 0x61;
}

/* Cheap and without the lock: most ports are not ours. */
static bool is_our_port(uint16_t port)
{
    return (port & ~1) == 0x20 || (port & ~1) == 0xa0 || (port & ~1) == 0x4d0 || is_pit_port(port);
}

bool irqchip_pio_read(struct irqchip *chip, uint16_t port, unsigned size_bytes, uint32_t *value)
{
    bool handled = false;

    if (!is_our_port(port))
        return false;
    irqchip_lock(chip);
    if (is_pit_port(port))
        handled = chip->has_pit && pit_pio_read(chip, port, size_bytes, value);
    else if (chip->mode == IRQCHIP_KERNEL)
        handled = pic_pio_read(chip, port, size_bytes, value);
    irqchip_unlock(chip);
    return handled;
}

bool irqchip_pio_write(struct irqchip *chip, uint16_t port, unsigned size_bytes, uint32_t value)
{
    bool handled = false;

    if (!is_our_port(port))
        return false;
    irqchip_lock(chip);
    if (is_pit_port(port))
        handled = chip->has_pit && pit_pio_write(chip, port, size_bytes, value);
    else if (chip->mode == IRQCHIP_KERNEL)
        handled = pic_pio_write(chip, port, size_bytes, value);
    irqchip_unlock(chip);
    return handled;
}

void ioapic_mmio_read(struct irqchip *chip, uint32_t offset, unsigned size_bytes, uint64_t *value)
{
    irqchip_lock(chip);
    *value = ioapic_mmio_read_locked(chip, offset);
    irqchip_unlock(chip);
    if (size_bytes < 4)
        *value &= (1u << (8 * size_bytes)) - 1;
}

void ioapic_mmio_write(struct irqchip *chip, uint32_t offset, unsigned size_bytes, uint64_t value)
{
    if (size_bytes < 4)
        value &= (1u << (8 * size_bytes)) - 1;
    irqchip_lock(chip);
    ioapic_mmio_write_locked(chip, offset, (uint32_t)value);
    irqchip_unlock(chip);
}

enum irq_next irqchip_next(struct irqchip *chip, struct lapic *lapic)
{
    uint32_t events = atomic_load_explicit(&lapic->events, memory_order_acquire);

    (void)chip;
    if (events & LAPIC_EVENT_EXTINT)
        return IRQ_NEXT_EXTINT;
    return events & LAPIC_EVENT_VECTOR ? IRQ_NEXT_VECTOR : IRQ_NEXT_NONE;
}

int irqchip_take(struct irqchip *chip, struct lapic *lapic)
{
    int vector;

    irqchip_lock(chip);
    vector = lapic_take_locked(lapic);
    irqchip_unlock(chip);
    return vector;
}

bool pic_pending(struct irqchip *chip)
{
    bool output;

    irqchip_lock(chip);
    output = chip->mode == IRQCHIP_KERNEL && chip->pic.output;
    irqchip_unlock(chip);
    return output;
}

uint8_t pic_ack(struct irqchip *chip)
{
    uint8_t vector;

    irqchip_lock(chip);
    vector = pic_acknowledge(chip);
    irqchip_unlock(chip);
    return vector;
}

static struct lapic *find_locked(struct irqchip *chip, uint32_t apic_id)
{
    for (unsigned i = 0; i < chip->lapics; i++) {
        struct lapic *lapic = chip->lapic[i];
        uint32_t id = lapic_reg(lapic, APIC_ID);

        if (lapic_hw_enabled(lapic) && (lapic_x2apic(lapic) ? lapic->vcpu_id : id >> 24) == apic_id)
            return lapic;
    }
    return NULL;
}

struct lapic *irqchip_find_lapic(struct irqchip *chip, uint32_t apic_id)
{
    struct lapic *lapic;

    irqchip_lock(chip);
    lapic = find_locked(chip, apic_id);
    irqchip_unlock(chip);
    return lapic;
}

static int send_to_map(struct irqchip *chip, uint64_t map, uint64_t first_id,
                       struct irq_message *message)
{
    int reached = 0;

    for (; map; map &= map - 1) {
        uint64_t id = first_id + (unsigned)__builtin_ctzll(map);
        struct lapic *lapic = id <= UINT32_MAX ? find_locked(chip, (uint32_t)id) : NULL;

        if (lapic)
            reached += lapic_accept(lapic, message);
    }
    return reached;
}

int irqchip_pv_send_ipi(struct irqchip *chip, uint64_t map_low, uint64_t map_high, uint32_t min,
                        uint64_t icr, bool op64)
{
    unsigned width = op64 ? 64 : 32;
    struct irq_message message = {
        .vector = (uint8_t)icr,
        .mode = (enum delivery_mode)((icr >> 8) & 7),
        .assert = (icr >> 14) & 1,
        .level_triggered = (icr >> 15) & 1,
    };
    int reached;

    if (icr & (0xffffffff00000000u | 3u << 18 | 1u << 11)) /* no destination but the map */
        return -EINVAL;
    if (!op64) {
        map_low = (uint32_t)map_low;
        map_high = (uint32_t)map_high;
    }
    irqchip_lock(chip);
    reached = send_to_map(chip, map_low, min, &message);
    reached += send_to_map(chip, map_high, (uint64_t)min + width, &message);
    irqchip_unlock(chip);
    return reached;
}
