/* The 8254 interval timer with port 0x61; channel 0 drives GSI 0 with KVM's reinjection. */
#ifndef KVMISH_IRQ_PIT_H
#define KVMISH_IRQ_PIT_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "timer.h"

#define PIT_HZ 1193182u

struct irqchip;

struct pit_channel {
    uint32_t count; /* 1..0x10000 */
    uint16_t latched_count;
    uint8_t count_latched; /* 0 none, else the read state of the bytes still to be read */
    bool status_latched;
    uint8_t status;
    uint8_t read_state,
        write_state; /* 1 LSB, 2 MSB, 3 word: low byte next, 4 word: high byte next */
    uint8_t write_latch;
    uint8_t rw_mode;
    uint8_t mode; /* 0..5, or 0xff before the first control word */
    bool bcd, gate;
    uint64_t load_ns; /* when the count was loaded */
    uint64_t held_ns; /* how far it had run when the gate fell */
};

struct pit {
    struct pit_channel channel[3];
    uint32_t create_flags; /* KVM_PIT_SPEAKER_DUMMY */
    uint32_t flags;        /* KVM_PIT_FLAGS_* */
    bool reinject;
    bool acked;       /* the last channel 0 interrupt was acknowledged */
    uint32_t pending; /* ticks owed to the guest */
    struct timer timer;
    uint64_t period_ns; /* 0: channel 0 is one-shot */
};

/* All of these run with the irqchip lock held. */
void pit_init(struct irqchip *chip, uint32_t create_flags);
bool pit_pio_read(struct irqchip *chip, uint16_t port, unsigned size_bytes, uint32_t *value);
bool pit_pio_write(struct irqchip *chip, uint16_t port, unsigned size_bytes, uint32_t value);
/* GSI 0 was acknowledged at its controller. */
void pit_acknowledged(struct irqchip *chip);
/* GSI 0 was unmasked at a controller: ticks lost while it was masked are forgiven. */
void pit_unmasked(struct irqchip *chip);
void pit_set_reinject(struct irqchip *chip, bool reinject);
void pit_get_state(struct irqchip *chip, struct kvm_pit_state2 *state);
/* The counts start anew; values that no PIT can have are cut to size. */
void pit_set_state(struct irqchip *chip, const struct kvm_pit_state2 *state);

#endif
