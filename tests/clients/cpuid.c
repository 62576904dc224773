/* A client that looks for VMX or SVM before it opens /dev/kvm, as kvmtool does: `cpuid PATH`; says "ok", or what is wrong. */
#include <cpuid.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/wait.h>

#include "machine.h"

static bool can_virtualize(void)
{
    unsigned a, b, c, d, vendor;

    __cpuid(0, a, vendor, c, d);
    if (vendor == signature_INTEL_ebx) {
        __cpuid(1, a, b, c, d);
        return c >> 5 & 1;
    }
    __cpuid(0x80000001, a, b, c, d);
    return c >> 2 & 1;
}

/* CPUID's bytes as a number in an instruction, which is none. */
static __attribute__((noinline)) unsigned number(void)
{
    unsigned n;

    __asm__ volatile("movl $0x90a20f90, %0" : "=r"(n));
    return n;
}

/* What the processor says of all else is handed on, with the upper halves cleared. */
static __attribute__((noinline)) void ask(unsigned long in[2], unsigned long out[4])
{
    __asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(in[0]), "c"(in[1]));
}

int main(int argc, char **argv)
{
    unsigned long in[2] = {~0ul << 32 | 7, ~0ul << 32}, out[4];
    struct machine m;
    int status;
    pid_t child;

    if (argc != 2)
        errx(2, "usage: cpuid PATH");
    path = argv[1];
    if (!can_virtualize())
        errx(1, "this processor cannot virtualize");
    ask(in, out);
    CHECK(!((out[0] | out[1] | out[2] | out[3]) >> 32));
    CHECK(number() == 0x90a20f90);
    child = fork();
    if (!child) {
        __builtin_trap(); /* an invalid instruction of its own */
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGILL);
    start(&m, 1);
    finish(&m);
    puts("ok");
}
