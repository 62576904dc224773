/* Reads the host's time stamp counter and finds out how fast it runs. */
#include "cpu/tsc.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "cpu/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <x86intrin.h>
#endif

enum { NANOSECONDS_KHZ = 1000000 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint32_t khz = NANOSECONDS_KHZ;
static bool invariant;

static uint64_t clock_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

#if defined(__x86_64__)

/* Leaf 0x80000007, EDX 8: invariant TSC */
static bool tsc_is_invariant(void)
{
    uint32_t a, b, c, d;

    return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d >> 8 & 1);
}

/* A pair (clock, counter) taken as close together as possible: of several, the one with the
 * shortest read. */
static void sample(uint64_t *ns, uint64_t *ticks)
{
    uint64_t shortest = UINT64_MAX;

    *ns = *ticks = 0;
    for (int i = 0; i < 16; i++) {
        uint64_t before = __rdtsc();
        uint64_t now = clock_ns();
        uint64_t after = __rdtsc();

        if (after - before < shortest) {
            shortest = after - before;
            *ns = now;
            *ticks = before + (after - before) / 2;
        }
    }
}

/* A process that starts others like itself has measured it for them; 0: nobody has. */
static uint32_t khz_given(void)
{
    const char *text = getenv("KVMISH_TSC_KHZ");
    unsigned long value = text ? strtoul(text, NULL, 10) : 0;

    return value >= 100000 && value <= 20000000 ? (uint32_t)value : 0;
}

/* When this code was loaded: most programs that come here have taken their 15 ms since. */
static uint64_t loaded_ns, loaded_ticks;

__attribute__((constructor)) static void take_first_sample(void) { sample(&loaded_ns, &loaded_ticks); }

/* Two samples whose error is under 100 ns, 15 ms or more apart: within 10 ppm. */
static void calibrate(void)
{
    uint64_t ns0 = loaded_ns, ticks0 = loaded_ticks, ns1, ticks1;

    invariant = tsc_is_invariant();
    if (!invariant)
        return;
    khz = khz_given();
    if (khz)
        return;
    sample(&ns1, &ticks1);
    if (ns1 - ns0 > 1000 * 1000 * 1000) { /* the host may have been moved meanwhile */
        ns0 = ns1;
        ticks0 = ticks1;
    }
    while (ns1 - ns0 < 15 * 1000 * 1000)
        sample(&ns1, &ticks1);
    khz = (uint32_t)(((ticks1 - ticks0) * 1000000 + (ns1 - ns0) / 2) / (ns1 - ns0));
    if (khz == 0) {
        invariant = false;
        khz = NANOSECONDS_KHZ;
    }
}

#else

static void calibrate(void) {}

#endif

bool host_tsc_invariant(void)
{
    pthread_once(&once, calibrate);
    return invariant;
}

uint32_t host_tsc_khz(void)
{
    pthread_once(&once, calibrate);
    return khz;
}

uint64_t host_tsc(void)
{
#if defined(__x86_64__)
    if (host_tsc_invariant())
        return __rdtsc();
#endif
    return clock_ns();
}

uint64_t cpu_rdtsc(const struct vcpu *v)
{
    return v->frozen_tsc ? v->frozen_tsc : host_tsc() + v->tsc_offset;
}
