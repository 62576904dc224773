/* Vectors of integers: blend two lines of 16-bit pixels, limit them, sum the differences; 16 KiB, twice a unit. */
#include "bench.h"
#include "vector.h"

enum { SIZE = 1024, TIMES = 2 };

static short8 a[SIZE], b[SIZE];

static void prepare(void) {
    uint32_t random = 6;
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < 8; j++) {
            a[i][j] = (int16_t)(next_random(&random) % 256);
            b[i][j] = (int16_t)(next_random(&random) % 256);
        }
}

static uint64_t run(long count) {
    uint64_t sum = FNV_BASIS;
    for (long unit = 0; unit < count * TIMES; unit++) {
        short8 alpha = (short8){0} + (int16_t)(unit % 127), total = {0};
        for (int i = 0; i < SIZE; i++) {
            short8 difference = b[i] - a[i];
            short8 blended = a[i] + ((difference * alpha) >> 7);
            short8 over = blended > 235, under = blended < 16;
            blended = (blended & ~(over | under)) | (over & 235) | (under & 16);
            total += (difference ^ (difference >> 15)) - (difference >> 15);
            b[i] = blended;
        }
        for (int j = 0; j < 8; j++)
            sum = mix(sum, (uint16_t)total[j]);
        a[unit % SIZE] = total & 255;
    }
    return sum;
}

const struct program simd_program = {.name = "simd", .prepare = prepare, .run = run};
