/* Shared by the files of the preload library. */
#ifndef KVMISH_SHIM_SHIM_H
#define KVMISH_SHIM_SHIM_H

#include <stdbool.h>

#define EXPORT __attribute__((visibility("default")))

enum { FD_LIMIT = 65536 }; /* descriptors above it are never ours */

/* From now on signals that come of faults are looked at before the program has them. */
void take_faults(void);
/* SIGILL: was it a CPUID of the program's? Then it is answered in this context (ucontext_t). Async-signal-safe. */
bool cpuid_answer(void *context);

#endif
