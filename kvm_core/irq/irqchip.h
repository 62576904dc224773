/* The interrupt side of one VM, as the ioctls and the vCPU loop see it; start reading here. */
#ifndef KVMISH_IRQ_IRQCHIP_H
#define KVMISH_IRQ_IRQCHIP_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "ioapic.h"
#include "pic.h"
#include "pit.h"
#include "routing.h"
#include "timer.h"

struct lapic;

/*
 * Locking. irqchip->lock guards the irqchip, all LAPICs of the VM and its timers. Functions below
 * and in lapic.h take it themselves unless their name ends in _locked. The ops run with it held and
 * must not call back, except that gsi_acked may call irqchip_set_line_locked; they may take locks
 * that are never held while calling in here.
 */
struct irq_ops {
    /* Something may be deliverable (lapic_maybe_pending): interrupt the vCPU if it runs, wake it if
     * it halts. */
    void (*kick)(void *vcpu_owner);
    void (*nmi)(void *vcpu_owner);
    /* INIT. The owner resets the vCPU and calls lapic_reset(lapic, true) when it acts upon it. */
    void (*init_ipi)(void *vcpu_owner);
    void (*sipi)(void *vcpu_owner, uint8_t vector);
    /* An interrupt of this GSI was acknowledged at a controller (resampling irqfd); may be NULL. */
    void (*gsi_acked)(void *vm_owner, uint32_t gsi);
    /* Split irqchip: EOI of a vector that an I/O APIC in user space awaits: KVM_EXIT_IOAPIC_EOI;
     * may be NULL. */
    void (*ioapic_eoi_exit)(void *vcpu_owner, uint8_t vector);
    /* Guest TSC now and its rate, for the deadline mode. */
    uint64_t (*tsc_now)(void *vcpu_owner);
    uint64_t (*tsc_khz)(void *vcpu_owner);
};

enum irqchip_mode { IRQCHIP_NONE, IRQCHIP_KERNEL, IRQCHIP_SPLIT };

/* Who asserts a line; it is up while any source asserts it. */
enum irq_source { IRQ_SOURCE_USER = 0, IRQ_SOURCE_RESAMPLE = 1, IRQ_SOURCE_PIT = 2 };

struct irqchip {
    pthread_mutex_t lock;
    struct irq_ops ops;
    void *vm_owner;
    enum irqchip_mode mode;
    bool has_pit;
    unsigned reserved_pins; /* split: GSIs below this are pins of the user space I/O APIC */
    /* KVM_CAP_X2APIC_API */
    bool x2apic_32bit_ids, x2apic_no_broadcast_quirk;

    struct timers timers;
    struct pic pic;
    struct ioapic ioapic;
    struct pit pit;
    struct routing routing;
    struct lapic **lapic; /* in order of creation */
    unsigned lapics;
    unsigned lapics_lint0_nmi; /* LAPICs whose LINT0 is an unmasked NMI: the PIT feeds a watchdog */
};

/* clock NULL: CLOCK_MONOTONIC. The struct is zeroed. 0 or -errno. */
int irqchip_init(struct irqchip *chip, const struct irq_ops *ops, void *vm_owner,
                 struct clock *clock);
/* Joins the timer thread. LAPICs must have been destroyed. */
void irqchip_destroy(struct irqchip *chip);

static inline void irqchip_lock(struct irqchip *chip)
{
    pthread_mutex_lock(&chip->lock);
}
static inline void irqchip_unlock(struct irqchip *chip)
{
    pthread_mutex_unlock(&chip->lock);
}

/* KVM_CREATE_IRQCHIP: -EEXIST, or -EINVAL once a vCPU exists. KVM API 4.24 */
int irqchip_create(struct irqchip *chip, bool has_vcpus);
/* KVM_CAP_SPLIT_IRQCHIP: -EINVAL for more than 4096 pins, whatever one I/O APIC has; -EEXIST. KVM API 7.5 */
int irqchip_create_split(struct irqchip *chip, uint64_t reserved_pins, bool has_vcpus);
/* KVM_CREATE_PIT2: -EINVAL on unknown flags, -EEXIST, -ENOENT without a PIC. KVM API 4.71 */
int irqchip_create_pit(struct irqchip *chip, uint32_t flags);

/*
 * KVM_IRQ_LINE, irqfd. Returns the sum over the GSI's routes: > 0 delivered, 0 coalesced, -1 masked
 * or no route. line_status: the caller wants the status (KVM_IRQ_LINE_STATUS), so that RTC
 * interrupts report coalescing.
 */
int irqchip_set_line(struct irqchip *chip, uint32_t gsi, unsigned source_id, bool level,
                     bool line_status);
int irqchip_set_line_locked(struct irqchip *chip, uint32_t gsi, unsigned source_id, bool level,
                            bool line_status);
/* KVM_SIGNAL_MSI: number of vCPUs reached, 0 blocked by the guest, -EINVAL on a bad message. KVM
 * API 4.70 */
int irqchip_send_msi(struct irqchip *chip, const struct kvm_msi *msi);
/* KVM_SET_GSI_ROUTING: -EINVAL, -ENOMEM. KVM API 4.52 */
int irqchip_set_routing(struct irqchip *chip, const struct kvm_irq_routing_entry *entries,
                        unsigned count);
/* KVM_GET_IRQCHIP and KVM_SET_IRQCHIP: -ENXIO without one, -EINVAL on a bad chip_id. KVM
 * API 4.26, 4.27 */
int irqchip_get_state(struct irqchip *chip, struct kvm_irqchip *state);
int irqchip_set_state(struct irqchip *chip, const struct kvm_irqchip *state);
/* KVM_GET_PIT2, KVM_SET_PIT2: -ENXIO without a PIT, -EINVAL. KVM API 4.72, 4.73 */
int irqchip_get_pit(struct irqchip *chip, struct kvm_pit_state2 *state);
int irqchip_set_pit(struct irqchip *chip, const struct kvm_pit_state2 *state);
/* KVM_GET_PIT and KVM_SET_PIT, without flags. */
int irqchip_get_pit1(struct irqchip *chip, struct kvm_pit_state *state);
int irqchip_set_pit1(struct irqchip *chip, const struct kvm_pit_state *state);
/* KVM_REINJECT_CONTROL: -ENXIO without a PIT. */
int irqchip_set_reinject(struct irqchip *chip, bool reinject);

/* Ports 0x20 0x21 0xa0 0xa1 0x4d0 0x4d1, 0x40-0x43, 0x61. False: not ours, the access exits to user
 * space. */
bool irqchip_pio_read(struct irqchip *chip, uint16_t port, unsigned size_bytes, uint32_t *value);
bool irqchip_pio_write(struct irqchip *chip, uint16_t port, unsigned size_bytes, uint32_t value);

/* True if the access lies in the I/O APIC's window. Lock-free. */
static inline bool ioapic_mmio_hit(const struct irqchip *chip, uint64_t gpa)
{
    return chip->mode == IRQCHIP_KERNEL && gpa - IOAPIC_DEFAULT_BASE < IOAPIC_MMIO_BYTES;
}
/* offset from the window's base; sizes 1, 2, 4 and 8. */
void ioapic_mmio_read(struct irqchip *chip, uint32_t offset, unsigned size_bytes, uint64_t *value);
void ioapic_mmio_write(struct irqchip *chip, uint32_t offset, unsigned size_bytes, uint64_t value);

/* What the vCPU of this LAPIC would take next, were interrupts open: see lapic_maybe_pending for
 * the fast question. */
enum irq_next { IRQ_NEXT_NONE, IRQ_NEXT_VECTOR, IRQ_NEXT_EXTINT };
enum irq_next irqchip_next(struct irqchip *chip, struct lapic *lapic);
/* Acknowledges it (INTA, or IRR to ISR): the vector, or -1 if there is none any more. */
int irqchip_take(struct irqchip *chip, struct lapic *lapic);
/* The PIC's INTR output, and INTA. */
bool pic_pending(struct irqchip *chip);
uint8_t pic_ack(struct irqchip *chip);

/* KVM_HC_SEND_IPI: number of vCPUs reached, -EINVAL. Bit n of the 128-bit (op64) or 64-bit map is
 * APIC id min + n. */
int irqchip_pv_send_ipi(struct irqchip *chip, uint64_t map_low, uint64_t map_high, uint32_t min,
                        uint64_t icr, bool op64);
/* The LAPIC with this id, as physical delivery would find it, or NULL. */
struct lapic *irqchip_find_lapic(struct irqchip *chip, uint32_t apic_id);

#endif
