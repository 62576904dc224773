/* ptrace(2): how a thread of the client comes to run system calls of ours between its ioctl and its next instruction.
 *
 * The thread is seized while it waits in the kernel and stops on its way out, at a point where no register is in use by the
 * kernel. Its own `syscall` instruction, two bytes back, is executed again with other registers. All signals are blocked
 * meanwhile; SIGSTOP cannot be, and is sent again.
 */
#include "devfs/trace.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "devfs/proc.h"
#include "kvm/kvm.h"

#ifndef PTRACE_O_SUSPEND_SECCOMP
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif
#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif

#define CODE_64 0x33 /* CS of 64-bit user code */
enum { SYSCALL_STOP = SIGTRAP | 0x80, BUSY_TURNS = 400, BUSY_TURN_US = 5000, QUICK_TURNS = 20 };

/* How a thread got into the kernel: by `syscall`, or by int 0x80 (what stands before the instruction pointer also when 32-bit code
 * comes back from sysenter). */
struct entry {
    uint8_t insn[2];
    unsigned page_shift; /* of mmap's offset */
    long number[TRACE_NUMBERS];
};

enum { WIDE, NARROW, ENTRIES };

static const struct entry entries[ENTRIES] = {
    [WIDE] = {.insn = {0x0f, 0x05}, .number = {
        [TRACE_IOCTL] = SYS_ioctl, [TRACE_MMAP] = SYS_mmap, [TRACE_MUNMAP] = SYS_munmap, [TRACE_CLOSE] = SYS_close,
        [TRACE_CLOSE_RANGE] = SYS_close_range, [TRACE_SOCKETPAIR] = SYS_socketpair, [TRACE_SENDMSG] = SYS_sendmsg,
        [TRACE_RECVMSG] = SYS_recvmsg}},
    [NARROW] = {.insn = {0xcd, 0x80}, .page_shift = 12, .number = { /* <asm/unistd_32.h>; mmap2 */
        [TRACE_IOCTL] = 54, [TRACE_MMAP] = 192, [TRACE_MUNMAP] = 91, [TRACE_CLOSE] = 6, [TRACE_CLOSE_RANGE] = 436,
        [TRACE_SOCKETPAIR] = 360, [TRACE_SENDMSG] = 370, [TRACE_RECVMSG] = 372}},
};

bool trace_is_ioctl(long number)
{
    return number == entries[WIDE].number[TRACE_IOCTL] || number == entries[NARROW].number[TRACE_IOCTL];
}

/* The hand of another VM of this client; or a thread of ours that holds no longer (hold.c): it may have been joined, and yet have to come
 * to where the kernel detaches what it traced. */
static bool lets_go_soon(pid_t tracer)
{
    char name[32];

    if (!syscall(SYS_tgkill, getpid(), tracer, 0))
        return true;
    return proc_read(tracer, "comm", name, sizeof(name)) > 0 && !strcmp(name, "kvmish-hand\n");
}

static int seize(pid_t tid)
{
    struct timespec turn = {0, BUSY_TURN_US * 1000};
    bool alone = false;

    for (unsigned n = 0;; n++) {
        pid_t tracer;
        if (!ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD))
            return 0;
        if (errno != EPERM || n == BUSY_TURNS)
            return -errno;
        tracer = proc_relative(tid, "TracerPid");
        if (tracer ? !lets_go_soon(tracer) : alone) /* twice nobody: it is forbidden, and not that a tracer has just let go */
            return -EPERM;
        alone = !tracer;
        nanosleep(&turn, NULL);
    }
}

static bool is_at(pid_t tid, uint64_t rip, const struct entry *e)
{
    uint8_t insn[2] = {0, 0};
    struct iovec local = {insn, 2}, remote = {(void *)(uintptr_t)(rip - 2), 2};

    return process_vm_readv(tid, &local, 1, &remote, 1, 0) == 2 && insn[0] == e->insn[0] && insn[1] == e->insn[1];
}

/* It waits in an ioctl that it got into in a known way: /proc/TID/syscall has number and rip. Only then may it be answered first
 * and changed afterwards. */
static bool in_ioctl(pid_t tid)
{
    char line[256];

    for (unsigned n = 0; n < BUSY_TURNS; n++) { /* "running": it is still on its way to sleep */
        struct timespec turn = {0, n < QUICK_TURNS ? 50000 : BUSY_TURN_US * 1000};
        unsigned long rip = 0;
        long number = -1;
        if (proc_read(tid, "syscall", line, sizeof(line)) <= 0)
            return false;
        if (sscanf(line, "%ld %*x %*x %*x %*x %*x %*x %*x %lx", &number, &rip) == 2) {
            for (unsigned i = 0; i < ENTRIES; i++)
                if (number == entries[i].number[TRACE_IOCTL] && is_at(tid, rip, &entries[i]))
                    return true;
            return false;
        }
        nanosleep(&turn, NULL);
    }
    return false;
}

int trace_seize(struct tracee *t, pid_t tid)
{
    int err = in_ioctl(tid) ? seize(tid) : -ENOEXEC;

    if (err)
        return err;
    memset(t, 0, sizeof(*t));
    t->tid = tid;
    if (ptrace(PTRACE_INTERRUPT, tid, 0, 0)) {
        err = -errno;
        t->died = tid;
        t->tid = 0;
    }
    return err;
}

/* waitpid() for one thread, woken by SIGCHLD, which is blocked all the time in this process. It does not report the death of a
 * group's leader while other threads are to be reaped, maybe by us. */
static int wait_change(pid_t tid, int *status, bool (*abandoned)(void))
{
    struct timespec turn = {0, 50000000};
    sigset_t child;

    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    for (;;) {
        pid_t got = waitpid(tid, status, __WALL | WNOHANG); /* mostly: it has had our processor since we let it go */
        if (got == tid)
            return WIFSTOPPED(*status) ? 0 : -ESRCH;
        if (got < 0 && errno != EINTR)
            return -ESRCH;
        if (abandoned && abandoned())
            return -EINTR;
        if (sigtimedwait(&child, NULL, &turn) < 0 && proc_dead(tid))
            return -ESRCH;
    }
}

/* How it got into the ioctl that it is leaving, or NULL: it is somewhere else. */
static const struct entry *left_ioctl(const struct tracee *t)
{
    for (unsigned i = 0; i < ENTRIES; i++) {
        const struct entry *e = &entries[i];
        if ((long)t->regs.orig_rax == e->number[TRACE_IOCTL] && is_at(t->tid, t->regs.rip, e))
            return e;
    }
    return NULL;
}

/* A stop that is a signal's, on its way in; it has undone our request, as any stop does. */
static int let_signal_in(pid_t tid, int sig)
{
    return ptrace(PTRACE_CONT, tid, 0, sig) || ptrace(PTRACE_INTERRUPT, tid, 0, 0) ? -ESRCH : 0;
}

int trace_wait(struct tracee *t, bool (*abandoned)(void))
{
    const uint64_t all = ~0ull;
    int status, err;

    for (;;) {
        err = wait_change(t->tid, &status, abandoned);
        if (err)
            goto gone;
        if (status >> 16 == PTRACE_EVENT_STOP)
            break;
        if (let_signal_in(t->tid, WSTOPSIG(status))) {
            err = -ESRCH;
            goto gone;
        }
    }
    err = -ESRCH;
    if (ptrace(PTRACE_GETREGS, t->tid, 0, &t->regs) ||
        ptrace(PTRACE_GETSIGMASK, t->tid, sizeof(t->sigmask), &t->sigmask))
        goto gone;
    t->entry = left_ioctl(t);
    if (!t->entry) {
        ptrace(PTRACE_DETACH, t->tid, 0, 0);
        err = -ENOEXEC;
        goto gone;
    }
    if (ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(all), &all))
        goto gone;
    /* The client's own filter of system calls stands aside; that takes a right which an ordinary user has not. Not before it has
     * stopped, or a call of its own might pass. */
    ptrace(PTRACE_SETOPTIONS, t->tid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP);
    t->stopped = true;
    return 0;
gone:
    if (err == -ESRCH)
        t->died = t->tid;
    if (err != -EINTR)
        t->tid = 0;
    return err;
}

/* Lets it run to the next stop at a system call's entry or exit. */
static int to_syscall_stop(struct tracee *t)
{
    for (;;) {
        int status;
        if (ptrace(PTRACE_SYSCALL, t->tid, 0, 0) || wait_change(t->tid, &status, NULL))
            return -ESRCH;
        if (WSTOPSIG(status) == SYSCALL_STOP)
            return 0;
        if (status >> 16 == 0 && WSTOPSIG(status) == SIGSTOP)
            t->sigstop = true;
    }
}

bool trace_narrow(const struct tracee *t)
{
    return t->entry == &entries[NARROW];
}

/* r: the registers that a system call of ours is made with; rip is behind the instruction that makes it. */
static long make_call(struct tracee *t, const struct entry *e, struct user_regs_struct r)
{
    r.rip -= sizeof(e->insn);
    r.orig_rax = (unsigned long long)-1;
    if (ptrace(PTRACE_SETREGS, t->tid, 0, &r) || to_syscall_stop(t) || to_syscall_stop(t) ||
        ptrace(PTRACE_GETREGS, t->tid, 0, &r)) {
        t->died = t->tid;
        t->tid = 0;
        t->stopped = false;
        return -ESRCH;
    }
    return e == &entries[NARROW] && (uint32_t)r.rax > (uint32_t)-4096 ? (int32_t)r.rax : (long)r.rax; /* above: -errno */
}

static long call_by(struct tracee *t, const struct entry *e, uint64_t rip, enum trace_number number, const uintptr_t arg[6])
{
    struct user_regs_struct r = t->regs;

    if (!t->stopped)
        return -ESRCH;
    r.rip = rip;
    r.rax = (unsigned long long)e->number[number];
    if (e == &entries[NARROW]) {
        r.rbx = arg[0];
        r.rcx = arg[1];
        r.rdx = arg[2];
        r.rsi = arg[3];
        r.rdi = arg[4];
        r.rbp = arg[5];
    } else {
        r.rdi = arg[0];
        r.rsi = arg[1];
        r.rdx = arg[2];
        r.r10 = arg[3];
        r.r8 = arg[4];
        r.r9 = arg[5];
    }
    return make_call(t, e, r);
}

long trace_call(struct tracee *t, enum trace_number number, const uintptr_t arg[6])
{
    return call_by(t, t->entry, t->regs.rip, number, arg);
}

static bool find_vdso(pid_t tid, uintptr_t *start, uintptr_t *end)
{
    char path[64], line[256];
    bool found = false;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/maps", tid);
    f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof(line), f))
        found = strstr(line, "[vdso]") && sscanf(line, "%lx-%lx", start, end) == 2;
    if (f)
        fclose(f);
    return found;
}

/* Behind a `syscall` instruction in the thread's memory, for one that has come by another: the kernel's vDSO has some. 0: none */
static uint64_t behind_syscall(pid_t tid)
{
    static uint8_t vdso[1 << 14];
    uintptr_t start, end;
    const uint8_t *at = NULL;

    if (find_vdso(tid, &start, &end) && end - start <= sizeof(vdso)) {
        struct iovec local = {vdso, end - start}, remote = {(void *)start, end - start};
        ssize_t n = process_vm_readv(tid, &local, 1, &remote, 1, 0);
        at = n > 0 ? memmem(vdso, (size_t)n, entries[WIDE].insn, sizeof(entries[WIDE].insn)) : NULL;
    }
    return at ? start + (uintptr_t)(at - vdso) + sizeof(entries[WIDE].insn) : 0;
}

/* 64-bit code may use int 0x80, too, and has memory where that does not reach. */
long trace_map(struct tracee *t, uintptr_t addr, size_t bytes, int prot, int fd, uint64_t offset)
{
    const struct entry *e = t->entry;
    uint64_t rip = t->regs.rip;

    if (!t->stopped)
        return -ESRCH;
    if (trace_narrow(t) && (addr + bytes) >> 32) {
        rip = t->regs.cs == CODE_64 ? behind_syscall(t->tid) : 0;
        e = &entries[WIDE];
        if (!rip)
            return -EFAULT;
    }
    const uintptr_t arg[6] = {addr, bytes, (uintptr_t)prot, MAP_SHARED | MAP_FIXED, (uintptr_t)fd, offset >> e->page_shift};
    return call_by(t, e, rip, TRACE_MMAP, arg);
}

long trace_close(struct tracee *t, int fd)
{
    const uintptr_t arg[6] = {(uintptr_t)fd};

    return trace_call(t, TRACE_CLOSE, arg);
}

void trace_resume(struct tracee *t, long ret)
{
    struct user_regs_struct r = t->regs;

    if (!t->stopped)
        return;
    r.rax = (unsigned long long)ret;
    if (ret != -ERESTARTNOHAND)
        r.orig_rax = (unsigned long long)-1; /* no system call to be restarted */
    ptrace(PTRACE_SETREGS, t->tid, 0, &r);
    ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(t->sigmask), &t->sigmask);
    if (ptrace(PTRACE_DETACH, t->tid, 0, t->sigstop ? SIGSTOP : 0))
        t->died = t->tid;
    t->tid = 0;
    t->stopped = false;
}

int trace_hold(pid_t tid)
{
    int err = seize(tid);

    if (!err && ptrace(PTRACE_INTERRUPT, tid, 0, 0))
        err = -errno;
    return err;
}

int trace_held(pid_t tid)
{
    int status;
    pid_t got = waitpid(tid, &status, __WALL | WNOHANG);

    if (!got)
        return 0;
    if (got < 0 || !WIFSTOPPED(status))
        return -ESRCH;
    if (status >> 16 == PTRACE_EVENT_STOP)
        return 1;
    return let_signal_in(tid, WSTOPSIG(status));
}
