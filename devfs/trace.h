/* A client's thread, stopped on its way out of an ioctl, and made to run system calls of ours (ptrace(2)). */
#ifndef KVMISH_DEVFS_TRACE_H
#define KVMISH_DEVFS_TRACE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

struct entry;

struct tracee {
    pid_t tid; /* 0: none */
    pid_t died; /* it was this, and is to be waited for */
    bool stopped;
    const struct entry *entry; /* how it got into its ioctl */
    bool sigstop; /* a SIGSTOP came meanwhile: it is sent again at the end */
    struct user_regs_struct regs;
    uint64_t sigmask;
};

/* Attaches to a thread that is inside an ioctl and asks it to stop. -EPERM when another debugger has it, or we may not;
 * -ENOEXEC when it is not in an ioctl by `syscall` or int 0x80; -ESRCH. Nothing of it has changed yet. */
int trace_seize(struct tracee *t, pid_t tid);
/* Waits until it has left the ioctl. abandoned(), looked at whenever a child changes, ends the wait: -EINTR.
 * -ESRCH when it dies; -ENOEXEC when it is somewhere else: it has been let go then. */
int trace_wait(struct tracee *t, bool (*abandoned)(void));
/* Runs one system call in the stopped thread: what it returns, or -ESRCH. mmap's offset is in pages when trace_narrow(). */
enum trace_number {
    TRACE_IOCTL, TRACE_MMAP, TRACE_MUNMAP, TRACE_CLOSE, TRACE_CLOSE_RANGE, TRACE_SOCKETPAIR, TRACE_SENDMSG, TRACE_RECVMSG,
    TRACE_NUMBERS
};
long trace_call(struct tracee *t, enum trace_number number, const uintptr_t arg[6]);
/* Its calls are those of a 32-bit program: so are the structs that they work with, below 4 GiB. */
bool trace_narrow(const struct tracee *t);
/* mmap of a file, shared and at this address. */
long trace_map(struct tracee *t, uintptr_t addr, size_t bytes, int prot, int fd, uint64_t offset);
long trace_close(struct tracee *t, int fd);
/* Restores everything; its ioctl returns `ret`, or is made again: -ERESTARTNOHAND. */
void trace_resume(struct tracee *t, long ret);

/* A number in /proc/TID/syscall: of a 64-bit call or of a 32-bit one. */
bool trace_is_ioctl(long number);

/* Another thread of the client, only to be held: seized and asked to stop, -errno. */
int trace_hold(pid_t tid);
/* Has it stopped? 1, 0 or -ESRCH. */
int trace_held(pid_t tid);

#endif
