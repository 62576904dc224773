/* The host's time stamp counter, or a clock that stands in for it. */
#ifndef KVMISH_CPU_TSC_H
#define KVMISH_CPU_TSC_H

#include <stdbool.h>
#include <stdint.h>

/* Whether RDTSC on this host counts at one constant rate on all processors. Where not, host_tsc()
 * counts nanoseconds. */
bool host_tsc_invariant(void);
uint64_t host_tsc(void);
/* Rate of host_tsc(); never 0. The first call may take 20 ms. */
uint32_t host_tsc_khz(void);

#endif
