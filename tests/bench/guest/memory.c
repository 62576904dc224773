/* Memory: copies of 16 MiB by libc's memcpy, a copy a unit. */
#include <string.h>

#include "bench.h"

enum { SIZE = 16 << 20 };

static uint8_t from[SIZE], to[SIZE];

static void prepare(void) {
    for (int i = 0; i < SIZE; i += 64)
        from[i] = (uint8_t)(i >> 6), to[i] = 1;
}

static uint64_t run(long count) {
    uint64_t sum = FNV_BASIS;
    for (long unit = 0; unit < count; unit++) {
        from[unit * 4099 % SIZE] ^= 0x55;
        memcpy(to, from, SIZE);
        __asm__ volatile("" : : : "memory"); /* every copy is made */
    }
    for (int i = 0; i < SIZE; i += 4099)
        sum = mix(sum, to[i]);
    return sum;
}

const struct program memcpy_program = {.name = "memcpy", .prepare = prepare, .run = run};
