/* A VM's interrupt side with a fake clock, and vCPUs that only note what reaches them. */
#ifndef TEST_IRQ_HARNESS_H
#define TEST_IRQ_HARNESS_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "irq/irqchip.h"
#include "irq/lapic.h"

#define MAX_CPUS 4
#define TSC_KHZ 2000000u /* two cycles a nanosecond */

static int failures;

#define CHECK_EQ(got, want)                                                                        \
    do {                                                                                           \
        long long got_ = (long long)(got), want_ = (long long)(want);                              \
        if (got_ != want_) {                                                                       \
            printf("%s:%d: %s is %lld (0x%llx), not %lld (0x%llx)\n", __FILE__, __LINE__, #got,    \
                   got_, got_, want_, want_);                                                      \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)
#define CHECK(what) CHECK_EQ(!!(what), 1)

struct cpu {
    struct lapic lapic;
    unsigned kicks, nmis, inits, sipis, eoi_exits;
    uint8_t sipi_vector, eoi_vector;
    struct clock *clock;
};

struct vm {
    struct clock clock;
    struct irqchip chip;
    struct cpu cpu[MAX_CPUS];
    unsigned cpus;
    unsigned acks[64];
    int release_gsi; /* a resampler that lowers this line when it is acknowledged, or -1 */
};

static void note_kick(void *owner)
{
    ((struct cpu *)owner)->kicks++;
}
static void note_nmi(void *owner)
{
    ((struct cpu *)owner)->nmis++;
}
static void note_init(void *owner)
{
    ((struct cpu *)owner)->inits++;
}
static void note_sipi(void *owner, uint8_t vector)
{
    ((struct cpu *)owner)->sipis++;
    ((struct cpu *)owner)->sipi_vector = vector;
}
static void note_ack(void *owner, uint32_t gsi)
{
    struct vm *vm = owner;

    if (gsi < 64)
        vm->acks[gsi]++;
    if ((int)gsi == vm->release_gsi)
        irqchip_set_line_locked(&vm->chip, gsi, IRQ_SOURCE_RESAMPLE, false, false);
}
static void note_eoi_exit(void *owner, uint8_t vector)
{
    ((struct cpu *)owner)->eoi_exits++;
    ((struct cpu *)owner)->eoi_vector = vector;
}
static uint64_t fake_tsc(void *owner)
{
    return ((struct cpu *)owner)->clock->fake_now_ns * 2;
}
static uint64_t fake_khz(void *owner)
{
    (void)owner;
    return TSC_KHZ;
}

static struct vm *vm_new(enum irqchip_mode mode, unsigned cpus)
{
    static const struct irq_ops ops = {note_kick, note_nmi,      note_init, note_sipi,
                                       note_ack,  note_eoi_exit, fake_tsc,  fake_khz};
    struct vm *vm = calloc(1, sizeof(*vm));

    vm->clock = (struct clock){.fake = true, .fake_now_ns = 1000000};
    vm->release_gsi = -1;
    vm->cpus = cpus;
    CHECK_EQ(irqchip_init(&vm->chip, &ops, vm, &vm->clock), 0);
    if (mode == IRQCHIP_KERNEL)
        CHECK_EQ(irqchip_create(&vm->chip, false), 0);
    else
        CHECK_EQ(irqchip_create_split(&vm->chip, 24, false), 0);
    for (unsigned i = 0; i < cpus; i++) {
        vm->cpu[i].clock = &vm->clock;
        CHECK_EQ(lapic_init(&vm->cpu[i].lapic, &vm->chip, &vm->cpu[i], i, i == 0), 0);
        lapic_set_cpuid(&vm->cpu[i].lapic, true, true, 40);
    }
    return vm;
}

static void vm_free(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpus; i++)
        lapic_destroy(&vm->cpu[i].lapic);
    irqchip_destroy(&vm->chip);
    free(vm);
}

static inline uint32_t rd(struct vm *vm, unsigned cpu, uint32_t offset)
{
    uint64_t value;

    lapic_read(&vm->cpu[cpu].lapic, offset, 4, &value);
    return (uint32_t)value;
}
static inline void wr(struct vm *vm, unsigned cpu, uint32_t offset, uint32_t value)
{
    lapic_write(&vm->cpu[cpu].lapic, offset, 4, value);
}
static inline int take(struct vm *vm, unsigned cpu)
{
    return irqchip_take(&vm->chip, &vm->cpu[cpu].lapic);
}
static inline void enable(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpus; i++)
        wr(vm, i, APIC_SPIV, 0x1ff);
}
static inline void x2apic(struct vm *vm, unsigned cpu)
{
    struct lapic *lapic = &vm->cpu[cpu].lapic;

    CHECK_EQ(lapic_base_set(lapic, lapic_base_get(lapic) | APIC_BASE_EXTD, false), 0);
}
static inline void out(struct vm *vm, uint16_t port, uint32_t value)
{
    CHECK(irqchip_pio_write(&vm->chip, port, 1, value));
}
static inline uint32_t in(struct vm *vm, uint16_t port)
{
    uint32_t value = 0;

    CHECK(irqchip_pio_read(&vm->chip, port, 1, &value));
    return value;
}
static inline int line(struct vm *vm, uint32_t gsi, bool level)
{
    return irqchip_set_line(&vm->chip, gsi, IRQ_SOURCE_USER, level, true);
}
static inline uint32_t io_rd(struct vm *vm, uint32_t index)
{
    uint64_t value;

    ioapic_mmio_write(&vm->chip, 0, 4, index);
    ioapic_mmio_read(&vm->chip, 0x10, 4, &value);
    return (uint32_t)value;
}
static inline void io_wr(struct vm *vm, uint32_t index, uint32_t value)
{
    ioapic_mmio_write(&vm->chip, 0, 4, index);
    ioapic_mmio_write(&vm->chip, 0x10, 4, value);
}
static inline void redirect(struct vm *vm, unsigned pin, uint32_t low, uint32_t dest)
{
    io_wr(vm, 0x11 + 2 * pin, dest << 24);
    io_wr(vm, 0x10 + 2 * pin, low);
}
/* The usual start of a PC: master at 0x30, slave at 0x38, all open. */
static inline void pic_start(struct vm *vm, uint8_t icw4)
{
    out(vm, 0x20, 0x11), out(vm, 0x21, 0x30), out(vm, 0x21, 4), out(vm, 0x21, icw4);
    out(vm, 0xa0, 0x11), out(vm, 0xa1, 0x38), out(vm, 0xa1, 2), out(vm, 0xa1, icw4);
    out(vm, 0x21, 0), out(vm, 0xa1, 0);
}

static inline int finish(const char *name)
{
    printf("%s: %s\n", name, failures ? "FAILED" : "ok");
    return failures != 0;
}

#endif
