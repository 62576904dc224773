/* ioeventfd: guest writes that only ring an eventfd; irqfd: eventfds that raise interrupts (KVM API 4.59, 4.75). */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kvm/kvm.h"

/* ---- ioeventfd ---------------------------------------------------------------------------------------------- */

struct io_event {
    uint64_t addr, data;
    uint32_t size_bytes; /* 0: any */
    bool pio, match;
    int fd;
    uint64_t id; /* of the eventfd */
    struct io_event *next;
};

static int io_event_check(const struct kvm_ioeventfd *e)
{
    if (e->flags & ~(uint32_t)(KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN |
                               KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY))
        return -EINVAL;
    if (e->len != 0 && e->len != 1 && e->len != 2 && e->len != 4 && e->len != 8)
        return -EINVAL;
    if (e->addr + e->len < e->addr || e->flags & KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY)
        return -EINVAL;
    return !e->len && (e->flags & KVM_IOEVENTFD_FLAG_DATAMATCH) ? -EINVAL : 0;
}

/* Would one write ring both? */
static bool io_event_collides(const struct io_event *a, const struct io_event *b)
{
    if (a->pio != b->pio || a->addr != b->addr)
        return false;
    if (a->size_bytes && b->size_bytes && a->size_bytes != b->size_bytes)
        return false;
    return !a->match || !b->match || a->data == b->data;
}

static int io_event_add(struct kvm_vm *vm, struct io_event *new)
{
    int err = 0;

    pthread_rwlock_wrlock(&vm->io_lock);
    for (struct io_event *p = vm->io_events; p; p = p->next)
        if (io_event_collides(p, new))
            err = -EEXIST;
    if (!err && vm->io_event_count + vm->zone_count >= IO_BUS_MAX)
        err = -ENOSPC;
    if (!err) {
        new->next = vm->io_events;
        vm->io_events = new;
        atomic_fetch_add(&vm->io_event_count, 1);
    }
    pthread_rwlock_unlock(&vm->io_lock);
    return err;
}

static int io_event_remove(struct kvm_vm *vm, const struct io_event *like)
{
    struct io_event **p, *found;

    pthread_rwlock_wrlock(&vm->io_lock);
    for (p = &vm->io_events; *p; p = &(*p)->next)
        if ((*p)->id == like->id && (*p)->pio == like->pio && (*p)->addr == like->addr &&
            (*p)->size_bytes == like->size_bytes && (*p)->match == like->match &&
            (!like->match || (*p)->data == like->data))
            break;
    found = *p;
    if (found) {
        *p = found->next;
        atomic_fetch_sub(&vm->io_event_count, 1);
    }
    pthread_rwlock_unlock(&vm->io_lock);
    if (!found)
        return -ENOENT;
    close(found->fd);
    free(found);
    return 0;
}

int ioeventfd_set(struct kvm_vm *vm, const struct client *c, const struct kvm_ioeventfd *e)
{
    bool remove = e->flags & KVM_IOEVENTFD_FLAG_DEASSIGN;
    struct io_event *new;
    int err = remove ? 0 : io_event_check(e), fd;
    uint64_t id;

    if (err)
        return err;
    fd = client_eventfd(c, e->fd, &id);
    if (fd < 0)
        return fd;
    new = calloc(1, sizeof(*new));
    if (new) {
        *new = (struct io_event){.addr = e->addr, .data = e->datamatch, .size_bytes = e->len, .fd = fd, .id = id,
                                 .pio = e->flags & KVM_IOEVENTFD_FLAG_PIO,
                                 .match = e->flags & KVM_IOEVENTFD_FLAG_DATAMATCH};
        err = remove ? io_event_remove(vm, new) : io_event_add(vm, new);
    } else {
        err = -ENOMEM;
    }
    if (remove || err) {
        close(fd);
        free(new);
    }
    return err;
}

/* The counter of an eventfd that nobody reads may be full: the write is then dropped, as in KVM. */
static void ring(int fd)
{
    uint64_t one = 1;
    struct pollfd p = {fd, POLLOUT, 0};

    if (poll(&p, 1, 0) == 1 && write(fd, &one, sizeof(one)) < 0)
        return;
}

bool ioeventfd_write(struct kvm_vm *vm, uint64_t addr, uint64_t data, unsigned size, bool pio)
{
    bool hit = false;

    if (!atomic_load_explicit(&vm->io_event_count, memory_order_relaxed))
        return false;
    if (size < 8)
        data &= (1ull << size * 8) - 1;
    pthread_rwlock_rdlock(&vm->io_lock);
    for (struct io_event *p = vm->io_events; p && !hit; p = p->next) {
        uint64_t want = size < 8 ? p->data & ((1ull << size * 8) - 1) : p->data;
        hit = p->pio == pio && p->addr == addr && (!p->size_bytes || p->size_bytes == size) &&
              (!p->match || want == data);
        if (hit)
            ring(p->fd);
    }
    pthread_rwlock_unlock(&vm->io_lock);
    return hit;
}

/* ---- irqfd ----------------------------------------------------------------------------------------------------- */

struct irqfd {
    uint32_t gsi;
    int fd, resample_fd; /* -1: an edge */
    uint64_t id;
    struct irqfd *next;
};

struct irqfds { /* one thread per VM waits for all of them */
    pthread_mutex_t lock;
    pthread_t thread;
    int epoll, stop; /* stop: an eventfd */
    struct irqfd *list;
};

/* Takes the counter; false when somebody else was faster. */
static bool consume(int fd)
{
    uint64_t n;
    struct iovec iov = {&n, sizeof(n)};
    struct pollfd p = {fd, POLLIN, 0};
    ssize_t got = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);

    if (got < 0 && errno == EOPNOTSUPP && poll(&p, 1, 0) == 1)
        got = read(fd, &n, sizeof(n));
    return got == sizeof(n);
}

static void signalled(struct kvm_vm *vm, struct irqfd *i)
{
    if (i->resample_fd >= 0) {
        irqchip_set_line(&vm->irq, i->gsi, IRQ_SOURCE_RESAMPLE, true, false);
        return;
    }
    irqchip_set_line(&vm->irq, i->gsi, IRQ_SOURCE_USER, true, false);
    irqchip_set_line(&vm->irq, i->gsi, IRQ_SOURCE_USER, false, false);
}

static void *irqfd_thread(void *arg)
{
    struct kvm_vm *vm = arg;
    struct irqfds *set = vm->irqfds;
    struct epoll_event ev[16];

    if (thread_began)
        thread_began();
    for (;;) {
        int n = epoll_wait(set->epoll, ev, 16, -1);
        for (int k = 0; k < n; k++) {
            if (ev[k].data.fd == set->stop)
                return NULL;
            pthread_mutex_lock(&set->lock); /* by number: the irqfd may be gone by now */
            for (struct irqfd *i = set->list; i; i = i->next)
                if (i->fd == ev[k].data.fd && consume(i->fd))
                    signalled(vm, i);
            pthread_mutex_unlock(&set->lock);
        }
        if (n < 0 && errno != EINTR)
            return NULL;
    }
}

static int watch(struct irqfds *set, int fd, int op)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};

    return epoll_ctl(set->epoll, op, fd, &ev) ? -errno : 0;
}

/* All signals blocked: the client's handlers run on its own threads. */
static int start_thread(struct kvm_vm *vm, struct irqfds *set)
{
    sigset_t all, old;
    int err;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = -pthread_create(&set->thread, NULL, irqfd_thread, vm);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return err;
}

static int irqfds_start(struct kvm_vm *vm)
{
    struct irqfds *set;
    int err;

    if (vm->irqfds)
        return 0;
    set = calloc(1, sizeof(*set));
    if (!set)
        return -ENOMEM;
    pthread_mutex_init(&set->lock, NULL);
    set->epoll = epoll_create1(EPOLL_CLOEXEC);
    set->stop = eventfd(0, EFD_CLOEXEC);
    vm->irqfds = set;
    err = set->epoll < 0 || set->stop < 0 ? -errno : watch(set, set->stop, EPOLL_CTL_ADD);
    if (!err)
        err = start_thread(vm, set);
    if (err) {
        if (set->epoll >= 0)
            close(set->epoll);
        if (set->stop >= 0)
            close(set->stop);
        free(set);
        vm->irqfds = NULL;
    }
    return err;
}

/* An eventfd is an irqfd of one machine, as in Linux since 6.17. The mark is in the file, which all descriptors of it share: the
 * signal of I/O that never comes (fcntl(2), F_SETSIG), for this process; nobody's when that has ended. Machines of different processes
 * that claim one at the same moment may both get it: fcntl() has no comparison. */
enum { CLAIMED = 59 };

static pthread_mutex_t claims = PTHREAD_MUTEX_INITIALIZER;

static bool claim(int fd)
{
    bool unclaimed;

    pthread_mutex_lock(&claims);
    unclaimed = fcntl(fd, F_GETSIG) != CLAIMED || !fcntl(fd, F_GETOWN);
    if (unclaimed) {
        fcntl(fd, F_SETOWN, getpid());
        fcntl(fd, F_SETSIG, CLAIMED);
    }
    pthread_mutex_unlock(&claims);
    return unclaimed;
}

static void give_up(int fd)
{
    pthread_mutex_lock(&claims);
    if (fcntl(fd, F_GETOWN) == getpid()) {
        fcntl(fd, F_SETSIG, 0);
        fcntl(fd, F_SETOWN, 0);
    }
    pthread_mutex_unlock(&claims);
}

static void irqfd_free(struct irqfds *set, struct irqfd *i)
{
    give_up(i->fd);
    watch(set, i->fd, EPOLL_CTL_DEL);
    close(i->fd);
    if (i->resample_fd >= 0)
        close(i->resample_fd);
    free(i);
}

/* Whatever became of the mark. */
static bool has(const struct irqfds *set, uint64_t id)
{
    const struct irqfd *i = client_eventfd_known(id) ? set->list : NULL;

    while (i && i->id != id)
        i = i->next;
    return i;
}

static int irqfd_add(struct kvm_vm *vm, struct irqfd *new)
{
    struct irqfds *set = vm->irqfds;
    int err;

    pthread_mutex_lock(&set->lock);
    err = has(set, new->id) || !claim(new->fd) ? -EBUSY : 0;
    if (err) {
        pthread_mutex_unlock(&set->lock);
        return err;
    }
    pthread_mutex_lock(&vm->ack_lock);
    new->next = set->list;
    set->list = new;
    pthread_mutex_unlock(&vm->ack_lock);
    err = watch(set, new->fd, EPOLL_CTL_ADD); /* reports at once what is pending already */
    if (err) {
        pthread_mutex_lock(&vm->ack_lock);
        set->list = new->next;
        pthread_mutex_unlock(&vm->ack_lock);
        give_up(new->fd);
    }
    pthread_mutex_unlock(&set->lock);
    return err;
}

static void irqfd_remove(struct kvm_vm *vm, uint64_t id, uint32_t gsi)
{
    struct irqfds *set = vm->irqfds;
    struct irqfd **p, *gone = NULL;

    pthread_mutex_lock(&set->lock);
    pthread_mutex_lock(&vm->ack_lock);
    for (p = &set->list; *p; p = &(*p)->next)
        if ((*p)->id == id && (*p)->gsi == gsi)
            break;
    gone = *p;
    if (gone)
        *p = gone->next;
    pthread_mutex_unlock(&vm->ack_lock);
    if (gone)
        irqfd_free(set, gone);
    pthread_mutex_unlock(&set->lock);
}

static int irqfd_assign(struct kvm_vm *vm, const struct client *c, const struct kvm_irqfd *in)
{
    bool resample = in->flags & KVM_IRQFD_FLAG_RESAMPLE;
    struct irqfd *new = calloc(1, sizeof(*new));
    uint64_t ignored;
    int err;

    if (!new)
        return -ENOMEM;
    new->gsi = in->gsi;
    new->resample_fd = -1;
    new->fd = err = client_eventfd(c, (int)in->fd, &new->id);
    if (err >= 0 && resample)
        new->resample_fd = err = client_eventfd(c, (int)in->resamplefd, &ignored);
    if (err >= 0) {
        pthread_mutex_lock(&vm->lock);
        err = irqfds_start(vm);
        pthread_mutex_unlock(&vm->lock);
    }
    if (!err)
        err = irqfd_add(vm, new);
    if (err) {
        if (new->fd >= 0)
            close(new->fd);
        if (new->resample_fd >= 0)
            close(new->resample_fd);
        free(new);
    }
    return err;
}

int irqfd_set(struct kvm_vm *vm, const struct client *c, const struct kvm_irqfd *in)
{
    bool resample = in->flags & KVM_IRQFD_FLAG_RESAMPLE;
    uint64_t id;
    int fd;

    if (in->flags & ~(uint32_t)(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
        return -EINVAL;
    if (!(in->flags & KVM_IRQFD_FLAG_DEASSIGN)) {
        if (!vm_has_irqchip(vm) || (resample && vm->irq.mode != IRQCHIP_KERNEL))
            return -EINVAL;
        return irqfd_assign(vm, c, in);
    }
    fd = client_eventfd(c, (int)in->fd, &id);
    if (fd < 0)
        return fd;
    close(fd);
    if (vm->irqfds)
        irqfd_remove(vm, id, in->gsi);
    return 0;
}

/* The guest has acknowledged a GSI: lower it and tell the device, which raises it again if it still wants to. */
void irqfd_acked(void *vm_owner, uint32_t gsi)
{
    struct kvm_vm *vm = vm_owner;
    struct irqfds *set = vm->irqfds;
    bool lowered = false;

    if (!set)
        return;
    pthread_mutex_lock(&vm->ack_lock);
    for (struct irqfd *i = set->list; i; i = i->next) {
        if (i->gsi != gsi || i->resample_fd < 0)
            continue;
        if (!lowered)
            irqchip_set_line_locked(&vm->irq, gsi, IRQ_SOURCE_RESAMPLE, false, false);
        lowered = true;
        ring(i->resample_fd);
    }
    pthread_mutex_unlock(&vm->ack_lock);
}

void eventfd_destroy_all(struct kvm_vm *vm)
{
    struct irqfds *set = vm->irqfds;
    struct io_event *e;

    if (set) {
        ring(set->stop);
        pthread_join(set->thread, NULL);
        while (set->list) {
            struct irqfd *i = set->list;
            set->list = i->next;
            irqfd_free(set, i);
        }
        close(set->epoll);
        close(set->stop);
        free(set);
        vm->irqfds = NULL;
    }
    while ((e = vm->io_events)) {
        vm->io_events = e->next;
        close(e->fd);
        free(e);
    }
}
