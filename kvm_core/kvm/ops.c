/* What a processor finds around it: in-kernel devices answer here, the rest becomes an exit (struct machine_ops). */
#include "kvm/kvm.h"

static int op_mmio_read(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t *data)
{
    struct kvm_vcpu *kv = kvm_of(v);
    struct irqchip *chip = &kv->vm->irq;

    if (kv->has_lapic && lapic_mmio_hit(&kv->lapic, gpa)) {
        vapic_collect(kv);
        lapic_read(&kv->lapic, gpa & 0xfff, size, data);
        return 0;
    }
    if (ioapic_mmio_hit(chip, gpa)) {
        ioapic_mmio_read(chip, (uint32_t)(gpa - IOAPIC_DEFAULT_BASE), size, data);
        return 0;
    }
    return 1;
}

static int op_mmio_write(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t data)
{
    struct kvm_vcpu *kv = kvm_of(v);
    struct irqchip *chip = &kv->vm->irq;

    if (kv->has_lapic && lapic_mmio_hit(&kv->lapic, gpa)) {
        vapic_collect(kv);
        lapic_write(&kv->lapic, gpa & 0xfff, size, data);
        vapic_publish(kv);
        return 0;
    }
    if (ioapic_mmio_hit(chip, gpa)) {
        ioapic_mmio_write(chip, (uint32_t)(gpa - IOAPIC_DEFAULT_BASE), size, data);
        return 0;
    }
    if (ioeventfd_write(kv->vm, gpa, data, size, false) || zone_write(kv->vm, gpa, &data, size, false))
        return 0;
    return 1;
}

static int op_pio_in(struct vcpu *v, uint16_t port, unsigned size, uint32_t *data)
{
    struct kvm_vm *vm = kvm_of(v)->vm;

    return vm->irq.mode == IRQCHIP_KERNEL && irqchip_pio_read(&vm->irq, port, size, data) ? 0 : 1;
}

static int op_pio_out(struct vcpu *v, uint16_t port, unsigned size, uint32_t data)
{
    struct kvm_vm *vm = kvm_of(v)->vm;

    if (vm->irq.mode == IRQCHIP_KERNEL && irqchip_pio_write(&vm->irq, port, size, data))
        return 0;
    if (ioeventfd_write(vm, port, data, size, true) || zone_write(vm, port, &data, size, true))
        return 0;
    return 1;
}

static uint8_t op_cr8_read(struct vcpu *v)
{
    vapic_collect(kvm_of(v));
    return (uint8_t)vcpu_get_cr8(kvm_of(v));
}

static void op_cr8_write(struct vcpu *v, uint8_t tpr)
{
    vcpu_set_cr8(kvm_of(v), tpr);
    vapic_publish(kvm_of(v));
}

static bool op_apic_enabled(struct vcpu *v)
{
    struct kvm_vcpu *kv = kvm_of(v);

    return !kv->has_lapic || (lapic_base_get(&kv->lapic) & APIC_BASE_ENABLE);
}

static bool op_replaces_hypercall(struct vcpu *v)
{
    return !(kvm_of(v)->vm->disabled_quirks & KVM_X86_QUIRK_FIX_HYPERCALL_INSN);
}

const struct machine_ops vm_machine_ops = {
    .mmio_read = op_mmio_read,
    .mmio_write = op_mmio_write,
    .pio_in = op_pio_in,
    .pio_out = op_pio_out,
    .rdmsr = ops_rdmsr,
    .wrmsr = ops_wrmsr,
    .msr_allowed = ops_msr_allowed,
    .cr8_read = op_cr8_read,
    .cr8_write = op_cr8_write,
    .hypercall = ops_hypercall,
    .replaces_hypercall = op_replaces_hypercall,
    .tsc_moved = ops_tsc_moved,
    .apic_enabled = op_apic_enabled,
    .code_page = ops_code_page,
    .code_written = ops_code_written,
    .pause_loop = ops_pause_loop,
    .exclusive_begin = ops_exclusive_begin,
    .exclusive_end = ops_exclusive_end,
};
