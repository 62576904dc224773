/* Who is only held keeps his own filter of system calls, as long as he has not stopped and when he goes on. */
#include "../../devfs/proc.c"
#include "../../devfs/trace.c"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/prctl.h>

enum { CALLS = 100, PASSED = 3 };

/* getppid() is EXDEV. */
static void filter(void)
{
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog p = {4, f};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p))
        _exit(2);
}

static void call_on(atomic_uint *refused)
{
    filter();
    while (syscall(SYS_getppid) < 0 && errno == EXDEV)
        ++*refused;
    _exit(PASSED);
}

int main(void)
{
    atomic_uint *refused = mmap(NULL, sizeof(*refused), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    int held = 0, status;
    unsigned before;

    if (!child)
        call_on(refused);
    while (!*refused)
        ;
    if (trace_hold(child))
        return 2;
    while (!held)
        held = trace_held(child);
    before = *refused;
    if (held < 0 || ptrace(PTRACE_CONT, child, 0, 0))
        return 2;
    while (*refused - before < CALLS && waitpid(child, &status, __WALL | WNOHANG) != child)
        ;
    kill(child, SIGKILL);
    return *refused - before < CALLS;
}
