/* A client that does what clients do wrong: `faults PATH SCENARIO`; says "ok" and exits 0, or says what is wrong.
 *
 * Whatever is behind PATH must answer as Linux's KVM does, lose nothing, and serve the next as before.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "machine.h"

static const uint8_t halts[] = {0xf4, 0xeb, 0xfd}; /* 1: hlt; jmp 1b */
static const uint8_t loops[] = {0xfe, 0x06, 0x00, 0x20, 0xeb, 0xfa}; /* 1: inc byte [DATA]; jmp 1b */

/* ---- closed in every order ------------------------------------------------------------------------------------------ */

enum thing { FILE_ITSELF, VM, VCPU0, VCPU1, STATS, MAPPING, THINGS };

struct whole {
    struct machine m;
    int stats;
    unsigned gone; /* a bit for each thing */
};

static void build(struct whole *w, void *memory)
{
    w->gone = 0;
    start(&w->m, 2);
    CHECK(!add_slot(w->m.vm, 0, 0, memory, 16 * PAGE));
    CHECK((w->stats = ioctl(w->m.vcpu[0], KVM_GET_STATS_FD, 0)) >= 0);
    for (unsigned i = 0; i < 2; i++)
        set_registers(w->m.vcpu[i], CODE, 0);
}

static void drop(struct whole *w, enum thing t)
{
    int fd[] = {w->m.kvm, w->m.vm, w->m.vcpu[0], w->m.vcpu[1], w->stats};

    if (t == MAPPING)
        CHECK(!munmap(w->m.run[0], 3 * PAGE));
    else
        CHECK(!close(fd[t]));
    w->gone |= 1u << t;
}

/* What is left works; an object's calls fail with EIO in a process that did not make it. */
static void look(const struct whole *w, bool ours)
{
    struct kvm_stats_header head;
    struct kvm_regs r;

    if (!(w->gone & 1 << FILE_ITSELF))
        CHECK(ioctl(w->m.kvm, KVM_GET_API_VERSION, 0) == 12);
    if (!(w->gone & 1 << STATS))
        CHECK(pread(w->stats, &head, sizeof(head), 0) == sizeof(head) && head.num_desc);
    if (!(w->gone & 1 << VM)) {
        int has = ioctl(w->m.vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY);
        CHECK(ours ? has == 1 : has < 0 && errno == EIO);
    }
    for (unsigned i = 0; i < 2; i++) {
        if (w->gone & 1u << (VCPU0 + i))
            continue;
        if (ours) {
            CHECK(!ioctl(w->m.vcpu[i], KVM_GET_REGS, &r) && !run(w->m.vcpu[i]));
        } else {
            REFUSED(ioctl(w->m.vcpu[i], KVM_GET_REGS, &r), EIO);
            REFUSED(ioctl(w->m.vcpu[i], KVM_RUN, 0), EIO);
        }
        if (i == 1)
            CHECK(w->m.run[1]->exit_reason == KVM_EXIT_HLT || !ours);
    }
}

static void close_all(struct whole *w, const enum thing order[THINGS], bool ours)
{
    for (unsigned i = 0; i < THINGS; i++) {
        drop(w, order[i]);
        look(w, ours);
    }
    munmap(w->m.run[1], 3 * PAGE);
}

/* In a child first: nothing changes for the parent. */
static void with_child(struct whole *w, const enum thing order[THINGS])
{
    enum thing reverse[THINGS];
    int status;

    if (!fork()) {
        look(w, false);
        close_all(w, order, false);
        _exit(0);
    }
    CHECK(wait(&status) > 0 && !status);
    for (unsigned i = 0; i < THINGS; i++)
        reverse[i] = order[THINGS - 1 - i];
    look(w, true);
    close_all(w, reverse, true);
}

static void permute(enum thing order[THINGS], unsigned n, void *memory, unsigned *count)
{
    struct whole w;

    if (n == THINGS) {
        build(&w, memory);
        if (++*count % 16)
            close_all(&w, order, true);
        else
            with_child(&w, order);
        return;
    }
    for (unsigned i = n; i < THINGS; i++) {
        enum thing t = order[i];
        order[i] = order[n];
        order[n] = t;
        permute(order, n + 1, memory, count);
        order[n] = order[i];
        order[i] = t;
    }
}

static int descriptors(void)
{
    int n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void orders(void)
{
    enum thing order[THINGS] = {FILE_ITSELF, VM, VCPU0, VCPU1, STATS, MAPPING};
    void *memory = guest_memory(halts, sizeof(halts));
    int before = descriptors();
    unsigned count = 0;

    permute(order, 0, memory, &count);
    CHECK(count == 720 && descriptors() == before);
}

/* A VM whose timer has ticked: whoever counts for it waits for the next time. */
static int ticking_vm(int kvm)
{
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_MASTER};
    struct kvm_pit_state2 pit = {0};
    struct kvm_pit_config config = {0};
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);

    pit.channels[0] = (struct kvm_pit_channel_state){.count = 0x10000, .mode = 2, .gate = 1};
    CHECK(vm >= 0 && !ioctl(vm, KVM_CREATE_IRQCHIP, 0) && !ioctl(vm, KVM_CREATE_PIT2, &config));
    CHECK(!ioctl(vm, KVM_SET_PIT2, &pit));
    while (!(chip.chip.pic.irr & 1))
        CHECK(!ioctl(vm, KVM_GET_IRQCHIP, &chip));
    return vm;
}

/* A child whose last act is a close, and that of a vfork() or a close_range(), which shares our memory. */
static void children(void)
{
    struct whole w;
    int status;
    pid_t pid;

    build(&w, guest_memory(halts, sizeof(halts)));
    ticking_vm(w.m.kvm);
    for (unsigned n = 0; n < 3; n++) {
        pid = n ? vfork() : fork();
        if (!pid) {
            if (n == 1) {
                close(w.m.vcpu[0]);
                close(w.m.vm);
                dup2(0, w.m.kvm);
            } else {
                close_range(3, ~0u, 0);
            }
            _exit(0);
        }
        CHECK(waitpid(pid, &status, 0) == pid && !status);
        look(&w, true);
    }
}

/* ---- handed to another process ------------------------------------------------------------------------------------------ */

static void send_fds(int socket, const int *fd, size_t n)
{
    char control[CMSG_SPACE(2 * sizeof(int))] = {0}, byte = 0;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(n * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);

    *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n * sizeof(int))};
    memcpy(CMSG_DATA(c), fd, n * sizeof(int));
    CHECK(sendmsg(socket, &m, 0) == 1);
}

static void receive_fds(int socket, int *fd, size_t n)
{
    char control[CMSG_SPACE(2 * sizeof(int))], byte;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};

    CHECK(recvmsg(socket, &m, 0) == 1 && CMSG_FIRSTHDR(&m));
    memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), n * sizeof(int));
}

/* The receiver lives on when the owner has closed its own: the machine is still nobody else's. */
static void handed(void)
{
    int pair[2], fd[2], status;
    struct kvm_regs r;
    struct whole w;
    char byte;

    CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    if (!fork()) {
        close(pair[0]);
        receive_fds(pair[1], fd, 2);
        for (unsigned n = 0; n < 2; n++) {
            REFUSED(ioctl(fd[0], KVM_CREATE_VCPU, 7), EIO);
            REFUSED(ioctl(fd[1], KVM_RUN, 0), EIO);
            REFUSED(ioctl(fd[1], KVM_GET_REGS, &r), EIO);
            CHECK(write(pair[1], "x", 1) == 1);
            CHECK(n || read(pair[1], &byte, 1) == 1);
        }
        _exit(0);
    }
    close(pair[1]);
    build(&w, guest_memory(halts, sizeof(halts)));
    fd[0] = w.m.vm;
    fd[1] = w.m.vcpu[0];
    send_fds(pair[0], fd, 2);
    CHECK(read(pair[0], &byte, 1) == 1);
    look(&w, true);
    for (unsigned t = 0; t < THINGS; t++)
        drop(&w, t);
    CHECK(write(pair[0], "x", 1) == 1 && read(pair[0], &byte, 1) == 1);
    CHECK(wait(&status) > 0 && !status);
}

/* ---- kept through execve() ---------------------------------------------------------------------------------------------- */

/* The file itself serves the new program; the machine is the old one's, whose memory is gone. */
static void executed(int kvm, int vm, int vcpu)
{
    struct kvm_regs r;
    struct kvm_run *page;
    struct machine m;
    struct stat st;

    CHECK(ioctl(kvm, KVM_GET_API_VERSION, 0) == 12);
    for (unsigned n = 0; n < 2; n++) {
        REFUSED(ioctl(vm, KVM_CREATE_VCPU, 7), EIO);
        REFUSED(ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), EIO);
        REFUSED(ioctl(vcpu, KVM_GET_REGS, &r), EIO);
        REFUSED(ioctl(vcpu, KVM_RUN, 0), EIO);
    }
    CHECK((page = mmap(NULL, 3 * PAGE, PROT_READ, MAP_SHARED, vcpu, 0)) != MAP_FAILED && page->exit_reason == KVM_EXIT_HLT);
    CHECK(!fstat(vm, &st) && !close(vm) && !close(vcpu) && !munmap(page, 3 * PAGE));
    REFUSED(ioctl(vcpu, KVM_RUN, 0), EBADF);
    CHECK((vm = ioctl(kvm, KVM_CREATE_VM, 0)) >= 0 && ioctl(vm, KVM_CREATE_VCPU, 0) >= 0);
    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, 0, guest_memory(halts, sizeof(halts)), 16 * PAGE));
    set_registers(m.vcpu[0], CODE, 0);
    CHECK(!run(m.vcpu[0]) && m.run[0]->exit_reason == KVM_EXIT_HLT);
    finish(&m);
    CHECK(!close(kvm));
}

static void kept(void)
{
    char fd[3][16];
    struct whole w;
    int opened;

    CHECK((opened = open(path, O_RDWR)) >= 0 && !fcntl(opened, F_GETFD) && !close(opened));
    CHECK((opened = open(path, O_RDWR | O_CLOEXEC)) >= 0 && fcntl(opened, F_GETFD) == FD_CLOEXEC && !close(opened));
    build(&w, guest_memory(halts, sizeof(halts)));
    look(&w, true);
    const int keep[] = {w.m.kvm, w.m.vm, w.m.vcpu[1]};
    for (unsigned i = 0; i < 3; i++) {
        CHECK(!fcntl(keep[i], F_SETFD, 0));
        snprintf(fd[i], sizeof(fd[i]), "%d", keep[i]);
    }
    execl("/proc/self/exe", "faults", path, "executed", fd[0], fd[1], fd[2], NULL);
    err(1, "execl");
}

/* ---- paths at the end of memory ------------------------------------------------------------------------------------------- */

static void paths(void)
{
    size_t bytes = strlen(path) + 1;
    char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *end = page + PAGE;
    struct stat st;
    int fd;

    CHECK(page != MAP_FAILED && !munmap(end, PAGE));
    memcpy(end - bytes, path, bytes);
    CHECK((fd = open(end - bytes, O_RDWR)) >= 0 && ioctl(fd, KVM_GET_API_VERSION, 0) == 12);
    CHECK(!stat(end - bytes, &st) && !access(end - bytes, R_OK | W_OK));
    memcpy(end - bytes + 1, path, bytes - 1); /* its 0 lies beyond */
    REFUSED(open(end - bytes + 1, O_RDWR), EFAULT);
    REFUSED(openat(AT_FDCWD, end, O_RDWR), EFAULT);
    REFUSED(access(end, R_OK), EFAULT);
    REFUSED(stat(end - 1, &st), EFAULT);
    close(fd);
}

/* To open another file asks nothing of the kernel that takes the lock of the address space. */
static void opened(void)
{
    struct sock_filter no_look[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof(no_look) / sizeof(*no_look), no_look};
    char *null = strdup("/dev/null"), *kvm = strdup("/dev/kvn");

    CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter));
    CHECK(open(null, O_RDWR) >= 0);
    REFUSED(open(kvm, O_RDWR), ENOENT);
    for (const char *low = (const char *)8; low--;)
        REFUSED(open(low, O_RDWR), EFAULT);
}

/* ---- numbers that are closed, while other threads call ------------------------------------------------------------------ */

static int irqfd(int vm, int event, uint32_t gsi, uint32_t flags)
{
    struct kvm_irqfd irq = {.fd = (uint32_t)event, .gsi = gsi, .flags = flags};

    return ioctl(vm, KVM_IRQFD, &irq);
}

struct looker {
    int vm, event;
    atomic_bool done;
};

static void *look_it_up(void *arg)
{
    struct looker *l = arg;

    while (!l->done)
        CHECK(!irqfd(l->vm, l->event, 4, KVM_IRQFD_FLAG_DEASSIGN));
    return NULL;
}

static void closed_numbers(void)
{
    struct looker l = {.done = false};
    struct machine m;
    int lowest, next;
    pthread_t t;

    start(&m, 0);
    CHECK(!ioctl(m.vm, KVM_CREATE_IRQCHIP, 0));
    l.vm = m.vm;
    CHECK((l.event = eventfd(0, EFD_CLOEXEC)) >= 0 && !irqfd(m.vm, l.event, 5, 0));
    CHECK((lowest = dup(l.event)) >= 0 && (next = dup(l.event)) >= 0); /* who looks something up takes these two for a while */
    CHECK(!close(lowest) && !close(next));
    CHECK(!pthread_create(&t, NULL, look_it_up, &l));
    for (unsigned n = 0; n < 5000; n++)
        REFUSED(irqfd(m.vm, next, 5, KVM_IRQFD_FLAG_DEASSIGN), EBADF);
    l.done = true;
    pthread_join(t, NULL);
    finish(&m);
}

static void *take_it_too(void *arg)
{
    struct looker *l = arg;

    while (!l->done) {
        CHECK(!irqfd(l->vm, l->event, 4, 0) || errno == EBUSY);
        CHECK(!irqfd(l->vm, l->event, 4, KVM_IRQFD_FLAG_DEASSIGN));
    }
    return NULL;
}

/* An eventfd is an irqfd once, in all machines. */
static void claimed(void)
{
    struct looker l = {.done = false};
    struct machine m, other;
    pthread_t t;

    start(&m, 0);
    start(&other, 0);
    CHECK(!ioctl(m.vm, KVM_CREATE_IRQCHIP, 0) && !ioctl(other.vm, KVM_CREATE_IRQCHIP, 0));
    l.vm = other.vm;
    CHECK((l.event = eventfd(0, EFD_CLOEXEC)) >= 0);
    CHECK(!pthread_create(&t, NULL, take_it_too, &l));
    for (unsigned n = 0; n < 2000; n++) {
        bool first = !irqfd(m.vm, l.event, 5, 0);
        CHECK(first || errno == EBUSY);
        CHECK((irqfd(m.vm, l.event, 6, 0) && errno == EBUSY) || !first);
        CHECK(!irqfd(m.vm, l.event, 5, KVM_IRQFD_FLAG_DEASSIGN) && !irqfd(m.vm, l.event, 6, KVM_IRQFD_FLAG_DEASSIGN));
    }
    l.done = true;
    pthread_join(t, NULL);
    finish(&other);
    finish(&m);
}

/* ---- two calls on one vCPU ------------------------------------------------------------------------------------------------ */

static struct caller {
    int vcpu;
    pthread_t thread;
    _Atomic pid_t tid;
    atomic_bool done;
    struct kvm_regs regs;
} in_run, in_get;

static void on_signal(int sig)
{
    (void)sig;
}

static void *be_in_run(void *arg)
{
    (void)arg;
    REFUSED(ioctl(in_run.vcpu, KVM_RUN, 0), EINTR);
    in_run.done = true;
    return NULL;
}

static void *be_in_get(void *arg)
{
    (void)arg;
    in_get.tid = gettid();
    CHECK(!ioctl(in_get.vcpu, KVM_GET_REGS, &in_get.regs));
    in_get.done = true;
    return NULL;
}

/* Until the thread sleeps, which it does in its ioctl only. */
static void await_sleep(const struct caller *c)
{
    char name[64], text[512], *state = NULL;

    while (!c->done && (!state || !strchr("SD", state[2]))) {
        FILE *f;
        sched_yield();
        snprintf(name, sizeof(name), "/proc/self/task/%d/stat", c->tid);
        if (!c->tid || !(f = fopen(name, "r")))
            continue;
        state = fgets(text, sizeof(text), f) ? strrchr(text, ')') : NULL;
        fclose(f);
    }
}

static void *set_and_get(void *arg)
{
    struct kvm_regs r;
    uint64_t *word = (uint64_t *)&r;

    for (unsigned n = 0; n < 2000; n++) {
        memset(&r, (int)(n + (uintptr_t)arg) & 0x7f, sizeof(r));
        CHECK(!ioctl(in_get.vcpu, KVM_SET_REGS, &r) && !ioctl(in_get.vcpu, KVM_GET_REGS, &r));
        for (unsigned i = 1; i < 16; i++)
            CHECK(word[i] == word[0]);
    }
    return NULL;
}

static void exclusive(void)
{
    struct sigaction sa = {.sa_handler = on_signal};
    volatile uint8_t *memory = guest_memory(loops, sizeof(loops));
    struct machine m;
    pthread_t t[4];

    sigaction(SIGUSR1, &sa, NULL);
    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, 0, (void *)memory, 16 * PAGE));
    set_registers(m.vcpu[0], CODE, 77);
    in_run.vcpu = in_get.vcpu = m.vcpu[0];
    CHECK(!pthread_create(&t[0], NULL, be_in_run, NULL));
    while (!memory[DATA]) /* so it is in KVM_RUN */
        sched_yield();
    CHECK(!pthread_create(&t[1], NULL, be_in_get, NULL));
    await_sleep(&in_get);
    CHECK(!in_get.done);
    while (!in_run.done) {
        pthread_kill(t[0], SIGUSR1);
        sched_yield();
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    CHECK(in_get.regs.rbx == 77);
    for (uintptr_t i = 0; i < 4; i++)
        CHECK(!pthread_create(&t[i], NULL, set_and_get, (void *)(i * 31)));
    for (unsigned i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    finish(&m);
}

/* ---- cancelled in KVM_RUN --------------------------------------------------------------------------------------------------- */

static atomic_bool cancellable;

static void *run_cancellable(void *vcpu)
{
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    cancellable = true;
    ioctl((int)(uintptr_t)vcpu, KVM_RUN, 0);
    return NULL;
}

/* The call ends with its thread, wherever in it that is; the vCPU is free, and between two instructions. */
static void cancelled(void)
{
    volatile uint8_t *memory = guest_memory(loops, sizeof(loops));
    struct kvm_regs r;
    struct machine m;

    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, 0, (void *)memory, 16 * PAGE));
    set_registers(m.vcpu[0], CODE, 77);
    for (unsigned n = 0; n < 200; n++) {
        uint8_t before = memory[DATA];
        pthread_t t;
        void *answer;
        cancellable = false;
        CHECK(!pthread_create(&t, NULL, run_cancellable, (void *)(uintptr_t)m.vcpu[0]));
        while (!cancellable || (n % 2 && memory[DATA] == before))
            sched_yield();
        CHECK(!pthread_cancel(t) && !pthread_join(t, &answer) && answer == PTHREAD_CANCELED);
        CHECK(!ioctl(m.vcpu[0], KVM_GET_REGS, &r) && r.rbx == 77 && (r.rip == CODE || r.rip == CODE + 4));
    }
    finish(&m);
}

/* ---- handlers that do not come back ------------------------------------------------------------------------------------------ */

static sigjmp_buf away;
static struct kvm_regs in_handler;

static void on_leave(int sig)
{
    CHECK(!ioctl(in_run.vcpu, KVM_GET_REGS, &in_handler)); /* it is nobody's */
    siglongjmp(away, sig);
}

static void *interrupt_it(void *memory)
{
    uint8_t before = *(volatile uint8_t *)memory;

    while (*(volatile uint8_t *)memory == before)
        sched_yield();
    pthread_kill(in_run.thread, SIGUSR2);
    return NULL;
}

/* A handler runs behind KVM_RUN, may call the vCPU, and leave for good. */
static void handlers(void)
{
    struct sigaction sa = {.sa_handler = on_leave};
    volatile uint8_t *memory = guest_memory(loops, sizeof(loops));
    struct machine m;
    pthread_t t;

    sigaction(SIGUSR2, &sa, NULL);
    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, 0, (void *)memory, 16 * PAGE));
    set_registers(m.vcpu[0], CODE, 77);
    in_run.vcpu = m.vcpu[0];
    in_run.thread = pthread_self();
    for (volatile unsigned n = 0; n < 50; n++) {
        CHECK(!pthread_create(&t, NULL, interrupt_it, (void *)(memory + DATA)));
        if (!sigsetjmp(away, 1)) {
            ioctl(m.vcpu[0], KVM_RUN, 0);
            errx(1, "the handler has come back");
        }
        pthread_join(t, NULL);
        CHECK(in_handler.rbx == 77 && (in_handler.rip == CODE || in_handler.rip == CODE + 4));
    }
    finish(&m);
}

/* ---- nothing left --------------------------------------------------------------------------------------------------------- */

static void full_table(void)
{
    int fd[1024], n = 0;
    struct whole w;

    build(&w, guest_memory(halts, sizeof(halts)));
    while (n < 1024 && (fd[n] = open("/dev/null", O_RDONLY)) >= 0)
        n++;
    CHECK(n < 1024);
    REFUSED(ioctl(w.m.kvm, KVM_CREATE_VM, 0), EMFILE);
    REFUSED(ioctl(w.m.vm, KVM_CREATE_VCPU, 2), EMFILE);
    REFUSED(ioctl(w.m.vm, KVM_GET_STATS_FD, 0), EMFILE);
    REFUSED(ioctl(w.m.vcpu[0], KVM_GET_STATS_FD, 0), EMFILE);
    REFUSED(open(path, O_RDWR), EMFILE);
    while (n)
        close(fd[--n]);
    look(&w, true);
    CHECK(ioctl(w.m.vm, KVM_CREATE_VCPU, 2) >= 0 && ioctl(w.m.vm, KVM_GET_STATS_FD, 0) >= 0);
}

/* The client's own limit: what fails fails with ENOMEM, what is there goes on, and without the limit all is as before. */
static void no_memory(void)
{
    struct rlimit none = {96 << 20, RLIM_INFINITY}, all = {RLIM_INFINITY, RLIM_INFINITY};
    int fd[256], n = 0;
    struct whole w;

    build(&w, guest_memory(halts, sizeof(halts)));
    look(&w, true);
    CHECK(!setrlimit(RLIMIT_AS, &none));
    while (n < 128 && (fd[n] = n % 2 ? ioctl(fd[n - 1], KVM_CREATE_VCPU, 0) : ioctl(w.m.kvm, KVM_CREATE_VM, 0)) >= 0)
        n++;
    CHECK(n == 128 || errno == ENOMEM);
    look(&w, true);
    while (n)
        close(fd[--n]);
    CHECK(!setrlimit(RLIMIT_AS, &all));
    look(&w, true);
    build(&w, guest_memory(halts, sizeof(halts)));
    look(&w, true);
}

/* ---- leaks ------------------------------------------------------------------------------------------------------------------ */

static long status_field(const char *name)
{
    char line[256];
    long value = -1;
    FILE *f = fopen("/proc/self/status", "r");

    CHECK(f);
    while (fgets(line, sizeof(line), f))
        if (!strncmp(line, name, strlen(name)))
            value = atol(line + strlen(name));
    fclose(f);
    return value;
}

/* A machine with all that holds something: chips, timers, eventfds, zones, a filter, dirty logs, statistics. */
static void live_and_die(void *memory)
{
    int e = eventfd(0, EFD_CLOEXEC);
    struct kvm_pit_config pit = {0};
    struct kvm_irqfd irq = {.fd = (uint32_t)e, .gsi = 4};
    struct kvm_ioeventfd io = {.addr = 0x20, .len = 1, .fd = e, .flags = KVM_IOEVENTFD_FLAG_PIO};
    struct kvm_coalesced_mmio_zone zone = {.addr = 0xa0000, .size = PAGE};
    struct kvm_userspace_memory_region slot = {0, KVM_MEM_LOG_DIRTY_PAGES, 0, 16 * PAGE, (uintptr_t)memory};
    static uint8_t bits[32];
    struct kvm_msr_filter filter = {.ranges[0] = {KVM_MSR_FILTER_READ, 256, 0, bits}};
    struct machine m;
    int stats;

    CHECK((m.kvm = open(path, O_RDWR | O_CLOEXEC)) >= 0 && (m.vm = ioctl(m.kvm, KVM_CREATE_VM, 0)) >= 0);
    CHECK(!ioctl(m.vm, KVM_CREATE_IRQCHIP, 0) && !ioctl(m.vm, KVM_CREATE_PIT2, &pit));
    CHECK(!ioctl(m.vm, KVM_IRQFD, &irq) && !ioctl(m.vm, KVM_IOEVENTFD, &io));
    CHECK(!ioctl(m.vm, KVM_REGISTER_COALESCED_MMIO, &zone) && !ioctl(m.vm, KVM_X86_SET_MSR_FILTER, &filter));
    CHECK(!ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &slot));
    CHECK((m.vcpu[0] = ioctl(m.vm, KVM_CREATE_VCPU, 0)) >= 0 && (stats = ioctl(m.vm, KVM_GET_STATS_FD, 0)) >= 0);
    m.run[0] = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu[0], 0);
    CHECK(m.run[0] != MAP_FAILED);
    set_registers(m.vcpu[0], CODE, 0);
    CHECK(!run(m.vcpu[0]) && m.run[0]->exit_reason == KVM_EXIT_IO);
    munmap(m.run[0], 3 * PAGE);
    close(stats);
    close(m.vcpu[0]);
    close(m.vm);
    close(m.kvm);
    close(e);
}

static void leaks(void)
{
    static const uint8_t out10[] = {0xe6, 0x10};
    void *memory = guest_memory(out10, sizeof(out10));
    long fds, threads, resident;

    for (unsigned n = 0; n < 20; n++)
        live_and_die(memory);
    fds = descriptors();
    threads = status_field("Threads:");
    resident = status_field("VmRSS:");
    for (unsigned n = 0; n < 150; n++)
        live_and_die(memory);
    CHECK(descriptors() == fds);
    CHECK(status_field("Threads:") <= threads);
    CHECK(status_field("VmRSS:") < resident + 2048); /* KiB; one vCPU has more */
}

/* ---- what is not the client's to see ------------------------------------------------------------------------------------------ */

enum { ANSWER_BYTES = 16384 };

/* Fills what the next call will find on the stack and in freed memory. */
static __attribute__((noinline)) void stain(uint8_t with)
{
    uint8_t here[100000];
    void *p[64];

    mallopt(M_PERTURB, (uint8_t)~with); /* new memory is filled with the complement, freed memory with the value */
    memset(here, with, sizeof(here));
    for (unsigned i = 0; i < 64; i++) {
        p[i] = malloc(24u << i % 10);
        memset(p[i], with, 24u << i % 10);
    }
    for (unsigned i = 0; i < 64; i++)
        free(p[i]);
    __asm__ volatile("" : : "r"(here) : "memory");
}

/* No byte of an answer is the stain. head: what the client writes into the structure before. */
static void clean_answer(int fd, unsigned long request, const void *head, size_t bytes)
{
    static uint8_t answer[2][ANSWER_BYTES];

    for (unsigned n = 0; n < 2; n++) {
        memset(answer[n], 0, ANSWER_BYTES);
        memcpy(answer[n], head, bytes);
        stain(n ? 0x5a : 0xa5);
        CHECK(ioctl(fd, request, answer[n]) >= 0);
    }
    for (unsigned i = 0; i < ANSWER_BYTES; i++)
        if (answer[0][i] == 0xa5 && answer[1][i] == 0x5a)
            errx(1, "request %lx: byte %u is not written", request, i);
}

static void clean(void)
{
    static const unsigned long of_vcpu[] = {
        KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_SREGS2, KVM_GET_VCPU_EVENTS, KVM_GET_MP_STATE, KVM_GET_DEBUGREGS, KVM_GET_FPU,
        KVM_GET_XCRS, KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_GET_LAPIC, KVM_TRANSLATE, KVM_TPR_ACCESS_REPORTING};
    static const unsigned long of_vm[] = {KVM_GET_CLOCK, KVM_GET_PIT, KVM_GET_PIT2};
    static const unsigned long lists[] = {KVM_GET_SUPPORTED_CPUID, KVM_GET_EMULATED_CPUID, KVM_GET_MSR_INDEX_LIST,
                                          KVM_GET_MSR_FEATURE_INDEX_LIST};
    struct kvm_pit_config pit = {0};
    uint32_t room = 250;
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry[3];
    } msrs = {{.nmsrs = 3}, {{.index = 0x10}, {.index = 0x277}, {.index = 0xc0000081}}};
    int kvm = open(path, O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0), vcpu;

    CHECK(vm >= 0 && !ioctl(vm, KVM_CREATE_IRQCHIP, 0) && !ioctl(vm, KVM_CREATE_PIT2, &pit));
    CHECK((vcpu = ioctl(vm, KVM_CREATE_VCPU, 0)) >= 0);
    for (unsigned i = 0; i < sizeof(of_vcpu) / sizeof(*of_vcpu); i++)
        clean_answer(vcpu, of_vcpu[i], NULL, 0);
    for (unsigned i = 0; i < sizeof(of_vm) / sizeof(*of_vm); i++)
        clean_answer(vm, of_vm[i], NULL, 0);
    for (uint32_t chip = 0; chip < 3; chip++)
        clean_answer(vm, KVM_GET_IRQCHIP, &chip, sizeof(chip));
    for (unsigned i = 0; i < sizeof(lists) / sizeof(*lists); i++)
        clean_answer(kvm, lists[i], &room, sizeof(room));
    clean_answer(kvm, KVM_X86_GET_MCE_CAP_SUPPORTED, NULL, 0);
    clean_answer(vcpu, KVM_GET_CPUID2, &room, sizeof(room));
    clean_answer(vcpu, KVM_GET_MSRS, &msrs, sizeof(msrs));
}

int main(int argc, char **argv)
{
    static const struct scenario scenario[] = {
        {"orders", orders}, {"children", children}, {"handed", handed}, {"kept", kept}, {"paths", paths},
        {"exclusive", exclusive}, {"full-table", full_table}, {"no-memory", no_memory}, {"leaks", leaks},
        {"clean", clean}, {"opened", opened}, {"closed-numbers", closed_numbers}, {"claimed", claimed},
        {"cancelled", cancelled}, {"handlers", handlers}, {NULL, NULL}
    };

    if (argc != 3 && argc != 6)
        errx(2, "usage: faults PATH SCENARIO");
    path = argv[1];
    if (argc == 6) {
        executed(atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
        puts("ok");
        return 0;
    }
    return run_scenario(scenario, argv[1], argv[2]);
}
