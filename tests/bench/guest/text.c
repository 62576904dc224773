/* The text that gzip and strings work on. */
#include "bench.h"

static const char *const words[] = {
    "the ",      "processor ", "of ",     "a ",        "machine ",  "reads ",  "its ",        "memory ",
    "and ",      "writes ",    "what ",   "it ",       "computed ", "to ",     "a device, ",  "which ",
    "answers. ", "An ",        "interrupt ", "tells ", "kernel ",   "that ",   "page ",       "was ",
    "missing; ", "handler ",   "maps ",   "one ",      "returns ",  "then ",   "instruction ", "again.\n",
};

void write_text(char *text, size_t size) {
    uint32_t random = 4;
    for (size_t at = 0; at < size;) {
        const char *word = words[next_random(&random) >> 27 & next_random(&random) >> 27];
        while (*word && at < size)
            text[at++] = *word++;
    }
}
