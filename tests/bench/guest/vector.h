/* Vectors of 16 bytes: SSE2, which every x86-64 processor and every CPU model of a guest has. */
#ifndef BENCH_VECTOR_H
#define BENCH_VECTOR_H

#include <stdint.h>
#include <string.h>

typedef float float4 __attribute__((vector_size(16)));
typedef double double2 __attribute__((vector_size(16)));
typedef int16_t short8 __attribute__((vector_size(16)));

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

#endif
