/* Two cascaded 8259As: requests, priorities, command words (Intel data sheet, order 231468). */
#include "pic.h"

#include <string.h>

#include "internal.h"

enum { MASTER = 0, SLAVE = 1, CASCADE_PIN = 2, SPURIOUS_PIN = 7, NO_PRIORITY = 8 };

/* Inputs that the PIIX allows to be level triggered: not timer, keyboard, cascade; not RTC, FPU.
 * 82371SB 4.3 */
#define ELCR_MASK_MASTER 0xf8
#define ELCR_MASK_SLAVE 0xde

/* 0 is the highest; NO_PRIORITY if no bit is set. */
static unsigned highest_priority(const struct kvm_pic_state *s, uint8_t bits)
{
    unsigned priority = 0;

    if (!bits)
        return NO_PRIORITY;
    while (!(bits & (1u << ((priority + s->priority_add) & 7))))
        priority++;
    return priority;
}

/* The pin that this chip would signal, or -1. */
static int chip_request(const struct pic *pic, const struct kvm_pic_state *s)
{
    unsigned wanted = highest_priority(s, s->irr & ~s->imr);
    uint8_t in_service = s->isr;

    if (wanted == NO_PRIORITY)
        return -1;
    if (s->special_mask)
        in_service &= ~s->imr;
    /* the slave may interrupt its own service, through the master's cascade input */
    if (s->special_fully_nested_mode && s == &pic->chip[MASTER])
        in_service &= ~(1u << CASCADE_PIN);
    if (wanted >= highest_priority(s, in_service))
        return -1;
    return (int)((wanted + s->priority_add) & 7);
}

static int chip_set_pin(struct kvm_pic_state *s, unsigned pin, bool level)
{
    uint8_t bit = (uint8_t)(1u << pin);
    int status = 1;

    if (s->elcr & bit) {
        if (level) {
            status = !(s->irr & bit);
            s->irr |= bit;
            s->last_irr |= bit;
        } else {
            s->irr &= ~bit;
            s->last_irr &= ~bit;
        }
    } else if (level) {
        if (!(s->last_irr & bit)) {
            status = !(s->irr & bit);
            s->irr |= bit;
        }
        s->last_irr |= bit;
    } else {
        s->last_irr &= ~bit;
    }
    return s->imr & bit ? -1 : status;
}

/* Recomputes the cascade and the INTR output. */
static void pic_update(struct irqchip *chip)
{
    struct pic *pic = &chip->pic;
    bool output;

    if (chip_request(pic, &pic->chip[SLAVE]) >= 0) {
        chip_set_pin(&pic->chip[MASTER], CASCADE_PIN, true);
        chip_set_pin(&pic->chip[MASTER], CASCADE_PIN, false);
    }
    output = chip_request(pic, &pic->chip[MASTER]) >= 0;
    if (output == pic->output)
        return;
    pic->output = output;
    for (unsigned i = 0; i < chip->lapics; i++)
        lapic_update(chip->lapic[i]);
}

int pic_set_line(struct irqchip *chip, unsigned pin, unsigned source_id, bool level)
{
    struct pic *pic = &chip->pic;
    int status;

    level = line_level(&pic->line_levels[pin], source_id, level);
    status = chip_set_pin(&pic->chip[pin >> 3], pin & 7, level);
    pic_update(chip);
    return status;
}

/* The end of an interrupt is also its acknowledgement to whoever resamples the line. */
static void clear_in_service(struct irqchip *chip, struct kvm_pic_state *s, unsigned pin)
{
    s->isr &= (uint8_t) ~(1u << pin);
    irqchip_pin_acked(
        chip, s == &chip->pic.chip[MASTER] ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, pin);
}

static void chip_acknowledge(struct irqchip *chip, struct kvm_pic_state *s, unsigned pin)
{
    uint8_t bit = (uint8_t)(1u << pin);

    s->isr |= bit;
    if (!(s->elcr & bit)) /* a level stays requested until the line falls */
        s->irr &= ~bit;
    if (s->auto_eoi) {
        if (s->rotate_on_auto_eoi)
            s->priority_add = (pin + 1) & 7;
        clear_in_service(chip, s, pin);
    }
}

uint8_t pic_acknowledge(struct irqchip *chip)
{
    struct pic *pic = &chip->pic;
    struct kvm_pic_state *answering = &pic->chip[MASTER];
    int pin = chip_request(pic, answering);

    if (pin < 0) {
        pin = SPURIOUS_PIN;
    } else {
        chip_acknowledge(chip, answering, (unsigned)pin);
        if (pin == CASCADE_PIN) {
            answering = &pic->chip[SLAVE];
            pin = chip_request(pic, answering);
            if (pin < 0)
                pin = SPURIOUS_PIN;
            else
                chip_acknowledge(chip, answering, (unsigned)pin);
        }
    }
    pic_update(chip);
    return (uint8_t)(answering->irq_base + pin);
}

/* ICW1. Edges still waiting are lost, which counts as their acknowledgement. */
static void chip_start_init(struct irqchip *chip, struct kvm_pic_state *s, uint8_t icw1)
{
    uint8_t lost = s->irr & ~s->elcr;

    s->init4 = icw1 & 1;
    s->last_irr = 0;
    s->irr &= s->elcr;
    s->imr = 0;
    s->priority_add = 0;
    s->special_mask = 0;
    s->read_reg_select = 0;
    if (!s->init4) {
        s->special_fully_nested_mode = 0;
        s->auto_eoi = 0;
    }
    s->init_state = 1;
    for (unsigned pin = 0; pin < 8; pin++)
        if (lost & (1u << pin))
            clear_in_service(chip, s, pin);
    pic_update(chip);
}

/* OCW2: end of interrupt and rotation. */
static void chip_command(struct irqchip *chip, struct kvm_pic_state *s, uint8_t value)
{
    unsigned command = value >> 5, pin = value & 7, priority;

    switch (command) {
    case 0: /* rotate in automatic EOI: clear, set */
    case 4:
        s->rotate_on_auto_eoi = command >> 2;
        return;
    case 1: /* non-specific EOI, with and without rotation */
    case 5:
        priority = highest_priority(s, s->special_mask ? s->isr & ~s->imr : s->isr);
        if (priority == NO_PRIORITY)
            return;
        pin = (priority + s->priority_add) & 7;
        break;
    case 6: /* set priority */
        s->priority_add = (pin + 1) & 7;
        pic_update(chip);
        return;
    case 3: /* specific EOI, with and without rotation */
    case 7:
        break;
    default:
        return;
    }
    if (command & 4)
        s->priority_add = (pin + 1) & 7;
    clear_in_service(chip, s, pin);
    pic_update(chip);
}

static void write_command_port(struct irqchip *chip, struct kvm_pic_state *s, uint8_t value)
{
    if (value & 0x10) {
        chip_start_init(chip, s, value);
    } else if (value & 0x08) { /* OCW3 */
        if (value & 0x04)
            s->poll = 1;
        if (value & 0x02)
            s->read_reg_select = value & 1;
        if (value & 0x40) {
            s->special_mask = (value >> 5) & 1;
            pic_update(chip);
        }
    } else {
        chip_command(chip, s, value);
    }
}

static void write_mask(struct irqchip *chip, struct kvm_pic_state *s, uint8_t value)
{
    unsigned which = s == &chip->pic.chip[MASTER] ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
    uint8_t opened = s->imr & ~value;

    s->imr = value;
    for (unsigned pin = 0; pin < 8; pin++)
        if (opened & (1u << pin))
            irqchip_pin_unmasked(chip, which, pin);
    pic_update(chip);
}

static void write_data_port(struct irqchip *chip, struct kvm_pic_state *s, uint8_t value)
{
    switch (s->init_state) {
    case 0:
        write_mask(chip, s, value);
        break;
    case 1:
        s->irq_base = value & 0xf8;
        s->init_state = 2;
        break;
    case 2: /* ICW3 says what the board hard-wires */
        s->init_state = s->init4 ? 3 : 0;
        break;
    default:
        s->special_fully_nested_mode = (value >> 4) & 1;
        s->auto_eoi = (value >> 1) & 1;
        s->init_state = 0;
        break;
    }
}

/* A read in poll mode is an acknowledgement without INTA. */
static uint8_t poll_read(struct irqchip *chip, struct kvm_pic_state *s)
{
    int pin = chip_request(&chip->pic, s);

    s->poll = 0;
    if (pin < 0)
        return SPURIOUS_PIN;
    if (s == &chip->pic.chip[SLAVE])
        chip->pic.chip[MASTER].irr &= (uint8_t) ~(1u << CASCADE_PIN);
    chip_acknowledge(chip, s, (unsigned)pin);
    pic_update(chip);
    return (uint8_t)(0x80 | pin);
}

bool pic_pio_read(struct irqchip *chip, uint16_t port, unsigned size_bytes, uint32_t *value)
{
    struct kvm_pic_state *s = &chip->pic.chip[port & 0x80 ? SLAVE : MASTER];

    *value = 0;
    switch (port) {
    case 0x20:
    case 0x21:
    case 0xa0:
    case 0xa1:
        if ((port & 1) + size_bytes > 2)
            return false;
        if (size_bytes != 1)
            return true;
        if (s->poll)
            *value = poll_read(chip, s);
        else if (port & 1)
            *value = s->imr;
        else
            *value = s->read_reg_select ? s->isr : s->irr;
        return true;
    case 0x4d0:
    case 0x4d1:
        if ((port & 1) + size_bytes > 2)
            return false;
        if (size_bytes == 1)
            *value = chip->pic.chip[port & 1].elcr;
        return true;
    }
    return false;
}

bool pic_pio_write(struct irqchip *chip, uint16_t port, unsigned size_bytes, uint32_t value)
{
    struct kvm_pic_state *s = &chip->pic.chip[port & 0x80 ? SLAVE : MASTER];

    switch (port) {
    case 0x20:
    case 0x21:
    case 0xa0:
    case 0xa1:
        if ((port & 1) + size_bytes > 2)
            return false;
        if (size_bytes != 1)
            return true;
        if (port & 1)
            write_data_port(chip, s, (uint8_t)value);
        else
            write_command_port(chip, s, (uint8_t)value);
        return true;
    case 0x4d0:
    case 0x4d1:
        if ((port & 1) + size_bytes > 2)
            return false;
        s = &chip->pic.chip[port & 1];
        if (size_bytes == 1)
            s->elcr = (uint8_t)value & s->elcr_mask;
        return true;
    }
    return false;
}

void pic_reset(struct irqchip *chip)
{
    memset(&chip->pic, 0, sizeof(chip->pic));
    chip->pic.chip[MASTER].elcr_mask = ELCR_MASK_MASTER;
    chip->pic.chip[SLAVE].elcr_mask = ELCR_MASK_SLAVE;
}

void pic_get_state(struct irqchip *chip, unsigned which, struct kvm_pic_state *state)
{
    *state = chip->pic.chip[which];
}

void pic_set_state(struct irqchip *chip, unsigned which, const struct kvm_pic_state *state)
{
    struct kvm_pic_state *s = &chip->pic.chip[which];

    *s = *state;
    s->priority_add &= 7;
    pic_update(chip);
}
