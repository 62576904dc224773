/* y = a * x + y for vectors of 4,096 floats, eight times a unit. */
#include "bench.h"
#include "vector.h"

enum { SIZE = 1024, TIMES = 8 };

static float4 x[SIZE], y[SIZE];

static void prepare(void) {
    for (int i = 0; i < SIZE; i++)
        x[i] = (float4){(float)i, (float)(i % 3), 0.5f, (float)-i} * 0.01f;
}

static uint64_t run(long count) {
    uint64_t sum = FNV_BASIS;
    for (long unit = 0; unit < count * TIMES; unit++) {
        float factor = unit % 2 ? 0.75f : -0.7f;
        float4 a = {factor, factor, factor, factor};
        for (int i = 0; i < SIZE; i++)
            y[i] = a * x[i] + y[i];
        sum = mix(sum, bits_of(y[unit % SIZE][unit % 4]));
    }
    return sum;
}

const struct program saxpy_program = {.name = "saxpy", .prepare = prepare, .run = run};
