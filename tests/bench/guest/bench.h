/* What the benchmarks' programs share. A program does COUNT units of the same work and returns a checksum of it.
 *
 * The integer programs use nothing of libc, so that gcc alone builds them for 32 bits, and as small files (start.c). */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct program {
    const char *name;
    void (*prepare)(void); /* before the clock starts; may be NULL */
    uint64_t (*run)(long count);
};

#define PROGRAM(name) extern const struct program name##_program

/* integer */
PROGRAM(hash);
PROGRAM(quicksort);
PROGRAM(sha256);
PROGRAM(gzip);
PROGRAM(interpreter);
PROGRAM(tree);
PROGRAM(strings);
PROGRAM(sieve);
/* float and vector */
PROGRAM(dot);
PROGRAM(saxpy);
PROGRAM(matrix);
PROGRAM(ode);
PROGRAM(simd);
/* memory and the kernel */
PROGRAM(memcpy);
PROGRAM(getppid);
PROGRAM(fault);
PROGRAM(forkexec);
PROGRAM(cold);
PROGRAM(pipe);
PROGRAM(sleep);
/* several processors */
PROGRAM(one);
PROGRAM(two);
PROGRAM(four);
PROGRAM(futex);
PROGRAM(shootdown);

/* The operating system, by libc (os.c) or without it (start.c). */
void os_write(const char *text, size_t length);
void os_drain(void); /* returns when a terminal has sent what was written to it */
void os_monotonic(long *seconds, long *nanoseconds);

/* Ends the program with a message if a system call has failed. Only with libc. */
void need(bool condition, const char *what);
/* Binds the caller to processor `number` modulo how many there are. Only with libc. */
void pin(int number);
/* Maps `count` pages, touches each once and unmaps them: a page fault each. Only with libc. */
uint64_t new_pages(int count);

#define FNV_BASIS 0xcbf29ce484222325u

/* A step of FNV-1a over 32 bits at once: order matters, 64-bit division is never needed. */
static inline uint64_t mix(uint64_t sum, uint32_t value) {
    return (sum ^ value) * 0x100000001b3u;
}

/* Marsaglia's xorshift; the state must not be 0. */
static inline uint32_t next_random(uint32_t *state) {
    uint32_t x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

/* English-looking text for gzip and strings; its length is `size`, and it ends with no 0. */
void write_text(char *text, size_t size);

#endif
