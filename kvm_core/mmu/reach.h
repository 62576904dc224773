/* Is guest memory there? It is the client's, who may unmap it, protect it or cut its file short at any time.
 *
 * Where these functions meet memory that is not there the host raises a signal; its handler asks reach_recover(), and they return
 * false. Without such a handler it ends the process, as any other access does.
 */
#ifndef KVMISH_MMU_REACH_H
#define KVMISH_MMU_REACH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool reach_read(const void *at);
struct reached {
    uint64_t value;
    bool there;
};
struct reached reach_load(const uint64_t *at);
/* Changes nothing, but is a write to the host: it finds a page of its own for this place, and marks it dirty. */
bool reach_write(void *at);
bool reach_copy(void *to, const void *from, size_t bytes);

/* Where code of this address goes on that has met memory which is not there; 0: it is none of these. Async-signal-safe. */
uintptr_t reach_recover(uintptr_t ip);

#endif
