/* What the integer programs need of the system, without libc: for 32 bits (int 0x80) and 64 bits (syscall). */
#include "bench.h"

#ifdef __x86_64__
enum { SYS_WRITE = 1, SYS_IOCTL = 16, SYS_EXIT = 60, SYS_CLOCK_GETTIME = 228 };

__asm__(".globl _start\n"
        "_start: xor %ebp, %ebp\n"
        "mov (%rsp), %edi\n"
        "lea 8(%rsp), %rsi\n"
        "and $-16, %rsp\n"
        "call start\n");

static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}
#else
enum { SYS_WRITE = 4, SYS_IOCTL = 54, SYS_EXIT = 1, SYS_CLOCK_GETTIME = 265 };

__asm__(".globl _start\n"
        "_start: xor %ebp, %ebp\n"
        "mov (%esp), %eax\n"
        "lea 4(%esp), %edx\n"
        "and $-16, %esp\n"
        "sub $8, %esp\n"
        "push %edx\n"
        "push %eax\n"
        "call start\n");

static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
#endif

int main(int argc, char **argv);
void start(int argc, char **argv);

void start(int argc, char **argv) {
    call(SYS_EXIT, main(argc, argv), 0, 0);
    __builtin_trap();
}

void os_write(const char *text, size_t length) {
    call(SYS_WRITE, 1, (long)text, (long)length);
}

void os_drain(void) {
    call(SYS_IOCTL, 1, 0x5409 /* TCSBRK with 1: tcdrain, ioctl_tty(2) */, 1);
}

void os_monotonic(long *seconds, long *nanoseconds) {
    long time[2] = {0, 0};
    call(SYS_CLOCK_GETTIME, 1 /* CLOCK_MONOTONIC */, (long)time, 0);
    *seconds = time[0];
    *nanoseconds = time[1];
}

/* gcc calls these even in a freestanding program. */
void *memset(void *target, int value, size_t size) {
    void *end = target;
    __asm__ volatile("rep stosb" : "+D"(end), "+c"(size) : "a"(value) : "memory");
    return target;
}

void *memcpy(void *restrict target, const void *restrict source, size_t size) {
    void *end = target;
    __asm__ volatile("rep movsb" : "+D"(end), "+S"(source), "+c"(size) : : "memory");
    return target;
}
