/* Product of two 64 x 64 matrices of floats. */
#include "bench.h"
#include "vector.h"

enum { SIZE = 64, VECTORS = SIZE / 4 };

static float4 a[SIZE][VECTORS], b[SIZE][VECTORS], c[SIZE][VECTORS];

static void prepare(void) {
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            a[i][j / 4][j % 4] = (float)((i * j) % 11) * 0.125f;
            b[i][j / 4][j % 4] = (float)((i + j) % 13) * 0.1f;
        }
}

static void multiply(void) {
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < VECTORS; j += 4) {
            float4 sum[4] = {{0}};
            for (int k = 0; k < SIZE; k++) {
                float scalar = a[i][k / 4][k % 4];
                float4 factor = {scalar, scalar, scalar, scalar};
                for (int n = 0; n < 4; n++)
                    sum[n] += factor * b[k][j + n];
            }
            for (int n = 0; n < 4; n++)
                c[i][j + n] = sum[n];
        }
}

static uint64_t run(long count) {
    uint64_t sum = FNV_BASIS;
    for (long unit = 0; unit < count; unit++) {
        multiply();
        float corner = c[unit % SIZE][0][0];
        sum = mix(sum, bits_of(corner));
        a[unit % SIZE][0][1] = corner * 0.001f;
    }
    return sum;
}

const struct program matrix_program = {.name = "matrix", .prepare = prepare, .run = run};
