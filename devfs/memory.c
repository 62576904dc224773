/* The client's guest memory, mapped into the worker: the same pages at another address. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devfs/worker.h"

enum { HUGE = 2 << 20, RANGES_MAX = 65536 };

/* What is mapped, for the handler of faults, which can take no lock. */
static struct range {
    _Atomic uintptr_t start, end;
} ranges[RANGES_MAX];
static _Atomic unsigned ranges_high;
static pthread_mutex_t ranges_lock = PTHREAD_MUTEX_INITIALIZER;

static int range_add(uintptr_t start, size_t bytes)
{
    int err = -ENOMEM;

    pthread_mutex_lock(&ranges_lock);
    for (unsigned i = 0; i < RANGES_MAX && err; i++) {
        if (ranges[i].end)
            continue;
        atomic_store(&ranges[i].start, start);
        atomic_store(&ranges[i].end, start + bytes);
        if (i >= ranges_high)
            ranges_high = i + 1;
        err = 0;
    }
    pthread_mutex_unlock(&ranges_lock);
    return err;
}

static void range_remove(uintptr_t start)
{
    pthread_mutex_lock(&ranges_lock);
    for (unsigned i = 0; i < ranges_high; i++)
        if (ranges[i].end && ranges[i].start == start) {
            ranges[i].end = 0;
            break;
        }
    pthread_mutex_unlock(&ranges_lock);
}

/* Zero pages, at an address that is equal to the client's modulo the size of a huge page. */
static uint8_t *reserve(uintptr_t addr, size_t bytes)
{
    uint8_t *all = mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t skip;

    if (all == MAP_FAILED)
        return NULL;
    skip = (addr - (uintptr_t)all) % HUGE;
    if (skip)
        munmap(all, skip);
    if (skip < HUGE)
        munmap(all + skip + bytes, HUGE - skip);
    return all + skip;
}

static int map_area(void *owner, const struct hand_reply *r, int fd)
{
    uint8_t *host = *(uint8_t **)owner;
    void *at = mmap(host + r->at, r->bytes, r->prot & (PROT_READ | PROT_WRITE), MAP_SHARED | MAP_FIXED, fd, (off_t)r->offset);

    close(fd);
    return at == MAP_FAILED ? -ENOMEM : 0;
}

struct adoption {
    uint8_t *host; /* first: map_area() */
    struct worker *w;
};

static unsigned list(void *owner, int32_t *tids, unsigned room)
{
    return call_list(((struct adoption *)owner)->w, tids, room);
}

/* First as it is; when some of it is private, once more with the client stopped. */
static int adopt_into(struct call *c, uint8_t *host, uintptr_t addr, size_t bytes)
{
    struct adoption a = {host, c->w};
    int err;

    if (!c->stopped) {
        hand_lock(&c->w->hand);
        err = hand_adopt(&c->w->hand, addr, bytes, false, list, map_area, &a);
        hand_unlock(&c->w->hand);
        if (err != -EAGAIN)
            return err;
    }
    err = call_stop(c);
    if (err)
        return err;
    pthread_rwlock_wrlock(&c->w->answers);
    err = hand_adopt(&c->w->hand, addr, bytes, true, list, map_area, &a);
    pthread_rwlock_unlock(&c->w->answers);
    return err;
}

int memory_map(struct call *c, uintptr_t addr, size_t bytes, uint8_t **host)
{
    uint8_t *at = reserve(addr, bytes);
    int err = at ? range_add((uintptr_t)at, bytes) : -ENOMEM;

    if (err) {
        if (at)
            munmap(at, bytes);
        return err;
    }
    err = adopt_into(c, at, addr, bytes);
    if (err)
        memory_unmap(at, bytes);
    else
        *host = at;
    return err;
}

void memory_unmap(uint8_t *host, size_t bytes)
{
    range_remove((uintptr_t)host);
    munmap(host, bytes);
}

/* ---- pages that are not there ---------------------------------------------------------------------------------------- */

static void on_fault(int sig, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    unsigned high = atomic_load(&ranges_high);

    (void)context;
    for (unsigned i = 0; i < high && info->si_code > 0; i++) {
        void *page = (void *)(at & ~(uintptr_t)(KVM_PAGE - 1));
        if (at < ranges[i].start || at >= ranges[i].end)
            continue;
        if (mmap(page, KVM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page)
            return;
    }
    signal(sig, SIG_DFL); /* a fault of our own: again, and for good */
}

int memory_guard(void)
{
    struct sigaction sa;

    memset(&sa, 0, sizeof(sa));
    sa.sa_sigaction = on_fault;
    sa.sa_flags = SA_SIGINFO | SA_NODEFER;
    return sigaction(SIGSEGV, &sa, NULL) || sigaction(SIGBUS, &sa, NULL) ? -errno : 0;
}
