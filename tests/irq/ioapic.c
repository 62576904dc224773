/* The I/O APIC, the GSI table and MSIs: what a line becomes, who gets it, and what its EOI does. */
#include "harness.h"

static void eoi(struct vm *vm, unsigned cpu)
{
    wr(vm, cpu, APIC_EOI, 0);
}

static void test_registers(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);
    uint64_t value;

    CHECK_EQ(io_rd(vm, 1), 0x170011);
    io_wr(vm, 1, 0xffffffff);
    CHECK_EQ(io_rd(vm, 1), 0x170011);
    io_wr(vm, 0, 0xffffffff);
    CHECK_EQ(io_rd(vm, 0), 0x0f000000);
    CHECK_EQ(io_rd(vm, 2), 0x0f000000);
    CHECK_EQ(io_rd(vm, 0x10), 0x10000);
    io_wr(vm, 0x10, 0x10000 | 1 << 14 | 1 << 12 | 0x41); /* status bits are read-only */
    CHECK_EQ(io_rd(vm, 0x10), 0x10041);
    CHECK_EQ(io_rd(vm, 0x40), 0xffffffff);
    ioapic_mmio_read(&vm->chip, 0, 1, &value);
    CHECK_EQ(value, 0x40);
    CHECK(ioapic_mmio_hit(&vm->chip, 0xfec00010) && !ioapic_mmio_hit(&vm->chip, 0xfec00100));
    vm_free(vm);
}

static void test_edge(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 2);

    enable(vm);
    CHECK_EQ(line(vm, 20, true), -1); /* masked; no PIC route */
    line(vm, 20, false);
    redirect(vm, 20, 0x76, 1);
    CHECK_EQ(line(vm, 20, true), 1);
    CHECK_EQ(line(vm, 20, true), 0); /* no new edge */
    CHECK_EQ(vm->cpu[1].kicks, 1);
    CHECK_EQ(take(vm, 0), -1);
    CHECK_EQ(take(vm, 1), 0x76);
    CHECK_EQ(rd(vm, 1, APIC_TMR + 0x30), 0);
    eoi(vm, 1);
    CHECK_EQ(vm->acks[20], 1);
    CHECK_EQ(line(vm, 20, false), 1);
    vm_free(vm);
}

static void test_level(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);

    enable(vm);
    redirect(vm, 14, 1 << 15 | 1 << 16 | 0x98, 0);
    out(vm, 0xa1, 0xff);
    line(vm, 14, true);
    CHECK_EQ(take(vm, 0), -1);
    io_wr(vm, 0x10 + 28, 1 << 15 | 0x98); /* unmasking finds the line up */
    CHECK_EQ(io_rd(vm, 0x10 + 28), 1 << 15 | 1 << 14 | 0x98);
    CHECK_EQ(take(vm, 0), 0x98);
    CHECK_EQ(rd(vm, 0, APIC_TMR + 0x40), 1 << 24);
    eoi(vm, 0); /* still up: again */
    CHECK_EQ(take(vm, 0), 0x98);
    line(vm, 14, false);
    CHECK(io_rd(vm, 0x10 + 28) & 1 << 14);
    eoi(vm, 0);
    CHECK(!(io_rd(vm, 0x10 + 28) & 1 << 14));
    CHECK_EQ(take(vm, 0), -1);
    line(vm, 14, true); /* sent, then made edge: the way guests clear a remote IRR */
    io_wr(vm, 0x10 + 28, 1 << 16 | 0x98);
    CHECK(!(io_rd(vm, 0x10 + 28) & 1 << 14));
    CHECK_EQ(rd(vm, 0, APIC_TMR + 0x40), 1 << 24);
    wr(vm, 0, APIC_ICR, 1 << 18 | 0x98); /* the same vector as an edge, to itself: that is its mode now */
    CHECK_EQ(rd(vm, 0, APIC_TMR + 0x40), 0);
    vm_free(vm);
}

static void test_sources_and_resampling(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);

    enable(vm);
    redirect(vm, 21, 1 << 15 | 0x61, 0);
    irqchip_set_line(&vm->chip, 21, IRQ_SOURCE_RESAMPLE, true, false);
    line(vm, 21, true), line(vm, 21, false); /* one source of two */
    CHECK_EQ(take(vm, 0), 0x61);
    vm->release_gsi = 21;
    eoi(vm, 0);
    CHECK_EQ(vm->acks[21], 1);
    CHECK_EQ(take(vm, 0), -1);
    vm_free(vm);
}

static void test_storm_is_slowed(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);
    unsigned taken = 0;

    enable(vm);
    redirect(vm, 22, 1 << 15 | 0x55, 0);
    line(vm, 22, true);
    while (taken < 20000 && take(vm, 0) == 0x55) {
        taken++;
        eoi(vm, 0);
    }
    CHECK_EQ(taken, 10000);
    timers_advance(&vm->chip.timers, 10000000);
    CHECK_EQ(take(vm, 0), 0x55);
    vm_free(vm);
}

static void test_rtc_coalescing(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);

    enable(vm);
    out(vm, 0xa1, 0xff);
    redirect(vm, 8, 0x72, 0);
    CHECK_EQ(line(vm, 8, true), 1);
    line(vm, 8, false);
    CHECK_EQ(line(vm, 8, true), 0); /* not yet ended */
    line(vm, 8, false);
    CHECK_EQ(take(vm, 0), 0x72);
    eoi(vm, 0);
    CHECK_EQ(line(vm, 8, true), 1);
    vm_free(vm);
}

static void test_destinations(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 4);

    enable(vm);
    for (unsigned i = 0; i < 4; i++)
        wr(vm, i, APIC_LDR, 1u << (24 + i));
    redirect(vm, 23, 1 << 11 | 0x90, 0x0a); /* logical, flat: 1 and 3 */
    CHECK_EQ(line(vm, 23, true), 2);
    line(vm, 23, false);
    CHECK_EQ(take(vm, 0), -1);
    CHECK_EQ(take(vm, 1), 0x90);
    CHECK_EQ(take(vm, 2), -1);
    CHECK_EQ(take(vm, 3), 0x90);
    redirect(vm, 23, 1 << 11 | 1 << 8 | 0xa1, 0x0f); /* lowest priority: one of them, by vector */
    CHECK_EQ(line(vm, 23, true), 1);
    line(vm, 23, false);
    CHECK_EQ(take(vm, 1), 0xa1);
    wr(vm, 1, APIC_SPIV, 0xff); /* a software-disabled LAPIC is no candidate */
    CHECK_EQ(line(vm, 23, true), 1);
    line(vm, 23, false);
    CHECK_EQ(take(vm, 3), 0xa1); /* 0xa1 % 3 = 2: the third of 0, 2, 3 */
    wr(vm, 1, APIC_SPIV, 0x1ff);
    redirect(vm, 23, 0xb0, 0xff);
    CHECK_EQ(line(vm, 23, true), 4);
    line(vm, 23, false);
    redirect(vm, 23, 4 << 8, 2);
    CHECK_EQ(line(vm, 23, true), 1);
    CHECK_EQ(vm->cpu[2].nmis, 1);
    vm_free(vm);
}

static void test_routing(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);
    struct kvm_irq_routing_entry e[3] = {
        {.gsi = 40, .type = KVM_IRQ_ROUTING_MSI},
        {.gsi = 5, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {KVM_IRQCHIP_IOAPIC, 7}},
        {.gsi = 5, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {KVM_IRQCHIP_PIC_MASTER, 5}},
    };

    enable(vm);
    e[0].u.msi.address_lo = 0xfee00000;
    e[0].u.msi.data = 0x44;
    CHECK_EQ(irqchip_set_routing(&vm->chip, e, 3), 0);
    CHECK_EQ(line(vm, 40, true), 1);
    CHECK_EQ(line(vm, 40, false), -1);
    CHECK_EQ(take(vm, 0), 0x44);
    redirect(vm, 7, 0x45, 0);
    CHECK_EQ(line(vm, 5, true), 2);
    CHECK_EQ(line(vm, 6, true), -1); /* no route */
    e[2].u.irqchip = e[1].u.irqchip;
    CHECK_EQ(irqchip_set_routing(&vm->chip, e, 3), -EINVAL); /* twice the same controller */
    e[2].gsi = 6, e[2].u.irqchip.pin = 24;
    CHECK_EQ(irqchip_set_routing(&vm->chip, e, 3), -EINVAL);
    e[2].u.irqchip.pin = 23, e[2].gsi = 4096;
    CHECK_EQ(irqchip_set_routing(&vm->chip, e, 3), -EINVAL);
    e[2].gsi = 40;
    CHECK_EQ(irqchip_set_routing(&vm->chip, e, 3), -EINVAL); /* an MSI route stands alone */
    e[2].gsi = 41, e[2].flags = 1;
    CHECK_EQ(irqchip_set_routing(&vm->chip, e, 3), -EINVAL);
    e[2].flags = 0, e[2].type = 77;
    CHECK_EQ(irqchip_set_routing(&vm->chip, e, 3), -EINVAL);
    out(vm, 0x21, 0xff);
    line(vm, 40, true);        /* the old table stands, but its vector is in service */
    CHECK_EQ(take(vm, 0), -1); /* one class: both wait */
    eoi(vm, 0);
    CHECK_EQ(take(vm, 0), 0x45);
    eoi(vm, 0);
    CHECK_EQ(take(vm, 0), 0x44);
    vm_free(vm);
}

static void test_msi(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 3);
    struct kvm_msi msi = {.address_lo = 0xfee02000, .data = 0x51};

    enable(vm);
    CHECK_EQ(irqchip_send_msi(&vm->chip, &msi), 1);
    CHECK_EQ(take(vm, 2), 0x51);
    msi.address_lo = 0xfee09000;
    CHECK_EQ(irqchip_send_msi(&vm->chip, &msi), -1); /* nobody */
    msi.flags = 2;
    CHECK_EQ(irqchip_send_msi(&vm->chip, &msi), -EINVAL);
    msi.flags = 0, msi.address_lo = 0xfeeff000;
    x2apic(vm, 1);
    CHECK_EQ(irqchip_send_msi(&vm->chip, &msi), 3); /* 0xff is everybody, also to an x2APIC */
    vm->chip.x2apic_no_broadcast_quirk = true;
    CHECK_EQ(irqchip_send_msi(&vm->chip, &msi), 2);
    vm->chip.x2apic_32bit_ids = true;
    msi.address_lo = 0xfee01000, msi.address_hi = 0x100;
    CHECK_EQ(irqchip_send_msi(&vm->chip, &msi), -1); /* id 0x101 */
    msi.address_hi = 1;
    CHECK_EQ(irqchip_send_msi(&vm->chip, &msi), -EINVAL);
    vm_free(vm);
}

static void test_split(void)
{
    struct vm *vm = vm_new(IRQCHIP_SPLIT, 1);
    struct kvm_irq_routing_entry e = {.gsi = 3, .type = KVM_IRQ_ROUTING_MSI};
    struct kvm_irqchip state = {0};
    struct kvm_pit_state2 pit;
    uint32_t value;

    enable(vm);
    CHECK(!irqchip_pio_read(&vm->chip, 0x20, 1, &value));
    CHECK(!ioapic_mmio_hit(&vm->chip, IOAPIC_DEFAULT_BASE));
    CHECK_EQ(irqchip_get_state(&vm->chip, &state), -ENXIO);
    CHECK_EQ(irqchip_create_pit(&vm->chip, 0), -ENOENT);
    CHECK_EQ(irqchip_get_pit(&vm->chip, &pit), -ENXIO);
    CHECK_EQ(irqchip_create(&vm->chip, false), -EEXIST);
    e.u.msi.address_lo = 0xfee00000, e.u.msi.data = 1 << 15 | 0x66;
    CHECK_EQ(irqchip_set_routing(&vm->chip, &e, 1), 0);
    CHECK_EQ(line(vm, 3, true), 1);
    CHECK_EQ(take(vm, 0), 0x66);
    eoi(vm, 0);
    CHECK_EQ(vm->cpu[0].eoi_exits, 1);
    CHECK_EQ(vm->cpu[0].eoi_vector, 0x66);
    e.u.msi.data = 0x67; /* edge: nobody awaits its EOI */
    CHECK_EQ(irqchip_set_routing(&vm->chip, &e, 1), 0);
    CHECK_EQ(line(vm, 3, true), 1);
    CHECK_EQ(take(vm, 0), 0x67);
    eoi(vm, 0);
    CHECK_EQ(vm->cpu[0].eoi_exits, 1);
    CHECK_EQ(lapic_user_extint(&vm->cpu[0].lapic, 0x20), 0);
    CHECK_EQ(lapic_user_extint(&vm->cpu[0].lapic, 0x21), -EEXIST);
    CHECK(!lapic_maybe_pending(&vm->cpu[0].lapic) == !lapic_accepts_extint(&vm->cpu[0].lapic));
    CHECK_EQ(take(vm, 0), 0x20);
    CHECK_EQ(take(vm, 0), -1);
    CHECK_EQ(rd(vm, 0, APIC_VERSION), 0x01050014); /* directed EOI is offered */
    vm_free(vm);
}

static void test_state(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1), *other = vm_new(IRQCHIP_KERNEL, 1);
    struct kvm_irqchip state = {.chip_id = KVM_IRQCHIP_IOAPIC};

    enable(vm), enable(other);
    redirect(vm, 20, 0x76, 0);
    redirect(vm, 21, 1 << 16 | 1 << 15 | 0x77, 0);
    line(vm, 20, true), line(vm, 21, true);
    CHECK_EQ(irqchip_get_state(&vm->chip, &state), 0);
    CHECK_EQ(state.chip.ioapic.base_address, 0xfec00000);
    CHECK_EQ(state.chip.ioapic.irr, 1 << 21); /* the edge was sent */
    CHECK_EQ(state.chip.ioapic.redirtbl[20].fields.vector, 0x76);
    CHECK_EQ(state.chip.ioapic.redirtbl[21].fields.mask, 1);
    state.chip.ioapic.redirtbl[21].fields.mask = 0;
    CHECK_EQ(irqchip_set_state(&other->chip, &state), 0);
    CHECK_EQ(take(other, 0), 0x77); /* a pending level is sent at once */
    vm_free(vm), vm_free(other);
}

int main(void)
{
    test_registers();
    test_edge();
    test_level();
    test_sources_and_resampling();
    test_storm_is_slowed();
    test_rtc_coalescing();
    test_destinations();
    test_routing();
    test_msi();
    test_split();
    test_state();
    return finish("ioapic");
}
