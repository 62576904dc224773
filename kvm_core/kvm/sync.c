/* How vCPUs reach each other while they run: requests and their acknowledgement, standing alone, pages of code (cpu/sync.h). */
#include <sched.h>
#include <time.h>

#include "kvm/kvm.h"

/* ---- requests to running vCPUs --------------------------------------------------------------------------------- */

void vcpu_take_map(struct kvm_vcpu *kv)
{
    kv->cpu.phys = atomic_load(&kv->vm->map);
    kv->cpu.slot_near = NULL;
}

/* Serves what has been asked of a vCPU; by its own thread, outside of the engine. in_guest stays set meanwhile, so that
 * the map in use is not freed. */
void vcpu_drain(struct kvm_vcpu *kv)
{
    uint32_t requests = __atomic_exchange_n(&kv->cpu.requests, 0, __ATOMIC_SEQ_CST);

    if (!requests)
        return;
    if (requests & REQ_PHYS_CHANGED)
        vcpu_take_map(kv);
    cpu_serve(&kv->cpu, requests);
}

/* In the middle of an instruction all but a new memory map can be served. */
static void serve_while_waiting(struct kvm_vcpu *self)
{
    uint32_t requests;

    if (!self)
        return;
    requests = __atomic_fetch_and(&self->cpu.requests, (uint32_t)REQ_PHYS_CHANGED, __ATOMIC_SEQ_CST);
    if (requests & ~(uint32_t)REQ_PHYS_CHANGED)
        cpu_serve(&self->cpu, requests & ~(uint32_t)REQ_PHYS_CHANGED);
}

static void request(struct kvm_vcpu *kv, uint32_t what)
{
    __atomic_fetch_or(&kv->cpu.requests, what, __ATOMIC_SEQ_CST);
    __atomic_store_n(&kv->cpu.kick, 1, __ATOMIC_SEQ_CST);
}

/* One turn of a wait for another vCPU's next block end. */
static void wait_turn(struct kvm_vcpu *self, unsigned *turns)
{
    serve_while_waiting(self);
    if (++*turns < 1000) {
        sched_yield();
    } else {
        struct timespec ts = {0, 20000};
        nanosleep(&ts, NULL);
    }
}

static void wait_served(struct kvm_vcpu *kv, uint32_t what, struct kvm_vcpu *self)
{
    unsigned turns = 0;

    while (__atomic_load_n(&kv->cpu.in_guest, __ATOMIC_SEQ_CST) &&
           (__atomic_load_n(&kv->cpu.requests, __ATOMIC_SEQ_CST) & what))
        wait_turn(self, &turns);
}

void vm_quiesce(struct kvm_vm *vm, uint32_t what, struct kvm_vcpu *self)
{
    unsigned n = atomic_load(&vm->vcpus);

    atomic_fetch_add(&vm->stat_flushes, 1);
    for (unsigned i = 0; i < n; i++)
        if (vm->vcpu[i] != self)
            request(vm->vcpu[i], what);
    for (unsigned i = 0; i < n; i++)
        if (vm->vcpu[i] != self)
            wait_served(vm->vcpu[i], what, self);
}

void ops_pause_loop(struct vcpu *v)
{
    if (atomic_load(&kvm_of(v)->vm->vcpus) > 1)
        sched_yield();
}

/* ---- alone in the machine: a LOCK whose operand lies in two pages ------------------------------------------------ */

/* The others are outside of the engine when this returns, or wait in here for their own turn, and stay so until
 * ops_exclusive_end(). enter() looks at vm->exclusive after it has set in_guest. */
void ops_exclusive_begin(struct vcpu *v)
{
    struct kvm_vcpu *self = kvm_of(v), *owner = NULL;
    struct kvm_vm *vm = self->vm;
    unsigned n = atomic_load(&vm->vcpus), turns = 0;

    atomic_store(&self->paused, true);
    while (!atomic_compare_exchange_strong(&vm->exclusive, &owner, self)) {
        owner = NULL;
        wait_turn(self, &turns);
    }
    for (unsigned i = 0; i < n; i++)
        if (vm->vcpu[i] != self)
            request(vm->vcpu[i], 0);
    for (unsigned i = 0; i < n; i++)
        while (vm->vcpu[i] != self && __atomic_load_n(&vm->vcpu[i]->cpu.in_guest, __ATOMIC_SEQ_CST) &&
               !atomic_load(&vm->vcpu[i]->paused))
            wait_turn(self, &turns);
}

void ops_exclusive_end(struct vcpu *v)
{
    struct kvm_vcpu *self = kvm_of(v);

    atomic_store(&self->paused, false); /* first: the next owner must not take it for waiting */
    atomic_store(&self->vm->exclusive, NULL);
}

/* With nobody's vCPU as the one that is alone. One that waits for its own turn inside an instruction counts as outside: it is held. */
void vm_hold(struct kvm_vm *vm, uint32_t what)
{
    struct kvm_vcpu *nobody = (struct kvm_vcpu *)vm, *owner = NULL;
    unsigned n = atomic_load(&vm->vcpus), turns = 0;

    while (!atomic_compare_exchange_strong(&vm->exclusive, &owner, nobody)) {
        owner = NULL;
        wait_turn(NULL, &turns);
    }
    for (unsigned i = 0; i < n; i++)
        request(vm->vcpu[i], what);
    for (unsigned i = 0; i < n; i++)
        while (__atomic_load_n(&vm->vcpu[i]->cpu.in_guest, __ATOMIC_SEQ_CST) && !atomic_load(&vm->vcpu[i]->paused))
            wait_turn(NULL, &turns);
}

void vm_let_go(struct kvm_vm *vm) { atomic_store(&vm->exclusive, NULL); }

void vcpu_enter_engine(struct kvm_vcpu *kv)
{
    for (;;) {
        __atomic_store_n(&kv->cpu.in_guest, 1, __ATOMIC_SEQ_CST);
        if (likely(!atomic_load(&kv->vm->exclusive)))
            return;
        __atomic_store_n(&kv->cpu.in_guest, 0, __ATOMIC_SEQ_CST);
        sched_yield();
    }
}

/* ---- code pages: the machine's side of isa/codecache ------------------------------------------------------------ */

/* The other guest addresses of a page of the client's; -> false when the slot does not hold it. By the client's address:
 * for a client elsewhere, two slots of one page are mapped here at two places. */
static bool slot_maps(const struct memslot *s, uint64_t addr, uint64_t *page)
{
    uint64_t at = addr - s->userspace_addr;

    *page = at / KVM_PAGE;
    return at < s->size_bytes;
}

void ops_code_page(struct vcpu *v, struct memslot *slot, uint64_t page)
{
    struct kvm_vcpu *kv = kvm_of(v);
    uint64_t addr = slot->userspace_addr + page * KVM_PAGE;
    uint64_t other;

    for (unsigned i = 0; kv->vm->aliases && i < v->phys->count; i++) {
        struct memslot *s = v->phys->slot[i];
        if (s != slot && slot_maps(s, addr, &other)) /* all bits: a store there always comes to ops_code_written */
            __atomic_fetch_or(&s->page_flags[other], PAGE_CODE_ANY, __ATOMIC_SEQ_CST);
    }
    if (kv->vm->aliases)
        __atomic_fetch_or(&slot->page_flags[page], PAGE_CODE_ANY, __ATOMIC_SEQ_CST);
    vm_quiesce(kv->vm, REQ_WRITE_PROTECT, kv);
}

static void drop_page(struct kvm_vcpu *target, struct kvm_vcpu *self, uint64_t gpa)
{
    const struct phys_map *map = self->cpu.phys;
    struct page_ref ref;
    uint64_t other;

    cpu_code_drop(&target->cpu, gpa);
    if (!self->vm->aliases || !phys_lookup(map, gpa, &ref))
        return;
    for (unsigned i = 0; i < map->count; i++)
        if (map->slot[i] != ref.slot && slot_maps(map->slot[i], ref.slot->userspace_addr + ref.page * KVM_PAGE, &other))
            cpu_code_drop(&target->cpu, map->slot[i]->gpa + other * KVM_PAGE);
}

void ops_code_written(struct vcpu *v, uint64_t gpa, unsigned size, uint8_t holders)
{
    struct kvm_vcpu *self = kvm_of(v);
    unsigned n = atomic_load(&self->vm->vcpus);

    (void)size;
    if (self->vm->aliases) {
        drop_page(self, self, gpa);
        request(self, REQ_CODE_DROP);
    }
    for (unsigned i = 0; i < n; i++) {
        struct kvm_vcpu *kv = self->vm->vcpu[i];
        if (kv == self || !(holders & page_code_flag(i)))
            continue;
        drop_page(kv, self, gpa);
        request(kv, REQ_CODE_DROP);
    }
    for (unsigned i = 0; i < n; i++)
        if (self->vm->vcpu[i] != self && (holders & page_code_flag(i)))
            wait_served(self->vm->vcpu[i], REQ_CODE_DROP, self);
}
