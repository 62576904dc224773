/* What a worker and its hand give up: files, identity, capabilities(7), system calls (seccomp(2)). docs/security.md says what is left.
 */
#include "devfs/confine.h"

#include <errno.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NOBODY = 65534 };

/* ---- files ----------------------------------------------------------------------------------------------------------- */

int confine_root(void)
{
    static const char *const places[] = {"/run/kvmish-XXXXXX", "/tmp/kvmish-XXXXXX", "/dev/shm/kvmish-XXXXXX"};
    char name[32];

    for (unsigned i = 0; i < sizeof(places) / sizeof(*places); i++) {
        unsigned n = 0;
        while ((name[n] = places[i][n]))
            n++;
        if (!mkdtemp(name))
            continue;
        if (chdir(name) || rmdir(name) || chroot("."))
            return -errno;
        return 0;
    }
    return -EROFS;
}

/* ---- capabilities ---------------------------------------------------------------------------------------------------- */

static int keep_only(uint64_t caps)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{(uint32_t)caps, (uint32_t)caps, 0},
                                             {(uint32_t)(caps >> 32), (uint32_t)(caps >> 32), 0}};

    return syscall(SYS_capset, &head, data) ? -errno : 0;
}

bool confine_may(unsigned capability)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];

    return !syscall(SYS_capget, &head, data) && data[capability / 32].effective >> capability % 32 & 1;
}

void confine_aside(unsigned capability, bool aside)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2], *d = &data[capability / 32];

    if (syscall(SYS_capget, &head, data))
        return;
    d->effective = aside ? d->effective & ~(1u << capability % 32) : d->permitted & (d->effective | 1u << capability % 32);
    syscall(SYS_capset, &head, data);
}

/* No core dumps, no real-time policy, nothing by set-user-ID programs. */
static int no_more_rights(void)
{
    const struct rlimit none = {0, 0};

    return setrlimit(RLIMIT_CORE, &none) || setrlimit(RLIMIT_RTPRIO, &none) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0;
}

int confine_hand(void)
{
    /* ptrace and /proc of any client; map_files; files of others that a client has mapped; FUSE passthrough */
    uint64_t caps = 1ull << CAP_SYS_PTRACE | 1ull << CAP_CHECKPOINT_RESTORE | 1ull << CAP_DAC_OVERRIDE |
                          1ull << CAP_DAC_READ_SEARCH | 1ull << CAP_SYS_ADMIN;
    int err = no_more_rights();

    if (confine_may(CAP_SYS_NICE))
        caps |= 1ull << CAP_SYS_NICE; /* quick.c: can do without */
    return err ? err : keep_only(caps);
}

/* The client's identity, or nobody's when the client is root. CAP_SYS_PTRACE is for process_vm_readv and writev of a client with rights
 * that we have not (or under Yama); the filter ties them to this client. */
static int change_identity(const struct hand_reply *client)
{
    uid_t uid = client->uid ? client->uid : NOBODY;
    gid_t gid = client->uid ? client->gid : NOBODY;

    if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
        return -errno;
    return keep_only(1ull << CAP_SYS_PTRACE);
}

/* ---- system calls ------------------------------------------------------------------------------------------------------ */

static const int allowed[] = {
    /* the session and the hand */
    SYS_read, SYS_write, SYS_writev, SYS_sendmsg, SYS_recvmsg, SYS_close, SYS_close_range, SYS_pread64,
    /* memory */
    SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_brk, SYS_memfd_create, SYS_ftruncate, SYS_fcntl,
    SYS_mlock, SYS_munlock, SYS_fallocate,
    /* threads */
    SYS_futex, SYS_set_robust_list, SYS_rseq, SYS_exit, SYS_exit_group, SYS_sched_yield, SYS_sched_setaffinity,
    SYS_sched_getaffinity, SYS_gettid, SYS_getpid, SYS_arch_prctl, SYS_membarrier, SYS_restart_syscall, SYS_getcpu,
    SYS_set_tid_address,
    /* signals of its own, time */
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_rt_sigtimedwait, SYS_pause, SYS_nanosleep,
    SYS_clock_nanosleep, SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_timerfd_create, SYS_timerfd_settime,
    /* eventfds */
    SYS_eventfd2, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_wait, SYS_epoll_pwait, SYS_poll, SYS_ppoll, SYS_preadv2,
    SYS_getrandom, SYS_fstat, SYS_newfstatat, SYS_lseek,
};

/* What change_identity() and the second filter need; that filter ends it. */
static const int once[] = {SYS_setgroups, SYS_setresgid, SYS_setresuid, SYS_capset, SYS_seccomp};

/* Calls that are allowed with one argument of one value only. */
struct only {
    int number;
    unsigned argument;
    int64_t value;
};

enum { FILTER_MAX = 400 };

struct program {
    struct sock_filter at[FILTER_MAX];
    unsigned short length;
};

static void add(struct program *p, struct sock_filter f)
{
    if (p->length < FILTER_MAX)
        p->at[p->length++] = f;
}

#define LOAD(offset) ((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset))
#define RETURN(what) ((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, what))
#define SKIP_UNLESS(value, n) ((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, n))

/* Compares the low half only: all of these are int. */
static void add_only(struct program *p, const struct only *o)
{
    add(p, SKIP_UNLESS((uint32_t)o->number, 4));
    add(p, LOAD((uint32_t)(offsetof(struct seccomp_data, args) + o->argument * 8)));
    add(p, SKIP_UNLESS((uint32_t)o->value, 1));
    add(p, RETURN(SECCOMP_RET_ALLOW));
    add(p, LOAD(offsetof(struct seccomp_data, nr))); /* another row may allow another value */
}

static int install(const struct program *p)
{
    struct sock_fprog prog = {.len = p->length, .filter = (struct sock_filter *)p->at};

    if (p->length == FILTER_MAX)
        return -E2BIG;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) ? -errno : 0;
}

static void add_all(struct program *p, const int *number, size_t n, uint32_t what)
{
    for (size_t i = 0; i < n; i++) {
        add(p, SKIP_UNLESS((uint32_t)number[i], 1));
        add(p, RETURN(what));
    }
}

/* Two filters, since the kernel takes its time with a long one: this is installed ahead. Until the second one is there, the process
 * may change its identity and read any other; it has no client then. */
static int filter_calls(int mount)
{
    const int client_memory[] = {SYS_process_vm_readv, SYS_process_vm_writev};
    const struct only only[] = {
        {SYS_tgkill, 2, 0}, /* signal 0: is it a thread of ...? */
        {SYS_tgkill, 0, getpid()}, /* readers.c */
        {SYS_unshare, 0, CLONE_FILES}, /* opener.c */
        {SYS_openat, 0, mount}, /* an absolute path finds an empty root */
        {SYS_clone, 0, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |
                           CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID},
        {SYS_sched_setscheduler, 0, 0}, /* quick.c: of the thread itself; what it may become is the kernel's to say */
        {SYS_prctl, 0, PR_SET_NAME}, {SYS_prctl, 0, PR_SET_TIMERSLACK},
    };
    static struct program p;

    add(&p, LOAD(offsetof(struct seccomp_data, arch)));
    add(&p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
    add(&p, RETURN(SECCOMP_RET_KILL_PROCESS));
    add(&p, LOAD(offsetof(struct seccomp_data, nr)));
    add_all(&p, allowed, sizeof(allowed) / sizeof(*allowed), SECCOMP_RET_ALLOW);
    add_all(&p, client_memory, sizeof(client_memory) / sizeof(*client_memory), SECCOMP_RET_ALLOW);
    add_all(&p, once, sizeof(once) / sizeof(*once), SECCOMP_RET_ALLOW);
    add(&p, SKIP_UNLESS(SYS_clone3, 1)); /* its flags are behind a pointer; the C library then uses clone() */
    add(&p, RETURN(SECCOMP_RET_ERRNO | ENOSYS));
    for (unsigned i = 0; i < sizeof(only) / sizeof(*only); i++)
        add_only(&p, &only[i]);
    add(&p, RETURN(SECCOMP_RET_ERRNO | EPERM));
    return install(&p);
}

/* The memory of this client only, and no other identity any more. */
static int filter_for(pid_t client)
{
    const struct only only[] = {{SYS_process_vm_readv, 0, client}, {SYS_process_vm_writev, 0, client}};
    static struct program p;

    add(&p, LOAD(offsetof(struct seccomp_data, nr)));
    for (unsigned i = 0; i < sizeof(only) / sizeof(*only); i++) {
        add_only(&p, &only[i]);
        add(&p, SKIP_UNLESS((uint32_t)only[i].number, 1));
        add(&p, RETURN(SECCOMP_RET_ERRNO | EPERM));
    }
    add_all(&p, once, sizeof(once) / sizeof(*once), SECCOMP_RET_ERRNO | EPERM);
    add(&p, RETURN(SECCOMP_RET_ALLOW));
    return install(&p);
}

int confine_ahead(int mount)
{
    int err = no_more_rights();

    if (!err && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
        err = -errno;
    return err ? err : filter_calls(mount);
}

int confine_worker(const struct hand_reply *client)
{
    int err = change_identity(client);

    return err ? err : filter_for(client->tid ? client->tid : client->tgid);
}
