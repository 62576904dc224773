/* How a descriptor comes to the client: by a socket pair there, whose other end we take. It needs no path that the client could see.
 *
 * What the calls in the client write needs memory that is nobody's: below its stack, or a page for the purpose.
 */
#include "devfs/give.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devfs/hand.h"
#include "devfs/message.h"

enum { SCRATCH_BYTES = 4096, RED_ZONE = 128, STACK_SPAN = 128 << 20 /* the kernel maps nothing there */ };

struct taker {
    struct tracee *t;
    pid_t tgid;
    int pidfd, fd;
    uintptr_t scratch; /* in the client */
};

static long call(struct taker *k, enum trace_number number, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t e)
{
    const uintptr_t arg[6] = {a, b, c, d, e, 0};

    return trace_call(k->t, number, arg);
}

static bool copy(const struct taker *k, void *data, size_t n, bool to_client)
{
    struct iovec local = {data, n}, remote = {(void *)k->scratch, n};

    return (to_client ? process_vm_writev(k->tgid, &local, 1, &remote, 1, 0)
                      : process_vm_readv(k->tgid, &local, 1, &remote, 1, 0)) == (ssize_t)n;
}

static long receive(struct taker *k, const int pair[2])
{
    int ours = (int)syscall(SYS_pidfd_getfd, k->pidfd, pair[0], 0);
    bool narrow = trace_narrow(k->t);
    long err = ours < 0 ? -errno : 0;
    struct message m;

    message_fill(&m, k->scratch, narrow, -1);
    if (!err && packet_send(ours, "f", 1, k->fd))
        err = -EIO;
    if (ours >= 0)
        close(ours);
    if (!err && !copy(k, &m, sizeof(m), true))
        err = -EFAULT;
    if (!err)
        err = call(k, TRACE_RECVMSG, (uintptr_t)pair[1], k->scratch, MSG_CMSG_CLOEXEC | MSG_DONTWAIT, 0, 0);
    if (err < 0)
        return err;
    return copy(k, &m, sizeof(m), false) ? message_fd(&m, narrow) : -EFAULT;
}

static void close_pair(struct taker *k, const int pair[2])
{
    if (pair[1] == pair[0] + 1 && !call(k, TRACE_CLOSE_RANGE, (uintptr_t)pair[0], (uintptr_t)pair[1], 0, 0, 0))
        return;
    trace_close(k->t, pair[0]);
    trace_close(k->t, pair[1]);
}

static long give_by(struct taker *k)
{
    long r = call(k, TRACE_SOCKETPAIR, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, k->scratch, 0);
    int pair[2];

    if (r < 0)
        return r;
    if (!copy(k, pair, sizeof(pair), false))
        return -EFAULT;
    r = receive(k, pair);
    close_pair(k, pair);
    return r;
}

/* Where the stack of the process began: field 28 of /proc/PID/stat; the name in field 2 may hold anything. It stays there. */
static uintptr_t stack_start(pid_t tgid)
{
    static struct {
        pid_t tgid;
        uintptr_t start;
    } known;
    char path[64], text[1024], *at;
    ssize_t got = -1;
    int fd;

    if (known.tgid == tgid)
        return known.start;
    snprintf(path, sizeof(path), "/proc/%d/stat", tgid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        got = read(fd, text, sizeof(text) - 1);
        close(fd);
    }
    if (got <= 0)
        return 0;
    text[got] = 0;
    at = strrchr(text, ')');
    for (unsigned i = 2; at && i < 28; i++)
        at = strchr(at + 1, ' ');
    known.tgid = tgid;
    known.start = at ? strtoull(at, NULL, 10) : 0;
    return known.start;
}

/* Below the red zone nothing lives (System V ABI, 3.2.2), and where the process's first thread has its stack is nothing else. Other
 * threads' stacks are where somebody has put them. 0: not there, or not where the thread's 32-bit calls reach. */
static uintptr_t below_stack(const struct taker *k)
{
    uintptr_t sp = k->t->regs.rsp, start;

    if (k->t->tid != k->tgid || (trace_narrow(k->t) && sp >> 32))
        return 0;
    start = stack_start(k->tgid);
    return sp < start && start - sp < STACK_SPAN ? (sp - RED_ZONE - sizeof(struct message)) & ~(uintptr_t)15 : 0;
}

long give(struct tracee *t, pid_t tgid, int pidfd, int fd)
{
    struct taker k = {t, tgid, pidfd, fd, 0};
    long r;

    k.scratch = below_stack(&k);
    r = k.scratch ? give_by(&k) : -EFAULT;
    if (r != -EFAULT)
        return r;
    r = call(&k, TRACE_MMAP, 0, SCRATCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, (uintptr_t)-1);
    if (r < 0)
        return r;
    k.scratch = (uintptr_t)r;
    r = give_by(&k);
    call(&k, TRACE_MUNMAP, k.scratch, SCRATCH_BYTES, 0, 0, 0);
    return r;
}
