/* The front door: /dev/kvm as three functions, for clients in this process (cffi, the preload library, C tests).
 *
 * Descriptors are real ones, O_CLOEXEC; a vCPU's can be mapped by the client (KVM_GET_VCPU_MMAP_SIZE bytes of
 * struct kvm_run, port data and coalesced ring). Requests, layouts and errors are those of <linux/kvm.h>.
 */
#ifndef KVMISH_KVM_DOOR_H
#define KVMISH_KVM_DOOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define DOOR __attribute__((visibility("default")))

/* open("/dev/kvm"): a system descriptor, or -errno. */
DOOR int kvmish_open(void);
/* ioctl(): >= 0, or -errno; -EBADF for a descriptor that is not ours. */
DOOR int kvmish_ioctl(int fd, unsigned long req, uintptr_t arg);
/* close(): 0, -EBADF when fd is not ours (it is then left alone). */
DOOR int kvmish_close(int fd);

/* Makes the KVM_RUN that is under way on this vCPU (or the next one) return -EINTR, as a signal would. -EBADF */
DOOR int kvmish_kick(int fd);

/* ---- for the preload library ------------------------------------------------------------------------- */

/* Is fd one of ours? Cheap, lock-free: asked for every ioctl, close and dup of the client. */
DOOR bool kvmish_owns(int fd);
/* Is it one of ours, and has not become another file behind our back: by io_uring, or a system call without its function? As cheap for
 * all others; a system call for ours. */
DOOR bool kvmish_still_owns(int fd);
/* Is it, still, a descriptor of /dev/kvm itself? Costs the same. */
DOOR bool kvmish_is_system(int fd);
/* Is fd, although not known, of such a program as this: by way of execve() or a socket? Then it is from now on; /dev/kvm itself works,
 * machines answer EIO. */
DOOR bool kvmish_recognise(int fd);
/* newfd, made by dup() and the like from our fd, refers to the same object. */
DOOR void kvmish_dup(int fd, int newfd);
/* fd is about to be replaced or has been closed by other means: forgets it. The descriptor itself is left alone. */
DOOR void kvmish_forget(int fd);
/* After the client mapped a vCPU at addr: makes the coalesced ring in it the VM's. */
DOOR void kvmish_mapped(int fd, void *addr, size_t size_bytes, long offset);
/* Called by every signal handler of the client before its own work: whatever vCPU runs on this thread returns -EINTR.
 * True: the signal was meant to stay pending (it is blocked outside of KVM_RUN, see KVM_SET_SIGNAL_MASK); the handler
 * must queue it again, blocked, and do nothing else. Async-signal-safe. */
DOOR bool kvmish_signal_arrived(int sig);
/* KVM_RUN of a thread that may be told to end: -EINTR when ends() says so. It is asked every 100,000 instructions and at each event, and
 * kvmish_run_ends() makes the call ask at once. */
DOOR int kvmish_run(int fd, uintptr_t arg, bool (*ends)(void *with), void *with);
DOOR int kvmish_run_ends(int fd);
/* A signal came because of memory that is not there, at addr: was it the guest that wanted it? Then the thread, when it goes on in
 * this context (ucontext_t), leaves KVM_RUN with EFAULT. Async-signal-safe. */
DOOR bool kvmish_fault(uintptr_t addr, void *context);
/* The client is about to change what is mapped in these places. True: machines have guest memory there, and stand still until
 * kvmish_changed(). */
DOOR bool kvmish_changing(const struct iovec *place, unsigned count);
DOOR void kvmish_changed(void);
/* In the child of a fork: objects of the parent answer -EIO. */
DOOR void kvmish_forked(void);

#endif
