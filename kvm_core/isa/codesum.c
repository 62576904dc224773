/* The key of the sums of code bytes: codesum.h. */
#include "isa/codesum.h"

#include <errno.h>
#include <sys/random.h>

int codekey_create(struct codekey *k)
{
    uint8_t *at = (uint8_t *)k, *end = at + sizeof(*k);

    while (at < end) {
        ssize_t n = getrandom(at, (size_t)(end - at), 0);
        if (n < 0 && errno != EINTR)
            return -errno;
        at += n > 0 ? n : 0;
    }
    return 0;
}
