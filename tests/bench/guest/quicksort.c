/* Quicksort of 2,048 random integers, insertion sort for short ranges. */
#include "bench.h"

enum { SIZE = 2048, SHORT = 8 };

static int32_t numbers[SIZE];

static void insertion_sort(int32_t *first, int32_t *last) {
    for (int32_t *i = first + 1; i <= last; i++) {
        int32_t value = *i, *j = i;
        for (; j > first && j[-1] > value; j--)
            *j = j[-1];
        *j = value;
    }
}

static void quicksort(int32_t *first, int32_t *last) {
    while (last - first > SHORT) {
        int32_t pivot = first[(last - first) / 2], *i = first, *j = last;
        while (i <= j) {
            while (*i < pivot)
                i++;
            while (*j > pivot)
                j--;
            if (i <= j) {
                int32_t other = *i;
                *i++ = *j;
                *j-- = other;
            }
        }
        quicksort(first, j);
        first = i;
    }
    insertion_sort(first, last);
}

static uint64_t run(long count) {
    uint64_t sum = FNV_BASIS;
    uint32_t state = 2;
    for (long unit = 0; unit < count; unit++) {
        for (int i = 0; i < SIZE; i++)
            numbers[i] = (int32_t)next_random(&state);
        quicksort(numbers, numbers + SIZE - 1);
        for (int i = 0; i < SIZE; i += 64)
            sum = mix(sum, (uint32_t)numbers[i]);
    }
    return sum;
}

const struct program quicksort_program = {.name = "quicksort", .run = run};
