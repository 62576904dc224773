/* The benchmarks' one program: `bench NAME COUNT` says "bench NAME begin", works, says "bench NAME end CHECKSUM".
 *
 * The host takes both lines' times. `bench -q NAME COUNT` says nothing; `bench clock` says what time it is in here.
 * `bench -b NAME COUNT` says in how many cycles of the time stamp counter the fastest of so many units was done: that does not
 * depend on what else a busy host does. */
#include "bench.h"

static const struct program *const programs[] = {
    &hash_program,        &quicksort_program, &sha256_program,  &gzip_program,
    &interpreter_program, &tree_program,      &strings_program, &sieve_program,
#ifndef FREESTANDING
    &dot_program,         &saxpy_program,     &matrix_program,  &ode_program,
    &simd_program,        &memcpy_program,    &getppid_program, &fault_program,
    &forkexec_program,    &cold_program,      &pipe_program,    &sleep_program,
    &one_program,         &two_program,       &four_program,    &futex_program,
    &shootdown_program,
#endif
};

/* A line is written whole, by one system call. */
struct line {
    char text[128];
    size_t length;
};

static void add(struct line *line, const char *text) {
    while (*text && line->length < sizeof line->text)
        line->text[line->length++] = *text++;
}

static void add_hex(struct line *line, uint64_t value) {
    char digits[17] = {0};
    for (int i = 0; i < 16; i++)
        digits[i] = "0123456789abcdef"[(value >> (60 - 4 * i)) & 15];
    add(line, digits);
}

static void add_decimal(struct line *line, unsigned long value, int digits) {
    char text[21] = {0};
    for (int i = digits; i-- > 0; value /= 10)
        text[i] = (char)('0' + value % 10);
    add(line, text);
}

static void say(struct line *line) {
    add(line, "\n");
    os_write(line->text, line->length);
    os_drain();
}

static bool equal(const char *a, const char *b) {
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static long number(const char *text) {
    long value = 0;
    while (*text >= '0' && *text <= '9')
        value = value * 10 + (*text++ - '0');
    return value;
}

static int say_clock(void) {
    long seconds, nanoseconds;
    struct line line = {.length = 0};
    os_monotonic(&seconds, &nanoseconds);
    add(&line, "bench clock ");
    add_decimal(&line, (unsigned long)seconds, 9);
    add(&line, ".");
    add_decimal(&line, (unsigned long)nanoseconds, 9);
    say(&line);
    return 0;
}

static void say_step(const char *name, const char *step, const uint64_t *sum) {
    struct line line = {.length = 0};
    add(&line, "bench ");
    add(&line, name);
    add(&line, sizeof(void *) == 4 ? "32" : "");
    add(&line, step);
    if (sum)
        add_hex(&line, *sum);
    say(&line);
}

static void say_best(const struct program *program, long count) {
    uint64_t best = UINT64_MAX;
    while (count-- > 0) {
        uint64_t start = __builtin_ia32_rdtsc(); /* __rdtsc(): x86intrin.h wants a libc, of 32 bits too */
        program->run(1);
        uint64_t cycles = __builtin_ia32_rdtsc() - start;
        best = cycles < best ? cycles : best;
    }
    struct line line = {.length = 0};
    add(&line, "bench ");
    add(&line, program->name);
    add(&line, " best ");
    add_decimal(&line, (unsigned long)best, 9);
    say(&line);
}

int main(int argc, char **argv) {
    if (argc == 2 && equal(argv[1], "clock"))
        return say_clock();
    bool quiet = argc == 4 && equal(argv[1], "-q"), best = argc == 4 && equal(argv[1], "-b");
    if (argc != 3 && !quiet && !best)
        return 2;
    const char *name = argv[argc - 2];
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        if (!equal(programs[i]->name, name))
            continue;
        if (programs[i]->prepare)
            programs[i]->prepare();
        if (best) {
            say_best(programs[i], number(argv[argc - 1]));
            return 0;
        }
        if (!quiet)
            say_step(name, " begin", NULL);
        uint64_t sum = programs[i]->run(number(argv[argc - 1]));
        if (!quiet)
            say_step(name, " end ", &sum);
        return 0;
    }
    return 2;
}
