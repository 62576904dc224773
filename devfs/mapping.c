/* Guest memory of a client, mapped here: the same pages at another address; and what becomes of pages that vanish. */
#include "devfs/mapping.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "kvm/door.h"

enum { HUGE = 2 << 20 };

/* Nothing that can be touched, at an address that is equal to the client's modulo the size of a huge page. */
static uint8_t *reserve(uintptr_t addr, size_t bytes)
{
    uint8_t *all = mmap(NULL, bytes + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
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
    *host = reserve(addr, bytes);
    return *host ? 0 : -ENOMEM;
}

int mapping_fill(uint8_t *host, const struct area *a, int fd)
{
    void *at = mmap(host + a->at, a->bytes, a->prot & (PROT_READ | PROT_WRITE), MAP_SHARED | MAP_FIXED, fd, (off_t)a->offset);

    return at == MAP_FAILED ? -ENOMEM : 0;
}

void mapping_free(uint8_t *host, size_t bytes)
{
    munmap(host, bytes);
}

/* ---- pages that are not there ---------------------------------------------------------------------------------------- */

static void on_fault(int sig, siginfo_t *info, void *context)
{
    if (info->si_code <= 0 || !kvmish_fault((uintptr_t)info->si_addr, context))
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
