/* The machine of a vCPU in lockstep: asked once, by the engine under test; the reference gets the same answers. */
#include "cpu/lockstep_internal.h"

/* The recorded access, when this is the same one. The reference (`replay`) gets no other: where it asks for one the engines
 * differ. The engine under test has a record before it when a stretch is repeated. */
static struct device_access *replayed(struct lockstep *l, enum device_kind kind, uint64_t addr, unsigned size,
                                      const uint64_t *data)
{
    struct device_access *a = &l->devices.a[l->devices.next];

    if (l->devices.next >= (l->devices.replay ? l->device_end : l->devices.count))
        return NULL;
    if (a->kind != kind || a->addr != addr || a->size != size || (data && a->data != *data)) {
        if (!l->devices.replay)
            l->devices.count = l->devices.next; /* it goes another way this time */
        return NULL;
    }
    l->devices.next++;
    return a;
}

static void record(struct lockstep *l, enum device_kind kind, uint64_t addr, unsigned size, uint64_t data, int result)
{
    if (l->devices.next == DEVICES_MAX) {
        l->overflow = true;
        return;
    }
    l->devices.a[l->devices.next++] = (struct device_access){
        .kind = (uint8_t)kind, .size = (uint8_t)size, .result = result, .addr = addr, .data = data};
    l->devices.count = l->devices.next;
}

static int read_op(struct vcpu *v, enum device_kind kind, uint64_t addr, unsigned size, uint64_t *data,
                   int (*real)(struct vcpu *v, uint64_t addr, unsigned size, uint64_t *data))
{
    struct lockstep *l = v->lockstep;
    struct device_access *a = replayed(l, kind, addr, size, NULL);
    int result;

    if (a || l->devices.replay) {
        *data = a ? a->data : 0;
        return a ? a->result : 0;
    }
    result = real(v, addr, size, data);
    record(l, kind, addr, size, *data, result);
    return result;
}

static int write_op(struct vcpu *v, enum device_kind kind, uint64_t addr, unsigned size, uint64_t data,
                    int (*real)(struct vcpu *v, uint64_t addr, unsigned size, uint64_t data))
{
    struct lockstep *l = v->lockstep;
    struct device_access *a = replayed(l, kind, addr, size, &data);
    int result;

    if (a || l->devices.replay)
        return a ? a->result : 0;
    result = real(v, addr, size, data);
    record(l, kind, addr, size, data, result);
    return result;
}

static int mmio_read(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t *data)
{
    return read_op(v, DEVICE_MMIO_READ, gpa, size, data, v->lockstep->ops->mmio_read);
}

static int mmio_write(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t data)
{
    return write_op(v, DEVICE_MMIO_WRITE, gpa, size, data, v->lockstep->ops->mmio_write);
}

static int real_in(struct vcpu *v, uint64_t port, unsigned size, uint64_t *data)
{
    uint32_t value = (uint32_t)*data;
    int result = v->lockstep->ops->pio_in(v, (uint16_t)port, size, &value);

    *data = value;
    return result;
}

static int pio_in(struct vcpu *v, uint16_t port, unsigned size, uint32_t *data)
{
    uint64_t value = *data;
    int result = read_op(v, DEVICE_PIO_IN, port, size, &value, real_in);

    *data = (uint32_t)value;
    return result;
}

static int real_out(struct vcpu *v, uint64_t port, unsigned size, uint64_t data)
{
    return v->lockstep->ops->pio_out(v, (uint16_t)port, size, (uint32_t)data);
}

static int pio_out(struct vcpu *v, uint16_t port, unsigned size, uint32_t data)
{
    return write_op(v, DEVICE_PIO_OUT, port, size, data, real_out);
}

static int real_rdmsr(struct vcpu *v, uint64_t index, unsigned size, uint64_t *data)
{
    (void)size;
    return v->lockstep->ops->rdmsr(v, (uint32_t)index, data);
}

static int rdmsr(struct vcpu *v, uint32_t index, uint64_t *value)
{
    return read_op(v, DEVICE_RDMSR, index, 8, value, real_rdmsr);
}

static int real_wrmsr(struct vcpu *v, uint64_t index, unsigned size, uint64_t data)
{
    (void)size;
    return v->lockstep->ops->wrmsr(v, (uint32_t)index, data);
}

static int wrmsr(struct vcpu *v, uint32_t index, uint64_t value)
{
    return write_op(v, DEVICE_WRMSR, index, 8, value, real_wrmsr);
}

static int real_allowed(struct vcpu *v, uint64_t index, unsigned size, uint64_t *data)
{
    const struct machine_ops *ops = v->lockstep->ops;

    *data = 0;
    return !ops->msr_allowed || ops->msr_allowed(v, (uint32_t)index, size == 1);
}

static bool msr_allowed(struct vcpu *v, uint32_t index, bool write)
{
    uint64_t none = 0;

    return read_op(v, DEVICE_ALLOWED, index, write, &none, real_allowed);
}

static int real_cr8_read(struct vcpu *v, uint64_t addr, unsigned size, uint64_t *data)
{
    (void)addr, (void)size;
    *data = v->lockstep->ops->cr8_read ? v->lockstep->ops->cr8_read(v) : v->cr8;
    return 0;
}

static uint8_t cr8_read(struct vcpu *v)
{
    uint64_t data = 0;

    read_op(v, DEVICE_CR8_READ, 0, 1, &data, real_cr8_read);
    return (uint8_t)data;
}

static int real_cr8_write(struct vcpu *v, uint64_t addr, unsigned size, uint64_t data)
{
    (void)addr, (void)size;
    if (v->lockstep->ops->cr8_write)
        v->lockstep->ops->cr8_write(v, (uint8_t)data);
    else
        v->cr8 = data;
    return 0;
}

static void cr8_write(struct vcpu *v, uint8_t tpr)
{
    write_op(v, DEVICE_CR8_WRITE, 0, 1, tpr, real_cr8_write);
    if (!v->lockstep->ops->cr8_write)
        v->cr8 = tpr;
}

/* A hypercall's result is in RAX, whoever put it there. */
static int real_hypercall(struct vcpu *v, uint64_t nr, unsigned size, uint64_t *data)
{
    int result;

    (void)nr, (void)size;
    result = v->lockstep->ops->hypercall && v->lockstep->ops->hypercall(v);
    *data = v->gpr[RAX];
    return result;
}

static bool hypercall(struct vcpu *v)
{
    uint64_t rax = v->gpr[RAX];
    bool done = read_op(v, DEVICE_HYPERCALL, rax, 8, &rax, real_hypercall);

    v->gpr[RAX] = rax;
    return done;
}

/* As long as it is switched only between runs, nothing to record. */
static bool replaces_hypercall(struct vcpu *v)
{
    return v->lockstep->ops->replaces_hypercall && v->lockstep->ops->replaces_hypercall(v);
}

static int real_apic(struct vcpu *v, uint64_t addr, unsigned size, uint64_t *data)
{
    (void)addr, (void)size;
    *data = v->lockstep->ops->apic_enabled && v->lockstep->ops->apic_enabled(v);
    return 0;
}

static bool apic_enabled(struct vcpu *v)
{
    uint64_t data = 0;

    read_op(v, DEVICE_APIC, 0, 1, &data, real_apic);
    return data;
}

/* One vCPU: nobody else holds decoded code. */
const struct machine_ops lockstep_ops = {.mmio_read = mmio_read,
                                         .mmio_write = mmio_write,
                                         .pio_in = pio_in,
                                         .pio_out = pio_out,
                                         .rdmsr = rdmsr,
                                         .wrmsr = wrmsr,
                                         .msr_allowed = msr_allowed,
                                         .cr8_read = cr8_read,
                                         .cr8_write = cr8_write,
                                         .hypercall = hypercall,
                                         .replaces_hypercall = replaces_hypercall,
                                         .apic_enabled = apic_enabled};
