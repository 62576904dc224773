/* Runs a ROM image on a KVM: RAM, the ROM, the debug port 0xe9 on stdout, exit by port 0xf4.
 *
 * runner IMAGE [amd|intel] [/dev/kvm | at-once]: without a path the KVM is ours, in this process. The vendor is the guest's
 * CPUID's. at-once: all code is translated the first time, with exact flags.
 * Exit status 0 after the image's own exit, 3 after a shutdown (triple fault), 1 after anything unexpected.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "jit/translate.h"
#include "kvm/door.h"
#include "kvm/files.h"

enum { ROM_BYTES = 65536, RAM_BYTES = 16 << 20, MAXPHYADDR = 40 /* as QEMU TCG has it */ };
#define ROM_GPA (0x100000000ull - ROM_BYTES)

static bool real; /* the host's */

static int kvm(int fd, unsigned long request, const char *name, void *arg)
{
    int r = real ? ioctl(fd, request, arg) : kvmish_ioctl(fd, request, (uintptr_t)arg);

    if (r < 0) {
        fprintf(stderr, "%s: %s\n", name, strerror(real ? errno : -r));
        exit(1);
    }
    return r;
}
#define KVM(fd, request, arg) kvm(fd, request, #request, (void *)(arg))

static void set_cpuid(int sys, int vcpu, const char *vendor)
{
    static const struct {
        const char *name, *text;
    } vendors[] = {{"amd", "AuthenticAMD"}, {"intel", "GenuineIntel"}};
    struct kvm_cpuid2 *id = calloc(1, sizeof(*id) + CPUID_MAX * sizeof(id->entries[0]));

    id->nent = CPUID_MAX;
    KVM(sys, KVM_GET_SUPPORTED_CPUID, id);
    for (unsigned n = 0; n < id->nent; n++) {
        struct kvm_cpuid_entry2 *e = &id->entries[n];
        if (e->function == 0x80000008)
            e->eax = (e->eax & ~0xffu) | MAXPHYADDR;
        /* which the list leaves out: it depends on whose LAPIC it is. KVM API 4.46 */
        if (e->function == 1 && KVM(sys, KVM_CHECK_EXTENSION, (void *)KVM_CAP_TSC_DEADLINE_TIMER) > 0)
            e->ecx |= 1u << 24;
        if (e->function != 0 && e->function != 0x80000000)
            continue;
        for (unsigned k = 0; k < 2 && vendor; k++) {
            if (strcmp(vendor, vendors[k].name))
                continue;
            memcpy(&e->ebx, vendors[k].text, 4);
            memcpy(&e->edx, vendors[k].text + 4, 4);
            memcpy(&e->ecx, vendors[k].text + 8, 4);
        }
    }
    KVM(vcpu, KVM_SET_CPUID2, id);
    free(id);
}

static void add_memory(int vm, unsigned slot, uint64_t gpa, size_t bytes, void *host, unsigned flags)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = bytes, .userspace_addr = (uintptr_t)host};

    KVM(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static void *pages(size_t bytes)
{
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void translate_all(int vcpu)
{
    struct file *file = file_get(vcpu);

    translate_at_once(&((struct kvm_vcpu *)file->object)->cpu, true);
    file_put(file);
}

static int serve(int vcpu, struct kvm_run *run)
{
    for (;;) {
        KVM(vcpu, KVM_RUN, 0);
        switch (run->exit_reason) {
        case KVM_EXIT_IO: {
            uint8_t *data = (uint8_t *)run + run->io.data_offset;
            if (run->io.direction == KVM_EXIT_IO_IN) {
                memset(data, 0xff, (size_t)run->io.size * run->io.count);
            } else if (run->io.port == 0xe9) {
                fwrite(data, run->io.size, run->io.count, stdout);
            } else if (run->io.port == 0xf4) {
                fflush(stdout);
                return 0;
            }
            break;
        }
        case KVM_EXIT_MMIO:
            if (!run->mmio.is_write)
                memset(run->mmio.data, 0, sizeof(run->mmio.data)); /* as QEMU answers for nobody */
            break;
        case KVM_EXIT_SHUTDOWN: fflush(stdout); return 3;
        default: {
            struct kvm_regs regs = {0};
            struct kvm_sregs sregs = {0};
            fflush(stdout);
            KVM(vcpu, KVM_GET_REGS, &regs);
            KVM(vcpu, KVM_GET_SREGS, &sregs);
            fprintf(stderr, "exit %u (%u) at %x:%llx\n", run->exit_reason, run->internal.suberror, sregs.cs.selector,
                    regs.rip);
            return 1;
        }
        }
    }
}

int main(int argc, char **argv)
{
    int image = argc > 1 ? open(argv[1], O_RDONLY) : -1, sys, vm, vcpu, run_bytes;
    uint8_t *ram = pages(RAM_BYTES), *rom = pages(ROM_BYTES);
    struct kvm_run *run;

    if (image < 0 || read(image, rom, ROM_BYTES) != ROM_BYTES)
        return 2;
    memcpy(ram + (1 << 20) - ROM_BYTES, rom, ROM_BYTES); /* the top of the first MiB, as on a PC */
    bool at_once = argc > 3 && !strcmp(argv[3], "at-once");
    real = argc > 3 && !at_once;
    sys = real ? open(argv[3], O_RDWR | O_CLOEXEC) : kvmish_open();
    if (sys < 0)
        return 2;
    vm = KVM(sys, KVM_CREATE_VM, 0);
    KVM(vm, KVM_SET_TSS_ADDR, 0xfffbd000);
    KVM(vm, KVM_CREATE_IRQCHIP, 0);
    add_memory(vm, 0, 0, RAM_BYTES, ram, 0);
    add_memory(vm, 1, ROM_GPA, ROM_BYTES, rom, KVM_MEM_READONLY);
    vcpu = KVM(vm, KVM_CREATE_VCPU, 0);
    run_bytes = KVM(sys, KVM_GET_VCPU_MMAP_SIZE, 0);
    run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        return 2;
    set_cpuid(sys, vcpu, argc > 2 ? argv[2] : NULL);
    if (at_once)
        translate_all(vcpu);
    return serve(vcpu, run);
}
