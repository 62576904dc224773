/* A virtual machine: its life and its ioctls. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "kvm/kvm.h"

/* ---- what the interrupt controllers ask for ------------------------------------------------------------------- */

static void op_kick(void *owner)
{
    vcpu_kick(owner);
}

static void op_nmi(void *owner)
{
    struct kvm_vcpu *kv = owner;
    uint32_t n = atomic_load(&kv->nmi_queued);

    while (n < 2 && !atomic_compare_exchange_weak(&kv->nmi_queued, &n, n + 1))
        ;
    vcpu_kick(kv);
}

static void op_init(void *owner)
{
    struct kvm_vcpu *kv = owner;

    atomic_fetch_and(&kv->events, ~(uint32_t)VCPU_SIPI);
    vcpu_post(kv, VCPU_INIT);
}

static void op_sipi(void *owner, uint8_t vector)
{
    struct kvm_vcpu *kv = owner;

    atomic_store(&kv->sipi_vector, vector);
    vcpu_post(kv, VCPU_SIPI);
}

static void op_eoi_exit(void *owner, uint8_t vector)
{
    struct kvm_vcpu *kv = owner;

    atomic_fetch_or(&kv->eoi_exits[vector / 64], 1ull << vector % 64);
    vcpu_kick(kv);
}

static uint64_t op_tsc_now(void *owner)
{
    return cpu_rdtsc(&((struct kvm_vcpu *)owner)->cpu);
}

static uint64_t op_tsc_khz(void *owner)
{
    return ((struct kvm_vcpu *)owner)->cpu.tsc_khz;
}

const struct irq_ops vm_irq_ops = {
    .kick = op_kick,
    .nmi = op_nmi,
    .init_ipi = op_init,
    .sipi = op_sipi,
    .gsi_acked = irqfd_acked,
    .ioapic_eoi_exit = op_eoi_exit,
    .tsc_now = op_tsc_now,
    .tsc_khz = op_tsc_khz,
};

/* ---- life --------------------------------------------------------------------------------------------------- */

static struct kvm_vm *vm_new(const struct client *c)
{
    static _Atomic unsigned number;
    struct kvm_vm *vm = calloc(1, sizeof(*vm));

    if (!vm)
        return NULL;
    vm->refs = 1;
    vm->client = *c;
    vm->number = atomic_fetch_add(&number, 1);
    vm->stat_fd = -1;
    pthread_mutex_init(&vm->lock, NULL);
    pthread_mutex_init(&vm->slots_lock, NULL);
    pthread_rwlock_init(&vm->io_lock, NULL);
    pthread_mutex_init(&vm->ring_lock, NULL);
    pthread_mutex_init(&vm->ack_lock, NULL);
    clock_vm_init(vm);
    vm->map = calloc(1, sizeof(struct phys_map));
    if (!vm->map || irqchip_init(&vm->irq, &vm_irq_ops, vm, NULL)) {
        free(vm->map);
        free(vm);
        return NULL;
    }
    backing_add(vm);
    return vm;
}

int vm_create(const struct client *c, uint64_t type)
{
    struct kvm_vm *vm;
    int fd;

    if (type)
        return -EINVAL;
    vm = vm_new(c);
    if (!vm)
        return -ENOMEM;
    fd = c->ops->install(c, OBJECT_VM, vm, -1);
    if (fd < 0)
        vm_put(vm);
    return fd;
}

void vm_get(struct kvm_vm *vm)
{
    atomic_fetch_add(&vm->refs, 1);
}

void vm_put(struct kvm_vm *vm)
{
    if (atomic_fetch_sub(&vm->refs, 1) != 1)
        return;
    backing_remove(vm);
    eventfd_destroy_all(vm);
    for (unsigned i = 0; i < vm->vcpus; i++)
        vcpu_destroy(vm->vcpu[i]);
    irqchip_destroy(&vm->irq);
    memslot_destroy_all(vm);
    msrs_filter_free(vm->msr_filter);
    stats_free(vm->stat_fd, vm->stat_page);
    free(vm->zones);
    pthread_mutex_destroy(&vm->lock);
    pthread_mutex_destroy(&vm->slots_lock);
    pthread_rwlock_destroy(&vm->io_lock);
    pthread_mutex_destroy(&vm->ring_lock);
    pthread_mutex_destroy(&vm->ack_lock);
    free(vm);
}

struct kvm_vcpu *vm_vcpu_by_id(struct kvm_vm *vm, uint32_t id)
{
    unsigned n = atomic_load(&vm->vcpus);

    for (unsigned i = 0; i < n; i++)
        if (vm->vcpu[i]->id == id)
            return vm->vcpu[i];
    return NULL;
}

/* ---- ioctls ------------------------------------------------------------------------------------------------- */

static int set_memory(struct kvm_vm *vm, const struct client *c, uintptr_t arg, bool second)
{
    struct kvm_userspace_memory_region2 r = {0};
    int err = client_read(c, &r, arg, second ? sizeof(r) : sizeof(struct kvm_userspace_memory_region));

    if (err)
        return err;
    return memslot_set(vm, c, (const struct kvm_userspace_memory_region *)&r); /* the same up to userspace_addr */
}

static int dirty_log(struct kvm_vm *vm, const struct client *c, unsigned long req, uintptr_t arg)
{
    struct kvm_dirty_log get;
    struct kvm_clear_dirty_log clear;

    if (req == KVM_GET_DIRTY_LOG ? GET(c, get, arg) : GET(c, clear, arg))
        return -EFAULT;
    if (req == KVM_GET_DIRTY_LOG) {
        get.dirty_bitmap = client_pointer(c, get.dirty_bitmap);
        return memslot_get_dirty(vm, c, &get);
    }
    clear.dirty_bitmap = client_pointer(c, clear.dirty_bitmap);
    return memslot_clear_dirty(vm, c, &clear);
}

static int create_irqchip(struct kvm_vm *vm)
{
    int err;

    pthread_mutex_lock(&vm->lock);
    err = irqchip_create(&vm->irq, vm->vcpus != 0);
    pthread_mutex_unlock(&vm->lock);
    return err;
}

static int irq_line(struct kvm_vm *vm, const struct client *c, unsigned long req, uintptr_t arg)
{
    struct kvm_irq_level level;

    if (GET(c, level, arg))
        return -EFAULT;
    if (!vm_has_irqchip(vm))
        return -ENXIO;
    level.status = (uint32_t)irqchip_set_line(&vm->irq, level.irq, IRQ_SOURCE_USER, level.level != 0,
                                              req == KVM_IRQ_LINE_STATUS);
    return req == KVM_IRQ_LINE_STATUS ? PUT(c, arg, level) : 0;
}

static int signal_msi(struct kvm_vm *vm, const struct client *c, uintptr_t arg)
{
    struct kvm_msi msi;

    if (GET(c, msi, arg))
        return -EFAULT;
    if (!vm_has_irqchip(vm) || msi.flags)
        return -EINVAL;
    return irqchip_send_msi(&vm->irq, &msi);
}

static int set_routing(struct kvm_vm *vm, const struct client *c, uintptr_t arg)
{
    struct kvm_irq_routing head;
    struct kvm_irq_routing_entry *entries;
    int err;

    if (GET(c, head, arg))
        return -EFAULT;
    if (!vm_has_irqchip(vm) || head.nr > ROUTING_MAX_ENTRIES || head.flags)
        return -EINVAL;
    entries = client_read_array(c, arg + sizeof(head), head.nr, sizeof(*entries), &err);
    if (!entries)
        return err;
    err = irqchip_set_routing(&vm->irq, entries, head.nr);
    free(entries);
    return err;
}

static int irqchip_state(struct kvm_vm *vm, const struct client *c, bool set, uintptr_t arg)
{
    struct kvm_irqchip chip;
    int err;

    if (GET(c, chip, arg))
        return -EFAULT;
    if (vm->irq.mode != IRQCHIP_KERNEL)
        return -ENXIO;
    if (set)
        return irqchip_set_state(&vm->irq, &chip);
    err = irqchip_get_state(&vm->irq, &chip);
    return err ? err : PUT(c, arg, chip);
}

static int create_pit(struct kvm_vm *vm, const struct client *c, unsigned long req, uintptr_t arg)
{
    struct kvm_pit_config config = {.flags = KVM_PIT_SPEAKER_DUMMY};
    int err;

    if (req == KVM_CREATE_PIT2 && GET(c, config, arg))
        return -EFAULT;
    pthread_mutex_lock(&vm->lock);
    err = irqchip_create_pit(&vm->irq, config.flags & KVM_PIT_SPEAKER_DUMMY);
    pthread_mutex_unlock(&vm->lock);
    return err;
}

static int pit_state(struct kvm_vm *vm, const struct client *c, unsigned long req, uintptr_t arg)
{
    struct kvm_pit_state one = {0};
    struct kvm_pit_state2 two = {0};
    int err;

    if ((req == KVM_SET_PIT && GET(c, one, arg)) || (req == KVM_SET_PIT2 && GET(c, two, arg)))
        return -EFAULT;
    if (!vm->irq.has_pit)
        return -ENXIO;
    switch (req) {
    case KVM_SET_PIT: return irqchip_set_pit1(&vm->irq, &one);
    case KVM_SET_PIT2: return irqchip_set_pit(&vm->irq, &two);
    case KVM_GET_PIT:
        err = irqchip_get_pit1(&vm->irq, &one);
        return err ? err : PUT(c, arg, one);
    default:
        err = irqchip_get_pit(&vm->irq, &two);
        return err ? err : PUT(c, arg, two);
    }
}

static int reinject_control(struct kvm_vm *vm, const struct client *c, uintptr_t arg)
{
    struct kvm_reinject_control control;

    if (GET(c, control, arg))
        return -EFAULT;
    return vm->irq.has_pit ? irqchip_set_reinject(&vm->irq, control.pit_reinject) : -ENXIO;
}

static int vm_clock(struct kvm_vm *vm, const struct client *c, bool set, uintptr_t arg)
{
    struct kvm_clock_data d = {0};

    if (!set)
        return clock_get(vm, &d) ? -EINVAL : PUT(c, arg, d);
    return GET(c, d, arg) ? -EFAULT : clock_set(vm, &d);
}

/* Addresses below 4 GiB are not used by an emulated processor, but the client expects the checks. */
static int set_addresses(struct kvm_vm *vm, const struct client *c, unsigned long req, uintptr_t arg)
{
    uint64_t addr;
    int err = 0;

    if (req == KVM_SET_TSS_ADDR) {
        if (arg > (uint32_t)(-3 * KVM_PAGE))
            return -EINVAL;
        vm->tss_addr = arg;
        return 0;
    }
    if (GET(c, addr, arg))
        return -EFAULT;
    pthread_mutex_lock(&vm->lock);
    if (vm->vcpus)
        err = -EINVAL;
    else
        vm->identity_map_addr = addr;
    pthread_mutex_unlock(&vm->lock);
    return err;
}

/* -EBUSY: there are vCPUs; -EINVAL: no vCPU could have that number */
static int set_boot_cpu(struct kvm_vm *vm, uintptr_t arg)
{
    int err = 0;

    pthread_mutex_lock(&vm->lock);
    if (vm->vcpus)
        err = -EBUSY;
    else if (arg > (vm->max_vcpu_ids ? vm->max_vcpu_ids : VCPU_IDS_MAX))
        err = -EINVAL;
    else
        vm->bsp_id = (uint32_t)arg;
    pthread_mutex_unlock(&vm->lock);
    return err;
}

static int enable_cap(struct kvm_vm *vm, const struct client *c, uintptr_t arg)
{
    struct kvm_enable_cap cap;

    return GET(c, cap, arg) ? -EFAULT : caps_enable_vm(vm, &cap);
}

static int coalesced(struct kvm_vm *vm, const struct client *c, bool add, uintptr_t arg)
{
    struct kvm_coalesced_mmio_zone zone;

    if (GET(c, zone, arg))
        return -EFAULT;
    return add ? zone_register(vm, &zone) : zone_unregister(vm, &zone);
}

static int set_ioeventfd(struct kvm_vm *vm, const struct client *c, uintptr_t arg)
{
    struct kvm_ioeventfd e;

    return GET(c, e, arg) ? -EFAULT : ioeventfd_set(vm, c, &e);
}

static int set_irqfd(struct kvm_vm *vm, const struct client *c, uintptr_t arg)
{
    struct kvm_irqfd i;

    return GET(c, i, arg) ? -EFAULT : irqfd_set(vm, c, &i);
}

static int create_device(const struct client *c, uintptr_t arg)
{
    struct kvm_create_device d;

    return GET(c, d, arg) ? -EFAULT : -ENODEV; /* none exist on x86 without VFIO */
}

static int set_tsc_khz(struct kvm_vm *vm, uintptr_t khz)
{
    uint32_t host = host_tsc_khz();

    if (khz && (khz > host + host / 4000 || khz < host - host / 4000))
        return -EINVAL; /* no TSC scaling; 250 ppm, as Linux */
    if (vm->vcpus)
        return -EINVAL;
    vm->tsc_khz = khz ? (uint32_t)khz : host;
    return 0;
}

static int vm_irq_ioctl(struct kvm_vm *vm, const struct client *c, unsigned long req, uintptr_t arg)
{
    switch (req) {
    case KVM_CREATE_IRQCHIP: return create_irqchip(vm);
    case KVM_IRQ_LINE:
    case KVM_IRQ_LINE_STATUS: return irq_line(vm, c, req, arg);
    case KVM_SIGNAL_MSI: return signal_msi(vm, c, arg);
    case KVM_SET_GSI_ROUTING: return set_routing(vm, c, arg);
    case KVM_GET_IRQCHIP: return irqchip_state(vm, c, false, arg);
    case KVM_SET_IRQCHIP: return irqchip_state(vm, c, true, arg);
    case KVM_CREATE_PIT:
    case KVM_CREATE_PIT2: return create_pit(vm, c, req, arg);
    case KVM_GET_PIT:
    case KVM_SET_PIT:
    case KVM_GET_PIT2:
    case KVM_SET_PIT2: return pit_state(vm, c, req, arg);
    case KVM_REINJECT_CONTROL: return reinject_control(vm, c, arg);
    case KVM_IRQFD: return set_irqfd(vm, c, arg);
    case KVM_IOEVENTFD: return set_ioeventfd(vm, c, arg);
    default: return -ENOTTY;
    }
}

int vm_ioctl(struct kvm_vm *vm, const struct client *c, unsigned long req, uintptr_t arg)
{
    switch (req) {
    case KVM_CREATE_VCPU: return vcpu_create(vm, c, arg);
    case KVM_CHECK_EXTENSION: return caps_check(vm, arg);
    case KVM_ENABLE_CAP: return enable_cap(vm, c, arg);
    case KVM_SET_USER_MEMORY_REGION: return set_memory(vm, c, arg, false);
    case KVM_SET_USER_MEMORY_REGION2: return set_memory(vm, c, arg, true);
    case KVM_GET_DIRTY_LOG:
    case KVM_CLEAR_DIRTY_LOG: return dirty_log(vm, c, req, arg);
    case KVM_REGISTER_COALESCED_MMIO: return coalesced(vm, c, true, arg);
    case KVM_UNREGISTER_COALESCED_MMIO: return coalesced(vm, c, false, arg);
    case KVM_GET_CLOCK: return vm_clock(vm, c, false, arg);
    case KVM_SET_CLOCK: return vm_clock(vm, c, true, arg);
    case KVM_SET_TSS_ADDR:
    case KVM_SET_IDENTITY_MAP_ADDR: return set_addresses(vm, c, req, arg);
    case KVM_SET_BOOT_CPU_ID: return set_boot_cpu(vm, arg);
    case KVM_X86_SET_MSR_FILTER: return msrs_set_filter(vm, c, req, arg);
    case KVM_X86_SET_MSR_FILTER_COMPAT: return c->compat ? msrs_set_filter(vm, c, req, arg) : -ENOTTY;
    case KVM_CREATE_DEVICE: return create_device(c, arg);
    case KVM_GET_STATS_FD: return stats_vm_fd(vm, c);
    case KVM_GET_TSC_KHZ: return (int)vm->tsc_khz;
    case KVM_SET_TSC_KHZ: return set_tsc_khz(vm, arg);
    case KVM_SET_NR_MMU_PAGES: return (uint32_t)arg < 64 ? -EINVAL : 0;
    default: return vm_irq_ioctl(vm, c, req, arg);
    }
}
