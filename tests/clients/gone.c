/* A client that takes guest memory away under two processors that run in it: `gone PATH WAY`; says "ok", or what is wrong. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "machine.h"

/* 1: inc dword [edx]; inc dword [ecx]; inc ebx; jmp 1b */
static const uint8_t counts[] = {0xff, 0x02, 0xff, 0x01, 0x43, 0xeb, 0xf9};
enum { CPUS = 2, WANTS = CODE + 2, KEPT = 8 * PAGE, EXIT_MEMORY_FAULT = 39, ENOUGH = 1000000 /* to be translated */ };

static struct machine m;
static uint8_t *memory; /* of which the counters' pages are a file's */
static int file;
static volatile uint32_t *counter; /* both, a page apart, by a mapping of its own */

static volatile uint32_t *counter_of(unsigned cpu) { return counter + cpu * PAGE / 4; }
static uint32_t kept_of(unsigned cpu) { return *(volatile uint32_t *)(memory + KEPT + cpu * PAGE); } /* of the memory that stays */

static uint8_t *map_counters(void)
{
    uint8_t *at = memory + DATA;

    return mmap(at, CPUS * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
}

/* Flat 32-bit code. */
static void set_flat(unsigned cpu)
{
    struct kvm_regs r = {.rip = CODE, .rflags = 2, .rcx = DATA + cpu * PAGE, .rdx = KEPT + cpu * PAGE};
    struct kvm_segment data = {.limit = ~0u, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    struct kvm_sregs s;

    CHECK(!ioctl(m.vcpu[cpu], KVM_GET_SREGS, &s));
    s.ds = s.es = s.ss = s.cs = data;
    s.cs.type = 11;
    s.cr0 |= 1;
    CHECK(!ioctl(m.vcpu[cpu], KVM_SET_SREGS, &s) && !ioctl(m.vcpu[cpu], KVM_SET_REGS, &r));
}

static void build(void)
{
    memory = guest_memory(counts, sizeof(counts));
    CHECK((file = memfd_create("counters", MFD_CLOEXEC)) >= 0 && !ftruncate(file, CPUS * PAGE));
    CHECK((counter = mmap(NULL, CPUS * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)) != MAP_FAILED);
    CHECK(map_counters() == memory + DATA);
    start(&m, CPUS);
    CHECK(!add_slot(m.vm, 0, 0, memory, 16 * PAGE));
    for (unsigned i = 0; i < CPUS; i++)
        set_flat(i);
}

static void *run_on(void *arg)
{
    unsigned cpu = (unsigned)(uintptr_t)arg;

    return (void *)(uintptr_t)(ioctl(m.vcpu[cpu], KVM_RUN, 0) ? errno : 0);
}

static void begin(pthread_t t[CPUS])
{
    for (uintptr_t i = 0; i < CPUS; i++) {
        uint32_t from = *counter_of((unsigned)i);
        CHECK(!pthread_create(&t[i], NULL, run_on, (void *)i));
        while (*counter_of((unsigned)i) - from < ENOUGH)
            sched_yield();
    }
}

static struct kvm_regs registers(unsigned cpu)
{
    struct kvm_regs r;

    CHECK(!ioctl(m.vcpu[cpu], KVM_GET_REGS, &r));
    return r;
}

/* Both say EFAULT, and where: before the instruction that wants it, and with all others executed once. */
static void expect_faults(pthread_t t[CPUS], bool cut_short)
{
    for (unsigned i = 0; i < CPUS; i++) {
        struct kvm_regs r;
        uint64_t fault[3]; /* flags, address, bytes */
        void *error;
        pthread_join(t[i], &error);
        CHECK((uintptr_t)error == EFAULT && m.run[i]->exit_reason == EXIT_MEMORY_FAULT);
        memcpy(fault, m.run[i]->padding, sizeof(fault));
        CHECK(fault[0] == 0 && fault[1] == DATA + i * PAGE && fault[2] == PAGE);
        r = registers(i);
        CHECK(r.rip == WANTS && kept_of(i) == (uint32_t)r.rbx + 1 && (cut_short || *counter_of(i) == (uint32_t)r.rbx));
        REFUSED(ioctl(m.vcpu[i], KVM_RUN, 0), EFAULT); /* as long as it is not there */
    }
}

static void on_signal(int sig) { (void)sig; }

/* A signal may have come before KVM_RUN. */
static void stop(pthread_t t[CPUS])
{
    void *error;

    for (unsigned i = 0; i < CPUS; i++)
        while (pthread_tryjoin_np(t[i], &error)) {
            pthread_kill(t[i], SIGUSR1);
            sched_yield();
        }
}

static void unmap(void) { CHECK(!munmap(memory + DATA, CPUS * PAGE)); }
static void unmap_unsaid(void) { CHECK(!syscall(SYS_munmap, memory + DATA, CPUS * PAGE)); }
static void protect(void) { CHECK(!mprotect(memory + DATA, CPUS * PAGE, PROT_READ)); }
static void move(void) { CHECK(mremap(memory + DATA, CPUS * PAGE, CPUS * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
                                      memory + 14 * PAGE) == memory + 14 * PAGE); }
static void cut(void) { CHECK(!ftruncate(file, 0)); }

static void faults(void (*take_away)(void))
{
    struct sigaction sa = {.sa_handler = on_signal};
    pthread_t t[CPUS];

    sigaction(SIGUSR1, &sa, NULL);
    build();
    for (unsigned n = 0; n < 3; n++) {
        begin(t);
        take_away();
        if (take_away == cut)
            CHECK((counter = guest_memory(NULL, 0))); /* nothing to compare with */
        expect_faults(t, take_away == cut);
        CHECK(!ftruncate(file, CPUS * PAGE) && map_counters() == memory + DATA);
        if (take_away == cut)
            CHECK((counter = mmap(NULL, CPUS * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)) != MAP_FAILED);
        begin(t); /* it goes on where it was */
        stop(t);
        for (unsigned i = 0; i < CPUS; i++) {
            uint32_t rounds = (uint32_t)registers(i).rbx;
            CHECK(kept_of(i) - rounds <= 1 && (take_away == cut || *counter_of(i) - rounds <= 1));
        }
    }
}

/* Other memory in its place is what the guest sees at once, code included: hlt. */
static void replaced(void)
{
    uint8_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t t[CPUS];

    build();
    begin(t);
    memset(page, 0xf4, PAGE);
    CHECK(mremap(page, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, memory + CODE) == memory + CODE);
    for (unsigned i = 0; i < CPUS; i++) {
        void *error;
        pthread_join(t[i], &error);
        CHECK(!error && m.run[i]->exit_reason == KVM_EXIT_HLT);
    }
}

/* ---- the client's own faults stay its own ---------------------------------------------------------------------------- */

static sigjmp_buf back;

static void on_fault(int sig)
{
    siglongjmp(back, sig);
}

static void own(void)
{
    struct sigaction sa = {.sa_handler = on_fault}, old;
    volatile uint8_t *nothing = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pid_t child;
    int status;

    build();
    CHECK(!sigaction(SIGSEGV, NULL, &old) && old.sa_handler == SIG_DFL);
    for (unsigned n = 0; n < 2; n++) { /* a fault, and one that is sent */
        child = fork();
        if (!child) {
            if (n)
                raise(SIGSEGV);
            *nothing = 1;
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
    CHECK(!sigaction(SIGSEGV, &sa, NULL) && !sigaction(SIGSEGV, NULL, &old) && old.sa_handler == on_fault);
    if (!sigsetjmp(back, 1)) {
        *nothing = 1;
        exit(1);
    }
    faults(unmap); /* whose handler is not called */
}

static void unmapped(void) { faults(unmap); }
static void without_a_word(void) { faults(unmap_unsaid); }
static void read_only(void) { faults(protect); }
static void moved(void) { faults(move); }
static void shortened(void) { faults(cut); }

int main(int argc, char **argv)
{
    static const struct scenario way[] = {
        {"unmapped", unmapped}, {"without-a-word", without_a_word}, {"read-only", read_only}, {"moved", moved},
        {"shortened", shortened}, {"replaced", replaced}, {"own", own}, {NULL, NULL}
    };

    if (argc != 3)
        errx(2, "usage: gone PATH WAY");
    return run_scenario(way, argv[1], argv[2]);
}
