/* What the descriptors of /dev/kvm are, to calls that are not KVM's. Behind the preload door, and on the host's KVM. */
#include <dlfcn.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "../clients/machine.h"

static bool is_device(mode_t mode, unsigned major_number, unsigned minor_number)
{
    return S_ISCHR(mode) && major_number == 10 && minor_number == 232;
}

static void the_device(int kvm, bool is)
{
    static const char *const old[] = {"__fxstat", "__fxstat64"}; /* before glibc 2.33 */
    struct stat st;
    struct statx sx;

#define IS(call) CHECK(!(call) && is_device(st.st_mode, major(st.st_rdev), minor(st.st_rdev)) == is)
    IS(fstat(kvm, &st));
    IS(fstatat(kvm, "", &st, AT_EMPTY_PATH));
    REFUSED(fstatat(kvm, (const char *)1, &st, AT_EMPTY_PATH), EFAULT);
    for (unsigned i = 0; i < 2; i++) {
        int (*look)(int, int, struct stat *) = (__typeof__(look))dlsym(RTLD_DEFAULT, old[i]);
        IS(look(1, kvm, &st));
    }
    CHECK(!statx(kvm, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &sx) &&
          is_device(sx.stx_mode, sx.stx_rdev_major, sx.stx_rdev_minor) == is);
}

static void waited_for(const struct machine *m)
{
    const int all[] = {m->kvm, m->vm, m->vcpu[0]};
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = epoll_create1(0), ends[2];

    CHECK(epoll >= 0 && !pipe(ends));
    for (unsigned i = 0; i < 3; i++) {
        REFUSED(epoll_ctl(epoll, EPOLL_CTL_ADD, all[i], &event), EPERM);
        REFUSED(epoll_ctl(all[i], EPOLL_CTL_ADD, ends[0], &event), EINVAL);
    }
    CHECK(!epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event));
    CHECK(!close(epoll) && !close(ends[0]) && !close(ends[1]));
}

static void mapped(const struct machine *m)
{
    void *p;

    CHECK(mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, m->vcpu[0], 0) == MAP_FAILED && errno == EPERM);
    CHECK(mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, m->vm, 0) == MAP_FAILED && errno == EPERM);
    CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, m->vm, 0) == MAP_FAILED && errno == ENODEV);
    CHECK((p = mmap(NULL, 16 * PAGE, PROT_READ, MAP_SHARED, m->vcpu[0], 0)) != MAP_FAILED && !munmap(p, 16 * PAGE));
    p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, m->vcpu[0], 0);
    CHECK(p != MAP_FAILED && !munmap(p, PAGE));
}

/* Closed without close(), as io_uring does, a number is what has it next. */
static void other_file(int ours)
{
    struct epoll_event event = {.events = EPOLLIN};
    int ends[2], program = open("/proc/self/exe", O_RDONLY), epoll = epoll_create1(0), copy, there;
    void *p;

    CHECK(program >= 0 && epoll >= 0 && !pipe(ends) && write(ends[1], "word", 4) == 4);
    CHECK(syscall(SYS_dup2, ends[0], ours) == ours && !ioctl(ours, FIONREAD, &there) && there == 4);
    CHECK((copy = dup(ours)) >= 0);
    REFUSED(ioctl(copy, KVM_GET_API_VERSION, 0), ENOTTY);
    CHECK(!epoll_ctl(epoll, EPOLL_CTL_ADD, ours, &event) && !close(copy) && !close(ends[0]) && !close(ends[1]));
    CHECK(syscall(SYS_dup2, epoll, ours) == ours && !pipe(ends) && !epoll_ctl(ours, EPOLL_CTL_ADD, ends[0], &event));
    CHECK(syscall(SYS_dup2, program, ours) == ours);
    the_device(ours, false);
    CHECK((p = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, ours, 0)) != MAP_FAILED && !munmap(p, PAGE));
    CHECK(!syscall(SYS_close, ours));
    REFUSED(ioctl(ours, FIONREAD, &there), EBADF);
    REFUSED(close(ours), EBADF);
    REFUSED(ioctl(ours, KVM_GET_API_VERSION, 0), EBADF);
    CHECK(!close(epoll) && !close(program) && !close(ends[0]) && !close(ends[1]));
}

static void closed_unseen(void)
{
    struct machine m;

    start(&m, 1);
    other_file(m.kvm);
    other_file(m.vm);
    other_file(m.vcpu[0]);
    CHECK(!munmap(m.run[0], 3 * PAGE));
}

int main(void)
{
    struct machine m;
    char byte;
    int copy;

    path = "/dev/kvm";
    start(&m, 1);
    the_device(m.kvm, true);
    CHECK((copy = dup(m.kvm)) >= 0);
    the_device(copy, true);
    CHECK(!close(copy) && open("/dev/null", O_RDWR) == copy);
    the_device(copy, false);
    the_device(m.vm, false);
    the_device(m.vcpu[0], false);
    waited_for(&m);
    mapped(&m);
    REFUSED(read(m.vm, &byte, 1), EINVAL);
    REFUSED(pread(m.vm, &byte, 1, 0), ESPIPE);
    REFUSED(fsync(m.vm), EINVAL);
    REFUSED(ftruncate(m.vm, 0), EINVAL);
    REFUSED(fallocate(m.vm, 0, 0, PAGE), ENODEV);
    CHECK(!lseek(m.vm, 0, SEEK_END));
    finish(&m);
    closed_unseen();
    puts("ok");
    return 0;
}
