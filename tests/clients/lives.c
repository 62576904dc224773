/* A client that lives otherwise than most: `lives PATH SCENARIO`; says "ok" and exits 0, or says what is wrong.
 *
 * Its threads, processes, descriptors and rights are not where they were when it opened PATH. Linux's KVM asks only for the address space.
 */
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "machine.h"

#ifndef __GLIBC__ /* musl's headers may be older */
#define close_range(first, last, flags) syscall(SYS_close_range, first, last, flags)
#endif

extern char **environ;

static const uint8_t counts[] = {0xfe, 0x06, 0x00, 0x20, 0xe6, 0x20, 0xf4, 0xeb, 0xf7}; /* 1: inc byte [DATA]; out 0x20, al; hlt; jmp 1b */
static const uint8_t loops[] = {0xfe, 0x06, 0x00, 0x20, 0xeb, 0xfa};                   /* 1: inc byte [DATA]; jmp 1b */

/* All that a machine needs: it counts, tells by an eventfd, halts. */
static void use(const struct machine *m)
{
    uint8_t *memory = guest_memory(counts, sizeof(counts));
    int e = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), stats;
    struct kvm_ioeventfd io = {.addr = 0x20, .len = 1, .fd = e, .flags = KVM_IOEVENTFD_FLAG_PIO};
    struct kvm_stats_header head;
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry[1]; /* behind what the request's number says */
    } efer = {.head = {.nmsrs = 1}, .entry = {{.index = 0xc0000080, .data = 1}}};
    uint64_t n;

    CHECK(!add_slot(m->vm, 0, 0, memory, 16 * PAGE));
    CHECK(!ioctl(m->vm, KVM_IOEVENTFD, &io));
    CHECK(ioctl(m->vcpu[0], KVM_GET_MSRS, &efer) == 1);
    set_registers(m->vcpu[0], CODE, 0);
    for (unsigned i = 1; i < 3; i++) {
        CHECK(!run(m->vcpu[0]) && m->run[0]->exit_reason == KVM_EXIT_HLT);
        CHECK(memory[DATA] == i && read(e, &n, 8) == 8 && n == 1);
    }
    CHECK((stats = ioctl(m->vcpu[0], KVM_GET_STATS_FD, 0)) >= 0 && pread(stats, &head, sizeof(head), 0) == sizeof(head));
    io.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
    CHECK(!ioctl(m->vm, KVM_IOEVENTFD, &io));
    CHECK(!add_slot(m->vm, 0, 0, memory, 0));
    close(stats);
    close(e);
    munmap(memory, 16 * PAGE);
}

static void make_and_use(void)
{
    struct machine m;

    start(&m, 2);
    use(&m);
    finish(&m);
}

/* ---- threads ------------------------------------------------------------------------------------------------------------- */

static pthread_t first;
static struct machine early;

static void done(void)
{
    CHECK(write(STDOUT_FILENO, "ok\n", 3) == 3);
    _exit(0);
}

static void wait_for_first(void)
{
    CHECK(!pthread_join(first, NULL));
    for (;;) { /* joined it can be a moment before it is a zombie */
        char state = 0;
        FILE *f = fopen("/proc/self/stat", "r");
        CHECK(f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1 && !fclose(f));
        if (state == 'Z')
            break;
    }
}

static void *goes_on(void *has_machine)
{
    wait_for_first();
    if (has_machine)
        use(&early);
    make_and_use();
    done();
    return NULL;
}

static void without_first(bool has_machine)
{
    pthread_t t;

    first = pthread_self();
    if (has_machine) {
        start(&early, 1);
        use(&early);
    }
    CHECK(!pthread_create(&t, NULL, goes_on, has_machine ? &early : NULL));
    pthread_exit(NULL);
}

static void first_ends(void) { without_first(false); }
static void first_ends_later(void) { without_first(true); }

/* The next process or thread has this number. */
static pid_t fork_as(pid_t number)
{
    int status;
    pid_t pid;

    for (;;) {
        FILE *f = fopen("/proc/sys/kernel/ns_last_pid", "w");
        CHECK(f && fprintf(f, "%d", number - 1) > 0 && !fclose(f) && (pid = fork()) >= 0);
        if (!pid)
            for (;;)
                pause();
        if (pid == number)
            return pid;
        CHECK(!kill(pid, SIGKILL) && waitpid(pid, &status, 0) == pid);
    }
}

static pid_t maker;

static void *makes(void *unused)
{
    wait_for_first();
    maker = (pid_t)syscall(SYS_gettid);
    start(&early, 1);
    return unused;
}

/* Another process, whose memory is as ours was, has the number of the thread that made the machine: it is not the client. */
static void *is_not_mistaken(void *unused)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry[1];
    } efer = {.head = {.nmsrs = 1}, .entry = {{.index = 0xc0000080, .data = 1}}};
    pthread_t t;
    pid_t other;
    int ret;

    CHECK(!pthread_create(&t, NULL, makes, NULL) && !pthread_join(t, NULL));
    other = fork_as(maker);
    ret = ioctl(early.vcpu[0], KVM_GET_MSRS, &efer);
    CHECK(!kill(other, SIGKILL));
    CHECK(ret < 0 || !efer.entry[0].data);
    done();
    return unused;
}

static void maker_ends(void)
{
    pthread_t t;

    first = pthread_self();
    CHECK(!pthread_create(&t, NULL, is_not_mistaken, NULL));
    pthread_exit(NULL);
}

static void *with_own_table(void *m)
{
    CHECK(!unshare(CLONE_FILES));
    for (int fd = 3; fd < 20; fd++) /* other numbers than the first thread has */
        CHECK(dup2(0, 20 + fd) >= 0);
    if (m)
        use(m);
    make_and_use();
    return NULL;
}

static void own_table(void)
{
    pthread_t t;

    CHECK(!pthread_create(&t, NULL, with_own_table, NULL) && !pthread_join(t, NULL));
    make_and_use();
}

/* The machine is the first thread's. */
static void own_table_later(void)
{
    struct machine m;
    pthread_t t;

    start(&m, 1);
    CHECK(!pthread_create(&t, NULL, with_own_table, &m) && !pthread_join(t, NULL));
    use(&m);
    finish(&m);
}

/* ---- descriptors by other ways ------------------------------------------------------------------------------------------ */

static void send_fd(int socket, int fd)
{
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);

    *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(c), &fd, sizeof(int));
    CHECK(sendmsg(socket, &m, 0) == 1);
}

static int receive_fd(int socket)
{
    char control[CMSG_SPACE(sizeof(int))], byte;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    int fd;

    CHECK(recvmsg(socket, &m, 0) == 1 && CMSG_FIRSTHDR(&m));
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
    return fd;
}

enum way { SOCKET, CHILD, GETFD, WAYS };

static int another(int fd, enum way w)
{
    int pair[2], copy, status;

    if (w == GETFD) {
        int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
        copy = (int)syscall(SYS_pidfd_getfd, self, fd, 0);
        close(self);
        return copy;
    }
    CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
    if (w == SOCKET) {
        send_fd(pair[0], fd);
    } else if (!fork()) {
        send_fd(pair[0], fd);
        _exit(0);
    } else {
        CHECK(wait(&status) > 0 && !status);
    }
    copy = receive_fd(pair[1]);
    close(pair[0]);
    close(pair[1]);
    return copy;
}

/* Twice the same: the machine stays while there is one of the two. */
static void own_again(void)
{
    for (enum way w = SOCKET; w < WAYS; w++) {
        struct machine m;
        int copy;
        start(&m, 2);
        CHECK((copy = another(m.kvm, w)) >= 0 && ioctl(copy, KVM_GET_API_VERSION, 0) == 12 && !close(m.kvm));
        m.kvm = copy;
        CHECK((copy = another(m.vm, w)) >= 0 && ioctl(copy, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) == 1);
        CHECK(!close(m.vm));
        m.vm = copy;
        for (unsigned i = 2; i--;) {
            CHECK((copy = another(m.vcpu[i], w)) >= 0);
            set_registers(copy, CODE, 0);
            CHECK(!close(m.vcpu[i]));
            m.vcpu[i] = copy;
        }
        use(&m);
        finish(&m);
    }
}

/* ---- processes ----------------------------------------------------------------------------------------------------------- */

static atomic_bool stop;

static void *keeps_running(void *arg)
{
    struct machine *m = arg;

    while (!stop) {
        int ret = ioctl(m->vcpu[0], KVM_RUN, 0);
        CHECK((ret < 0 && errno == EINTR) || !ret);
    }
    return NULL;
}

static void on_kick(int sig) { (void)sig; }

static int nothing(void *unused)
{
    (void)unused;
    close_range(3, ~0u, 0);
    _exit(0);
}

static void start_others(void)
{
    static char stack[1 << 16];
    char *const command[] = {"true", NULL};
    posix_spawn_file_actions_t files;
    int status;
    pid_t pid;
    FILE *p;

    posix_spawn_file_actions_init(&files);
#ifdef __GLIBC__
    posix_spawn_file_actions_addclosefrom_np(&files, 3);
#endif
    CHECK(!posix_spawnp(&pid, "true", &files, NULL, command, environ) && waitpid(pid, &status, 0) == pid && !status);
    posix_spawn_file_actions_destroy(&files);
    CHECK(!system("true"));
    CHECK((p = popen("true", "r")) && !pclose(p));
    pid = vfork();
    if (!pid) {
        close_range(3, ~0u, 0);
        execlp("true", "true", NULL);
        _exit(1);
    }
    CHECK(waitpid(pid, &status, 0) == pid && !status);
    CHECK((pid = clone(nothing, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL)) > 0);
    CHECK(waitpid(pid, &status, 0) == pid && !status);
    CHECK((pid = clone(nothing, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, NULL)) > 0);
    CHECK(waitpid(pid, &status, 0) == pid && !status);
    CHECK((pid = fork()) >= 0);
    if (!pid)
        nothing(NULL);
    CHECK(waitpid(pid, &status, 0) == pid && !status);
}

/* What other processes the program starts, and what those close, is nothing to a machine that runs. */
static void starts_others(void)
{
    uint8_t *memory = guest_memory(loops, sizeof(loops)), was;
    struct sigaction sa = {.sa_handler = on_kick};
    struct machine m;
    pthread_t t;

    sigaction(SIGUSR1, &sa, NULL);
    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, 0, memory, 16 * PAGE));
    set_registers(m.vcpu[0], CODE, 0);
    CHECK(!pthread_create(&t, NULL, keeps_running, &m));
    for (unsigned n = 0; n < 5; n++) {
        start_others();
        was = memory[DATA];
        while (*(volatile uint8_t *)(memory + DATA) == was)
            ;
    }
    stop = true;
    while (pthread_tryjoin_np(t, NULL)) {
        pthread_kill(t, SIGUSR1);
        usleep(1000);
    }
    CHECK(!add_slot(m.vm, 0, 0, memory, 0));
    use(&m);
    finish(&m);
}

static int in_same_memory(void *arg)
{
    use(arg);
    return 0;
}

/* A process of its own, but not another address space. */
static void shares_memory(void)
{
    static char stack[1 << 18];
    struct machine m;
    int status;
    pid_t pid;

    start(&m, 1);
    use(&m); /* once in the first process, or a thread that Linux's KVM starts is the second one's, and keeps it */
    CHECK((pid = clone(in_same_memory, stack + sizeof(stack), CLONE_VM | CLONE_FILES | SIGCHLD, &m)) > 0);
    CHECK(waitpid(pid, &status, 0) == pid && !status);
    use(&m);
    finish(&m);
}

/* As daemons begin; the file may be open by then, but no machine is there. */
static void daemonizes(void)
{
    int kvm = open(path, O_RDWR | O_CLOEXEC), vm, status;
    char byte;
    int pair[2];

    CHECK(kvm >= 0 && !socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    if (!fork()) {
        setsid();
        if (fork())
            _exit(0);
        close(pair[0]);
        CHECK((vm = ioctl(kvm, KVM_CREATE_VM, 0)) >= 0 && ioctl(vm, KVM_CREATE_VCPU, 0) >= 0);
        make_and_use();
        CHECK(write(pair[1], "x", 1) == 1);
        _exit(0);
    }
    CHECK(wait(&status) > 0 && !status);
    close(pair[1]);
    CHECK(read(pair[0], &byte, 1) == 1);
    CHECK((vm = ioctl(kvm, KVM_CREATE_VM, 0)) >= 0 && ioctl(vm, KVM_CREATE_VCPU, 0) >= 0);
    make_and_use();
}

/* ---- rights -------------------------------------------------------------------------------------------------------------- */

/* After `change` what is open goes on, and so do new objects of it. */
static void changed(void (*change)(void))
{
    struct machine m, again = {.vm = -1};

    start(&m, 1);
    use(&m);
    change();
    use(&m);
    again.kvm = m.kvm;
    CHECK((again.vm = ioctl(m.kvm, KVM_CREATE_VM, 0)) >= 0);
    CHECK((again.vcpu[0] = ioctl(again.vm, KVM_CREATE_VCPU, 0)) >= 0);
    again.run[0] = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, again.vcpu[0], 0);
    CHECK(again.run[0] != MAP_FAILED);
    use(&again);
    use(&m);
}

static void to_chroot(void)
{
    char name[] = "/tmp/kvmish-lives-XXXXXX";

    CHECK(mkdtemp(name) && !chdir(name) && !rmdir(name) && !chroot("."));
}

static void to_nobody(void)
{
    CHECK(!setgroups(0, NULL) && !setresgid(65534, 65534, 65534) && !setresuid(65534, 65534, 65534));
}

static void to_mount_namespace(void)
{
    CHECK(!unshare(CLONE_NEWNS) && !mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) && !mount("none", "/proc", "tmpfs", 0, NULL));
}
static void to_low_limit(void)
{
    struct rlimit few = {32, 32};

    CHECK(!setrlimit(RLIMIT_NOFILE, &few));
}
static void to_locked(void) { CHECK(!mlockall(MCL_CURRENT | MCL_FUTURE)); }
static void to_no_new_rights(void) { CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }

static void chrooted(void) { changed(to_chroot); }
static void set_user(void) { changed(to_nobody); }
static void mount_namespace(void) { changed(to_mount_namespace); }
static void low_limit(void) { changed(to_low_limit); }
static void locked(void) { changed(to_locked); }
static void no_new_rights(void) { changed(to_no_new_rights); }

/* Its number is another one there than outside. */
static void pid_namespace(void)
{
    int status;
    pid_t pid;

    CHECK(!unshare(CLONE_NEWPID) && (pid = fork()) >= 0);
    if (!pid) {
        CHECK(getpid() == 1);
        make_and_use();
        changed(to_mount_namespace);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && !status);
}

/* Its own filter allows what it calls itself, and nothing that a door might want to call there. */
static void strict(void)
{
#define ALLOW(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    struct sock_filter few[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(ioctl), ALLOW(write), ALLOW(close), ALLOW(munmap), ALLOW(exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog filter = {sizeof(few) / sizeof(*few), few};
    uint8_t *memory = guest_memory(counts, sizeof(counts));
    struct machine m;

    start(&m, 1);
    CHECK(!add_slot(m.vm, 0, 0, memory, 16 * PAGE));
    CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter));
    set_registers(m.vcpu[0], CODE, 0);
    for (unsigned i = 1; i < 100; i++) {
        CHECK(!run(m.vcpu[0]) && m.run[0]->exit_reason == KVM_EXIT_IO);
        CHECK(!run(m.vcpu[0]) && m.run[0]->exit_reason == KVM_EXIT_HLT && memory[DATA] == i);
    }
    CHECK(!add_slot(m.vm, 0, 0, memory, 0));
    finish(&m);
    done();
}

/* With the file open, and a machine that has no vCPU: a process of several threads may not, and KVM starts one in KVM_RUN. */
static void user_namespace(void)
{
    struct machine m;

    start(&m, 0);
    CHECK(!unshare(CLONE_NEWUSER));
    CHECK((m.vcpu[0] = ioctl(m.vm, KVM_CREATE_VCPU, 0)) >= 0);
    m.run[0] = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu[0], 0);
    CHECK(m.run[0] != MAP_FAILED);
    use(&m);
    make_and_use();
    finish(&m);
}

int main(int argc, char **argv)
{
    static const struct scenario scenario[] = {
        {"first-ends", first_ends}, {"first-ends-later", first_ends_later}, {"maker-ends", maker_ends}, {"own-table", own_table},
        {"own-table-later", own_table_later}, {"own-again", own_again},
        {"starts-others", starts_others}, {"shares-memory", shares_memory}, {"daemonizes", daemonizes}, {"chroot", chrooted},
        {"set-user", set_user}, {"user-namespace", user_namespace}, {"mount-namespace", mount_namespace},
        {"pid-namespace", pid_namespace}, {"low-limit", low_limit}, {"locked", locked},
        {"no-new-rights", no_new_rights}, {"strict", strict},
        {NULL, NULL}
    };

    if (argc != 3)
        errx(2, "usage: lives PATH SCENARIO");
    return run_scenario(scenario, argv[1], argv[2]);
}
