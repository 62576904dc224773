/* The kernel's paths: a system call, a new page, a process, a hand-over between processes, sleep. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

/* getppid(2): 1,000 calls a unit. */
static uint64_t run_getppid(long count) {
    uint64_t same = 0;
    long parent = syscall(SYS_getppid);
    for (long i = 0; i < count * 1000; i++)
        same += syscall(SYS_getppid) == parent;
    return same;
}

const struct program getppid_program = {.name = "getppid", .run = run_getppid};

/* Page faults: 256 new pages a unit, each touched once. */
static uint64_t run_fault(long count) {
    uint64_t sum = 0;
    for (long unit = 0; unit < count; unit++)
        sum += new_pages(256);
    return sum;
}

const struct program fault_program = {.name = "fault", .run = run_fault};

static int execute(const char *path, char *const argv[]) {
    int status = -1;
    pid_t child = fork();
    need(child >= 0, "fork");
    if (child == 0) {
        execv(path, argv);
        _exit(127);
    }
    need(waitpid(child, &status, 0) == child, "waitpid");
    return status;
}

/* fork(2) and execve(2) of this program, which ends at once: a process a unit. */
static uint64_t run_forkexec(long count) {
    uint64_t good = 0;
    char *argv[] = {"bench", "-q", "getppid", "0", NULL};
    for (long i = 0; i < count; i++)
        good += execute("/proc/self/exe", argv) == 0;
    return good;
}

const struct program forkexec_program = {.name = "forkexec", .run = run_forkexec};

enum { COPIES = 200 };

static char directory[] = "/tmp/bench-cold-XXXXXX";

static void copy_path(char path[64], long number) {
    snprintf(path, 64, "%s/%ld", directory, number);
}

/* A file of its own for each process: its code lies in pages that no processor has executed from. */
static void prepare_cold(void) {
    static char image[256 << 10];
    char path[64];
    const char *cold = getenv("BENCH_COLD");
    FILE *file = fopen(cold ? cold : "/bin/bench-cold", "rb");
    need(file, "bench-cold");
    size_t size = fread(image, 1, sizeof image, file);
    fclose(file);
    need(mkdtemp(directory), "mkdtemp");
    for (long i = 0; i < COPIES; i++) {
        copy_path(path, i);
        file = fopen(path, "wb");
        need(file && fwrite(image, 1, size, file) == size && fclose(file) == 0, path);
        chmod(path, 0755);
    }
}

/* Short processes with code that is new each time: one a unit, 200 at most; each an integer program's one unit. */
static uint64_t run_cold(long count) {
    static char *const names[] = {"hash", "quicksort", "sha256", "gzip", "interpreter", "tree", "strings", "sieve"};
    char path[64];
    uint64_t good = 0;
    for (long i = 0; i < count && i < COPIES; i++) {
        char *argv[] = {"bench-cold", "-q", names[i % 8], "1", NULL};
        copy_path(path, i);
        good += execute(path, argv) == 0;
    }
    for (long i = 0; i < COPIES; i++) {
        copy_path(path, i);
        unlink(path);
    }
    rmdir(directory);
    return good;
}

const struct program cold_program = {.name = "cold", .prepare = prepare_cold, .run = run_cold};

/* A byte to another process and back, on one processor: ten round trips a unit. */
static uint64_t run_pipe(long count) {
    enum { TRIPS = 10 };
    int there[2], back[2];
    uint64_t sum = 0;
    uint8_t byte = 0;
    need(pipe(there) == 0 && pipe(back) == 0, "pipe");
    pin(0);
    pid_t child = fork();
    need(child >= 0, "fork");
    if (child == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1)
            if (byte++, write(back[1], &byte, 1) != 1)
                break;
        _exit(0);
    }
    for (long i = 0; i < count * TRIPS; i++) {
        byte = (uint8_t)i;
        need(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1, "pipe");
        sum += byte;
    }
    close(there[1]);
    waitpid(child, NULL, 0);
    return sum;
}

const struct program pipe_program = {.name = "pipe", .run = run_pipe};

/* An idle machine, for COUNT seconds. */
static uint64_t run_sleep(long count) {
    struct timespec time = {.tv_sec = count};
    nanosleep(&time, NULL);
    return (uint64_t)count;
}

const struct program sleep_program = {.name = "sleep", .run = run_sleep};
