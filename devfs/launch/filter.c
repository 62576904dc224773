/* The filter of a program's system calls (seccomp(2)): what may concern /dev/kvm is asked of us, all else is untouched.
 *
 * Calls that are in no row, which are nearly all, cost nothing: the kernel knows in advance that they are allowed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devfs/launch/door.h"

enum { NONE = -1 };

/* Numbers of i386: <asm/unistd_32.h>. Of what libraries use now; not, for instance, oldstat. */
static const struct watched table[] = {
    {SYS_ioctl, 54, WATCH_IOCTL, -1, -1, -1, -1, {1, 0xff00, KVMIO << 8}},
    {SYS_open, 5, WATCH_OPEN, 0, 1, -1, -1, {0}},
    {SYS_creat, 8, WATCH_OPEN, 0, -1, -1, -1, {0}},
    {SYS_openat, 295, WATCH_OPEN, 1, 2, -1, -1, {0}},
    {SYS_openat2, 437, WATCH_OPEN_HOW, 1, -1, 2, -1, {0}},
    {SYS_access, 33, WATCH_ACCESS, 0, 1, -1, -1, {0}},
    {SYS_faccessat, 307, WATCH_ACCESS, 1, 2, -1, -1, {0}},
    {SYS_faccessat2, 439, WATCH_ACCESS, 1, 2, -1, 3, {0}},
    {SYS_stat, 195, WATCH_STAT, 0, -1, 1, -1, {0}}, /* there: stat64 */
    {SYS_lstat, 196, WATCH_STAT, 0, -1, 1, LINK_ITSELF, {0}}, /* lstat64 */
    {SYS_newfstatat, 300, WATCH_STAT, 1, -1, 2, 3, {3, AT_EMPTY_PATH, 0}}, /* fstatat64 */
    {SYS_statx, 383, WATCH_STATX, 1, -1, 4, 2, {2, AT_EMPTY_PATH, 0}},
    {SYS_readlink, 85, WATCH_READLINK, 0, -1, -1, LINK_ITSELF, {0}},
    {SYS_readlinkat, 305, WATCH_READLINK, 1, -1, -1, LINK_ITSELF, {0}},
    {SYS_kill, 37, WATCH_SIGNAL, -1, -1, -1, -1, {0}},
    {SYS_tkill, 238, WATCH_SIGNAL, -1, -1, -1, -1, {0}},
    {SYS_tgkill, 270, WATCH_SIGNAL, -1, -1, -1, -1, {0}},
    {SYS_rt_sigqueueinfo, 178, WATCH_SIGNAL, -1, -1, -1, -1, {0}},
    {SYS_rt_tgsigqueueinfo, 335, WATCH_SIGNAL, -1, -1, -1, -1, {0}},
    {SYS_rt_sigreturn, 173, WATCH_SIGRETURN, -1, -1, -1, -1, {0}},
    {NONE, 119, WATCH_SIGRETURN, -1, -1, -1, -1, {0}}, /* sigreturn */
};
enum { ROWS = sizeof(table) / sizeof(*table), ROW_INSNS = 6, FILTER_INSNS = 2 * ROWS * ROW_INSNS + 32 };

#define X32_BIT 0x40000000u

static int number_of(const struct watched *w, uint32_t arch)
{
    return arch == AUDIT_ARCH_I386 ? w->number32 : w->number;
}

const struct watched *watched_find(uint32_t arch, int number)
{
    for (unsigned i = 0; i < ROWS; i++)
        if (number_of(&table[i], arch) == number)
            return &table[i];
    return NULL;
}

struct program {
    struct sock_filter at[FILTER_INSNS];
    unsigned short length;
};

static void add(struct program *p, struct sock_filter f)
{
    p->at[p->length++] = f;
}

#define LOAD(offset) ((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(offset)))
#define RETURN(what) ((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, what))
#define SKIP_UNLESS(op, value, n) ((struct sock_filter)BPF_JUMP(BPF_JMP | (op) | BPF_K, value, 0, n))

/* The number of the call is loaded, and still is for who goes on behind it: another call. */
static void add_row(struct program *p, int number, const struct watched *w)
{
    add(p, SKIP_UNLESS(BPF_JEQ, (uint32_t)number, w->when.mask ? 5 : 1));
    if (w->when.mask) {
        add(p, LOAD(offsetof(struct seccomp_data, args) + w->when.arg * 8));
        add(p, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, w->when.mask));
        add(p, SKIP_UNLESS(BPF_JEQ, w->when.value, 1));
        add(p, RETURN(SECCOMP_RET_USER_NOTIF));
        add(p, RETURN(SECCOMP_RET_ALLOW));
    } else {
        add(p, RETURN(SECCOMP_RET_USER_NOTIF));
    }
}

/* Where the device is, the kernel itself says that it is no link. */
static bool is_wanted(const struct watched *w)
{
    return w->kind != WATCH_READLINK || access("/dev/kvm", F_OK);
}

/* userfaultfd: memory of which the program answers the faults itself would be looked at by us, who have none of its faults. */
static void add_refused(struct program *p, int made, int ioctl)
{
    add(p, SKIP_UNLESS(BPF_JEQ, (uint32_t)made, 1));
    add(p, RETURN(SECCOMP_RET_ERRNO | ENOSYS));
    add(p, SKIP_UNLESS(BPF_JEQ, (uint32_t)ioctl, 4));
    add(p, LOAD(offsetof(struct seccomp_data, args) + 8));
    add(p, SKIP_UNLESS(BPF_JEQ, USERFAULTFD_IOC_NEW, 1));
    add(p, RETURN(SECCOMP_RET_ERRNO | ENOSYS));
    add(p, LOAD(offsetof(struct seccomp_data, nr)));
}

/* The rows of one architecture; their number of instructions. */
static unsigned short add_rows(struct program *p, uint32_t arch)
{
    unsigned short before = p->length;

    add(p, LOAD(offsetof(struct seccomp_data, nr)));
    if (arch == AUDIT_ARCH_X86_64) { /* x32, where the kernel has it: as where it has not */
        add(p, SKIP_UNLESS(BPF_JSET, X32_BIT, 1));
        add(p, RETURN(SECCOMP_RET_ERRNO | ENOSYS));
    }
    if (arch == AUDIT_ARCH_I386)
        add_refused(p, 374, 54);
    else
        add_refused(p, SYS_userfaultfd, SYS_ioctl);
    for (unsigned i = 0; i < ROWS; i++)
        if (number_of(&table[i], arch) != NONE && is_wanted(&table[i]))
            add_row(p, number_of(&table[i], arch), &table[i]);
    add(p, RETURN(SECCOMP_RET_ALLOW));
    return (unsigned short)(p->length - before);
}

int filter_install(void)
{
    static struct program p;
    struct sock_fprog prog = {.filter = p.at};
    unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    unsigned short jump;
    long fd;

    p.length = 0;
    add(&p, LOAD(offsetof(struct seccomp_data, arch)));
    jump = p.length;
    p.length++; /* filled in when it is known how far it goes */
    p.at[jump] = SKIP_UNLESS(BPF_JEQ, AUDIT_ARCH_X86_64, (uint8_t)add_rows(&p, AUDIT_ARCH_X86_64));
    add_rows(&p, AUDIT_ARCH_I386);
    prog.len = p.length;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -errno;
    fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
    return fd < 0 ? -errno : (int)fd;
}
