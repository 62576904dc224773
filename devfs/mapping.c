/* Guest memory of a client, mapped here: the same pages at another address; and what becomes of pages that vanish. */
#include "devfs/mapping.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE = 2 << 20, RANGES_MAX = 65536, PAGE = 4096 };

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

int mapping_reserve(uintptr_t addr, size_t bytes, uint8_t **host)
{
    uint8_t *at = reserve(addr, bytes);
    int err = at ? range_add((uintptr_t)at, bytes) : -ENOMEM;

    if (err && at)
        munmap(at, bytes);
    if (!err)
        *host = at;
    return err;
}

int mapping_fill(uint8_t *host, const struct area *a, int fd)
{
    void *at = mmap(host + a->at, a->bytes, a->prot & (PROT_READ | PROT_WRITE), MAP_SHARED | MAP_FIXED, fd, (off_t)a->offset);

    return at == MAP_FAILED ? -ENOMEM : 0;
}

void mapping_free(uint8_t *host, size_t bytes)
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
        void *page = (void *)(at & ~(uintptr_t)(PAGE - 1));
        if (at < ranges[i].start || at >= ranges[i].end)
            continue;
        if (mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page)
            return;
    }
    signal(sig, SIG_DFL); /* a fault of our own: again, and for good */
}

int mapping_guard(void)
{
    struct sigaction sa;

    memset(&sa, 0, sizeof(sa));
    sa.sa_sigaction = on_fault;
    sa.sa_flags = SA_SIGINFO | SA_NODEFER;
    return sigaction(SIGSEGV, &sa, NULL) || sigaction(SIGBUS, &sa, NULL) ? -errno : 0;
}
