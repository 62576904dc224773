/* The local APIC: modes, registers, priorities, IPIs, errors, state image. */
#include "harness.h"

static void test_reset_values(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 2);

    CHECK_EQ(lapic_base_get(&vm->cpu[0].lapic), 0xfee00900);
    CHECK_EQ(lapic_base_get(&vm->cpu[1].lapic), 0xfee00800);
    CHECK_EQ(rd(vm, 1, APIC_ID), 1u << 24);
    CHECK_EQ(rd(vm, 0, APIC_VERSION), 0x50014);
    CHECK_EQ(rd(vm, 0, APIC_SPIV), 0xff);
    CHECK_EQ(rd(vm, 0, APIC_DFR), 0xffffffff);
    CHECK_EQ(rd(vm, 0, APIC_LVT_LINT0), 0x700);
    CHECK_EQ(rd(vm, 1, APIC_LVT_LINT0), 0x10000);
    CHECK_EQ(rd(vm, 0, APIC_LVT_TIMER), 0x10000);
    wr(vm, 0, APIC_LVT_TIMER, 0x33); /* software-disabled: stays masked */
    CHECK_EQ(rd(vm, 0, APIC_LVT_TIMER), 0x10033);
    enable(vm);
    wr(vm, 0, APIC_LVT_TIMER, 0x33);
    CHECK_EQ(rd(vm, 0, APIC_LVT_TIMER), 0x33);
    wr(vm, 0, APIC_SPIV, 0xff);
    CHECK_EQ(rd(vm, 0, APIC_LVT_TIMER), 0x10033);
    wr(vm, 1, APIC_ID, 7u << 24);
    lapic_reset(&vm->cpu[1].lapic, true); /* INIT keeps the id and the mode */
    CHECK_EQ(rd(vm, 1, APIC_ID), 7u << 24);
    lapic_set_cmci(&vm->cpu[0].lapic, true);
    CHECK_EQ(rd(vm, 0, APIC_VERSION), 0x60014);
    CHECK_EQ(rd(vm, 0, APIC_LVT_CMCI), 0x10000);
    CHECK_EQ(lapic_init(&vm->cpu[2].lapic, &vm->chip, &vm->cpu[2], 1, false), -EEXIST);
    vm_free(vm);
}

static void test_page_access(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);
    struct lapic *lapic = &vm->cpu[0].lapic;
    uint64_t value;

    enable(vm);
    lapic_read(lapic, APIC_VERSION + 2, 1, &value);
    CHECK_EQ(value, 5);
    lapic_read(lapic, APIC_VERSION, 2, &value);
    CHECK_EQ(value, 0x14);
    lapic_read(lapic, APIC_VERSION + 2, 4, &value);
    CHECK_EQ(value, 0);
    lapic_write(lapic, APIC_TPR, 1, 0x50); /* writes are 32 bits wide */
    CHECK_EQ(rd(vm, 0, APIC_TPR), 0);
    CHECK_EQ(lapic_base_set(lapic, 0xfed40000 | 0x900, false), 0);
    CHECK(lapic_mmio_hit(lapic, 0xfed40ff0) && !lapic_mmio_hit(lapic, 0xfee00000));
    CHECK_EQ(lapic_base_set(lapic, 0xfee00000, false), 0);
    lapic_set_tpr(lapic, 5); /* CR8 works without a LAPIC page */
    CHECK_EQ(rd(vm, 0, APIC_TPR), 0xffffffff);
    wr(vm, 0, APIC_TPR, 0);
    CHECK_EQ(lapic_get_tpr(lapic), 5);
    vm_free(vm);
}

static void test_base_transitions(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);
    struct lapic *lapic = &vm->cpu[0].lapic;
    const uint64_t off = 0xfee00100, xapic = off | 0x800, both = off | 0xc00;

    CHECK_EQ(lapic_base_set(lapic, off | 0x400, false), -EINVAL);
    CHECK_EQ(lapic_base_set(lapic, both, false), 0);
    CHECK_EQ(lapic_base_set(lapic, xapic, false), -EINVAL);
    CHECK_EQ(lapic_base_set(lapic, off | 0x400, false), -EINVAL);
    CHECK_EQ(lapic_base_set(lapic, off, false), 0);
    CHECK_EQ(lapic_base_set(lapic, both, false), -EINVAL);
    CHECK_EQ(lapic_base_set(lapic, both, true), 0); /* the host may */
    CHECK_EQ(lapic_base_set(lapic, off | 0x400, true), -EINVAL);
    CHECK_EQ(lapic_base_set(lapic, xapic, true), 0);
    CHECK_EQ(lapic_base_set(lapic, xapic | 1, false), -EINVAL);
    CHECK_EQ(lapic_base_set(lapic, xapic | 1ull << 40, false), -EINVAL);
    lapic_set_cpuid(lapic, false, true, 40);
    CHECK_EQ(lapic_base_set(lapic, both, false), -EINVAL);
    vm_free(vm);
}

static void ipi(struct vm *vm, unsigned cpu, uint32_t icr, uint32_t dest)
{
    wr(vm, cpu, APIC_ICR2, dest << 24);
    wr(vm, cpu, APIC_ICR, icr);
}

static void test_priorities(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);
    struct lapic *lapic = &vm->cpu[0].lapic;

    enable(vm);
    ipi(vm, 0, 1 << 18 | 0x41, 0), ipi(vm, 0, 1 << 18 | 0x52, 0), ipi(vm, 0, 1 << 18 | 0x57, 0);
    CHECK_EQ(lapic_pending(lapic), 0x57);
    lapic_set_tpr(lapic, 5);
    CHECK_EQ(rd(vm, 0, APIC_PPR), 0x50);
    CHECK(!lapic_maybe_pending(lapic));
    vm->cpu[0].kicks = 0;
    lapic_set_tpr(lapic, 4);
    CHECK_EQ(vm->cpu[0].kicks, 1);
    CHECK_EQ(take(vm, 0), 0x57);
    CHECK_EQ(rd(vm, 0, APIC_PPR), 0x50);
    CHECK_EQ(rd(vm, 0, APIC_ISR + 0x20), 1 << 23);
    CHECK_EQ(rd(vm, 0, APIC_IRR + 0x20), 1 << 18 | 1 << 1);
    CHECK_EQ(take(vm, 0), -1);
    ipi(vm, 0, 1 << 18 | 0xf0, 0); /* nests */
    CHECK_EQ(take(vm, 0), 0xf0);
    wr(vm, 0, APIC_EOI, 0);
    CHECK_EQ(take(vm, 0), -1);
    CHECK(!lapic_pv_eoi_offer(lapic)); /* something waits */
    wr(vm, 0, APIC_EOI, 0);
    CHECK_EQ(lapic_pending(lapic), 0x52);
    lapic_ack(lapic, 0x52);
    lapic_eoi(lapic);
    CHECK_EQ(take(vm, 0), -1); /* 0x41 is not above TPR 0x40 */
    lapic_set_tpr(lapic, 3);
    CHECK_EQ(take(vm, 0), 0x41);
    CHECK(lapic_pv_eoi_offer(lapic));
    vm->cpu[0].kicks = 0;
    ipi(vm, 0, 1 << 18 | 0x40, 0); /* not above what is in service, but that may have ended: the owner must look */
    CHECK_EQ(vm->cpu[0].kicks, 1);
    CHECK(lapic_maybe_pending(lapic));
    lapic_pv_eoi_close(lapic, false); /* it has not */
    CHECK(!lapic_maybe_pending(lapic));
    CHECK_EQ(take(vm, 0), -1);
    wr(vm, 0, APIC_EOI, 0);
    CHECK_EQ(take(vm, 0), 0x40);
    CHECK(lapic_pv_eoi_offer(lapic));
    ipi(vm, 0, 1 << 18 | 0x41, 0);
    lapic_pv_eoi_close(lapic, true);
    CHECK_EQ(take(vm, 0), 0x41);
    vm_free(vm);
}

/* Takes an interrupt and ends it. */
static int serve(struct vm *vm, unsigned cpu)
{
    int vector = take(vm, cpu);

    if (vector >= 0)
        wr(vm, cpu, APIC_EOI, 0);
    return vector;
}

static void test_ipis(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 4);

    enable(vm);
    ipi(vm, 0, 0xf1, 2);
    CHECK_EQ(serve(vm, 2), 0xf1);
    ipi(vm, 1, 2 << 18 | 0x80, 0); /* all */
    for (unsigned i = 0; i < 4; i++)
        CHECK_EQ(serve(vm, i), 0x80);
    ipi(vm, 1, 3 << 18 | 0x91, 0); /* all but self */
    for (unsigned i = 0; i < 4; i++)
        CHECK_EQ(serve(vm, i), i == 1 ? -1 : 0x91);
    ipi(vm, 0, 4 << 8, 3);
    CHECK_EQ(vm->cpu[3].nmis, 1);
    ipi(vm, 0, 3 << 18 | 5 << 8 | 1 << 15 | 1 << 14, 0);
    ipi(vm, 0, 2 << 18 | 5 << 8 | 1 << 15, 0); /* level de-assert: nothing */
    CHECK_EQ(vm->cpu[0].inits, 0);
    CHECK_EQ(vm->cpu[1].inits, 1);
    ipi(vm, 0, 6 << 8 | 0x9a, 1);
    CHECK_EQ(vm->cpu[1].sipis, 1);
    CHECK_EQ(vm->cpu[1].sipi_vector, 0x9a);
    CHECK_EQ(rd(vm, 0, APIC_ICR), 6 << 8 | 0x9a);
    ipi(vm, 0, 2 << 8, 1); /* SMI: ignored */
    CHECK_EQ(irqchip_pv_send_ipi(&vm->chip, 5, 0, 1, 0xe1, true), 2);
    CHECK_EQ(serve(vm, 1), 0xe1);
    CHECK_EQ(serve(vm, 2), -1);
    CHECK_EQ(serve(vm, 3), 0xe1);
    CHECK_EQ(irqchip_pv_send_ipi(&vm->chip, 1, 0, 0, 1 << 18 | 0xe1, true), -EINVAL);
    CHECK_EQ(irqchip_pv_send_ipi(&vm->chip, UINT64_MAX, UINT64_MAX, 0xfffffff0, 0xe1, true), 0);
    CHECK(irqchip_find_lapic(&vm->chip, 3) == &vm->cpu[3].lapic);
    CHECK(irqchip_find_lapic(&vm->chip, 4) == NULL);
    vm_free(vm);
}

static void test_logical_ids(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 2);

    enable(vm);
    wr(vm, 1, APIC_DFR, 0x0fffffff); /* cluster */
    CHECK_EQ(rd(vm, 1, APIC_DFR), 0x0fffffff);
    wr(vm, 1, APIC_LDR, 0x32000000);
    ipi(vm, 0, 1 << 11 | 0x81, 0x36);
    CHECK_EQ(take(vm, 1), 0x81);
    ipi(vm, 0, 1 << 11 | 0x91, 0x42); /* another cluster */
    ipi(vm, 0, 1 << 11 | 0x91, 0x34); /* another member */
    CHECK_EQ(take(vm, 1), -1);
    wr(vm, 1, APIC_DFR, 0xf0000000); /* flat */
    ipi(vm, 0, 1 << 11 | 0x92, 0x42);
    CHECK_EQ(take(vm, 1), 0x92);
    ipi(vm, 0, 1 << 11 | 0xa0, 0xff);
    CHECK_EQ(take(vm, 0), 0xa0);
    CHECK_EQ(take(vm, 1), 0xa0);
    vm_free(vm);
}

static void test_x2apic(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 2);
    struct lapic *lapic = &vm->cpu[1].lapic;
    uint64_t value;

    CHECK_EQ(lapic_msr_read(lapic, 0x802, &value), -EINVAL); /* xAPIC mode has no MSRs */
    x2apic(vm, 0), x2apic(vm, 1);
    CHECK_EQ(lapic_msr_read(lapic, 0x802, &value), 0);
    CHECK_EQ(value, 1);
    CHECK_EQ(lapic_msr_read(lapic, 0x80d, &value), 0);
    CHECK_EQ(value, 2);
    CHECK_EQ(rd(vm, 1, APIC_ID), 0xffffffff);
    CHECK_EQ(lapic_msr_write(&vm->cpu[0].lapic, 0x80f, 0x1ff), 0);
    CHECK_EQ(lapic_msr_write(lapic, 0x80f, 0x1ff), 0);
    CHECK_EQ(lapic_msr_write(lapic, 0x830, 0x0000000000000081), 0);
    CHECK_EQ(take(vm, 0), 0x81);
    CHECK_EQ(lapic_msr_write(lapic, 0x830, 0x0000000200000000ull | 1 << 11 | 0x91),
             0);                                                    /* logical: none */
    CHECK_EQ(lapic_msr_write(lapic, 0x830, 0xffffffff000000a1), 0); /* broadcast */
    CHECK_EQ(take(vm, 0), 0xa1);
    CHECK_EQ(take(vm, 1), 0xa1);
    CHECK_EQ(lapic_msr_read(lapic, 0x830, &value), 0);
    CHECK_EQ(value, 0xffffffff000000a1);
    CHECK_EQ(lapic_msr_write(lapic, 0x83f, 0xf1), 0); /* self */
    CHECK_EQ(take(vm, 1), 0xf1);
    CHECK_EQ(lapic_msr_write(lapic, 0x83f, 0x1f1), -EINVAL);
    CHECK_EQ(lapic_msr_write(lapic, 0x802, 5), -EINVAL);
    CHECK_EQ(lapic_msr_write(lapic, 0x80d, 5), -EINVAL);
    CHECK_EQ(lapic_msr_write(lapic, 0x80e, 5), -EINVAL);
    CHECK_EQ(lapic_msr_write(lapic, 0x831, 5), -EINVAL);
    CHECK_EQ(lapic_msr_write(lapic, 0x803, 5), -EINVAL);
    CHECK_EQ(lapic_msr_write(lapic, 0x80b, 1), -EINVAL);
    CHECK_EQ(lapic_msr_write(lapic, 0x80b, 0), 0);
    CHECK_EQ(lapic_msr_write(lapic, 0x828, 1), -EINVAL);
    CHECK_EQ(lapic_msr_write(lapic, 0x808, 1ull << 32), -EINVAL);
    CHECK_EQ(lapic_msr_write(lapic, 0x830, 1 << 13), -EINVAL);
    CHECK_EQ(lapic_msr_read(lapic, 0x80b, &value), -EINVAL);
    CHECK_EQ(lapic_msr_read(lapic, 0x80e, &value), -EINVAL);
    CHECK_EQ(lapic_msr_read(lapic, 0x831, &value), -EINVAL);
    for (uint32_t msr = 0x840; msr <= 0x8ff; msr++) {
        CHECK_EQ(lapic_msr_read(lapic, msr, &value), -EINVAL);
        CHECK_EQ(lapic_msr_write(lapic, msr, 0), -EINVAL);
    }
    vm_free(vm);
}

static void test_errors(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 2);
    struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x0f};

    enable(vm);
    wr(vm, 0, APIC_LVT_ERROR, 0xfe);
    ipi(vm, 0, 0x0f, 1); /* an illegal vector is not sent */
    CHECK_EQ(take(vm, 0), 0xfe);
    CHECK_EQ(take(vm, 1), -1);
    CHECK_EQ(rd(vm, 0, APIC_ESR), 0); /* not before it is written */
    wr(vm, 0, APIC_EOI, 0);
    ipi(vm, 0, 0x0e, 1); /* no second interrupt before ESR is written */
    CHECK_EQ(take(vm, 0), -1);
    wr(vm, 0, APIC_ESR, 0);
    CHECK_EQ(rd(vm, 0, APIC_ESR), 1 << 5);
    CHECK_EQ(irqchip_send_msi(&vm->chip, &msi), 0);
    CHECK_EQ(take(vm, 0), 0xfe);
    wr(vm, 0, APIC_ESR, 0);
    CHECK_EQ(rd(vm, 0, APIC_ESR), 1 << 6);
    rd(vm, 0, 0x3c0);
    wr(vm, 0, APIC_ESR, 0);
    CHECK_EQ(rd(vm, 0, APIC_ESR), 1 << 7);
    wr(vm, 0, APIC_LVT_ERROR, 3); /* an illegal vector for the error itself ends */
    ipi(vm, 0, 0x0f, 1);
    vm_free(vm);
}

static void test_state(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 2), *other = vm_new(IRQCHIP_KERNEL, 2);
    struct kvm_lapic_state state, again;
    uint32_t id;

    enable(vm);
    ipi(vm, 1, 1 << 18 | 0x91, 0), ipi(vm, 1, 1 << 18 | 0x55, 0);
    CHECK_EQ(take(vm, 1), 0x91);
    CHECK_EQ(lapic_get_state(&vm->cpu[1].lapic, &state), 0);
    CHECK_EQ(lapic_set_state(&other->cpu[1].lapic, &state), 0);
    CHECK_EQ(lapic_get_state(&other->cpu[1].lapic, &again), 0);
    CHECK_EQ(memcmp(&state, &again, sizeof(state)), 0);
    wr(other, 1, APIC_EOI, 0);
    CHECK_EQ(take(other, 1), 0x55);

    x2apic(vm, 1);
    CHECK_EQ(lapic_get_state(&vm->cpu[1].lapic, &state), 0);
    memcpy(&id, state.regs + APIC_ID, 4);
    CHECK_EQ(id, 1u << 24);
    vm->chip.x2apic_32bit_ids = true;
    CHECK_EQ(lapic_get_state(&vm->cpu[1].lapic, &state), 0);
    memcpy(&id, state.regs + APIC_ID, 4);
    CHECK_EQ(id, 1);
    CHECK_EQ(lapic_set_state(&vm->cpu[1].lapic, &state), 0);
    id = 2;
    memcpy(state.regs + APIC_ID, &id, 4);
    CHECK_EQ(lapic_set_state(&vm->cpu[1].lapic, &state), -EINVAL);
    vm_free(vm), vm_free(other);
}

/* Whatever a client loads, and a guest then does, nothing breaks; the sanitizers watch. */
static void test_hostile_state(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 2);
    uint64_t seed = 88172645463325252u, value;

    for (unsigned round = 0; round < 2000; round++) {
        struct kvm_lapic_state state;
        struct kvm_irqchip chip = {.chip_id = round % 3};
        char *bytes = chip.chip.dummy;

        for (unsigned i = 0; i < sizeof(state.regs); i++) {
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            state.regs[i] = (char)seed;
            bytes[i % sizeof(chip.chip.dummy)] = (char)(seed >> 8);
        }
        lapic_set_state(&vm->cpu[round & 1].lapic, &state);
        irqchip_set_state(&vm->chip, &chip);
        for (unsigned i = 0; i < 20; i++) {
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            wr(vm, i & 1, seed & 0xff0, (uint32_t)(seed >> 20));
            lapic_read(&vm->cpu[i & 1].lapic, seed >> 3 & 0xfff, 1u << (seed & 3), &value);
            io_wr(vm, seed >> 8 & 0x3f, (uint32_t)(seed >> 24));
            irqchip_pio_write(&vm->chip, (uint16_t)(0x20 | (seed & 0x81)), 1, seed >> 9 & 0xff);
            irqchip_set_line(&vm->chip, seed % 30, IRQ_SOURCE_USER, seed >> 40 & 1, seed >> 41 & 1);
            take(vm, i & 1);
        }
        timers_advance(&vm->chip.timers, 300000);
    }
    vm_free(vm);
}

int main(void)
{
    test_reset_values();
    test_page_access();
    test_base_transitions();
    test_priorities();
    test_ipis();
    test_logical_ids();
    test_x2apic();
    test_errors();
    test_state();
    test_hostile_state();
    return finish("lapic");
}
