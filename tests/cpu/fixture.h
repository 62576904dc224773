/* A vCPU with a little memory and no machine around it, for C tests of single processor functions.
 */
#ifndef KVMISH_TESTS_CPU_FIXTURE_H
#define KVMISH_TESTS_CPU_FIXTURE_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "cpu/msr.h"
#include "cpu/state.h"
#include "mmu/phys.h"

/* Nothing is changed between the way into OUTCOME() and a jump out of it. */
#pragma GCC diagnostic ignored "-Wclobbered"

static unsigned failures, checks;

#define CHECK(condition, ...)                                              \
    do {                                                                   \
        checks++;                                                          \
        if (!(condition)) {                                                \
            failures++;                                                    \
            fprintf(stderr, "%s:%d: %s ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, " " __VA_ARGS__);                              \
            fputc('\n', stderr);                                           \
        }                                                                  \
    } while (0)

enum { RAM_BYTES = 1 << 20 };

/* The machine: answers nothing; a test replaces what it needs. */
static int no_rdmsr(struct vcpu *v, uint32_t index, uint64_t *value)
{
    (void)v, (void)index, (void)value;
    return -1;
}
static int no_wrmsr(struct vcpu *v, uint32_t index, uint64_t value)
{
    (void)v, (void)index, (void)value;
    return -1;
}
static int no_mmio_read(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t *data)
{
    (void)v, (void)gpa, (void)size, (void)data;
    return 1;
}
static int no_mmio_write(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t data)
{
    (void)v, (void)gpa, (void)size, (void)data;
    return 1;
}
static struct machine_ops ops = {
    .rdmsr = no_rdmsr, .wrmsr = no_wrmsr, .mmio_read = no_mmio_read, .mmio_write = no_mmio_write};

static uint8_t *ram;
static struct memobj object;
static uint8_t page_flags[RAM_BYTES / 4096];
static struct memslot slot = {.size_bytes = RAM_BYTES, .obj = &object, .page_flags = page_flags};

static struct vcpu *new_vcpu(void)
{
    static struct phys_map *map;
    struct vcpu *v = aligned_alloc(4096, (sizeof(*v) + 4095) & ~4095ul);

    if (!map) {
        ram = aligned_alloc(4096, RAM_BYTES);
        memset(ram, 0, RAM_BYTES);
        object = (struct memobj){.host = ram, .size_bytes = RAM_BYTES};
        map = calloc(1, sizeof(*map) + sizeof(map->slot[0]));
        map->count = 1;
        map->slot[0] = &slot;
    }
    memset(v, 0, sizeof(*v));
    v->ops = &ops;
    v->phys = map;
    if (cpu_create(v)) {
        fprintf(stderr, "cpu_create failed\n");
        exit(1);
    }
    return v;
}

/* The default model, as a client sets it. */
static inline void set_supported_cpuid(struct vcpu *v)
{
    struct kvm_cpuid_entry2 entries[CPUID_MODEL_MAX];
    int n = cpuid_supported(entries, CPUID_MODEL_MAX);

    CHECK(n > 0, "cpuid_supported: %d", n);
    CHECK(cpuid_set(v, entries, (unsigned)n) == 0);
}

static inline void free_vcpu(struct vcpu *v)
{
    cpu_destroy(v);
    free(v);
}

/* Runs `statement`; the vector of the fault that it raised, 0x100 + exit reason, or -1 when it
 * returned. */
#define OUTCOME(v, statement)                                    \
    ({                                                           \
        volatile int outcome = -1;                               \
        if (!__builtin_setjmp((v)->out))                         \
            statement;                                           \
        else if ((v)->left == LEFT_FAULT)                        \
            outcome = (v)->fault.vector;                         \
        else                                                     \
            outcome = 0x100 + (int)(v)->exit.reason;             \
        outcome;                                                 \
    })

static inline int report(void)
{
    printf("%u checks, %u failures\n", checks, failures);
    return failures || !checks;
}

#endif
