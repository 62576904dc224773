/* Shared by the files of the preload library. */
#ifndef KVMISH_SHIM_SHIM_H
#define KVMISH_SHIM_SHIM_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

/* The C library's function of this name. */
#define NEXT(name)                                                                                      \
    ({                                                                                                  \
        static void *next;                                                                              \
        if (!__atomic_load_n(&next, __ATOMIC_RELAXED))                                                  \
            __atomic_store_n(&next, dlsym(RTLD_NEXT, #name), __ATOMIC_RELAXED);                         \
        (__typeof__(&name))next;                                                                        \
    })

enum { FD_LIMIT = 65536 }; /* descriptors above it are never ours */

/* From now on signals that come of faults are looked at before the program has them. */
void take_faults(void);
/* kvmish_ioctl(), after which the thread is cancelled if it is to be. */
int ioctl_before_cancel(int fd, unsigned long req, uintptr_t arg);
/* SIGILL: was it a CPUID of the program's? Then it is answered in this context (ucontext_t). Async-signal-safe. */
bool cpuid_answer(void *context);

#endif
