/* The pair of 8259As with the PIIX edge/level registers (Intel 8259A data sheet, 82371 ELCR). */
#ifndef KVMISH_IRQ_PIC_H
#define KVMISH_IRQ_PIC_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

struct irqchip;

/* chip[0] is the master, chip[1] the slave on its IR2. The registers are kept in KVM's own layout.
 */
struct pic {
    struct kvm_pic_state chip[2];
    bool output;              /* INTR of the master */
    uint32_t line_levels[16]; /* per input: bitmap of the source ids that assert it */
};

/* All of these run with the irqchip lock held. */
void pic_reset(struct irqchip *chip);
/* 1 delivered, 0 coalesced, -1 masked. */
int pic_set_line(struct irqchip *chip, unsigned pin, unsigned source_id, bool level);
/* INTA: the vector (spurious IR7 if the request has gone). */
uint8_t pic_acknowledge(struct irqchip *chip);
/* False: the port is not ours. */
bool pic_pio_read(struct irqchip *chip, uint16_t port, unsigned size_bytes, uint32_t *value);
bool pic_pio_write(struct irqchip *chip, uint16_t port, unsigned size_bytes, uint32_t value);
void pic_get_state(struct irqchip *chip, unsigned which, struct kvm_pic_state *state);
void pic_set_state(struct irqchip *chip, unsigned which, const struct kvm_pic_state *state);

#endif
