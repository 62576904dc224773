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

static bool zone_hit(struct kvm_vm *vm, uint64_t addr, unsigned size, bool pio)
{
    bool hit = false;

    pthread_rwlock_rdlock(&vm->io_lock);
    for (unsigned i = 0; i < vm->zone_count && !hit; i++) {
        const struct zone *z = &vm->zones[i];
        hit = z->pio == pio && addr >= z->addr && addr - z->addr < z->size_bytes &&
              size <= z->size_bytes - (addr - z->addr);
    }
    pthread_rwlock_unlock(&vm->io_lock);
    return hit;
}

/* False: no zone, or the ring is full, and the access exits. The client owns `first` and may write anything there. */
bool zone_write(struct kvm_vm *vm, uint64_t addr, const void *data, unsigned size, bool pio)
{
    struct kvm_coalesced_mmio_ring *ring = atomic_load(&vm->ring);
    uint32_t last, next;
    bool done = false;

    if (!atomic_load_explicit(&vm->zone_count, memory_order_relaxed) || !ring || !zone_hit(vm, addr, size, pio))
        return false;
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
