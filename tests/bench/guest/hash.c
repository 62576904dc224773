/* Hash table: open addressing, 32-bit keys; a unit inserts 2,048 keys and looks up twice as many. */
#include "bench.h"

enum { SLOTS = 4096, KEYS = 2048 };

static struct {
    uint32_t key, value;
} table[SLOTS];

static uint32_t slot_of(uint32_t key) {
    uint32_t slot = (key * 2654435761u) >> 20;
    while (table[slot].key && table[slot].key != key)
        slot = (slot + 1) % SLOTS;
    return slot;
}

static uint64_t run(long count) {
    uint64_t sum = FNV_BASIS;
    uint32_t state = 1;
    for (long unit = 0; unit < count; unit++) {
        for (int i = 0; i < SLOTS; i++)
            table[i].key = 0;
        uint32_t first = state, found = 0;
        for (uint32_t i = 0; i < KEYS; i++) {
            uint32_t key = next_random(&state), slot = slot_of(key);
            table[slot].key = key;
            table[slot].value = i;
        }
        for (uint32_t i = 0, again = first; i < 2 * KEYS; i++) {
            uint32_t slot = slot_of(next_random(&again));
            found += table[slot].key ? table[slot].value : 1;
        }
        sum = mix(sum, found);
    }
    return sum;
}

const struct program hash_program = {.name = "hash", .run = run};
