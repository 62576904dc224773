/* Guest memory is the client's own: it may unmap it, protect it or cut its file short while the machine has it as a slot. KVM_RUN then
 * says EFAULT (KVM API 5, KVM_EXIT_MEMORY_FAULT), at the instruction that wanted it.
 *
 * Whether memory is there is looked at when it enters a look-aside (mmu/reach.h). A client in this process that says what it is about
 * to do (kvmish_changing) has the look-asides emptied first; what it does without a word is found by the signal that it raises.
 * Of a client elsewhere we have the memory that there was when the slot was made; what it maps later is looked for when it is missed.
 */
#include <errno.h>
#include <signal.h>
#include <ucontext.h>

#include "kvm/door.h"
#include "kvm/kvm.h"
#include "mmu/reach.h"

/* ---- before it happens ------------------------------------------------------------------------------------------ */

static pthread_mutex_t vms_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvm_vm *vms;          /* of clients in this process */
static sigset_t outer_mask;         /* of the thread that is between kvmish_changing() and kvmish_changed(), with the lock */
static _Atomic uintptr_t low = UINTPTR_MAX, high; /* all slots lie between */

void backing_add(struct kvm_vm *vm)
{
    if (vm->client.pid)
        return;
    pthread_mutex_lock(&vms_lock);
    vm->next = vms;
    vms = vm;
    pthread_mutex_unlock(&vms_lock);
}

void backing_remove(struct kvm_vm *vm)
{
    if (vm->client.pid)
        return;
    pthread_mutex_lock(&vms_lock);
    for (struct kvm_vm **p = &vms; *p; p = &(*p)->next)
        if (*p == vm) {
            *p = vm->next;
            break;
        }
    pthread_mutex_unlock(&vms_lock);
}

void backing_forked(void)
{
    pthread_mutex_init(&vms_lock, NULL);
    vms = NULL;
}

void backing_widen(uintptr_t addr, size_t size_bytes)
{
    uintptr_t was = atomic_load(&low), end = atomic_load(&high);

    while (addr < was && !atomic_compare_exchange_weak(&low, &was, addr))
        ;
    while (addr + size_bytes > end && !atomic_compare_exchange_weak(&high, &end, addr + size_bytes))
        ;
}

static bool overlap(const struct iovec *place, uintptr_t from, uintptr_t to)
{
    return (uintptr_t)place->iov_base < to && from < (uintptr_t)place->iov_base + place->iov_len;
}

/* Has it guest memory there? If so its slots are no longer taken for writable throughout. */
static bool touches(struct kvm_vm *vm, const struct iovec *place)
{
    uintptr_t from = (uintptr_t)place->iov_base;
    bool found;

    pthread_mutex_lock(&vm->slots_lock);
    found = slot_order_set_partial(&vm->order, from, from + place->iov_len);
    pthread_mutex_unlock(&vm->slots_lock);
    return found;
}

bool kvmish_changing(const struct iovec *place, unsigned count)
{
    struct kvm_vcpu *self;
    sigset_t all, mask;
    bool any = false;

    for (unsigned i = 0; i < count; i++)
        any |= overlap(&place[i], atomic_load(&low), atomic_load(&high));
    if (!any)
        return false;
    any = false;
    self = running_here();
    if (self && __atomic_load_n(&self->cpu.in_guest, __ATOMIC_RELAXED))
        return false; /* a signal handler: the thread cannot wait for itself */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    pthread_mutex_lock(&vms_lock);
    outer_mask = mask;
    for (struct kvm_vm *vm = vms; vm; vm = vm->next) {
        for (unsigned i = 0; i < count; i++)
            vm->held |= touches(vm, &place[i]);
        any |= vm->held;
        if (vm->held)
            vm_hold(vm, REQ_PHYS_CHANGED);
    }
    if (!any) {
        pthread_mutex_unlock(&vms_lock);
        pthread_sigmask(SIG_SETMASK, &mask, NULL);
    }
    return any;
}

void kvmish_changed(void)
{
    sigset_t mask = outer_mask;

    for (struct kvm_vm *vm = vms; vm; vm = vm->next) {
        if (vm->held)
            vm_let_go(vm);
        vm->held = false;
    }
    pthread_mutex_unlock(&vms_lock);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

/* ---- when it has happened ----------------------------------------------------------------------------------------- */

static bool guest_page(const struct phys_map *map, uintptr_t addr, uint64_t *gpa)
{
    for (unsigned i = 0; map && i < map->count; i++) {
        const struct memslot *s = map->slot[i];
        uintptr_t at = addr - (uintptr_t)s->obj->host - s->obj_offset;
        if (at >= s->size_bytes)
            continue;
        *gpa = s->gpa + at;
        return true;
    }
    return false;
}

#ifdef __x86_64__

enum { RED_ZONE = 128, WRITE_ERROR = 2 }; /* in a page fault's error code: SDM vol. 3, 4.7 */
#define EFLAGS_DF 0x400ll

/* Where C code goes on that has met it, in the middle of an instruction. */
static _Noreturn void leave(struct kvm_vcpu *kv)
{
    if (atomic_load(&kv->vm->exclusive) == kv)
        ops_exclusive_end(&kv->cpu);
    cpu_leave(&kv->cpu, EXIT_UNBACKED);
}

bool kvmish_fault(uintptr_t addr, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    uintptr_t on = reach_recover((uintptr_t)regs[REG_RIP]);
    struct kvm_vcpu *kv = on ? NULL : running_here();
    uint64_t gpa;

    if (on) {
        regs[REG_RIP] = (greg_t)on;
        return true;
    }
    if (!kv || !kv->cpu.in_guest || !guest_page(kv->cpu.phys, addr, &gpa))
        return false;
    kv->cpu.unbacked = (gpa & ~(KVM_PAGE - 1ull)) | (regs[REG_ERR] & WRITE_ERROR ? UNBACKED_WRITE : UNBACKED_READ);
    __atomic_fetch_or(&kv->cpu.requests, REQ_PHYS_CHANGED, __ATOMIC_SEQ_CST); /* what led there leads there no more */
    vcpu_kick(kv);
    if (kv->cpu.translator && kv->cpu.translator->fault(&kv->cpu, regs))
        return true;
    regs[REG_RDI] = (greg_t)kv;
    regs[REG_RSP] = (greg_t)((((uintptr_t)regs[REG_RSP] - RED_ZONE) & ~(uintptr_t)15) - 8); /* as behind a call */
    regs[REG_EFL] &= ~EFLAGS_DF;
    regs[REG_RIP] = (greg_t)leave;
    return true;
}

#else

bool kvmish_fault(uintptr_t addr, void *context)
{
    (void)addr;
    (void)context;
    (void)guest_page;
    return false;
}

#endif

/* ---- when it comes, in a client elsewhere ---------------------------------------------------------------------------- */

static bool is_there(const struct page_ref *page, bool write)
{
    return write ? reach_write(page->host) : reach_read(page->host);
}

/* With the slots locked. As client_ops.renew; -EFAULT: still not. */
static int renew(struct kvm_vm *vm, const struct client *c, uint64_t gpa, bool write)
{
    struct page_ref page;
    int stopped;

    if (!phys_lookup(vm->map, gpa, &page))
        return -EFAULT;
    if (is_there(&page, write))
        return 0; /* another vCPU has been here */
    const struct memslot *s = page.slot;
    stopped = c->ops->renew(c, s->userspace_addr, s->size_bytes, s->obj->host, s->userspace_addr + page.page * KVM_PAGE);
    return stopped < 0 ? stopped : is_there(&page, write) ? stopped : -EFAULT;
}

bool backing_has_come(struct kvm_vcpu *kv, const struct client *c, int *ret)
{
    bool clocks = kv->late && !kv->late_looked_for;
    uint64_t wanted = clocks ? (kv->late & ~(uint64_t)LATE) | UNBACKED_WRITE : kv->cpu.unbacked;
    int r;

    kv->cpu.unbacked = 0;
    if (!wanted || !c->ops->renew)
        return false;
    pthread_mutex_lock(&kv->vm->slots_lock);
    r = renew(kv->vm, c, wanted & ~(KVM_PAGE - 1ull), wanted & UNBACKED_WRITE);
    pthread_mutex_unlock(&kv->vm->slots_lock);
    if (r > 0 || r == -EBUSY) { /* which is not its lack: once more */
        kv->run->exit_reason = KVM_EXIT_INTR;
        *ret = -ERESTARTNOHAND;
    }
    if (clocks) {
        kv->late_looked_for = true;
        clock_has_come(kv);
    }
    return !r || (clocks && *ret == -EFAULT);
}
