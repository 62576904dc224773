/* `container PROGRAM ...`: runs it under what a container's default seccomp profile denies without capabilities.
 *
 * Of Docker's, the part that concerns us: what looks into other processes is forbidden but for ptrace and process_vm_*, no mounts and
 * namespaces, clone3 is said not to exist.
 */
#include <err.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int denied[] = {SYS_kcmp, SYS_pidfd_getfd, SYS_process_madvise, SYS_unshare, SYS_setns, SYS_mount, SYS_umount2,
                             SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_bpf, SYS_userfaultfd, SYS_perf_event_open,
                             SYS_open_by_handle_at, SYS_keyctl, SYS_chroot};
enum { DENIED = sizeof(denied) / sizeof(*denied) };

int main(int argc, char **argv)
{
    struct sock_filter f[2 * DENIED + 4];
    struct sock_fprog prog = {.filter = f};
    unsigned short n = 0;

    if (argc < 2)
        errx(2, "usage: container PROGRAM ...");
    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < DENIED; i++) {
        f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)denied[i], 0, 1);
        f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    }
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    prog.len = n;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog))
        err(1, "seccomp");
    execvp(argv[1], argv + 1);
    err(1, "%s", argv[1]);
}
