/* A client of /dev/kvm that knows nothing of what is behind it: `client PATH SCENARIO`; says "ok" and exits 0, or says what is wrong.
 *
 * Built by the tests with the system's headers and C library only.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "memory.h"

/* ---- signals ------------------------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
    (void)sig;
    alarms++;
}

static void after_ms(int sig, long ms)
{
    struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = sig};
    struct itimerspec t = {.it_value.tv_sec = ms / 1000, .it_value.tv_nsec = ms % 1000 * 1000000};
    timer_t timer;

    CHECK(!timer_create(CLOCK_MONOTONIC, &e, &timer) && !timer_settime(timer, 0, &t, NULL));
}

static void signals(void)
{
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    struct {
        struct kvm_signal_mask head;
        uint8_t bits[8];
    } mask = {.head.len = 8};
    struct timespec second = {1, 0};
    sigset_t usr1;
    struct machine m;

    sigaction(SIGALRM, &sa, NULL);
    sigaction(SIGUSR1, &sa, NULL);
    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, 0, guest_memory("\xeb\xfe", 2), 16 * PAGE)); /* jmp $ */
    set_registers(m.vcpu[0], CODE, 0);
    after_ms(SIGALRM, 30);
    REFUSED(ioctl(m.vcpu[0], KVM_RUN, 0), EINTR);
    CHECK(alarms == 1 && m.run[0]->exit_reason == KVM_EXIT_INTR);
    m.run[0]->immediate_exit = 1;
    REFUSED(ioctl(m.vcpu[0], KVM_RUN, 0), EINTR);
    m.run[0]->immediate_exit = 0;
    /* Blocked, but not in KVM_RUN: it ends KVM_RUN and stays pending. */
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    CHECK(!pthread_sigmask(SIG_BLOCK, &usr1, NULL));
    CHECK(!ioctl(m.vcpu[0], KVM_SET_SIGNAL_MASK, &mask));
    after_ms(SIGUSR1, 30);
    REFUSED(ioctl(m.vcpu[0], KVM_RUN, 0), EINTR);
    REFUSED(ioctl(m.vcpu[0], KVM_RUN, 0), EINTR); /* it still is */
    CHECK(alarms == 1 && sigtimedwait(&usr1, NULL, &second) == SIGUSR1);
    after_ms(SIGALRM, 30);
    REFUSED(ioctl(m.vcpu[0], KVM_RUN, 0), EINTR);
    CHECK(alarms == 2);
    finish(&m);
}

/* ---- eventfds, statistics ---------------------------------------------------------------------------------------------------- */

static void eventfds(void)
{
    static const uint8_t out20[] = {0xe6, 0x20, 0xf4}; /* out 0x20, al; hlt */
    int e = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), bad = open("/dev/null", O_RDWR | O_CLOEXEC), stats;
    struct kvm_ioeventfd io = {.addr = 0x20, .len = 1, .fd = e, .flags = KVM_IOEVENTFD_FLAG_PIO};
    struct kvm_irqfd irq = {.fd = (uint32_t)e, .gsi = 4};
    struct kvm_stats_header head;
    struct machine m;
    uint64_t n = 0;

    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, 0, guest_memory(out20, sizeof(out20)), 16 * PAGE));
    CHECK(!ioctl(m.vm, KVM_IOEVENTFD, &io));
    REFUSED(ioctl(m.vm, KVM_IOEVENTFD, &io), EEXIST);
    io.fd = bad;
    io.addr = 0x21;
    REFUSED(ioctl(m.vm, KVM_IOEVENTFD, &io), EINVAL);
    io.fd = 12345;
    REFUSED(ioctl(m.vm, KVM_IOEVENTFD, &io), EBADF);
    REFUSED(ioctl(m.vm, KVM_IRQFD, &irq), EINVAL); /* no interrupt controller */
    set_registers(m.vcpu[0], CODE, 0);
    CHECK(!ioctl(m.vcpu[0], KVM_RUN, 0) && m.run[0]->exit_reason == KVM_EXIT_HLT);
    CHECK(read(e, &n, 8) == 8 && n == 1);
    CHECK((stats = ioctl(m.vcpu[0], KVM_GET_STATS_FD, 0)) >= 0 && fcntl(stats, F_GETFD) == FD_CLOEXEC);
    CHECK(read(stats, &head, sizeof(head)) == sizeof(head) && head.num_desc > 3);
    CHECK(write(stats, &head, 1) < 0);
    finish(&m);
}

/* ---- other processes, other threads ---------------------------------------------------------------------------------------------- */

static void forked(void)
{
    struct kvm_regs r;
    struct machine m;
    int status;

    start(&m, 1);
    if (!fork()) {
        REFUSED(ioctl(m.vm, KVM_CREATE_VCPU, 1), EIO);
        REFUSED(ioctl(m.vcpu[0], KVM_GET_REGS, &r), EIO);
        REFUSED(ioctl(m.vcpu[0], KVM_RUN, 0), EIO);
        _exit(0);
    }
    CHECK(wait(&status) > 0 && status == 0);
    CHECK(!ioctl(m.vcpu[0], KVM_GET_REGS, &r));
    REFUSED(ioctl(m.vm, KVM_CREATE_VCPU, 0), EEXIST);
    finish(&m);
}

enum { LEFT_OPEN = 100 };

/* The machine belongs to the address space that made it, however soon the next one calls. */
static void executed(void)
{
    struct machine m;

    start(&m, 1);
    CHECK(dup2(m.vm, LEFT_OPEN) == LEFT_OPEN);
    for (unsigned i = 0; i < 1000; i++)
        CHECK(ioctl(m.vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) == 1);
    execl("/proc/self/exe", "client", path, "inherited", NULL);
    CHECK(!"execl");
}

static void inherited(void)
{
    REFUSED(ioctl(LEFT_OPEN, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), EIO);
    REFUSED(ioctl(LEFT_OPEN, KVM_CREATE_VCPU, 1), EIO);
}

/* Nothing but ioctl and, of a vCPU, mmap; and no other way in. */
static void no_files(void)
{
    struct machine m;
    char name[64];

    start(&m, 1);
    REFUSED(read(m.kvm, name, 8), EINVAL);
    REFUSED(read(m.vm, name, 8), EINVAL);
    REFUSED(write(m.vcpu[0], name, 8), EINVAL);
    CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, m.kvm, 0) == MAP_FAILED && errno == ENODEV);
    snprintf(name, sizeof(name), "/proc/self/fd/%d", m.vcpu[0]);
    if (!fork())
        _exit(open(name, O_RDWR) >= 0);
    else {
        int status;
        CHECK(wait(&status) > 0 && status == 0);
    }
    finish(&m);
}

static void *create_some(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 4; i++) {
        struct machine m;
        start(&m, 2);
        CHECK(!add_slot(m.vm, 0, 0, guest_memory(count_and_tell, sizeof(count_and_tell)), 16 * PAGE));
        set_registers(m.vcpu[1], CODE, DATA);
        expect_io_then_hlt(&m, 1, 1);
        finish(&m);
    }
    return NULL;
}

/* Threads that make machines at once, with signals all the time. */
static void threads(void)
{
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    struct itimerspec ts = {{0, 1000000}, {0, 1000000}};
    timer_t timer;
    sigset_t alarm;
    pthread_t t[4];

    sigaction(SIGALRM, &sa, NULL);
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    CHECK(!pthread_sigmask(SIG_BLOCK, &alarm, NULL)); /* not in the threads: KVM_RUN would see it */
    for (unsigned i = 0; i < 4; i++)
        CHECK(!pthread_create(&t[i], NULL, create_some, NULL));
    CHECK(!pthread_sigmask(SIG_UNBLOCK, &alarm, NULL));
    CHECK(!timer_create(CLOCK_MONOTONIC, &e, &timer) && !timer_settime(timer, 0, &ts, NULL));
    for (unsigned i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
}

/* Many short ioctls at once, then all in KVM_RUN: signals must still find a way in. */
static void *be_in_a_crowd(void *arg)
{
    int vcpu = *(int *)arg;
    struct kvm_regs r;

    for (unsigned i = 0; i < 2000; i++)
        CHECK(!ioctl(vcpu, KVM_GET_REGS, &r));
    set_registers(vcpu, CODE, 0);
    REFUSED(ioctl(vcpu, KVM_RUN, 0), EINTR);
    return NULL;
}

static void crowd(void)
{
    struct sigaction sa = {.sa_handler = on_alarm};
    struct machine m;
    pthread_t t[VCPUS];

    sigaction(SIGUSR1, &sa, NULL);
    start(&m, VCPUS);
    CHECK(!add_slot(m.vm, 0, 0, guest_memory("\xeb\xfe", 2), 16 * PAGE)); /* jmp $ */
    for (unsigned i = 0; i < VCPUS; i++)
        CHECK(!pthread_create(&t[i], NULL, be_in_a_crowd, &m.vcpu[i]));
    for (unsigned i = 0; i < VCPUS; i++)
        while (pthread_tryjoin_np(t[i], NULL)) {
            pthread_kill(t[i], SIGUSR1);
            usleep(20000);
        }
    finish(&m);
}

/* Signals between and in KVM_RUN: none ends a call that begins after its handler, and no exit is lost. */
static void exits(void)
{
    static const uint8_t count_out[] = {0xfe, 0xc0, 0xe6, 0x10, 0xeb, 0xfa}; /* 1: inc al; out 0x10, al; jmp 1b */
    struct sigaction sa = {.sa_handler = on_alarm};
    struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    struct itimerspec ts = {{0, 300000}, {0, 300000}}, off = {0};
    struct machine m;
    timer_t timer;

    sigaction(SIGALRM, &sa, NULL);
    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, 0, guest_memory(count_out, sizeof(count_out)), 16 * PAGE));
    set_registers(m.vcpu[0], CODE, 0);
    CHECK(!timer_create(CLOCK_MONOTONIC, &e, &timer) && !timer_settime(timer, 0, &ts, NULL));
    for (unsigned n = 1; n <= 20000;) {
        int before = alarms;
        if (ioctl(m.vcpu[0], KVM_RUN, 0)) {
            CHECK(errno == EINTR);
            if (alarms == before)
                errx(1, "KVM_RUN was ended by a signal that had come before it");
            continue;
        }
        CHECK(m.run[0]->exit_reason == KVM_EXIT_IO);
        CHECK(((uint8_t *)m.run[0])[m.run[0]->io.data_offset] == (uint8_t)n++);
    }
    CHECK(!timer_settime(timer, 0, &off, NULL));
    finish(&m);
}

static atomic_int came_back;

static void *run_again(void *arg)
{
    struct machine *m = arg;

    while (!m->run[0]->immediate_exit) {
        REFUSED(ioctl(m->vcpu[0], KVM_RUN, 0), EINTR);
        came_back++;
    }
    return NULL;
}

/* A kick ends one KVM_RUN, not the next one, too. */
static void kicks(void)
{
    struct sigaction sa = {.sa_handler = on_alarm};
    struct machine m;
    pthread_t t;

    sigaction(SIGUSR1, &sa, NULL);
    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, 0, guest_memory("\xeb\xfe", 2), 16 * PAGE)); /* jmp $ */
    set_registers(m.vcpu[0], CODE, 0);
    CHECK(!pthread_create(&t, NULL, run_again, &m));
    for (int n = 0; n < 300; n++) {
        CHECK(!pthread_kill(t, SIGUSR1));
        while (alarms == n)
            usleep(20);
    }
    m.run[0]->immediate_exit = 1;
    pthread_kill(t, SIGUSR1);
    pthread_join(t, NULL);
    if (came_back > alarms + 1) /* immediate_exit may have been one */
        errx(1, "KVM_RUN was ended %d times by %d signals", came_back, (int)alarms);
    finish(&m);
}

/* A descriptor table that is full: the answer is EMFILE, and nothing is lost. */
static void full_table(void)
{
    struct machine m;
    int fd[1024], n = 0;

    start(&m, 1);
    while (n < 1024 && (fd[n] = open("/dev/null", O_RDONLY)) >= 0)
        n++;
    CHECK(n < 1024);
    REFUSED(ioctl(m.vm, KVM_CREATE_VCPU, 1), EMFILE);
    REFUSED(ioctl(m.kvm, KVM_CREATE_VM, 0), EMFILE);
    for (int i = 0; i < n; i++)
        close(fd[i]);
    CHECK(ioctl(m.vm, KVM_CREATE_VCPU, 1) >= 0);
    finish(&m);
}

/* ---- the end of a machine: whoever looks from outside is told when to ------------------------------------------------------ */

static void tell_and_wait(const char *what)
{
    char line[16];

    printf("%s\n", what);
    fflush(stdout);
    CHECK(fgets(line, sizeof(line), stdin));
}

static void close_part(struct machine *m, unsigned which)
{
    switch (which) {
    case 0: CHECK(!close(m->kvm)); break;
    case 1: CHECK(!close(m->vm)); break;
    case 2: CHECK(!close(m->vcpu[0])); break;
    default: CHECK(!munmap(m->run[0], 3 * PAGE)); break;
    }
}

static void start_with_memory(struct machine *m, uint8_t **memory)
{
    *memory = guest_memory(count_and_tell, sizeof(count_and_tell));
    start(m, 1);
    CHECK(!add_slot(m->vm, 0, 0, *memory, 16 * PAGE));
    set_registers(m->vcpu[0], CODE, DATA);
    expect_io_then_hlt(m, 0, 1);
}

static void send_descriptor(int socket, int fd)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec iov = {"f", 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control.room)};

    memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
    CHECK(sendmsg(socket, &m, 0) == 1);
}

/* Every order of closing; descriptors kept by dup, in a child, in a socket. Nothing is left after each. */
static void orders(void)
{
    int pair[2], copy, status;
    struct kvm_regs r;
    struct machine m;
    uint8_t *memory;

    tell_and_wait("before");
    for (unsigned code = 0; code < 256; code++) {
        unsigned order[4] = {code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6}, seen = 0;
        for (unsigned i = 0; i < 4; i++)
            seen |= 1u << order[i];
        if (seen != 15)
            continue;
        start_with_memory(&m, &memory);
        for (unsigned i = 0; i < 4; i++)
            close_part(&m, order[i]);
        munmap(memory, 16 * PAGE);
    }
    start_with_memory(&m, &memory); /* by dup */
    CHECK((copy = dup(m.vcpu[0])) >= 0 && !close(m.vcpu[0]) && !close(m.vm) && !ioctl(copy, KVM_GET_REGS, &r) && !close(copy));
    m.vcpu[0] = m.vm = -1;
    finish(&m);
    munmap(memory, 16 * PAGE);
    start_with_memory(&m, &memory); /* in a child */
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    if (!fork()) {
        close(pair[1]);
        CHECK(!read(pair[0], &status, 1)); /* until the parent has closed all */
        REFUSED(ioctl(m.vm, KVM_CREATE_VCPU, 1), EIO);
        _exit(0);
    }
    close(pair[0]);
    finish(&m);
    munmap(memory, 16 * PAGE);
    close(pair[1]);
    CHECK(wait(&status) > 0 && !status);
    start_with_memory(&m, &memory); /* in a socket, from which nobody takes it */
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    send_descriptor(pair[0], m.vcpu[0]);
    finish(&m);
    munmap(memory, 16 * PAGE);
    close(pair[0]);
    close(pair[1]);
    tell_and_wait("after");
}

/* Slots of ever new memory, in one machine. */
static void fresh(void)
{
    struct machine m;

    start(&m, 1);
    for (unsigned i = 0; i < 60; i++) {
        uint8_t *p = guest_memory("\xf4", 1);
        CHECK(!add_slot(m.vm, 0, 0, p, 16 * PAGE) && !add_slot(m.vm, 0, 0, NULL, 0) && !munmap(p, 16 * PAGE));
    }
    tell_and_wait("here");
    finish(&m);
}

/* What needs nobody to change this process: it may be traced. */
static void unchanged(void)
{
    int memfd = memfd_create("guest", MFD_CLOEXEC);
    uint8_t *p;

    CHECK(memfd >= 0 && !ftruncate(memfd, PAGE));
    p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    run_in(p, "a memfd");
}

/* A 64-bit program may make 32-bit system calls. A slot's address has 64 bits there, too: its memory may be anywhere. */
#ifdef __x86_64__
static int ioctl32(int fd, unsigned request, const void *arg)
{
    enum { IOCTL32 = 54 };
    int ret;

    __asm__ volatile("int $0x80" : "=a"(ret) : "a"(IOCTL32), "b"(fd), "c"(request), "d"(arg) : "memory");
    return ret;
}
#endif

static void int80(void)
{
#ifdef __x86_64__
    struct kvm_userspace_memory_region *r = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
                                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    uint8_t *high = guest_memory(count_and_tell, sizeof(count_and_tell)), *low = (uint8_t *)r + PAGE;
    struct { /* struct kvm_msr_filter, with pointers of 32 bits */
        uint32_t flags;
        struct {
            uint32_t flags, nmsrs, base, bitmap;
        } range[16];
    } *filter = (void *)(low + 0x800);
    unsigned set_filter = _IOW(KVMIO, 0xc6, *filter);
    struct kvm_dirty_log *log = (void *)(low + 0x400);
    struct kvm_ioeventfd *io = (void *)(low + 0x500);
    struct machine m;
    int vm, vcpu;

    start(&m, 1);
    CHECK((vm = ioctl32(m.kvm, KVM_CREATE_VM, NULL)) >= 0 && fcntl(vm, F_GETFD) == FD_CLOEXEC);
    CHECK((vcpu = ioctl32(vm, KVM_CREATE_VCPU, NULL)) >= 0 && fcntl(vcpu, F_GETFD) == FD_CLOEXEC);
    CHECK(!close(vcpu) && !close(vm));
    *r = (struct kvm_userspace_memory_region){0, 0, 0, 16 * PAGE, (uintptr_t)high};
    CHECK(!ioctl32(m.vm, KVM_SET_USER_MEMORY_REGION, r));
    set_registers(m.vcpu[0], CODE, CODE + 0x800);
    expect_io_then_hlt(&m, 0, 1);
    r->memory_size = 0;
    CHECK(!ioctl32(m.vm, KVM_SET_USER_MEMORY_REGION, r));
    memcpy(low, count_and_tell, sizeof(count_and_tell));
    *r = (struct kvm_userspace_memory_region){0, KVM_MEM_LOG_DIRTY_PAGES, CODE, PAGE, (uintptr_t)low};
    CHECK(!ioctl32(m.vm, KVM_SET_USER_MEMORY_REGION, r));
    filter->range[0].flags = KVM_MSR_FILTER_READ;
    filter->range[0].nmsrs = 8;
    filter->range[0].bitmap = 8; /* nowhere */
    CHECK(ioctl32(m.vm, set_filter, filter) == -EFAULT);
    filter->range[0].bitmap = (uint32_t)(uintptr_t)low;
    CHECK(!ioctl32(m.vm, set_filter, filter));
    REFUSED(ioctl(m.vm, set_filter, filter), ENOTTY); /* by a 64-bit call */
    memset(filter, 0, sizeof(*filter));
    CHECK(!ioctl32(m.vm, set_filter, filter));
    set_registers(m.vcpu[0], CODE, CODE + 0x800);
    expect_io_then_hlt(&m, 0, 1);
    *io = (struct kvm_ioeventfd){.addr = 0x20, .len = 1, .fd = eventfd(0, EFD_CLOEXEC), .flags = KVM_IOEVENTFD_FLAG_PIO};
    CHECK(!ioctl32(m.vm, KVM_IOEVENTFD, io) && ioctl32(m.vm, KVM_IOEVENTFD, io) == -EEXIST);
    log->padding2 = (uintptr_t)(low + 0x600) | 0xdeadull << 32; /* only half of it is the pointer */
    CHECK(!ioctl32(m.vm, KVM_GET_DIRTY_LOG, log) && *(uint64_t *)(low + 0x600) == 1);
    finish(&m);
#endif
}

/* ---- what strangers send -------------------------------------------------------------------------------------------------------- */

static void hostile(void)
{
    static uint8_t junk[1 << 16];
    void *read_only = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct machine m;
    unsigned seed = 1;
    int fds[3];

    start(&m, 1);
    fds[0] = m.kvm;
    fds[1] = m.vm;
    fds[2] = m.vcpu[0];
    REFUSED(ioctl(m.kvm, KVM_CREATE_VM, 1 << 20), EINVAL);
    REFUSED(ftruncate(m.vcpu[0], 0), EPERM);
    REFUSED(ioctl(m.vm, KVM_GET_CLOCK, read_only), EFAULT);
    for (unsigned n = 0; n < 20000; n++) {
        unsigned long number = rand_r(&seed) % 256, size = rand_r(&seed) % 16384, direction = rand_r(&seed) % 4;
        unsigned long request = direction << 30 | size << 16 | 0xae << 8 | number, pointer;
        if (number == 0x01 || number == 0x41 || number == 0x80) /* makes something, or runs */
            continue;
        switch (rand_r(&seed) % 4) {
        case 0: pointer = (unsigned long)junk; break;
        case 1: pointer = (unsigned long)junk + sizeof(junk) - 8; break;
        case 2: pointer = rand_r(&seed); break;
        default: pointer = ~0ul << (rand_r(&seed) % 32); break; /* near the end of all addresses */
        }
        for (unsigned i = 0; i < 64; i++)
            junk[i] = (uint8_t)rand_r(&seed);
        ioctl(fds[n % 3], request, pointer);
    }
    CHECK(ioctl(m.kvm, KVM_GET_API_VERSION, 0) == 12);
    finish(&m);
    start(&m, 2); /* others are served as before */
    finish(&m);
}

/* ---- to be killed -------------------------------------------------------------------------------------------------------------- */

/* Two vCPUs, each in KVM_RUN for good (its memory in a slot that was private); "running" when both are on their way. */
static void *run_on(void *arg)
{
    int ret = ioctl(*(int *)arg, KVM_RUN, 0);

    printf("KVM_RUN: %d, errno %d\n", ret, ret < 0 ? errno : 0);
    fflush(stdout);
    return NULL;
}

static void forever(void)
{
    uint8_t *memory = guest_memory("\xf0\xfe\x07\xeb\xfb", 5); /* 1: lock inc byte [bx]; jmp 1b */
    struct machine m;
    pthread_t t[2];

    start(&m, 2);
    CHECK(!add_slot(m.vm, 0, 0, memory, 16 * PAGE));
    for (unsigned i = 0; i < 2; i++) {
        set_registers(m.vcpu[i], CODE, DATA + i);
        CHECK(!pthread_create(&t[i], NULL, run_on, &m.vcpu[i]));
    }
    while (!*(volatile uint8_t *)(memory + DATA) || !*(volatile uint8_t *)(memory + DATA + 1))
        usleep(100);
    printf("running\n");
    fflush(stdout);
    for (;;) { /* each line in: is the guest still counting, and can there be new objects? */
        char line[16];
        uint8_t was;
        bool counting = false; /* seen once: 8 bits may be back at the same number a moment later */
        if (!fgets(line, sizeof(line), stdin))
            break;
        was = memory[DATA];
        for (unsigned n = 0; n < 5000 && !counting; n++) {
            usleep(1000);
            counting = *(volatile uint8_t *)(memory + DATA) != was;
        }
        printf("%s %d\n", counting ? "counting" : "standing", ioctl(m.vm, KVM_CREATE_VCPU, 5) >= 0 ? 0 : errno);
        fflush(stdout);
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
}

int main(int argc, char **argv)
{
    static const struct scenario scenario[] = {
        {"slots", slots}, {"memory", memory}, {"aliases", aliases}, {"holes", holes}, {"later", later}, {"late", late},
        {"clocks", clocks}, {"vdso", vdso}, {"signals", signals},
        {"eventfds", eventfds}, {"forked", forked}, {"threads", threads}, {"crowd", crowd}, {"exits", exits},
        {"kicks", kicks}, {"full-table", full_table}, {"no-files", no_files}, {"hostile", hostile},
        {"forever", forever}, {"orders", orders}, {"unchanged", unchanged}, {"int80", int80},
        {"executed", executed}, {"inherited", inherited}, {"fresh", fresh}, {NULL, NULL}
    };

    if (argc != 3)
        errx(2, "usage: client PATH SCENARIO");
    return run_scenario(scenario, argv[1], argv[2]);
}
