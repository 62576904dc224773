/* An ioctl that a signal ended before we had taken it up is made again.
 *
 * A client's call waits for us twice: to be taken up, then for its answer. In the first wait any signal ends it, and behind a handler
 * without SA_RESTART the client finds EINTR, which no request of KVM's but KVM_RUN returns and which some clients take for a failure. So
 * the return from a handler (rt_sigreturn) is watched: what it goes back to stands on the client's stack, and when that is such an
 * ioctl, it goes back to the ioctl's start. The return itself may be ended by the next signal, and is then made again likewise.
 */
#include <errno.h>
#include <linux/audit.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "devfs/launch/door.h"

enum { SIGRETURN32 = 119, RT_SIGRETURN32 = 173, IOCTL32 = 54, MOV_BYTES = 7, INSN_BYTES = 2 };

/* What a handler returns to. */
struct context {
    uint64_t ip, result, fd, request;
    uintptr_t ip_at, result_at; /* where they stand */
};

/* /proc/TID/syscall has the stack pointer behind number and arguments. */
static uintptr_t stack_pointer(const struct call *c)
{
    char path[64], line[256];
    unsigned long sp = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/syscall", c->tid);
    f = fopen(path, "re");
    if (!f)
        return 0;
    if (!fgets(line, sizeof(line), f) || sscanf(line, "%*d %*x %*x %*x %*x %*x %*x %lx", &sp) != 1)
        sp = 0;
    fclose(f);
    return sp;
}

static bool find64(const struct call *c, uintptr_t sp, struct context *x)
{
    uintptr_t at = sp + offsetof(ucontext_t, uc_mcontext.gregs);
    gregset_t g;

    if (client_read(&c->client, &g, at, sizeof(g)))
        return false;
    *x = (struct context){.ip = (uint64_t)g[REG_RIP], .result = (uint64_t)g[REG_RAX], .fd = (uint64_t)g[REG_RDI],
                          .request = (uint64_t)g[REG_RSI], .ip_at = at + REG_RIP * sizeof(*g),
                          .result_at = at + REG_RAX * sizeof(*g)};
    return true;
}

struct sigcontext32 { /* <asm/sigcontext.h> */
    uint32_t gs, fs, es, ds, di, si, bp, sp, bx, dx, cx, ax, trapno, err, ip;
};

static bool find32(const struct call *c, uintptr_t sp, struct context *x)
{
    const uintptr_t rt_frame = 12 + 128 + 20; /* signal number and two pointers, siginfo, head of ucontext */
    uintptr_t at = sp + (c->what->number32 == SIGRETURN32 ? 0 : rt_frame);
    struct sigcontext32 s;

    if (client_read(&c->client, &s, at, sizeof(s)))
        return false;
    *x = (struct context){.ip = s.ip, .result = (uint64_t)(int32_t)s.ax, .fd = s.bx, .request = s.cx,
                          .ip_at = at + offsetof(struct sigcontext32, ip), .result_at = at + offsetof(struct sigcontext32, ax)};
    return true;
}

/* Is the instruction before ip the one that enters the kernel, and does the one before load this number into eax? */
static bool behind_syscall(const struct call *c, const struct context *x, int number)
{
    static const uint8_t enter[2][INSN_BYTES] = {{0x0f, 0x05}, {0xcd, 0x80}};
    const uint8_t mov[] = {0x48, 0xc7, 0xc0, (uint8_t)number, 0, 0, 0}, short_mov[] = {0xb8, (uint8_t)number, 0, 0, 0};
    uint8_t code[MOV_BYTES + INSN_BYTES];

    if (client_read(&c->client, code, x->ip - sizeof(code), sizeof(code)) ||
        memcmp(code + MOV_BYTES, enter[c->client.compat], INSN_BYTES))
        return false;
    return !number || !memcmp(code, mov, sizeof(mov)) || !memcmp(code + 2, short_mov, sizeof(short_mov));
}

static bool is_our_ioctl(struct call *c, const struct context *x)
{
    uint32_t request = (uint32_t)x->request;
    enum object_kind kind;
    bool foreign;
    void *object;

    if (_IOC_TYPE(request) != KVMIO || request == KVM_RUN || !behind_syscall(c, x, 0))
        return false;
    c->arg[0] = x->fd;
    kind = object_take(c, &object, &foreign);
    if (kind != OBJECT_NONE)
        object_put(kind, object);
    return kind != OBJECT_NONE;
}

/* The number of the system call that is to be made again, or 0. */
static int interrupted(struct call *c, const struct context *x)
{
    static const int returns[2][2] = {{SYS_rt_sigreturn, SYS_rt_sigreturn}, {SIGRETURN32, RT_SIGRETURN32}};

    if ((int64_t)x->result != -EINTR)
        return 0;
    if (is_our_ioctl(c, x))
        return c->client.compat ? IOCTL32 : SYS_ioctl;
    for (unsigned i = 0; i < 2; i++)
        if (behind_syscall(c, x, returns[c->client.compat][i]))
            return returns[c->client.compat][i];
    return 0;
}

void restart_serve(struct call *c)
{
    uintptr_t sp = stack_pointer(c);
    size_t word = c->client.compat ? 4 : 8;
    struct context x;
    uint64_t number;

    c->client.pid = c->tid;
    if (sp && (c->client.compat ? find32(c, sp, &x) : find64(c, sp, &x)) && (number = (uint64_t)interrupted(c, &x))) {
        x.ip -= INSN_BYTES;
        client_write(&c->client, x.ip_at, &x.ip, word);
        client_write(&c->client, x.result_at, &number, word);
    }
    call_continue(c);
}
