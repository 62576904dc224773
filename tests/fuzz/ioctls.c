/* Random requests against the core in this process, as a client sends them: whatever comes, it answers or refuses.
 *
 * An input is a list of records: which descriptor, which request, where the argument lies, and bytes that lie there. With a main of
 * its own: `ioctls COUNT SEED`, or `ioctls FILE`, the inputs of a file, each behind its length in 4 bytes. By libFuzzer
 * (make fuzz) inputs are made of earlier ones, record by record, and follow the core's coverage. Memory errors are the
 * sanitizers' to find, descriptors and threads that are left ours.
 */
#include <dirent.h>
#include <err.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include "kvm/abi_new.h"
#include "kvm/door.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t room); /* libFuzzer's */

enum { PAGE = 4096, RAM_BYTES = 64 * PAGE, ARGUMENT_BYTES = 8 * PAGE, OBJECTS = 12, RECORDS_MAX = 200, TICK_US = 2000 };

static const uint32_t requests[] = {
    KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_CHECK_EXTENSION, KVM_GET_VCPU_MMAP_SIZE, KVM_GET_SUPPORTED_CPUID,
    KVM_GET_EMULATED_CPUID, KVM_GET_MSR_INDEX_LIST, KVM_GET_MSR_FEATURE_INDEX_LIST, KVM_X86_GET_MCE_CAP_SUPPORTED,
    KVM_CREATE_VCPU, KVM_ENABLE_CAP, KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG,
    KVM_REGISTER_COALESCED_MMIO, KVM_UNREGISTER_COALESCED_MMIO, KVM_GET_CLOCK, KVM_SET_CLOCK, KVM_SET_TSS_ADDR,
    KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_BOOT_CPU_ID, KVM_X86_SET_MSR_FILTER, KVM_CREATE_DEVICE, KVM_GET_STATS_FD,
    KVM_GET_TSC_KHZ, KVM_SET_TSC_KHZ, KVM_SET_NR_MMU_PAGES, KVM_CREATE_IRQCHIP, KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS,
    KVM_SIGNAL_MSI, KVM_SET_GSI_ROUTING, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, KVM_CREATE_PIT, KVM_CREATE_PIT2, KVM_GET_PIT,
    KVM_SET_PIT, KVM_GET_PIT2, KVM_SET_PIT2, KVM_REINJECT_CONTROL, KVM_IRQFD, KVM_IOEVENTFD, KVM_RUN, KVM_SET_CPUID,
    KVM_SET_CPUID2, KVM_GET_CPUID2, KVM_GET_MSRS, KVM_SET_MSRS, KVM_GET_LAPIC, KVM_SET_LAPIC, KVM_INTERRUPT, KVM_NMI, KVM_SMI,
    KVM_SET_SIGNAL_MASK, KVM_TRANSLATE, KVM_X86_SETUP_MCE, KVM_X86_SET_MCE, KVM_TPR_ACCESS_REPORTING, KVM_SET_VAPIC_ADDR,
    KVM_KVMCLOCK_CTRL, KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR, KVM_SET_REGS, KVM_SET_SREGS,
    KVM_SET_SREGS2, KVM_SET_VCPU_EVENTS, KVM_SET_MP_STATE, KVM_SET_DEBUGREGS, KVM_SET_FPU, KVM_SET_XCRS, KVM_SET_XSAVE,
    KVM_SET_GUEST_DEBUG, KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_SREGS2, KVM_GET_VCPU_EVENTS, KVM_GET_MP_STATE,
    KVM_GET_DEBUGREGS, KVM_GET_FPU, KVM_GET_XCRS, KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_SET_ONE_REG, KVM_GET_NESTED_STATE,
    KVM_SET_USER_MEMORY_REGION2, KVM_X86_SET_MSR_FILTER_COMPAT, KVM_GET_NR_MMU_PAGES, KVM_X86_GET_MCE_CAP_SUPPORTED};
enum { REQUESTS = sizeof(requests) / sizeof(*requests) };

struct record {
    uint8_t object, request, where, bytes; /* bytes: in units of 8 */
    uint32_t value;
} __attribute__((packed));

static uint8_t *ram, *argument;
static int object[OBJECTS];
static struct kvm_run *run_of[OBJECTS];
static unsigned objects;
static uint64_t done;

static void add(int fd, bool is_vcpu)
{
    if (fd < 0)
        return;
    if (objects == OBJECTS) {
        kvmish_close(fd);
        return;
    }
    object[objects] = fd;
    run_of[objects] = is_vcpu ? mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : NULL;
    if (run_of[objects++] == MAP_FAILED)
        err(1, "mmap");
}

/* A pointer or a descriptor of the client's own is its own fault in this process: they are made to fit. */
static void tame(uint32_t request, uint8_t *at, uint32_t value)
{
    struct kvm_userspace_memory_region *slot = (void *)at;
    struct kvm_msr_filter *filter = (void *)at;

    if (request == KVM_SET_USER_MEMORY_REGION || request == KVM_SET_USER_MEMORY_REGION2) {
        slot->slot &= 0x70007;
        slot->flags &= 3;
        slot->memory_size = slot->memory_size % (RAM_BYTES / PAGE + 1) * PAGE;
        slot->guest_phys_addr &= value & 1 ? 0xffff000 : 0x3f000;
        slot->userspace_addr = (uintptr_t)ram + slot->userspace_addr % PAGE * (value & 2 ? 1 : 0);
        if (slot->memory_size > RAM_BYTES - PAGE)
            slot->memory_size = RAM_BYTES - PAGE;
    } else if (request == KVM_X86_SET_MSR_FILTER) {
        for (unsigned i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++)
            filter->ranges[i].bitmap = argument;
    } else if (request == KVM_GET_DIRTY_LOG || request == KVM_CLEAR_DIRTY_LOG) {
        ((uint64_t *)(void *)at)[request == KVM_GET_DIRTY_LOG ? 1 : 2] = (uintptr_t)argument;
    } else if (request == KVM_HAS_DEVICE_ATTR || request == KVM_GET_DEVICE_ATTR || request == KVM_SET_DEVICE_ATTR) {
        ((struct kvm_device_attr *)(void *)at)->addr = (uintptr_t)argument;
    }
}

/* A few instructions, or none: what runs on is stopped by the timer. */
static void enter(unsigned i, uint32_t value)
{
    static const struct kvm_guest_debug step = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};

    if (run_of[i]) {
        run_of[i]->immediate_exit = value & 1;
        run_of[i]->request_interrupt_window = value >> 1 & 1;
        run_of[i]->cr8 = value >> 8 & 0xf;
        run_of[i]->kvm_valid_regs = value >> 16 & 7;
        run_of[i]->kvm_dirty_regs = value >> 20 & 7;
    }
    if (value & 4)
        kvmish_ioctl(object[i], KVM_SET_GUEST_DEBUG, (uintptr_t)&step);
    kvmish_ioctl(object[i], KVM_RUN, 0);
}

static void ask(unsigned i, uint32_t request, uintptr_t arg, uint32_t value)
{
    int ret;

    done++;
    if (request == KVM_RUN) {
        enter(i, value);
        return;
    }
    ret = kvmish_ioctl(object[i], request, arg);
    if (request == KVM_CREATE_VM || request == KVM_CREATE_VCPU)
        add(ret, request == KVM_CREATE_VCPU);
    else if (request == KVM_GET_STATS_FD && ret >= 0)
        close(ret);
}

static void send(const struct record *r, const uint8_t *bytes)
{
    uint32_t request = requests[r->request % REQUESTS];
    uint8_t *at = argument + ARGUMENT_BYTES - PAGE - 2048;
    uintptr_t arg = (uintptr_t)at;
    int fd = -1;

    memcpy(at, bytes, (size_t)r->bytes * 8);
    if (r->where == 255)
        request ^= r->value; /* an unknown one */
    tame(request, at, r->value);
    switch (r->where) {
    case 0: arg = r->value % 64; break;
    case 1: arg = r->value; break;
    case 2: arg = (uintptr_t)argument + ARGUMENT_BYTES - r->value % 64; break; /* the struct's end is not there */
    case 3: ((uint32_t *)(void *)at)[0] = (uint32_t)(fd = eventfd(0, EFD_CLOEXEC)); break;
    default: break;
    }
    if ((request != KVM_SET_USER_MEMORY_REGION && request != KVM_SET_USER_MEMORY_REGION2) || arg == (uintptr_t)at)
        ask(r->object % objects, request, arg, r->value);
    if (fd >= 0)
        close(fd);
}

static void on_tick(int sig)
{
    kvmish_signal_arrived(sig);
}

static void tell(void)
{
    fprintf(stderr, "%llu requests\n", (unsigned long long)done);
}

static void once(void)
{
    struct sigaction sa = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    struct itimerval tick = {{0, TICK_US}, {0, TICK_US}};

    if (ram)
        return;
    ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    argument = mmap(NULL, ARGUMENT_BYTES + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ram == MAP_FAILED || argument == MAP_FAILED || munmap(argument + ARGUMENT_BYTES, PAGE))
        err(1, "mmap");
    atexit(tell);
    sigaction(SIGALRM, &sa, NULL);
    setitimer(ITIMER_REAL, &tick, NULL);
}

static unsigned threads(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/task");

    if (!d)
        err(1, "/proc");
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* As a crash: libFuzzer keeps the input. */
static void die(const char *what)
{
    fprintf(stderr, "%s\n", what);
    abort();
}

static int lowest_free(void)
{
    int fd = dup(0);

    close(fd);
    return fd;
}

/* No descriptor after any input; no thread after some, which may still be on its way out. */
static void nothing_left(int free_before)
{
    enum { LOOK = 512, LEAVING = 4 };
    static unsigned inputs, threads_at_first;

    if (lowest_free() != free_before)
        die("a descriptor is left open");
    if (inputs++ % LOOK)
        return;
    if (!threads_at_first)
        threads_at_first = threads();
    if (threads() > threads_at_first + LEAVING)
        die("threads are left");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct record r;
    int free_before;

    once();
    free_before = lowest_free();
    objects = 0;
    add(kvmish_open(), false);
    add(kvmish_ioctl(object[0], KVM_CREATE_VM, 0), false);
    if (size && data[0] & 1)
        kvmish_ioctl(object[1], KVM_CREATE_IRQCHIP, 0);
    add(kvmish_ioctl(object[1], KVM_CREATE_VCPU, 0), true);
    for (unsigned n = 0; n < RECORDS_MAX && size >= sizeof(r); n++) {
        memcpy(&r, data, sizeof(r));
        data += sizeof(r);
        size -= sizeof(r);
        if ((size_t)r.bytes * 8 > size)
            r.bytes = (uint8_t)(size / 8);
        send(&r, data);
        data += (size_t)r.bytes * 8;
        size -= (size_t)r.bytes * 8;
    }
    while (objects) {
        objects--;
        if (run_of[objects])
            munmap(run_of[objects], 3 * PAGE);
        kvmish_close(object[objects]);
    }
    nothing_left(free_before);
    return 0;
}

#ifdef LIBFUZZER

/* ---- inputs from inputs ------------------------------------------------------------------------------------------------- */

enum { LIST_MAX = 400 };

struct list {
    const uint8_t *at[LIST_MAX]; /* records; what follows them is payload */
    size_t size[LIST_MAX];
    unsigned count;
};

static void parse(struct list *l, const uint8_t *data, size_t size)
{
    struct record r;

    l->count = 0;
    while (size >= sizeof(r) && l->count < LIST_MAX) {
        memcpy(&r, data, sizeof(r));
        size_t whole = sizeof(r) + (size_t)r.bytes * 8;
        if (whole > size)
            return;
        l->at[l->count] = data;
        l->size[l->count++] = whole;
        data += whole;
        size -= whole;
    }
}

static uint32_t next_random(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static size_t invent(uint8_t *to, unsigned *state)
{
    struct record r = {.object = (uint8_t)(next_random(state) % OBJECTS), .request = (uint8_t)(next_random(state) % REQUESTS),
                       .where = (uint8_t)(next_random(state) % 8), .bytes = (uint8_t)(next_random(state) % 12),
                       .value = next_random(state)};

    memcpy(to, &r, sizeof(r));
    for (size_t i = 0; i < (size_t)r.bytes * 8; i++) /* mostly zeros, as such structures are */
        to[sizeof(r) + i] = next_random(state) % 4 ? 0 : (uint8_t)next_random(state);
    return sizeof(r) + (size_t)r.bytes * 8;
}

/* One record's fields and payload, which may become longer. */
static size_t change(uint8_t *to, const uint8_t *from, size_t size, unsigned *state)
{
    struct record r;
    size_t payload = size - sizeof(r);

    memcpy(to, from, size);
    memcpy(&r, from, sizeof(r));
    switch (next_random(state) % 6) {
    case 0: r.object = (uint8_t)(next_random(state) % OBJECTS); break;
    case 1: r.request = (uint8_t)(next_random(state) % REQUESTS); break;
    case 2: r.where = next_random(state) % 16 ? (uint8_t)(next_random(state) % 8) : 255; break;
    case 3: r.value = next_random(state) % 2 ? 1u << next_random(state) % 32 : next_random(state); break;
    default:
        payload = LLVMFuzzerMutate(to + sizeof(r), payload, 2040);
        while (payload % 8)
            to[sizeof(r) + payload++] = 0;
        r.bytes = (uint8_t)(payload / 8);
    }
    memcpy(to, &r, sizeof(r));
    return sizeof(r) + payload;
}

static size_t emit(uint8_t *out, size_t used, size_t room, const uint8_t *record, size_t size)
{
    if (used + size > room)
        return used;
    memcpy(out + used, record, size);
    return used + size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed)
{
    static uint8_t out[1 << 16], one[4096];
    struct list l;
    size_t used = 0, n;
    unsigned state = seed, how, which, other;

    parse(&l, data, size);
    how = l.count ? next_random(&state) % 8 : 0;
    which = l.count ? next_random(&state) % l.count : 0;
    other = l.count ? next_random(&state) % l.count : 0;
    room = room < sizeof(out) ? room : sizeof(out);
    for (unsigned i = 0; i <= l.count; i++) {
        if (how <= 1 && i == which) { /* a new one, before it */
            n = invent(one, &state);
            used = emit(out, used, room, one, n);
        }
        if (i == l.count || (how == 2 && i == which && l.count > 1)) /* without it */
            continue;
        if (how == 3 && i == which) /* another one of them, before it */
            used = emit(out, used, room, l.at[other], l.size[other]);
        if (how >= 4 && i == which) {
            n = change(one, l.at[i], l.size[i], &state);
            used = emit(out, used, room, one, n);
        } else {
            used = emit(out, used, room, l.at[i], l.size[i]);
        }
    }
    memcpy(data, out, used);
    return used;
}

#else

static int replay(const char *name)
{
    static uint8_t input[1 << 16];
    FILE *f = fopen(name, "re");
    uint32_t size;

    if (!f)
        err(2, "%s", name);
    while (fread(&size, sizeof(size), 1, f) == 1) {
        if (size > sizeof(input) || fread(input, 1, size, f) != size)
            errx(2, "%s is no list of inputs", name);
        LLVMFuzzerTestOneInput(input, size);
    }
    fclose(f);
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t count = argc == 3 ? strtoull(argv[1], NULL, 0) : 0, state = argc == 3 ? strtoull(argv[2], NULL, 0) * 2 + 1 : 0;
    static uint8_t input[16384];

    if (argc == 2)
        return replay(argv[1]);
    if (!count)
        errx(2, "usage: ioctls COUNT SEED, ioctls FILE");
    while (done < count) {
        for (size_t i = 0; i < sizeof(input); i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            input[i] = (uint8_t)(state >> 56) & (i % 7 ? 0xff : (uint8_t)(state >> 48)); /* small numbers more often */
        }
        LLVMFuzzerTestOneInput(input, sizeof(input));
    }
    return 0;
}
#endif
