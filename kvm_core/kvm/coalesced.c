/* Coalesced MMIO and PIO: writes that wait in a ring until the client comes by (KVM API 4.116). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/kvm.h"

enum { RING_ENTRIES = (KVM_PAGE - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio) };

int zone_register(struct kvm_vm *vm, const struct kvm_coalesced_mmio_zone *z)
{
    struct zone *grown;
    int err = 0;

    if (z->pio != 0 && z->pio != 1)
        return -EINVAL;
    pthread_rwlock_wrlock(&vm->io_lock);
    if (vm->zone_count >= IO_BUS_MAX) {
        err = -ENOSPC;
    } else if (!(grown = realloc(vm->zones, (vm->zone_count + 1) * sizeof(*grown)))) {
        err = -ENOMEM;
    } else {
        vm->zones = grown;
        grown[vm->zone_count] = (struct zone){z->addr, z->size, z->pio};
        atomic_fetch_add(&vm->zone_count, 1);
    }
    pthread_rwlock_unlock(&vm->io_lock);
    return err;
}

/* Every zone inside the one given goes. */
int zone_unregister(struct kvm_vm *vm, const struct kvm_coalesced_mmio_zone *z)
{
    unsigned kept = 0;

    if (z->pio != 0 && z->pio != 1)
        return -EINVAL;
    pthread_rwlock_wrlock(&vm->io_lock);
    for (unsigned i = 0; i < vm->zone_count; i++) {
        const struct zone *k = &vm->zones[i];
        bool inside = k->pio == z->pio && k->addr >= z->addr && k->addr - z->addr <= z->size &&
                      k->size_bytes <= z->size - (k->addr - z->addr);
        if (!inside)
            vm->zones[kept++] = *k;
    }
    atomic_store(&vm->zone_count, kept);
    pthread_rwlock_unlock(&vm->io_lock);
    return 0;
}

/* vm->io_lock is held. */
static bool zone_hit(const struct kvm_vm *vm, uint64_t addr, unsigned size, bool pio)
{
    for (unsigned i = 0; i < vm->zone_count; i++) {
        const struct zone *z = &vm->zones[i];
        if (z->pio == pio && addr >= z->addr && addr - z->addr < z->size_bytes &&
            size <= z->size_bytes - (addr - z->addr))
            return true;
    }
    return false;
}

/* -> false: it is full. The client owns `first` and may write anything there. */
static bool ring_put(struct kvm_vm *vm, struct kvm_coalesced_mmio_ring *ring, uint64_t addr, const void *data, unsigned size, bool pio)
{
    uint32_t last, next;
    bool done = false;

    pthread_mutex_lock(&vm->ring_lock);
    last = __atomic_load_n(&ring->last, __ATOMIC_RELAXED) % RING_ENTRIES;
    next = (last + 1) % RING_ENTRIES;
    if (next != __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE)) {
        struct kvm_coalesced_mmio *e = &ring->coalesced_mmio[last];
        e->phys_addr = addr;
        e->len = size;
        memcpy(e->data, data, size);
        e->pio = pio;
        __atomic_store_n(&ring->last, next, __ATOMIC_RELEASE);
        done = true;
    }
    pthread_mutex_unlock(&vm->ring_lock);
    return done;
}

/* False: no zone, or the ring is full, and the access exits. When a zone has been unregistered, no write to it is on its way
 * into the ring any more: the lock is held until it is there. */
bool zone_write(struct kvm_vm *vm, uint64_t addr, const void *data, unsigned size, bool pio)
{
    struct kvm_coalesced_mmio_ring *ring = atomic_load(&vm->ring);
    bool done;

    if (!atomic_load_explicit(&vm->zone_count, memory_order_relaxed) || !ring)
        return false;
    pthread_rwlock_rdlock(&vm->io_lock);
    done = zone_hit(vm, addr, size, pio) && ring_put(vm, ring, addr, data, size, pio);
    pthread_rwlock_unlock(&vm->io_lock);
    return done;
}
