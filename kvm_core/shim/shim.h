/* Shared by the files of the preload library. */
#ifndef KVMISH_SHIM_SHIM_H
#define KVMISH_SHIM_SHIM_H

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

#define EXPORT __attribute__((visibility("default")))

/* The C library's function of this name. */
#define NEXT(name)                                                                                      \
    ({                                                                                                  \
        static void *next;                                                                              \
        if (!__atomic_load_n(&next, __ATOMIC_RELAXED))                                                  \
            __atomic_store_n(&next, dlsym(RTLD_NEXT, #name), __ATOMIC_RELAXED);                         \
        (__typeof__(&name))next;                                                                        \
    })

/* What a call of the C library's says. */
static inline int finish(int ret)
{
    if (ret >= 0)
        return ret;
    errno = -ret;
    return -1;
}

enum { FD_LIMIT = 65536 }; /* descriptors above it are never ours */

/* paths.c, by *at() functions' `dir`. Does the path lead to the device? follow: also if it is a link called kvm. */
bool path_is_device(int dir, const char *path, bool follow);
/* Has it no name, so that *at() functions with AT_EMPTY_PATH mean their `dir`? */
bool path_is_empty(const char *path);
/* Is it a link to the device, whatever its name? A system call, mostly. */
bool link_is_device(int dir, const char *path);
/* open() of /dev/kvm: a descriptor, or -1 and errno. */
int open_device(int flags);
/* What has this number, if it is ours, is about to be closed by somebody else. */
void closes(int fd);
/* From now on signals that come of faults are looked at before the program has them. */
void take_faults(void);
/* kvmish_ioctl(), behind which the handlers of signals run that have come meanwhile, and the thread is cancelled if it is to be. */
int ioctl_of_client(int fd, unsigned long req, uintptr_t arg);

struct call {
    atomic_bool own, *ends; /* KVM_RUN is to end: the call's own, or another that is known to who cancels the thread */
    bool is_late;
    sigset_t late; /* signals that came meanwhile, if is_late */
};
int call_make(struct call *c, int fd, unsigned long req, uintptr_t arg);
void call_end(struct call *c);
/* In a handler: is the thread in a call, so that the signal waits for its end? */
bool call_postpones(int sig, siginfo_t *info, ucontext_t *uc);
/* SIGILL: was it a CPUID of the program's? Then it is answered in this context (ucontext_t). Async-signal-safe. */
bool cpuid_answer(void *context);

#endif
