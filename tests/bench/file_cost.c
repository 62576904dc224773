/* What a call on a device file costs: `file_cost PATH WHAT COUNT` prints the median in microseconds.
 *
 * WHAT: empty (an ioctl on the file itself), vm (one on a virtual machine), exit (KVM_RUN to KVM_EXIT_IO), serial (what QEMU calls
 * for a byte on a serial line: two of these, four KVM_IRQ_LINE_STATUS), create (a VM with a vCPU; a tenth of a second after the last
 * one, as programs make few, and not how fast processes can be started is asked). Of `empty`, `vm` and `exit` each of the COUNT
 * samples is the mean of 16 in a row.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static int need(int value, const char *what)
{
    if (value < 0)
        err(1, "%s", what);
    return value;
}

/* A real-mode guest that does out 0x10, al for ever. */
static int looping_vcpu(int vm)
{
    unsigned char *memory = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region slot = {0, 0, 0, 65536, (unsigned long)memory};
    struct kvm_regs r = {.rip = 0x1000, .rflags = 2};
    int vcpu = need(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    struct kvm_sregs s;

    memcpy(memory + 0x1000, "\xe6\x10\xeb\xfc", 4);
    need(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
    need(ioctl(vcpu, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
    s.cs.base = s.cs.selector = 0;
    need(ioctl(vcpu, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
    need(ioctl(vcpu, KVM_SET_REGS, &r), "KVM_SET_REGS");
    return vcpu;
}

static double create(int file)
{
    double start, took;
    int vm, vcpu;

    usleep(100000);
    start = now_us();
    vm = need(ioctl(file, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    vcpu = need(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    took = now_us() - start;
    close(vcpu);
    close(vm);
    return took;
}

enum { TOGETHER = 16 }; /* calls between two looks at the clock, which takes as long as the cheapest of them */

static double call(int on, unsigned long request, unsigned long argument, const char *what)
{
    double start = now_us();

    for (unsigned i = 0; i < TOGETHER; i++)
        need(ioctl(on, request, argument), what);
    return (now_us() - start) / TOGETHER;
}

static double serial(int vm, int vcpu)
{
    double start = now_us();

    for (unsigned i = 0; i < 2; i++)
        need(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
    for (unsigned i = 0; i < 4; i++) {
        struct kvm_irq_level line = {.irq = 4};
        need(ioctl(vm, KVM_IRQ_LINE_STATUS, &line), "KVM_IRQ_LINE_STATUS");
    }
    return now_us() - start;
}

int main(int argc, char **argv)
{
    int count = argc == 4 ? atoi(argv[3]) : 0, file, on = -1, vm = -1;
    const char *what = argc == 4 ? argv[2] : "";
    unsigned long request = KVM_GET_API_VERSION, argument = 0;
    double *took;

    if (count < 1)
        errx(2, "usage: file_cost PATH empty|vm|exit|serial|create COUNT");
    file = on = need(open(argv[1], O_RDWR), argv[1]);
    took = calloc((size_t)count, sizeof(*took));
    if (!strcmp(what, "vm")) {
        on = need(ioctl(file, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
        request = KVM_CHECK_EXTENSION;
        argument = KVM_CAP_USER_MEMORY;
    } else if (!strcmp(what, "exit")) {
        on = looping_vcpu(need(ioctl(file, KVM_CREATE_VM, 0), "KVM_CREATE_VM"));
        request = KVM_RUN;
    }
    if (!strcmp(what, "serial")) {
        vm = need(ioctl(file, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
        need(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
        on = looping_vcpu(vm);
    }
    for (int i = 0; i < count; i++)
        took[i] = !strcmp(what, "create") ? create(file) : vm >= 0 ? serial(vm, on) : call(on, request, argument, what);
    qsort(took, (size_t)count, sizeof(*took), by_value);
    printf("%.3f\n", took[count / 2]);
    return 0;
}
