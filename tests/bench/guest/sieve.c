/* Sieve of Eratosthenes: the primes below 32,768, one byte a number. */
#include "bench.h"

enum { LIMIT = 32768 };

static uint8_t composite[LIMIT];

static uint64_t run(long count) {
    uint64_t sum = FNV_BASIS;
    for (long unit = 0; unit < count; unit++) {
        uint32_t primes = 0;
        for (int i = 0; i < LIMIT; i++)
            composite[i] = 0;
        for (int i = 2; i < LIMIT; i++) {
            if (composite[i])
                continue;
            primes++;
            for (int j = i + i; j < LIMIT; j += i)
                composite[j] = 1;
        }
        sum = mix(sum, primes + (uint32_t)unit);
    }
    return sum;
}

const struct program sieve_program = {.name = "sieve", .run = run};
