/* Binary statistics (KVM API 4.135): a file of header, names and values; the values are this process's counters.
 *
 * The descriptor is a memfd opened for reading; its last part is mapped and rewritten at exits, so read() needs no door.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm/kvm.h"

enum { NAME_BYTES = 48, MAP_BYTES = 2 * KVM_PAGE };

static const char *const vcpu_names[] = {
    "exits", "io_exits", "mmio_exits", "signal_exits", "irq_window_exits", "halt_exits", "halt_wakeup", "halt_wait_ns",
    "irq_injections", "nmi_injections", "hypercalls", "insn_emulation_fail", "user_exits",
    /* from struct vcpu */
    "instructions", "tlb_flush", "tlb_miss", "decoded", "faults", "interrupts"};
enum { OWN_STATS = sizeof(struct vcpu_stats) / 8, VCPU_STATS = sizeof(vcpu_names) / sizeof(*vcpu_names) };
_Static_assert(VCPU_STATS == OWN_STATS + 6, "one name a value");

static const char *const vm_names[] = {"remote_tlb_flush"};
enum { VM_STATS = 1 };

static uint32_t flags_of(const char *name)
{
    bool ns = !strcmp(name, "halt_wait_ns");

    return KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_BASE_POW10 | (ns ? KVM_STATS_UNIT_SECONDS : KVM_STATS_UNIT_NONE);
}

/* NULL: *fd is -errno. */
static char *map_file(size_t bytes, int *fd)
{
    char *map = MAP_FAILED;

    *fd = memfd_create("kvm-stats", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd >= 0 && !ftruncate(*fd, (off_t)bytes) && !fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
        map = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (map != MAP_FAILED) {
        fcntl(*fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE); /* Linux 5.1 */
        return map;
    }
    int err = -errno;
    if (*fd >= 0)
        close(*fd);
    *fd = err;
    return NULL;
}

/* Lays the file out; -> where the values start, NULL: *fd is -errno. */
static uint64_t *build(int *fd, const char *id, const char *const *names, unsigned n)
{
    size_t desc_bytes = sizeof(struct kvm_stats_desc) + NAME_BYTES;
    struct kvm_stats_header h = {.name_size = NAME_BYTES, .num_desc = n, .id_offset = sizeof(h),
                                 .desc_offset = sizeof(h) + NAME_BYTES};
    char *map;

    h.data_offset = h.desc_offset + n * (uint32_t)desc_bytes;
    map = map_file(h.data_offset + n * 8, fd);
    if (!map)
        return NULL;
    memcpy(map, &h, sizeof(h));
    snprintf(map + h.id_offset, NAME_BYTES, "%s", id);
    for (unsigned i = 0; i < n; i++) {
        struct kvm_stats_desc *d = (void *)(map + h.desc_offset + i * desc_bytes);
        d->flags = flags_of(names[i]);
        d->exponent = !strcmp(names[i], "halt_wait_ns") ? -9 : 0;
        d->size = 1;
        d->offset = i * 8;
        snprintf(d->name, NAME_BYTES, "%s", names[i]);
    }
    return (uint64_t *)(void *)(map + h.data_offset);
}

int stats_open_again(const struct client *c, int fd)
{
    char path[64];
    int again;

    (void)c;
    snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd); /* the process's first thread may have ended */
    again = open(path, O_RDONLY | O_CLOEXEC);
    if (again < 0) /* no /proc: one that shares its place with others */
        again = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return again < 0 ? -errno : again;
}

static int stats_fd(const struct client *c, int *fd, uint64_t **page, const char *id, const char *const *names, unsigned n)
{
    if (!*page)
        *page = build(fd, id, names, n);
    return *page ? c->ops->give(c, *fd) : *fd;
}

void stats_free(int fd, uint64_t *page)
{
    if (page)
        munmap((void *)((uintptr_t)page & ~(uintptr_t)(KVM_PAGE - 1)), MAP_BYTES);
    if (fd >= 0)
        close(fd);
}

int stats_vm_fd(struct kvm_vm *vm, const struct client *c)
{
    char id[NAME_BYTES];
    int fd;

    snprintf(id, sizeof(id), "kvm-%d-%u", c->pid ? c->pid : getpid(), vm->number);
    pthread_mutex_lock(&vm->lock);
    fd = stats_fd(c, &vm->stat_fd, &vm->stat_page, id, vm_names, VM_STATS);
    if (vm->stat_page)
        vm->stat_page[0] = vm->stat_flushes;
    pthread_mutex_unlock(&vm->lock);
    return fd;
}

void stats_publish(struct kvm_vcpu *kv)
{
    uint64_t *out = kv->stat_page;
    const struct vcpu *v = &kv->cpu;

    if (!out)
        return;
    memcpy(out, &kv->stat, sizeof(kv->stat));
    out += OWN_STATS;
    *out++ = v->instructions;
    *out++ = v->stat_tlb_flush;
    *out++ = v->stat_tlb_miss;
    *out++ = v->stat_decoded;
    *out++ = v->stat_faults;
    *out = v->stat_interrupts;
}

int stats_vcpu_fd(struct kvm_vcpu *kv, const struct client *c)
{
    char id[NAME_BYTES];
    int fd;

    snprintf(id, sizeof(id), "kvm-%d-%u/vcpu-%u", c->pid ? c->pid : getpid(), kv->vm->number, kv->id);
    fd = stats_fd(c, &kv->stat_fd, &kv->stat_page, id, vcpu_names, VCPU_STATS);
    stats_publish(kv);
    return fd;
}
