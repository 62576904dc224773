/* Dot product of two vectors of 4,096 floats, eight times a unit. */
#include "bench.h"
#include "vector.h"

enum { SIZE = 1024, TIMES = 8 };

static float4 a[SIZE], b[SIZE];

static void prepare(void) {
    for (int i = 0; i < SIZE; i++) {
        float x = (float)(i % 7) - 3.0f, y = (float)(i % 5) * 0.25f;
        a[i] = (float4){x, x + 0.5f, x * 0.5f, 1.0f};
        b[i] = (float4){y, y - 0.5f, 0.1f, y * x};
    }
}

static uint64_t run(long count) {
    uint64_t sum = FNV_BASIS;
    for (long unit = 0; unit < count * TIMES; unit++) {
        float4 even = {0}, odd = {0};
        for (int i = 0; i < SIZE; i += 2) {
            even += a[i] * b[i];
            odd += a[i + 1] * b[i + 1];
        }
        even += odd;
        float dot = even[0] + even[1] + even[2] + even[3];
        sum = mix(sum, bits_of(dot));
        a[unit % SIZE][1] = dot * 0.001f;
    }
    return sum;
}

const struct program dot_program = {.name = "dot", .prepare = prepare, .run = run};
