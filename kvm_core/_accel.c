/* The front door: /dev/kvm as functions. A reader starts here.
 *
 * kvmish_ioctl() finds the object behind a descriptor and hands the request to system.c, vm.c or vcpu.c. KVM_RUN comes
 * back here: vcpu_run() is the entry/exit loop that every guest instruction is executed under.
 */
#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cpu/lockstep.h"
#include "kvm/door.h"
#include "kvm/files.h"
#include "kvm/kvm.h"

/* ---- the door ------------------------------------------------------------------------------------------------------ */

int kvmish_open(void)
{
    return file_install(&client_self, OBJECT_SYSTEM, NULL, -1);
}

int object_ioctl(enum object_kind kind, void *object, const struct client *c, unsigned long req, uintptr_t arg)
{
    switch (kind) {
    case OBJECT_SYSTEM: return system_ioctl(c, req, arg);
    case OBJECT_VM: return vm_ioctl(object, c, req, arg);
    case OBJECT_VCPU: return vcpu_ioctl(object, c, req, arg);
    default: return -ENOTTY;
    }
}

static int dispatch(const struct file *f, const struct client *c, unsigned long req, uintptr_t arg)
{
    if (f->generation != atomic_load(&process_generation) && f->kind != OBJECT_SYSTEM)
        return -EIO; /* the memory of another process */
    return object_ioctl(f->kind, f->object, c, req, arg);
}

static int call(int fd, const struct client *c, unsigned long req, uintptr_t arg)
{
    struct file *f = file_get(fd);
    int ret;

    if (!f)
        return -EBADF;
    ret = dispatch(f, c, (uint32_t)req, arg);
    file_put(f);
    return ret;
}

int kvmish_ioctl(int fd, unsigned long req, uintptr_t arg)
{
    return call(fd, &client_self, req, arg);
}

int kvmish_run(int fd, uintptr_t arg, bool (*ends)(void *with), void *with)
{
    const struct client c = {.ops = client_self.ops, .ends = ends, .with = with};

    return call(fd, &c, KVM_RUN, arg);
}

static int kick(int fd, void (*how)(struct kvm_vcpu *))
{
    struct file *f = file_get(fd);
    int ret = -EBADF;

    if (!f)
        return ret;
    if (f->kind == OBJECT_VCPU && f->object) {
        how(f->object);
        ret = 0;
    }
    file_put(f);
    return ret;
}

int kvmish_kick(int fd) { return kick(fd, vcpu_interrupt); }
int kvmish_run_ends(int fd) { return kick(fd, vcpu_kick); }

/* ---- which vCPU runs on which thread: for signal handlers -------------------------------------------------------------- */

enum { RUNNING_MAX = 65536 }; /* as many as there can be descriptors: files.c */

/* A vCPU has its entry from its first run to its end; `thread` is written by the thread that holds the vCPU, and read by
 * that thread's signal handlers. */
static struct running {
    unsigned long thread; /* pthread_self(), 0 when idle */
    _Atomic(struct kvm_vcpu *) vcpu;
} running[RUNNING_MAX];
static _Atomic unsigned running_high;

static struct running *running_add(struct kvm_vcpu *kv)
{
    unsigned high = atomic_load(&running_high);

    for (unsigned i = 0; i < RUNNING_MAX; i++) {
        struct kvm_vcpu *free = NULL;
        if (!atomic_compare_exchange_strong(&running[i].vcpu, &free, kv))
            continue;
        while (i >= high && !atomic_compare_exchange_weak(&running_high, &high, i + 1))
            ;
        return kv->running = &running[i];
    }
    return NULL; /* its runs do not notice signals */
}

void running_remove(struct kvm_vcpu *kv)
{
    if (kv->running)
        atomic_store(&kv->running->vcpu, NULL);
    kv->running = NULL;
}

static void running_is(struct kvm_vcpu *kv, unsigned long thread)
{
    struct running *r = kv->running ? kv->running : running_add(kv);

    if (r)
        __atomic_store_n(&r->thread, thread, __ATOMIC_RELAXED);
    atomic_signal_fence(memory_order_seq_cst);
}

struct kvm_vcpu *running_here(void)
{
    unsigned long self = (unsigned long)pthread_self();
    unsigned high = atomic_load(&running_high);

    for (unsigned i = 0; i < high; i++)
        if (__atomic_load_n(&running[i].thread, __ATOMIC_RELAXED) == self)
            return atomic_load(&running[i].vcpu);
    return NULL;
}

void running_forked(void)
{
    for (unsigned i = 0; i < atomic_load(&running_high); i++)
        __atomic_store_n(&running[i].thread, 0, __ATOMIC_RELAXED);
}

bool kvmish_signal_arrived(int sig)
{
    struct kvm_vcpu *kv = running_here();

    if (!kv)
        return false;
    atomic_store(&kv->handled, 1);
    vcpu_kick(kv);
    return kv->masked && sigismember(&kv->outer_mask, sig) == 1;
}

/* ---- KVM_RUN -------------------------------------------------------------------------------------------------------------- */

static bool must_end(struct kvm_vcpu *kv)
{
    return atomic_load(&kv->signalled) || atomic_load(&kv->handled) || (kv->ends && kv->ends(kv->with));
}

static int interrupted(struct kvm_vcpu *kv)
{
    atomic_store(&kv->signalled, 0);
    kv->run->exit_reason = KVM_EXIT_INTR;
    kv->stat.signal_exits++;
    return -EINTR;
}

/* Sleeps until kicked. The caller has cleared `kick` and then found nothing to do. */
static void block(struct kvm_vcpu *kv)
{
    static const struct timespec ever = {.tv_sec = 1 << 30}; /* a wait with an end is EINTR after a handler with SA_RESTART, too */
    struct timespec before, after;

    clock_gettime(CLOCK_MONOTONIC, &before);
    atomic_store(&kv->waiting, 1);
    if (!__atomic_load_n(&kv->cpu.kick, __ATOMIC_SEQ_CST) &&
        syscall(SYS_futex, &kv->cpu.kick, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, &ever, NULL, 0) && errno == EINTR)
        atomic_store(&kv->handled, 1); /* a handler that is not wrapped ran on this thread */
    atomic_store(&kv->waiting, 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    kv->stat.halt_wait_ns +=
        (uint64_t)((after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec);
}

/* Runs guest code until something outside of the engine must happen. */
static enum cpu_exit_reason enter(struct kvm_vcpu *kv, int budget)
{
    struct vcpu *v = &kv->cpu;
    enum cpu_exit_reason reason = EXIT_POLL;

    vcpu_enter_engine(kv);
    if (__atomic_load_n(&v->requests, __ATOMIC_SEQ_CST))
        vcpu_drain(kv);
    if (!__atomic_load_n(&v->requests, __ATOMIC_SEQ_CST))
        reason = v->lockstep ? lockstep_enter(v, budget) : kv->engine->enter(v, budget);
    if (reason == EXIT_INTERNAL && v->lockstep)
        fputs(lockstep_report(v->lockstep), stderr);
    if (unlikely(v->unbacked))
        reason = EXIT_UNBACKED;
    __atomic_store_n(&v->in_guest, 0, __ATOMIC_RELEASE); /* who comes back in looks again, after a full barrier */
    return reason;
}

/* On the way back with EINTR: the instruction that waited for the client's answer is finished, so that the client never
 * sees (or migrates) one that is half done. */
static int finish_instruction(struct kvm_vcpu *kv)
{
    int r = 1;

    while (kv->cpu.log.replay && r > 0) {
        uint8_t slow = kv->cpu.slow;
        kv->cpu.slow |= SLOW_SINGLE;
        r = run_exit(kv, enter(kv, 1));
        kv->cpu.slow = (uint8_t)((kv->cpu.slow & ~SLOW_SINGLE) | (slow & SLOW_SINGLE));
    }
    return r > 0 ? -EINTR : r;
}

/* What others have asked for; 1: go on, 0 or -errno: back to the client. */
static int serve_events(struct kvm_vcpu *kv)
{
    uint32_t events = atomic_load(&kv->events);

    for (unsigned i = 0; i < 4; i++) {
        uint64_t vectors = atomic_load_explicit(&kv->eoi_exits[i], memory_order_relaxed);
        if (!vectors)
            continue;
        atomic_fetch_and(&kv->eoi_exits[i], ~(vectors & -vectors));
        kv->run->exit_reason = KVM_EXIT_IOAPIC_EOI;
        kv->run->eoi.vector = (uint8_t)(i * 64 + (unsigned)__builtin_ctzll(vectors));
        return 0;
    }
    if (must_end(kv) || kv->run->immediate_exit) {
        int r = finish_instruction(kv);
        return r == -EINTR ? interrupted(kv) : r;
    }
    if (!events)
        return 1;
    if (events & VCPU_TRIPLE_FAULT) {
        atomic_fetch_and(&kv->events, ~(uint32_t)VCPU_TRIPLE_FAULT);
        return run_exit(kv, EXIT_SHUTDOWN);
    }
    if (events & (VCPU_INIT | VCPU_SIPI))
        run_accept_ipis(kv);
    if (events & VCPU_CLOCK) {
        atomic_fetch_and(&kv->events, ~(uint32_t)VCPU_CLOCK);
        clock_update(kv);
    }
    if (events & VCPU_PV_KICK) {
        atomic_fetch_and(&kv->events, ~(uint32_t)VCPU_PV_KICK);
        kv->pv_unhalt = true;
    }
    return 1;
}

static bool runnable(struct kvm_vcpu *kv)
{
    if (kv->mp_state == KVM_MP_STATE_RUNNABLE)
        return true;
    if (kv->mp_state != KVM_MP_STATE_HALTED || !run_has_event(kv))
        return false;
    kv->mp_state = KVM_MP_STATE_RUNNABLE;
    kv->pv_unhalt = false;
    kv->stat.halt_wakeup++;
    return true;
}

static int run_loop(struct kvm_vcpu *kv)
{
    for (;;) {
        int r;

        /* Before looking at what it may stand for. A kick that comes after this look is not taken away. */
        if (__atomic_load_n(&kv->cpu.kick, __ATOMIC_ACQUIRE))
            __atomic_store_n(&kv->cpu.kick, 0, __ATOMIC_SEQ_CST);
        r = serve_events(kv);
        if (r <= 0)
            return r;
        if (unlikely(kv->late && !kv->late_looked_for))
            return -EFAULT; /* to be looked for */
        pv_eoi_check(kv); /* what has ended no longer hides what waits */
        if (kv->run->request_interrupt_window && kv->vm->irq.mode != IRQCHIP_KERNEL && run_ready_for_injection(kv)) {
            kv->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
            kv->stat.irq_window_exits++;
            return 0;
        }
        if (!runnable(kv)) {
            block(kv);
            continue;
        }
        if (kv->msr_steal & 1)
            clock_steal(kv);
        int budget = run_inject(kv);
        vapic_publish(kv);
        kv->ran = true;
        enum cpu_exit_reason reason = enter(kv, budget);
        vapic_collect(kv);
        r = run_exit(kv, reason);
        if (r <= 0)
            return r;
        if (kv->stat_page)
            stats_publish(kv);
    }
}

/* An AP that nobody has woken: KVM answers EAGAIN once it has been. */
static int wait_for_sipi(struct kvm_vcpu *kv)
{
    if (kv->run->immediate_exit)
        return -EINTR;
    while (!(atomic_load(&kv->events) & (VCPU_INIT | VCPU_SIPI))) {
        __atomic_store_n(&kv->cpu.kick, 0, __ATOMIC_SEQ_CST);
        if (must_end(kv))
            return interrupted(kv);
        if (!(atomic_load(&kv->events) & (VCPU_INIT | VCPU_SIPI)))
            block(kv);
    }
    run_accept_ipis(kv);
    return -EAGAIN;
}

static int run(struct kvm_vcpu *kv)
{
    int error;

    if (kv->mp_state == KVM_MP_STATE_UNINITIALIZED)
        return wait_for_sipi(kv);
    if (!run_sync_in(kv, &error))
        return error;
    if (!kv->has_lapic) {
        if (kv->run->cr8 > 15)
            return -EINVAL;
        kv->cpu.cr8 = kv->run->cr8;
    }
    run_complete(kv);
    if (kv->run->immediate_exit)
        return finish_instruction(kv);
    return run_loop(kv);
}

static int run_and_tell(struct kvm_vcpu *kv)
{
    int ret = run(kv);

    pv_eoi_check(kv); /* the client may save the LAPIC and guest memory now: what is in service stands in one of them */
    run_sync_out(kv);
    return ret;
}

int vcpu_run(struct kvm_vcpu *kv, const struct client *c)
{
    int ret;

    running_is(kv, (unsigned long)pthread_self());
    kv->ends = c->ends;
    kv->with = c->with;
    kv->cpu.want_tpr_exit = !kv->has_lapic;
    kv->cpu.code_doubtful = true;
    if (kv->has_sigmask && !kv->vm->client.pid) { /* this thread is the client's own */
        pthread_sigmask(SIG_BLOCK, NULL, &kv->outer_mask);
        kv->masked = true;
        pthread_sigmask(SIG_SETMASK, &kv->sigmask, NULL); /* what is pending arrives here */
    }
    kv->late_looked_for = !c->ops->renew;
    if (kv->late)
        clock_has_come(kv);
    do /* what looks for memory comes last: the client's thread may stand still afterwards */
        ret = run_and_tell(kv);
    while (ret == -EFAULT && backing_has_come(kv, c, &ret));
    if (kv->masked) {
        pthread_sigmask(SIG_SETMASK, &kv->outer_mask, NULL);
        kv->masked = false;
    }
    kv->ends = NULL;
    running_is(kv, 0);
    atomic_store(&kv->handled, 0);
    kv->stat.user_exits++;
    if (kv->stat_page)
        stats_publish(kv);
    return ret;
}
