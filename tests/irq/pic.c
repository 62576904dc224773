/* The 8259 pair: edge and level, priorities, command words, cascade, KVM's status and state. */
#include "harness.h"

static void test_edge_and_eoi(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);

    pic_start(vm, 1);
    CHECK_EQ(line(vm, 4, true), 1);
    CHECK_EQ(vm->cpu[0].kicks, 1);
    CHECK(lapic_maybe_pending(&vm->cpu[0].lapic));
    CHECK_EQ(irqchip_next(&vm->chip, &vm->cpu[0].lapic), IRQ_NEXT_EXTINT);
    line(vm, 4, false);
    CHECK_EQ(line(vm, 4, true),
             0); /* an edge on top of one that waits; the I/O APIC's pin is masked */
    CHECK_EQ(take(vm, 0), 0x34);
    CHECK_EQ(take(vm, 0), -1);
    out(vm, 0x20, 0x0b);
    CHECK_EQ(in(vm, 0x20), 0x10);
    line(vm, 4, false), line(vm, 4, true); /* again, behind its own service */
    CHECK_EQ(take(vm, 0), -1);
    CHECK_EQ(vm->acks[4], 0);
    out(vm, 0x20, 0x20);
    CHECK_EQ(vm->acks[4], 1);
    CHECK_EQ(take(vm, 0), 0x34);
    vm_free(vm);
}

static void test_priorities_and_cascade(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);

    pic_start(vm, 1);
    line(vm, 5, true), line(vm, 10, true), line(vm, 1, true);
    CHECK_EQ(take(vm, 0), 0x31);
    CHECK_EQ(take(vm, 0), -1);
    out(vm, 0x20, 0x61);         /* specific EOI of 1 */
    CHECK_EQ(take(vm, 0), 0x3a); /* IR2 of the master stands for the slave */
    out(vm, 0x20, 0x20);
    CHECK_EQ(take(vm, 0), 0x35);
    CHECK_EQ(pic_pending(&vm->chip), 0);
    out(vm, 0xa0, 0x0b);
    CHECK_EQ(in(vm, 0xa0), 4);
    line(vm, 10, false);
    CHECK_EQ(pic_ack(&vm->chip), 0x37); /* INTA with nothing requested */
    vm_free(vm);
}

static void test_special_modes(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);

    pic_start(vm, 3); /* automatic EOI */
    line(vm, 3, true);
    CHECK_EQ(take(vm, 0), 0x33);
    CHECK_EQ(vm->acks[3], 1);
    line(vm, 3, false), line(vm, 3, true);
    CHECK_EQ(take(vm, 0), 0x33);
    out(vm, 0x20, 0x80); /* rotate in automatic EOI */
    line(vm, 3, false), line(vm, 3, true);
    CHECK_EQ(take(vm, 0), 0x33); /* now 4 is highest, 3 lowest */
    line(vm, 3, false), line(vm, 3, true), line(vm, 1, true), line(vm, 6, true);
    CHECK_EQ(take(vm, 0), 0x36);
    CHECK_EQ(take(vm, 0), 0x31);
    CHECK_EQ(take(vm, 0), 0x33);

    pic_start(vm, 1);
    for (unsigned pin = 0; pin < 8; pin++)
        line(vm, pin, false);
    out(vm, 0x20, 0xc4); /* priority: 5 is highest */
    line(vm, 4, true), line(vm, 5, true);
    CHECK_EQ(take(vm, 0), 0x35);
    out(vm, 0x20, 0xa0); /* rotating EOI: 5 becomes the lowest */
    line(vm, 5, false), line(vm, 5, true);
    CHECK_EQ(take(vm, 0), 0x34);
    out(vm, 0x21, 0x10), out(vm, 0x20, 0x68); /* special mask: a masked service blocks nobody */
    CHECK_EQ(take(vm, 0), 0x35);

    pic_start(vm, 1); /* ICW1 ends that; what is in service stays so */
    out(vm, 0x21, 0x30), line(vm, 6, true);
    CHECK_EQ(take(vm, 0), -1);
    out(vm, 0x20, 0x68);
    CHECK_EQ(take(vm, 0), 0x36);
    vm_free(vm);
}

static void test_level_poll_and_ports(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);
    uint32_t value = 1;

    pic_start(vm, 1);
    out(vm, 0x4d0, 0xff), out(vm, 0x4d1, 0xff);
    CHECK_EQ(in(vm, 0x4d0), 0xf8);
    CHECK_EQ(in(vm, 0x4d1), 0xde);
    line(vm, 5, true);
    CHECK_EQ(take(vm, 0), 0x35);
    out(vm, 0x20, 0x20);
    CHECK_EQ(take(vm, 0), 0x35); /* still up */
    line(vm, 5, false);
    out(vm, 0x20, 0x20);
    CHECK_EQ(take(vm, 0), -1);
    line(vm, 7, true);
    out(vm, 0x20, 0x0c);
    CHECK_EQ(in(vm, 0x20), 0x87);
    out(vm, 0x20, 0x0b);
    CHECK_EQ(in(vm, 0x20), 0x80); /* the poll was its acknowledgement */
    CHECK(irqchip_pio_read(&vm->chip, 0x20, 2, &value));
    CHECK_EQ(value, 0);
    CHECK(!irqchip_pio_read(&vm->chip, 0x21, 2, &value));
    CHECK(!irqchip_pio_read(&vm->chip, 0x22, 1, &value));
    CHECK(!irqchip_pio_read(&vm->chip, 0x40, 1, &value)); /* no PIT yet */
    vm_free(vm);
}

static void test_virtual_wire(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 2);

    pic_start(vm, 1);
    enable(vm);
    line(vm, 1, true);
    CHECK(lapic_maybe_pending(&vm->cpu[0].lapic));
    CHECK(!lapic_maybe_pending(&vm->cpu[1].lapic)); /* its LINT0 is masked */
    wr(vm, 0, APIC_LVT_LINT0, 1 << 16 | 7 << 8);
    CHECK(!lapic_maybe_pending(&vm->cpu[0].lapic));
    CHECK_EQ(take(vm, 0), -1);
    wr(vm, 0, APIC_LVT_LINT0, 7 << 8);
    CHECK_EQ(take(vm, 0), 0x31);
    out(vm, 0x20, 0x20);
    line(vm, 1, false);
    CHECK_EQ(lapic_base_set(&vm->cpu[1].lapic, APIC_DEFAULT_BASE, false),
             0); /* off: INTR is a plain pin */
    line(vm, 1, true);
    CHECK(lapic_maybe_pending(&vm->cpu[1].lapic));
    CHECK_EQ(take(vm, 1), 0x31);
    CHECK_EQ(take(vm, 0), -1);
    vm_free(vm);
}

static void test_state(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1), *other = vm_new(IRQCHIP_KERNEL, 1);
    struct kvm_irqchip state = {.chip_id = KVM_IRQCHIP_PIC_MASTER}, again;

    pic_start(vm, 1);
    line(vm, 6, true), line(vm, 3, true);
    CHECK_EQ(take(vm, 0), 0x33);
    CHECK_EQ(irqchip_get_state(&vm->chip, &state), 0);
    CHECK_EQ(state.chip.pic.irr, 1 << 6);
    CHECK_EQ(state.chip.pic.isr, 1 << 3);
    CHECK_EQ(state.chip.pic.irq_base, 0x30);
    CHECK_EQ(irqchip_set_state(&other->chip, &state), 0);
    again = state;
    CHECK_EQ(irqchip_get_state(&other->chip, &again), 0);
    CHECK_EQ(memcmp(&again, &state, sizeof(state)), 0);
    out(other, 0x20, 0x20);
    CHECK_EQ(take(other, 0), 0x36);
    state.chip_id = 3;
    CHECK_EQ(irqchip_get_state(&vm->chip, &state), -EINVAL);
    CHECK_EQ(irqchip_set_state(&vm->chip, &state), -EINVAL);
    vm_free(vm), vm_free(other);
}

int main(void)
{
    test_edge_and_eoi();
    test_priorities_and_cascade();
    test_special_modes();
    test_level_poll_and_ports();
    test_virtual_wire();
    test_state();
    return finish("pic");
}
