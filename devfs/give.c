/* How a descriptor comes to the client: by a socket pair there, whose other end we take. It needs no path that the client could see.
 *
 * What the calls in the client write needs memory that is nobody's: below its stack, or a page for the purpose.
 */
#include "devfs/give.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devfs/hand.h"
#include "devfs/message.h"
#include "devfs/proc.h"
#include "kvm/kvm.h"

enum { SCRATCH_BYTES = 4096, RED_ZONE = 128, STACK_SPAN = 128 << 20 /* the kernel maps nothing there */ };

static long call(struct gift *g, enum trace_number number, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t e)
{
    const uintptr_t arg[6] = {a, b, c, d, e, 0};

    return trace_call(g->t, number, arg);
}

static bool copy(const struct gift *g, void *data, size_t n, bool to_client)
{
    struct iovec local = {data, n}, remote = {(void *)g->scratch, n};

    return (to_client ? process_vm_writev(g->t->tid, &local, 1, &remote, 1, 0)
                      : process_vm_readv(g->t->tid, &local, 1, &remote, 1, 0)) == (ssize_t)n;
}

static long receive(struct gift *g, int fd)
{
    const struct client c = {.pid = g->tgid, .thread = g->t->tid};
    int ours = client_dup(&c, g->pair[0]);
    bool narrow = trace_narrow(g->t);
    long err = ours < 0 ? ours : 0;
    struct message m;

    message_fill(&m, g->scratch, narrow, -1);
    if (!err && packet_send(ours, "f", 1, fd))
        err = -EIO;
    if (ours >= 0)
        close(ours);
    if (!err && !copy(g, &m, sizeof(m), true))
        err = -EFAULT;
    if (!err)
        err = call(g, TRACE_RECVMSG, (uintptr_t)g->pair[1], g->scratch, MSG_CMSG_CLOEXEC | MSG_DONTWAIT, 0, 0);
    if (err < 0)
        return err;
    return copy(g, &m, sizeof(m), false) ? message_fd(&m, narrow) : -EFAULT;
}

static void close_pair(struct gift *g)
{
    const int *pair = g->pair;

    if (pair[0] < 0 || (pair[1] == pair[0] + 1 && !call(g, TRACE_CLOSE_RANGE, (uintptr_t)pair[0], (uintptr_t)pair[1], 0, 0, 0)))
        return;
    trace_close(g->t, pair[0]);
    trace_close(g->t, pair[1]);
}

static long give_by(struct gift *g, int fd)
{
    long r = call(g, TRACE_SOCKETPAIR, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, g->scratch, 0);
    int pair[2];

    if (r < 0)
        return r;
    if (!copy(g, pair, sizeof(pair), false))
        return -EFAULT;
    memcpy(g->pair, pair, sizeof(pair));
    return receive(g, fd);
}

/* Where the stack of the process began. It stays there. */
static uintptr_t stack_start(pid_t tgid)
{
    static struct {
        pid_t tgid;
        uintptr_t start;
    } known;
    char text[1024];
    const char *at;

    if (known.tgid == tgid)
        return known.start;
    if (proc_read(tgid, "stat", text, sizeof(text)) <= 0)
        return 0;
    at = proc_stat_field(text, 28);
    known.tgid = tgid;
    known.start = at ? strtoull(at, NULL, 10) : 0;
    return known.start;
}

/* Below the red zone nothing lives (System V ABI, 3.2.2), and where the process's first thread has its stack is nothing else. Other
 * threads' stacks are where somebody has put them. 0: not there, or not where the thread's 32-bit calls reach. */
static uintptr_t below_stack(const struct gift *g)
{
    uintptr_t sp = g->t->regs.rsp, start;

    if (g->t->tid != g->tgid || (trace_narrow(g->t) && sp >> 32))
        return 0;
    start = stack_start(g->tgid);
    return sp < start && start - sp < STACK_SPAN ? (sp - RED_ZONE - sizeof(struct message)) & ~(uintptr_t)15 : 0;
}

long give(struct gift *g, int fd)
{
    long r;

    g->pair[0] = -1;
    g->page = false;
    g->scratch = below_stack(g);
    r = g->scratch ? give_by(g, fd) : -EFAULT;
    if (r != -EFAULT)
        return r;
    give_end(g);
    r = call(g, TRACE_MMAP, 0, SCRATCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, (uintptr_t)-1);
    if (r < 0)
        return r;
    g->page = true;
    g->scratch = (uintptr_t)r;
    return give_by(g, fd);
}

void give_end(struct gift *g)
{
    close_pair(g);
    g->pair[0] = -1;
    if (g->page)
        call(g, TRACE_MUNMAP, g->scratch, SCRATCH_BYTES, 0, 0, 0);
}
