/* Several processors: independent programs, a futex handed to and fro, TLB shootdowns. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

/* Each child does `count` units of the hash program on a processor of its own; the sum of their checksums' low bits. */
static uint64_t children(int number, long count) {
    uint64_t sum = 0;
    for (int i = 0; i < number; i++) {
        pid_t child = fork();
        need(child >= 0, "fork");
        if (child == 0) {
            pin(i);
            _exit((int)(hash_program.run(count) & 0x7f));
        }
    }
    for (int i = 0; i < number; i++) {
        int status = -1;
        need(wait(&status) > 0 && WIFEXITED(status), "wait");
        sum += (uint64_t)WEXITSTATUS(status);
    }
    return sum;
}

static uint64_t run_one(long count) {
    return children(1, count);
}

static uint64_t run_two(long count) {
    return children(2, count);
}

static uint64_t run_four(long count) {
    return children(4, count);
}

const struct program one_program = {.name = "one", .run = run_one};
const struct program two_program = {.name = "two", .run = run_two};
const struct program four_program = {.name = "four", .run = run_four};

/* Whose turn it is, 0 or 1; each thread sleeps in the kernel until the other hands over. */
static _Atomic uint32_t turn;
static long trips;

static void *hand_over(void *argument) {
    uint32_t mine = (uint32_t)(uintptr_t)argument;
    pin((int)mine);
    for (long i = 0; i < trips; i++) {
        while (atomic_load(&turn) != mine)
            syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, 1 - mine, NULL, NULL, 0);
        atomic_store(&turn, 1 - mine);
        syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
    return NULL;
}

/* Ten round trips a unit between two threads, each on its processor. */
static uint64_t run_futex(long count) {
    pthread_t other;
    trips = count * 10;
    need(pthread_create(&other, NULL, hand_over, (void *)(uintptr_t)1) == 0, "pthread_create");
    hand_over((void *)(uintptr_t)0);
    pthread_join(other, NULL);
    return (uint64_t)trips + atomic_load(&turn);
}

const struct program futex_program = {.name = "futex", .run = run_futex};

static _Atomic bool running = true, started;

static void *spin(void *argument) {
    (void)argument;
    pin(1);
    atomic_store(&started, true);
    while (atomic_load_explicit(&running, memory_order_relaxed))
        __builtin_ia32_pause();
    return NULL;
}

/* munmap(2) of 16 touched pages while another processor runs in the same address space: once a unit. */
static uint64_t run_shootdown(long count) {
    pthread_t other;
    uint64_t sum = 0;
    need(pthread_create(&other, NULL, spin, NULL) == 0, "pthread_create");
    pin(0);
    while (!atomic_load(&started))
        __builtin_ia32_pause();
    for (long unit = 0; unit < count; unit++)
        sum += new_pages(16);
    atomic_store(&running, false);
    pthread_join(other, NULL);
    return sum;
}

const struct program shootdown_program = {.name = "shootdown", .run = run_shootdown};
