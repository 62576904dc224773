/* What the programs need of the system, by libc. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

void need(bool condition, const char *what) {
    if (condition)
        return;
    fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
    exit(1);
}

void pin(int number) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)number % (size_t)sysconf(_SC_NPROCESSORS_ONLN), &set);
    need(sched_setaffinity(0, sizeof set, &set) == 0, "sched_setaffinity");
}

uint64_t new_pages(int count) {
    enum { PAGE = 4096 };
    size_t size = (size_t)count * PAGE;
    uint64_t sum = 0;
    volatile uint8_t *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(memory != MAP_FAILED, "mmap");
    for (int page = 0; page < count; page++)
        sum += ++memory[page * PAGE];
    munmap((void *)memory, size);
    return sum;
}

void os_write(const char *text, size_t length) {
    need(write(STDOUT_FILENO, text, length) == (ssize_t)length, "write");
}

void os_drain(void) {
    tcdrain(STDOUT_FILENO); /* fails on a pipe, which has nothing to wait for */
}

void os_monotonic(long *seconds, long *nanoseconds) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    *seconds = time.tv_sec;
    *nanoseconds = time.tv_nsec;
}
