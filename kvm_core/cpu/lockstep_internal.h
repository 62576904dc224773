/* What the parts of lockstep share: the record of a stretch. */
#ifndef KVMISH_CPU_LOCKSTEP_INTERNAL_H
#define KVMISH_CPU_LOCKSTEP_INTERNAL_H

#include "cpu/lockstep.h"

enum { PAGES_MAX = 256, DEVICES_MAX = 4096, REPORT_BYTES = 16384 };

struct saved_page {
    uint8_t *host;
    struct memslot *slot;
    uint64_t index; /* within the slot */
    uint8_t before[4096], after[4096];
};

enum device_kind {
    DEVICE_MMIO_READ, DEVICE_MMIO_WRITE, DEVICE_PIO_IN, DEVICE_PIO_OUT, DEVICE_RDMSR, DEVICE_WRMSR, DEVICE_ALLOWED,
    DEVICE_CR8_READ, DEVICE_CR8_WRITE, DEVICE_HYPERCALL, DEVICE_APIC
};

struct device_access { /* a call of machine_ops */
    uint8_t kind; /* enum device_kind */
    uint8_t size;
    int result;
    uint64_t addr, data;
    uint64_t rax; /* after a hypercall */
};

struct lockstep {
    const struct engine *tested;
    int32_t stretch; /* instructions */
    const struct machine_ops *ops; /* the real ones */
    struct {
        bool replay; /* the reference runs: no access is real */
        uint32_t count, next;
        struct device_access a[DEVICES_MAX];
    } devices;
    uint32_t device_first, device_end; /* where the engine under test was in it before the stretch, and behind it */
    bool overflow;
    unsigned pages, tested_pages; /* written by either; by the engine under test: the first of them */
    enum cpu_exit_reason reason; /* of the engine under test */
    uint64_t compared, skipped, races;
    const char *nearly; /* what still differed when the reference was at the same place with the same registers */
    char report[REPORT_BYTES];
    struct vcpu start, before, tested_after;
    struct saved_page page[PAGES_MAX];
};

/* lockstep_ops.c: machine_ops that record, or answer from the record. */
extern const struct machine_ops lockstep_ops;

/* lockstep_report.c. The name of the first field in which the architectural states differ; NULL: none. `last`: where to
 * begin (NULL: with the first field). */
const char *lockstep_state_differs(const struct vcpu *a, const struct vcpu *b, const char *last);
/* Writes the report: l->before, l->tested_after and *v. */
void lockstep_describe(struct vcpu *v, struct lockstep *l, const char *title);

#endif
