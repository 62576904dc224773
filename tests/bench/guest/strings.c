/* Strings, byte by byte: split 4 KiB of text into words, fold case, compare, find, print numbers. */
#include "bench.h"

enum { TEXT = 65536, UNIT = 4096, WORDS = 1024 };

static char text[TEXT], copy[UNIT + 1];
static const char *words[WORDS];

static size_t length_of(const char *a) {
    const char *end = a;
    while (*end)
        end++;
    return (size_t)(end - a);
}

static int compare(const char *a, const char *b) {
    while (*a && *a == *b)
        a++, b++;
    return (unsigned char)*a - (unsigned char)*b;
}

static const char *find(const char *in, const char *what) {
    for (; *in; in++) {
        const char *a = in, *b = what;
        while (*b && *a == *b)
            a++, b++;
        if (!*b)
            return in;
    }
    return NULL;
}

static int split(char *line) {
    int found = 0;
    bool inside = false;
    for (; *line; line++) {
        bool letter = (*line | 32) >= 'a' && (*line | 32) <= 'z';
        if (letter && !inside && found < WORDS)
            words[found++] = line;
        inside = letter;
        *line = letter ? (char)(*line | 32) : 0;
    }
    return found;
}

static char *print(char *end, uint32_t value) {
    do
        *--end = (char)('0' + value % 10);
    while (value /= 10);
    return end;
}

static uint64_t run(long count) {
    uint64_t sum = FNV_BASIS;
    for (long unit = 0; unit < count; unit++) {
        const char *source = text + unit * 1021 % (TEXT - UNIT);
        for (int i = 0; i < UNIT; i++)
            copy[i] = source[i];
        copy[UNIT] = 0;
        const char *last = find(copy, "instruction again.\nAn interrupt tells");
        sum = mix(sum, last ? (uint32_t)(last - copy) : UNIT);
        int found = split(copy);
        for (int i = 1; i < found; i++) {
            char digits[12] = {0};
            uint32_t order = (uint32_t)compare(words[i - 1], words[i]);
            const char *number = print(digits + 11, order * (uint32_t)length_of(words[i]));
            sum = mix(sum, (uint32_t)length_of(number) + (unsigned char)*number);
        }
    }
    return sum;
}

static void prepare(void) {
    write_text(text, sizeof text);
}

const struct program strings_program = {.name = "strings", .prepare = prepare, .run = run};
