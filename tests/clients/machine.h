/* What the C clients of these tests share: a program that knows only /dev/kvm, its machine, and how it says what is wrong.
 *
 * Everything is static: each client is one file, compiled with the system's headers and C library only.
 */
#ifndef KVMISH_TEST_MACHINE_H
#define KVMISH_TEST_MACHINE_H

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wunused-function"

#define CHECK(what)                                                                                     \
    do {                                                                                                \
        if (!(what))                                                                                    \
            err(1, "line %d: %s", __LINE__, #what);                                                     \
    } while (0)
/* ioctl() fails with this errno */
#define REFUSED(call, code) CHECK((call) < 0 && errno == (code))

enum { CODE = 0x1000, DATA = 0x2000, PAGE = 4096 };

static const char *path;

enum { VCPUS = 8 };

struct machine {
    int kvm, vm, vcpu[VCPUS];
    struct kvm_run *run[VCPUS];
};

static int add_slot(int vm, unsigned slot, uint64_t gpa, void *memory, size_t bytes)
{
    struct kvm_userspace_memory_region r = {slot, 0, gpa, bytes, (uintptr_t)memory};

    return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static void start(struct machine *m, unsigned vcpus)
{
    int size;

    memset(m, 0, sizeof(*m));
    CHECK((m->kvm = open(path, O_RDWR | O_CLOEXEC)) >= 0);
    CHECK(ioctl(m->kvm, KVM_GET_API_VERSION, 0) == 12);
    CHECK((size = ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0)) >= (int)sizeof(struct kvm_run));
    CHECK((m->vm = ioctl(m->kvm, KVM_CREATE_VM, 0)) >= 0);
    for (unsigned i = 0; i < vcpus; i++) {
        CHECK((m->vcpu[i] = ioctl(m->vm, KVM_CREATE_VCPU, i)) >= 0);
        m->run[i] = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu[i], 0);
        CHECK(m->run[i] != MAP_FAILED);
    }
}

static void finish(struct machine *m)
{
    for (unsigned i = 0; i < VCPUS; i++)
        if (m->run[i]) {
            munmap(m->run[i], 3 * PAGE);
            close(m->vcpu[i]);
        }
    close(m->vm);
    close(m->kvm);
}

/* Real mode, flat segments from 0, at rip. */
static void set_registers(int vcpu, uint64_t rip, uint64_t bx)
{
    struct kvm_regs r = {.rip = rip, .rflags = 2, .rbx = bx};
    struct kvm_sregs s;

    CHECK(!ioctl(vcpu, KVM_GET_SREGS, &s));
    s.cs.base = s.ds.base = s.cs.selector = s.ds.selector = 0;
    CHECK(!ioctl(vcpu, KVM_SET_SREGS, &s));
    CHECK(!ioctl(vcpu, KVM_SET_REGS, &r));
}

/* A client is prepared for EINTR at any time. */
static int run(int vcpu)
{
    int ret;

    while ((ret = ioctl(vcpu, KVM_RUN, 0)) < 0 && errno == EINTR)
        ;
    return ret;
}

static void *guest_memory(const void *code, size_t bytes)
{
    uint8_t *p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    memcpy(p + CODE, code, bytes);
    return p;
}

struct scenario {
    const char *name;
    void (*run)(void);
};

/* Runs the one of this name, with the device at `path`, and says "ok". */
static int run_scenario(const struct scenario *all, const char *device, const char *name)
{
    path = device;
    for (; all->name; all++)
        if (!strcmp(name, all->name)) {
            all->run();
            puts("ok");
            return 0;
        }
    errx(2, "no scenario %s", name);
}

#endif
