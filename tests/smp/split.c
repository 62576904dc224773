/* Nanoseconds that a LOCK across two lines of the cache takes on the host. No arguments. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>

enum { ROUNDS = 300 };

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(void)
{
    static _Alignas(64) uint8_t lines[128];
    int64_t start = now_ns();

    for (int n = 0; n < ROUNDS; n++)
        __asm__ volatile("lock incl %0" : "+m"(*(uint32_t *)(lines + 62)));
    printf("%.1f\n", (double)(now_ns() - start) / ROUNDS);
    return 0;
}
