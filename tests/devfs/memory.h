/* The scenarios of client.c that are about guest memory: of every kind, moved while it is in use, not there, there later. */
#ifndef KVMISH_TEST_MEMORY_H
#define KVMISH_TEST_MEMORY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/auxv.h>

#include "../clients/machine.h"

/* ---- slots: memory of three kinds, two vCPUs, writers that must lose nothing ------------------------------------------ */

enum { BIG = 64 << 20, COUNTERS = 4096 };

struct writer {
    uint32_t *memory; /* one counter every 4 KiB, of which this thread owns half */
    unsigned first;
    atomic_bool *stop;
    uint32_t wrote[COUNTERS];
};

static void *write_on(void *arg)
{
    struct writer *w = arg;

    while (!*w->stop)
        for (unsigned i = w->first; i < COUNTERS; i += 2)
            w->memory[(size_t)i * 1024 + 512] = ++w->wrote[i];
    return NULL;
}

/* lock inc byte [bx]; mov al, [bx]; out 0x10, al; hlt */
static const uint8_t count_and_tell[] = {0xf0, 0xfe, 0x07, 0x8a, 0x07, 0xe6, 0x10, 0xf4};

static void expect_io_then_hlt(struct machine *m, unsigned i, uint8_t value)
{
    CHECK(!run(m->vcpu[i]));
    CHECK(m->run[i]->exit_reason == KVM_EXIT_IO && m->run[i]->io.port == 0x10);
    CHECK(((uint8_t *)m->run[i])[m->run[i]->io.data_offset] == value);
    CHECK(!run(m->vcpu[i]));
    CHECK(m->run[i]->exit_reason == KVM_EXIT_HLT);
}

static void slots(void)
{
    static struct writer w[2];
    atomic_bool stop = false;
    uint8_t *big = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int memfd = memfd_create("guest", MFD_CLOEXEC);
    uint8_t *shared, *anonymous;
    struct machine m;
    pthread_t t[2];

    CHECK(big != MAP_FAILED && memfd >= 0 && !ftruncate(memfd, 8 * PAGE));
    shared = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 4 * PAGE);
    anonymous = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(big, 0xa5, BIG / 2); /* half of it exists */
    memset(big, 0, PAGE * COUNTERS);
    memcpy(big + CODE, count_and_tell, sizeof(count_and_tell));
    for (unsigned i = 0; i < 2; i++) {
        w[i] = (struct writer){.memory = (uint32_t *)big, .first = i + 4, .stop = &stop};
        CHECK(!pthread_create(&t[i], NULL, write_on, &w[i]));
    }
    start(&m, 2);
    CHECK(m.vcpu[0] != m.vcpu[1] && m.vcpu[0] != m.vm && fcntl(m.vcpu[1], F_GETFD) == FD_CLOEXEC);
    CHECK(!add_slot(m.vm, 0, 0, big, BIG));
    CHECK(!add_slot(m.vm, 1, BIG, shared, 4 * PAGE));
    CHECK(!add_slot(m.vm, 2, BIG + 4 * PAGE, anonymous, PAGE));
    CHECK(big[BIG / 2 - 1] == 0xa5 && !big[BIG / 2] && !big[BIG - 1]);
    set_registers(m.vcpu[0], CODE, DATA);
    set_registers(m.vcpu[1], CODE, DATA + 1);
    big[DATA] = 6;
    expect_io_then_hlt(&m, 0, 7);
    big[DATA + 1] = 41;
    expect_io_then_hlt(&m, 1, 42);
    CHECK(big[DATA] == 7 && big[DATA + 1] == 42);
    stop = true;
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(t[i], NULL);
        for (unsigned n = w[i].first; n < COUNTERS; n += 2)
            if (w[i].memory[(size_t)n * 1024 + 512] != w[i].wrote[n])
                errx(1, "page %u: %u is there, %u was written", n, w[i].memory[(size_t)n * 1024 + 512], w[i].wrote[n]);
    }
    finish(&m);
}

/* ---- memory: every other kind; slots that come, go, alias ---------------------------------------------------------------- */

/* A one-page slot at gpa PAGE over `memory` runs the counter in it. */
static void run_in(uint8_t *memory, const char *what)
{
    struct machine m;

    memcpy(memory, count_and_tell, sizeof(count_and_tell));
    memory[0x800] = 1;
    start(&m, 1);
    if (add_slot(m.vm, 0, CODE, memory, PAGE))
        err(1, "%s", what);
    set_registers(m.vcpu[0], CODE, CODE + 0x800);
    expect_io_then_hlt(&m, 0, 2);
    CHECK(memory[0x800] == 2);
    memory[0x800] = 9; /* and what we write later is there too */
    set_registers(m.vcpu[0], CODE, CODE + 0x800);
    expect_io_then_hlt(&m, 0, 10);
    finish(&m);
}

/* It is a slot for a moment. */
static void lend(uint8_t *memory)
{
    struct machine m;

    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, CODE, memory, PAGE));
    finish(&m);
}

static uint8_t in_bss[4 * PAGE] __attribute__((aligned(PAGE)));
static uint8_t in_data[4 * PAGE] __attribute__((aligned(PAGE))) = {1};

static void memory(void)
{
    uint8_t on_stack[3 * PAGE], *p, *heap = malloc(3 * PAGE);
    int file = fileno(tmpfile()); /* without a name: this may be killed at any instant */

    run_in(in_bss + PAGE, "bss");
    run_in(in_data + 2 * PAGE, "data");
    run_in((uint8_t *)(((uintptr_t)on_stack + PAGE) & ~(uintptr_t)(PAGE - 1)), "stack");
    run_in((uint8_t *)(((uintptr_t)heap + PAGE) & ~(uintptr_t)(PAGE - 1)), "heap");
    CHECK(!ftruncate(file, 3 * PAGE) && pwrite(file, "x", 1, PAGE) == 1);
    p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, PAGE);
    run_in(p + PAGE, "private file");
    CHECK(p[0] == 'x');
    p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, PAGE);
    run_in(p, "shared file");
    p = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 7, 3 * PAGE);
    run_in(p + PAGE, "the middle of an anonymous mapping");
    CHECK(p[PAGE - 1] == 7 && p[2 * PAGE] == 7);
    run_in(p + PAGE, "the same again, by another VM");
    p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(!mprotect(p, PAGE, PROT_WRITE)); /* for which the processor has no name: it can be read, but by no system call */
    run_in(p, "only to be written");
    p[PAGE] = 7;
    CHECK(!mprotect(p + PAGE, PAGE, PROT_EXEC));
    lend(p + PAGE);
    CHECK(!mprotect(p + PAGE, PAGE, PROT_READ) && p[PAGE] == 7);
    free(heap);
}

static void aliases(void)
{
    uint8_t *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct machine m;

    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, CODE, p, 2 * PAGE));
    CHECK(!add_slot(m.vm, 1, 0x10000, p + PAGE, 2 * PAGE)); /* overlaps it by one page */
    CHECK(!add_slot(m.vm, 2, 0x20000, p, 4 * PAGE));        /* and this is all of it */
    memcpy(p, count_and_tell, sizeof(count_and_tell));
    p[PAGE] = 1;
    set_registers(m.vcpu[0], CODE, CODE + PAGE);
    expect_io_then_hlt(&m, 0, 2);
    CHECK(p[PAGE] == 2);
    CHECK(!add_slot(m.vm, 0, 0, NULL, 0));
    CHECK(!add_slot(m.vm, 0, CODE, p + 2 * PAGE, 2 * PAGE)); /* the number again, for other memory */
    memcpy(p + 2 * PAGE, count_and_tell, sizeof(count_and_tell));
    p[3 * PAGE] = 20;
    set_registers(m.vcpu[0], CODE, CODE + PAGE);
    expect_io_then_hlt(&m, 0, 21);
    finish(&m);
}

/* KVM_RUN says EFAULT and where; the instruction has not been executed. */
static void expect_fault(struct machine *m, uint64_t gpa, uint64_t rip)
{
    struct kvm_regs r;
    uint64_t fault[3]; /* flags, address, bytes: struct kvm_run's memory_fault, which is younger than our headers */

    REFUSED(run(m->vcpu[0]), EFAULT);
    memcpy(fault, m->run[0]->padding, sizeof(fault));
    CHECK(m->run[0]->exit_reason == 39 && fault[0] == 0 && fault[1] == gpa && fault[2] == PAGE);
    CHECK(!ioctl(m->vcpu[0], KVM_GET_REGS, &r) && r.rip == rip);
}

/* Slots over what is not there, or goes away under the machine. */
static void holes(void)
{
    /* mov al, [bx]; inc byte [bx]; out 0x10, al; hlt */
    static const uint8_t code[] = {0x8a, 0x07, 0xfe, 0x07, 0xe6, 0x10, 0xf4};
    uint8_t *p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *q;
    int memfd = memfd_create("guest", MFD_CLOEXEC);
    struct machine m;

    CHECK(!ftruncate(memfd, 4 * PAGE));
    q = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    start(&m, 1); /* maps, too, and would into the hole */
    CHECK(!munmap(p + 4 * PAGE, 4 * PAGE) && !mprotect(p + 8 * PAGE, PAGE, PROT_READ));
    CHECK(!mprotect(p + 9 * PAGE, PAGE, PROT_NONE));
    memcpy(p + CODE, code, sizeof(code));
    CHECK(!add_slot(m.vm, 0, 0, p, 12 * PAGE));
    CHECK(!add_slot(m.vm, 1, 12 * PAGE, q, 3 * PAGE));
    set_registers(m.vcpu[0], CODE, 5 * PAGE); /* unmapped */
    expect_fault(&m, 5 * PAGE, CODE);
    expect_fault(&m, 5 * PAGE, CODE);
    set_registers(m.vcpu[0], CODE, 8 * PAGE); /* read-only */
    expect_fault(&m, 8 * PAGE, CODE + 2);
    set_registers(m.vcpu[0], CODE, 9 * PAGE); /* PROT_NONE */
    expect_fault(&m, 9 * PAGE, CODE);
    set_registers(m.vcpu[0], 6 * PAGE, 0); /* code */
    expect_fault(&m, 6 * PAGE, 6 * PAGE);
    q[PAGE] = 5;
    set_registers(m.vcpu[0], CODE, 13 * PAGE);
    expect_io_then_hlt(&m, 0, 5);
    CHECK(!ftruncate(memfd, 0)); /* and now the file is cut short */
    set_registers(m.vcpu[0], CODE, 13 * PAGE);
    expect_fault(&m, 13 * PAGE, CODE);
    CHECK(!ftruncate(memfd, 4 * PAGE));
    expect_io_then_hlt(&m, 0, 0);
    finish(&m);
}

/* What is mapped after the slot was made, in a client that goes on meanwhile. No call says EINTR for that. */
static void expect_told(struct machine *m, uint64_t bx, uint8_t value)
{
    set_registers(m->vcpu[0], CODE, bx);
    CHECK(!ioctl(m->vcpu[0], KVM_RUN, 0));
    CHECK(m->run[0]->exit_reason == KVM_EXIT_IO && ((uint8_t *)m->run[0])[m->run[0]->io.data_offset] == value);
    CHECK(!ioctl(m->vcpu[0], KVM_RUN, 0));
    CHECK(m->run[0]->exit_reason == KVM_EXIT_HLT);
}

static uint8_t *map_there(uint8_t *at, size_t bytes, int flags, int fd)
{
    uint8_t *p = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_FIXED | flags, fd, 0);

    CHECK(p == at);
    return p;
}

static void later(void)
{
    enum { PAGES = COUNTERS + 32, MUCH = 8 * PAGE };
    static struct writer w;
    atomic_bool stop = false;
    uint8_t *p = mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int memfd = memfd_create("guest", MFD_CLOEXEC);
    struct machine m;
    pthread_t t;

    CHECK(p != MAP_FAILED && !ftruncate(memfd, 2 * PAGE));
    start(&m, 1);
    CHECK(!munmap(p + 4 * PAGE, PAGE));
    CHECK(!add_slot(m.vm, 0, 0, p, PAGES * PAGE));
    set_registers(m.vcpu[0], CODE, DATA);
    expect_fault(&m, CODE, CODE);
    CHECK(!mprotect(p + CODE, PAGE, PROT_READ | PROT_WRITE)); /* reserved, as allocators do */
    memcpy(p + CODE, count_and_tell, sizeof(count_and_tell));
    set_registers(m.vcpu[0], CODE, DATA);
    expect_fault(&m, DATA, CODE);
    map_there(p + DATA, 2 * PAGE, MAP_SHARED, memfd)[0] = 7;
    expect_told(&m, DATA, 8);
    map_there(p + 4 * PAGE, PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1)[5] = 20; /* nothing was there */
    expect_told(&m, 4 * PAGE + 5, 21);
    CHECK(p[DATA] == 8 && p[4 * PAGE + 5] == 21);
    CHECK(!mprotect(p + 5 * PAGE, 2 * PAGE, PROT_READ)); /* and each right when it is there */
    set_registers(m.vcpu[0], CODE, 6 * PAGE);
    expect_fault(&m, 6 * PAGE, CODE);
    CHECK(!mprotect(p + 5 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE));
    expect_told(&m, 6 * PAGE, 1);
    CHECK(!mprotect(p + MUCH, COUNTERS * PAGE, PROT_READ | PROT_WRITE)); /* it is written to all the time */
    w = (struct writer){.memory = (uint32_t *)(p + MUCH), .stop = &stop};
    CHECK(!pthread_create(&t, NULL, write_on, &w));
    for (unsigned i = 0; i < 10; i++)
        expect_told(&m, MUCH + 2, (uint8_t)(i + 1));
    stop = true;
    pthread_join(t, NULL);
    for (unsigned n = 0; n < COUNTERS; n += 2)
        CHECK(w.memory[(size_t)n * 1024 + 512] == w.wrote[n]);
    finish(&m);
}

/* The guest gives its clocks pages that the client has mapped after the slot, or maps after that: they are written, and no KVM_RUN
 * fails. */
static void clocks(void)
{
    enum { TIME = 4 * PAGE, WALL = 5 * PAGE, STEAL = 6 * PAGE };
    static const struct {
        uint32_t index, value;
    } msr[] = {{0x4b564d01, TIME | 1}, {0x4b564d00, WALL}, {0x4b564d03, STEAL | 1}};
    static const uint8_t tell[] = {0xe6, 0x10, 0xf4}; /* out 0x10, al; hlt */

    for (int there = 0; there < 2; there++) {
        uint8_t *p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at = p + CODE;
        struct machine m;

        for (unsigned i = 0; i < 3; i++) { /* mov ecx, index; mov eax, value; xor edx, edx; wrmsr */
            memcpy(at, "\x66\xb9\0\0\0\0\x66\xb8\0\0\0\0\x66\x31\xd2\x0f\x30", 17);
            memcpy(at + 2, &msr[i].index, 4);
            memcpy(at + 8, &msr[i].value, 4);
            at += 17;
        }
        memcpy(at, tell, sizeof(tell));
        CHECK(!mprotect(p + TIME, 3 * PAGE, PROT_NONE));
        start(&m, 1);
        CHECK(!add_slot(m.vm, 0, 0, p, 16 * PAGE));
        if (there)
            CHECK(!mprotect(p + TIME, 3 * PAGE, PROT_READ | PROT_WRITE));
        set_registers(m.vcpu[0], CODE, 0);
        CHECK(!ioctl(m.vcpu[0], KVM_RUN, 0) && m.run[0]->exit_reason == KVM_EXIT_IO);
        if (!there) {
            CHECK(!ioctl(m.vcpu[0], KVM_KVMCLOCK_CTRL, 0));
            CHECK(!mprotect(p + TIME, 3 * PAGE, PROT_READ | PROT_WRITE));
            CHECK(!ioctl(m.vcpu[0], KVM_RUN, 0) && m.run[0]->exit_reason == KVM_EXIT_HLT);
        }
        CHECK(*(uint32_t *)(p + TIME) >= 2 && *(uint32_t *)(p + TIME + 24)); /* version, tsc_to_system_mul */
        CHECK(!!(p[TIME + 29] & 2) == !there);                               /* PVCLOCK_GUEST_STOPPED */
        CHECK(*(uint32_t *)(p + WALL) >= 2 && *(uint32_t *)(p + WALL + 4));  /* version, seconds */
        CHECK(*(uint32_t *)(p + STEAL + 8) >= 2);                            /* version */
        finish(&m);
    }
}

enum { LONG_S = 6 /* than we wait for threads to stand still: devfs/hold.c */ };

static void *start_slowly(void *arg)
{
    atomic_bool *begun = arg;

    if (!vfork()) {
        *begun = true;
        sleep(LONG_S);
        _exit(0);
    }
    return NULL;
}

/* For threads that cannot stand still we wait: who is about to start a program waits for that. */
static void late(void)
{
    atomic_bool begun = false;
    uint8_t *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct machine m;
    pthread_t t;

    memcpy(p + CODE, count_and_tell, sizeof(count_and_tell));
    CHECK(!mprotect(p + DATA, PAGE, PROT_NONE));
    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, 0, p, 4 * PAGE) && !mprotect(p + DATA, PAGE, PROT_READ | PROT_WRITE));
    CHECK(!pthread_create(&t, NULL, start_slowly, &begun));
    while (!begun)
        usleep(100);
    expect_told(&m, DATA, 1);
    pthread_join(t, NULL);
    finish(&m);
}

/* The kernel's code in every program, which nobody can write to. */
static void vdso(void)
{
    /* mov al, [bx]; out 0x10, al; inc byte [bx] */
    static const uint8_t code[] = {0x8a, 0x07, 0xe6, 0x10, 0xfe, 0x07};
    uint8_t *image = (uint8_t *)getauxval(AT_SYSINFO_EHDR);
    struct machine m;

    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, 0, guest_memory(code, sizeof(code)), 4 * PAGE));
    CHECK(!add_slot(m.vm, 1, 4 * PAGE, image, PAGE));
    for (unsigned i = 0; i < 4; i++) {
        set_registers(m.vcpu[0], CODE, 4 * PAGE + i);
        CHECK(!run(m.vcpu[0]) && m.run[0]->exit_reason == KVM_EXIT_IO);
        CHECK(((uint8_t *)m.run[0])[m.run[0]->io.data_offset] == (uint8_t)"\x7f" "ELF"[i]);
        expect_fault(&m, 4 * PAGE, CODE + 4);
    }
    finish(&m);
}

#endif
