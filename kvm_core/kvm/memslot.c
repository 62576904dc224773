/* Memory slots: KVM_SET_USER_MEMORY_REGION, the dirty logs.
 *
 * A slot, once in a map, never changes: a new slot and a new map replace it, the vCPUs acknowledge, then the old ones are
 * freed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/kvm.h"

static size_t slot_pages(const struct kvm_slot *k)
{
    return k->s.size_bytes / KVM_PAGE;
}

static size_t dirty_words(const struct kvm_slot *k)
{
    return (slot_pages(k) + 63) / 64;
}

static struct kvm_slot *slot_find(struct kvm_vm *vm, uint32_t id)
{
    return id < vm->slots_size ? vm->slot[id] : NULL;
}

static int slot_reserve(struct kvm_vm *vm, uint32_t id)
{
    unsigned size = vm->slots_size ? vm->slots_size : 16;
    struct kvm_slot **grown;

    if (id < vm->slots_size)
        return 0;
    while (size <= id)
        size *= 2;
    grown = realloc(vm->slot, size * sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    memset(grown + vm->slots_size, 0, (size - vm->slots_size) * sizeof(*grown));
    vm->slot = grown;
    vm->slots_size = size;
    return 0;
}

static void slot_free(struct kvm_vm *vm, struct kvm_slot *k, const struct kvm_slot *heir)
{
    if (!k)
        return;
    if (k->obj.host && (!heir || heir->obj.host != k->obj.host))
        vm->client.ops->unmap(k->obj.host, k->obj.size_bytes);
    if (!heir || heir->s.page_flags != k->s.page_flags)
        free(k->s.page_flags);
    if (!heir || heir->s.dirty != k->s.dirty)
        free(k->s.dirty);
    free(k);
}

/* old: the slot of this id so far, of the same size; its page flags and log are kept if they still apply. */
static struct kvm_slot *slot_new(struct kvm_vm *vm, const struct client *c,
                                 const struct kvm_userspace_memory_region *r, const struct kvm_slot *old, int *error)
{
    struct kvm_slot *k = calloc(1, sizeof(*k));
    bool all_dirty = vm->manual_dirty & KVM_DIRTY_LOG_INITIALLY_SET;

    *error = -ENOMEM;
    if (!k)
        return NULL;
    k->flags = r->flags;
    k->obj.host = old ? old->obj.host : NULL;
    k->obj.size_bytes = r->memory_size;
    k->s.id = r->slot;
    k->s.readonly = r->flags & KVM_MEM_READONLY;
    k->s.gpa = r->guest_phys_addr;
    k->s.size_bytes = r->memory_size;
    k->s.userspace_addr = r->userspace_addr;
    k->s.obj = &k->obj;
    k->s.page_flags = old ? old->s.page_flags : calloc(slot_pages(k), 1);
    if (r->flags & KVM_MEM_LOG_DIRTY_PAGES) {
        if (old && old->s.dirty) {
            k->s.dirty = old->s.dirty;
        } else {
            k->s.dirty = calloc(dirty_words(k), sizeof(long));
            if (k->s.dirty && all_dirty)
                memset(k->s.dirty, 0xff, dirty_words(k) * sizeof(long));
        }
    }
    if (!k->s.page_flags || ((r->flags & KVM_MEM_LOG_DIRTY_PAGES) && !k->s.dirty)) {
        slot_free(vm, k, old);
        return NULL;
    }
    *error = old ? old->s.partial : c->ops->map(c, r->userspace_addr, r->memory_size, &k->obj.host);
    if (*error < 0) {
        k->obj.host = NULL;
        slot_free(vm, k, old);
        return NULL;
    }
    k->s.partial = *error;
    return k;
}

/* How many slots begin below gpa. */
static unsigned map_place(const struct phys_map *map, uint64_t gpa)
{
    return slots_below(map->slot, map->count, offsetof(struct memslot, gpa), gpa);
}

/* The map in force without `gone`, with `come`; either may be NULL. */
static struct phys_map *map_build(const struct phys_map *old, const struct memslot *gone, struct memslot *come)
{
    /* of few sizes: the allocator has fresh pages from the kernel for each that it does not know */
    struct phys_map *map = malloc(sizeof(*map) + (old->count / 512 + 1) * 512 * sizeof(map->slot[0]));
    unsigned n = gone ? map_place(old, gone->gpa) : old->count;

    if (!map)
        return NULL;
    map->generation = old->generation + 1;
    map->count = old->count - (gone != NULL);
    memcpy(map->slot, old->slot, n * sizeof(map->slot[0]));
    if (gone)
        memcpy(map->slot + n, old->slot + n + 1, (map->count - n) * sizeof(map->slot[0]));
    if (come) {
        n = map_place(map, come->gpa);
        memmove(map->slot + n + 1, map->slot + n, (map->count - n) * sizeof(map->slot[0]));
        map->slot[n] = come;
        map->count++;
    }
    return map;
}

/* Puts `k` (or nothing) in the place of the slot `id`. */
static int slot_replace(struct kvm_vm *vm, uint32_t id, struct kvm_slot *k)
{
    struct kvm_slot *old = vm->slot[id];
    struct phys_map *old_map = vm->map, *map = NULL;

    if (!slot_order_reserve(&vm->order))
        map = map_build(old_map, old ? &old->s : NULL, k ? &k->s : NULL);
    if (!map) {
        slot_free(vm, k, old);
        return -ENOMEM;
    }
    vm->slot[id] = k;
    if (old)
        slot_order_remove(&vm->order, &old->s);
    if (k)
        slot_order_add(&vm->order, &k->s);
    vm->aliases = vm->order.sharing;
    atomic_store(&vm->map, map);
    vm_quiesce(vm, REQ_PHYS_CHANGED, NULL);
    free(old_map);
    slot_free(vm, old, k);
    return 0;
}

static int region_check(const struct kvm_userspace_memory_region *r)
{
    const uint64_t user_top = 0x7ffffffff000; /* access_ok() of a 64-bit process */

    if (r->flags & ~(uint32_t)(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY))
        return -EINVAL;
    if ((r->memory_size | r->guest_phys_addr | r->userspace_addr) % KVM_PAGE)
        return -EINVAL;
    if (r->userspace_addr > user_top || r->memory_size > user_top - r->userspace_addr)
        return -EINVAL;
    if (r->slot >> 16 || r->slot >= USER_SLOTS_MAX)
        return -EINVAL;
    if (r->guest_phys_addr + r->memory_size < r->guest_phys_addr ||
        r->memory_size / KVM_PAGE > SLOT_PAGES_MAX)
        return -EINVAL;
    return 0;
}

/* Of the slots that begin below it only the last can reach into it: they do not overlap. */
static bool region_overlaps(struct kvm_vm *vm, const struct kvm_userspace_memory_region *r)
{
    const struct phys_map *map = vm->map;
    unsigned n = map_place(map, r->guest_phys_addr);

    for (n = n ? n - 1 : 0; n < map->count; n++) {
        const struct memslot *s = map->slot[n];
        if (s->gpa >= r->guest_phys_addr + r->memory_size)
            return false;
        if (s->id != r->slot && r->guest_phys_addr < s->gpa + s->size_bytes)
            return true;
    }
    return false;
}

static int region_apply(struct kvm_vm *vm, const struct client *c, const struct kvm_userspace_memory_region *r)
{
    struct kvm_slot *old = slot_find(vm, r->slot), *k;
    int error;

    if (!r->memory_size)
        return old ? slot_replace(vm, r->slot, NULL) : -EINVAL;
    if (old) {
        if (r->userspace_addr != old->s.userspace_addr || r->memory_size != old->s.size_bytes ||
            ((r->flags ^ old->flags) & KVM_MEM_READONLY))
            return -EINVAL;
        if (r->guest_phys_addr == old->s.gpa && r->flags == old->flags)
            return 0;
    }
    if (region_overlaps(vm, r))
        return -EEXIST;
    if (slot_reserve(vm, r->slot))
        return -ENOMEM;
    k = slot_new(vm, c, r, old, &error);
    return k ? slot_replace(vm, r->slot, k) : error;
}

/* KVM API 4.35. -EINVAL, -EEXIST on overlap, -ENOMEM; of a foreign client -EPERM, -EBUSY */
int memslot_set(struct kvm_vm *vm, const struct client *c, const struct kvm_userspace_memory_region *r)
{
    int err = region_check(r);

    if (err)
        return err;
    pthread_mutex_lock(&vm->slots_lock);
    err = region_apply(vm, c, r);
    pthread_mutex_unlock(&vm->slots_lock);
    return err;
}

void memslot_destroy_all(struct kvm_vm *vm)
{
    for (unsigned i = 0; i < vm->slots_size; i++)
        slot_free(vm, vm->slot[i], NULL);
    free(vm->slot);
    free(vm->order.slot);
    free(vm->map);
}

/* ---- dirty logs -------------------------------------------------------------------------------------------- */

static int dirty_slot(struct kvm_vm *vm, uint32_t id, struct kvm_slot **k)
{
    if (id >> 16 || id >= USER_SLOTS_MAX)
        return -EINVAL;
    *k = slot_find(vm, id);
    return *k && (*k)->s.dirty ? 0 : -ENOENT;
}

/* KVM API 4.8. Without manual protection the log is cleared; whoever writes afterwards marks again. */
int memslot_get_dirty(struct kvm_vm *vm, const struct client *c, const struct kvm_dirty_log *log)
{
    struct kvm_slot *k;
    unsigned long *copy;
    bool any = false;
    size_t words;
    int err;

    pthread_mutex_lock(&vm->slots_lock);
    err = dirty_slot(vm, log->slot, &k);
    if (err)
        goto out;
    words = dirty_words(k);
    err = -ENOMEM;
    copy = malloc(words * sizeof(*copy));
    if (!copy)
        goto out;
    for (size_t i = 0; i < words; i++) {
        copy[i] = vm->manual_dirty ? __atomic_load_n(&k->s.dirty[i], __ATOMIC_RELAXED)
                  : k->s.dirty[i]  ? __atomic_exchange_n(&k->s.dirty[i], 0, __ATOMIC_RELAXED)
                                   : 0;
        any |= copy[i] != 0;
    }
    if (slot_pages(k) % 64) /* bits beyond the end */
        copy[words - 1] &= (1ul << slot_pages(k) % 64) - 1;
    if (any && !vm->manual_dirty)
        vm_quiesce(vm, REQ_WRITE_PROTECT, NULL);
    err = client_write(c, (uintptr_t)log->dirty_bitmap, copy, words * sizeof(*copy));
    free(copy);
out:
    pthread_mutex_unlock(&vm->slots_lock);
    return err;
}

/* KVM API 4.117 */
int memslot_clear_dirty(struct kvm_vm *vm, const struct client *c, const struct kvm_clear_dirty_log *log)
{
    struct kvm_slot *k;
    unsigned long *mask = NULL;
    size_t words, first = log->first_page / 64;
    int err;

    if (log->first_page % 64)
        return -EINVAL;
    pthread_mutex_lock(&vm->slots_lock);
    err = dirty_slot(vm, log->slot, &k);
    if (err)
        goto out;
    err = -EINVAL;
    if (log->first_page > slot_pages(k) || log->num_pages > slot_pages(k) - log->first_page ||
        (log->num_pages < slot_pages(k) - log->first_page && log->num_pages % 64))
        goto out;
    words = (log->num_pages + 63) / 64;
    mask = client_read_array(c, (uintptr_t)log->dirty_bitmap, words, sizeof(*mask), &err);
    if (!mask)
        goto out;
    for (size_t i = 0; i < words; i++)
        __atomic_fetch_and(&k->s.dirty[first + i], ~mask[i], __ATOMIC_RELAXED);
    vm_quiesce(vm, REQ_WRITE_PROTECT, NULL);
    err = 0;
out:
    free(mask);
    pthread_mutex_unlock(&vm->slots_lock);
    return err;
}

/* ---- guest memory for the processor's own devices (kvmclock, PV EOI ...) ------------------------------------------- */

/* Inside the engine the vCPU's map cannot go away; outside, the lock holds it. */
static bool lock_map(struct kvm_vcpu *kv, const struct phys_map **map)
{
    if (kv->cpu.in_guest) {
        *map = kv->cpu.phys;
        return false;
    }
    pthread_mutex_lock(&kv->vm->slots_lock);
    *map = atomic_load(&kv->vm->map);
    return true;
}

bool vcpu_guest_has(struct kvm_vcpu *kv, uint64_t gpa)
{
    const struct phys_map *map;
    bool locked = lock_map(kv, &map), has;
    struct page_ref ref;

    has = phys_lookup(map, gpa, &ref);
    if (locked)
        pthread_mutex_unlock(&kv->vm->slots_lock);
    return has;
}

int vcpu_guest_read(struct kvm_vcpu *kv, uint64_t gpa, void *buf, size_t n)
{
    const struct phys_map *map;
    bool locked = lock_map(kv, &map);
    int err = phys_read(map, gpa, buf, n);

    if (locked)
        pthread_mutex_unlock(&kv->vm->slots_lock);
    return err;
}

int vcpu_guest_write(struct kvm_vcpu *kv, uint64_t gpa, const void *buf, size_t n)
{
    const struct phys_map *map;
    bool locked = lock_map(kv, &map);
    int err = phys_write(map, gpa, buf, n);

    if (locked)
        pthread_mutex_unlock(&kv->vm->slots_lock);
    return err;
}
