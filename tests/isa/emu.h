/* Runs one instruction on our processor: CPL 3, 64-bit mode, paging on, through the real MMU. */
#ifndef TESTS_ISA_EMU_H
#define TESTS_ISA_EMU_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/access.h"
#include "cpu/cpu.h"
#include "cpu/native.h"
#include "cpu/xsave.h"
#include "mmu/phys.h"
#include "mmu/tlb.h"
#include "state.h"
#include "bind.h"

enum { RAM_BYTES = 1 << 20, GPA_TABLES = 0x10000, GPA_DATA = 0x40000, GPA_CODE = 0x60000 };

static struct vcpu *emu;
static uint8_t *emu_ram, *emu_data, *emu_code;

static void emu_map(uint64_t linear, uint64_t gpa, uint64_t rights)
{
    static uint64_t next = GPA_TABLES + 4096;
    uint64_t table = GPA_TABLES;

    for (int level = 3; level > 0; level--) {
        uint64_t *e = (uint64_t *)(emu_ram + table) + (linear >> (12 + 9 * level) & 511);
        if (!*e) {
            *e = next | 7;
            next += 4096;
        }
        table = *e & ~0xfffull;
    }
    ((uint64_t *)(emu_ram + table))[linear >> 12 & 511] = gpa | rights;
}

static void emu_mode(int bits)
{
    emu->seg[CS] = (struct segment){.limit = ~0u,
                                    .ar = AR_P | AR_S | AR_DPL | AR_G | 0xb | (bits == 64 ? AR_L : AR_DB),
                                    .sel = bits == 64 ? 0x33 : 0x23};
    cpu_update_mode(emu);
}

static void emu_create(void)
{
    static struct memobj obj;
    static struct memslot slot;
    struct phys_map *map = calloc(1, sizeof(*map) + sizeof(map->slot[0]));

    emu_ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    emu = aligned_alloc(4096, (sizeof(*emu) + 4095) & ~4095ul);
    memset(emu, 0, sizeof(*emu));
    obj = (struct memobj){emu_ram, RAM_BYTES};
    slot = (struct memslot){.size_bytes = RAM_BYTES, .obj = &obj, .page_flags = calloc(RAM_BYTES / 4096, 1)};
    map->count = 1;
    map->slot[0] = &slot;
    emu_data = emu_ram + GPA_DATA;
    emu_code = emu_ram + GPA_CODE;
    for (unsigned k = 0; k < CODE_BYTES; k += 4096)
        emu_map(CODE_ADDR + k, GPA_CODE + k, 0x67);
    for (unsigned k = 0; k < DATA_BYTES; k += 4096)
        if (k != DATA_HOLE)
            emu_map(DATA_ADDR + k, GPA_DATA + k, k == DATA_READONLY ? 0x65 : 0x67);
    emu->phys = map;
    if (emu_boot(emu)) {
        fprintf(stderr, "cannot create a vCPU\n");
        exit(3);
    }
    emu->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG | CR0_MP;
    emu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
    emu->efer = EFER_LME | EFER_LMA | EFER_SCE;
    emu->cr3 = GPA_TABLES;
    emu->xcr0 = 7;
    for (int s = 0; s < 6; s++)
        if (s != CS)
            emu->seg[s] = (struct segment){.limit = ~0u, .ar = AR_P | AR_S | AR_DPL | AR_DB | AR_G | 3, .sel = 0x2b};
    emu->cpl = 3;
    emu_mode(64);
    emu->amd = __builtin_cpu_is("amd");
}

static void emu_load(const struct icase *c)
{
    const struct state *s = &c->before;

    memcpy(emu->gpr, s->gpr, sizeof(s->gpr));
    emu->rip = s->rip;
    cpu_set_eflags(emu, s->rflags | 2 | FL_IF);
    memcpy(emu->ymm, s->ymm, sizeof(s->ymm));
    memcpy(emu->fx, s->fx, 160);
    emu->xinuse = 7;
    emu->gpr[REG_PAGE] = s->rip & ~0xfffull;
}

static void emu_store(struct state *s)
{
    memcpy(s->gpr, emu->gpr, sizeof(s->gpr));
    s->rflags = cpu_get_eflags(emu) & (ARITH_FLAGS | DF_FLAG);
    memcpy(s->ymm, emu->ymm, sizeof(s->ymm));
    memcpy(s->fx, emu->fx, 160);
}

static void emu_run(const struct icase *c, struct state *after)
{
    const struct insn *i, *next;
    int left;

    emu_load(c);
    memset(after, 0, sizeof(*after));
    after->vector = -1;
    after->rip = c->before.rip;
    native_enter(emu);
    left = setjmp(emu->out);
    if (!left) {
        memcpy(emu_code + (c->before.rip - CODE_ADDR), c->bytes, c->len);
        i = emu_decode(emu, c);
        if (!i)
            cpu_ud(emu);
        emu->cur = i;
        do { /* a repeated string instruction may come back before it is through */
            next = i->fn(emu, i);
        } while (next == i || (!next && emu->rip == c->before.rip));
        after->rip = next ? cpu_next_rip(emu, i) : emu->rip;
    } else if (left == LEFT_FAULT) {
        after->vector = emu->fault.vector;
        after->error = emu->fault.has_error ? emu->fault.error : 0;
        after->cr2 = emu->fault.vector == VEC_PF ? emu->fault.payload : 0;
    } else {
        after->vector = 1000 + emu->exit.reason;
    }
    native_leave(emu);
    emu_store(after);
}

#endif
