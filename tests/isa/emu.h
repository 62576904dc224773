/* Runs one instruction on our processor: CPL 3, paging on, through the engine with everything it does: fetch, decode
 * cache, linked branches, the careful path, exceptions through an IDT.
 *
 * Like the host's, the instruction is followed by INT3. Every vector has a gate to a HLT of supervisor code; the engine
 * comes back with EXIT_HLT, and the frame on the supervisor stack holds the state afterwards.
 */
#ifndef TESTS_ISA_EMU_H
#define TESTS_ISA_EMU_H

#include <cpuid.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/access.h"
#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "cpu/native.h"
#include "cpu/segment.h"
#include "cpu/xsave.h"
#include "isa/codecache.h"
#include "jit/translate.h"
#include "mmu/phys.h"
#include "mmu/tlb.h"
#include "ldt.h"
#include "state.h"

#ifndef EMU_RAM_BYTES
#define EMU_RAM_BYTES (1 << 20)
#endif

enum {
    RAM_BYTES = EMU_RAM_BYTES, GPA_TABLES = 0x10000, GPA_DATA = 0x40000, GPA_CODE = 0x60000,
    GPA_SYSTEM = 0x80000, /* GDT, IDT, TSS, handlers, stack: a page each */
    SYSTEM_ADDR = 0x38000000, GDT_ADDR = SYSTEM_ADDR, LDT_ADDR = SYSTEM_ADDR + 0x800,
    IDT_ADDR = SYSTEM_ADDR + 0x1000, TSS_ADDR = SYSTEM_ADDR + 0x2000,
    HANDLER_ADDR = SYSTEM_ADDR + 0x3000, STACK_ADDR = SYSTEM_ADDR + 0x5000 /* its end */
};
#define PTE_NX (1ull << 63)

static struct vcpu *emu;
static uint64_t emu_fs_base; /* as the test program's */
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

static void emu_segment(enum segreg s, uint16_t sel)
{
    const uint64_t *table = (const uint64_t *)(emu_ram + GPA_SYSTEM + (sel & 4 ? LDT_ADDR - GDT_ADDR : 0));

    segment_from_desc(&emu->seg[s], sel, table[sel >> 3]);
}

/* The segments of the case; CPL 3. */
static void emu_segments(const struct icase *c)
{
    emu_segment(CS, c->cs);
    emu_segment(SS, c->ss);
    emu_segment(DS, c->ds);
    emu_segment(ES, c->es);
    emu->seg[FS] = emu->seg[GS] = (struct segment){.ar = AR_UNUSABLE};
    emu->seg[FS].base = emu_fs_base;
    emu->seg[GS].base = GS_BASE;
    emu->cpl = 3;
    cpu_update_mode(emu);
}

/* GDT as Linux has it for user processes, gates, a TSS without I/O bitmap. */
static void emu_system(void)
{
    uint64_t *gdt = (uint64_t *)(emu_ram + GPA_SYSTEM), *idt = gdt + 512;
    uint64_t rsp0 = STACK_ADDR;
    unsigned processor = 0, node = 0;

    getcpu(&processor, &node);
    for (unsigned k = 0; k < 5; k++)
        emu_map(SYSTEM_ADDR + 4096 * k, GPA_SYSTEM + 4096 * k, 0x63);
    gdt[2] = 0x00af9b000000ffff; /* 10: supervisor code, 18: data */
    gdt[3] = 0x00cf93000000ffff;
    gdt[4] = 0x00cffb000000ffff; /* 23: 32-bit code, 2b: data, 33: 64-bit code */
    gdt[5] = 0x00cff3000000ffff;
    gdt[6] = 0x00affb000000ffff;
    gdt[15] = 0x0000f50000000000 | node << 12 | processor; /* 7b: its limit tells the host's processor */
    for (unsigned n = 0; n < 256; n++) {
        uint64_t to = HANDLER_ADDR + 8 * n, dpl = n == 3 || n == 4 ? 3 : 0;

        idt[2 * n] = (to & 0xffff) | 0x10 << 16 | (0x8e00ull | dpl << 13) << 32 | (to >> 16 & 0xffff) << 48;
        idt[2 * n + 1] = to >> 32;
    }
    memcpy(emu_ram + GPA_SYSTEM + 0x2000 + 4, &rsp0, 8);
    emu_ram[GPA_SYSTEM + 0x2000 + 102] = 104; /* I/O map base: behind the limit */
    memset(emu_ram + GPA_SYSTEM + 0x3000, 0xf4, 4096);
    emu->gdt = (struct desc_table){GDT_ADDR, 16 * 8 - 1};
    emu->idt = (struct desc_table){IDT_ADDR, 4095};
    emu->seg[TR] = (struct segment){.base = TSS_ADDR, .limit = 103, .ar = AR_P | 11, .sel = 0x40};
    emu->seg[LDTR] = (struct segment){.ar = AR_UNUSABLE};
    for (unsigned n = 0; n < LDT_COUNT; n++)
        gdt[(LDT_ADDR - GDT_ADDR) / 8 + n] = ldt_descriptor(n);
}

static bool host_has_la57(void)
{
    unsigned a, b, c = 0, d;

    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && c >> 16 & 1;
}

/* The default model with the name of this vendor; how many entries. */
static inline int emu_vendor_model(struct kvm_cpuid_entry2 *model, unsigned max, bool amd)
{
    int n = cpuid_supported(model, max);

    for (int k = 0; k < n; k++) {
        if (model[k].function == 0 || model[k].function == 0x80000000) {
            memcpy(&model[k].ebx, amd ? "Auth" : "Genu", 4);
            memcpy(&model[k].edx, amd ? "enti" : "ineI", 4);
            memcpy(&model[k].ecx, amd ? "cAMD" : "ntel", 4);
        }
    }
    return n;
}

static const struct engine *emu_engine = &engine_emulate; /* KVMISH_ENGINE=translate: the translator, exact */

static void emu_create(void)
{
    static struct machine_ops none;
    static struct memobj obj;
    static struct memslot slot;
    static struct kvm_cpuid_entry2 model[256];
    struct phys_map *map = calloc(1, sizeof(*map) + sizeof(map->slot[0]));
    int n;

    emu_ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    emu = aligned_alloc(4096, (sizeof(*emu) + 4095) & ~4095ul);
    memset(emu, 0, sizeof(*emu));
    obj = (struct memobj){emu_ram, RAM_BYTES};
    slot = (struct memslot){.size_bytes = RAM_BYTES, .obj = &obj, .page_flags = calloc(RAM_BYTES / 4096, 1)};
    map->count = 1;
    map->slot[0] = &slot;
    emu_data = emu_ram + GPA_DATA;
    emu_code = emu_ram + GPA_CODE;
    memset(emu_code, 0xcc, CODE_BYTES);
    for (unsigned k = 0; k < CODE_BYTES; k += 4096)
        emu_map(CODE_ADDR + k, GPA_CODE + k, 0x67);
    for (unsigned k = 0; k < DATA_BYTES; k += 4096)
        if (k != DATA_HOLE)
            emu_map(DATA_ADDR + k, GPA_DATA + k, (k == DATA_READONLY ? 0x65 : 0x67) | PTE_NX);
    emu->phys = map;
    emu->ops = &none;
    n = cpuid_supported(model, sizeof(model) / sizeof(model[0]));
    for (int k = 0; k < n; k++) /* addresses as wide as the host's: SDM vol. 2, CPUID, leaf 7 */
        if (model[k].function == 7 && model[k].index == 0 && !host_has_la57())
            model[k].ecx &= ~(1u << 16);
    if (n <= 0 || cpu_create(emu) || cpuid_set(emu, model, (unsigned)n)) {
        fprintf(stderr, "cannot create a vCPU\n");
        exit(3);
    }
    emu->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG | CR0_MP | CR0_AM;
    emu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
    emu->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    emu->cr3 = GPA_TABLES;
    emu->xcr0 = 7;
    emu_system();
    emu_segments(&(struct icase){.cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b});
    codecache_flush(emu);
    if (getenv("KVMISH_ENGINE") && !strcmp(getenv("KVMISH_ENGINE"), engine_translate.name)) {
        if (translate_create(emu))
            exit(3);
        translate_at_once(emu, true);
        emu_engine = &engine_translate;
    }
}

static void emu_load(const struct icase *c)
{
    const struct state *s = &c->before;

    memcpy(emu->gpr, s->gpr, sizeof(s->gpr));
    emu->rip = s->rip;
    cpu_set_eflags(emu, s->rflags | 2 | FL_IF);
    memcpy(emu->ymm, s->ymm, sizeof(s->ymm));
    memcpy(emu->fx, s->fx, 160);
    emu->xinuse = s->in_use;
    emu->fcs = emu->fds = 0;
    emu_segments(c);
}

/* The code bytes have changed behind the processor's back, as another one would write them. */
static inline void emu_code_put(uint64_t at, const uint8_t *bytes, unsigned n)
{
    uint64_t off = at - CODE_ADDR;

    for (unsigned k = 0; k < n && off + k < CODE_BYTES; k++)
        emu_code[off + k] = bytes ? bytes[k] : 0xcc;
    for (unsigned page = off >> 12; page <= (off + n) >> 12 && page < CODE_BYTES >> 12; page++)
        codecache_written(emu, GPA_CODE + 4096 * page, 4096);
}

/* With an LDT or, as a program that never asked for one, without. */
static inline void emu_ldt(void)
{
    emu->seg[LDTR] = (struct segment){.base = LDT_ADDR, .limit = 8 * LDT_COUNT - 1, .ar = AR_P | 2, .sel = 0x50};
}

/* What the exception frame says of the code that was interrupted; SYSCALL, which code may modify itself to, pushes none. */
static void emu_frame(struct state *after)
{
    if (emu->gpr[RSP] - SYSTEM_ADDR > STACK_ADDR - SYSTEM_ADDR)
        return;

    unsigned vector = (unsigned)(emu->rip - 1 - HANDLER_ADDR) / 8;
    uint64_t frame[6] = {0};
    bool error = vector == VEC_DF || (vector >= VEC_TS && vector <= VEC_PF) || vector == VEC_AC;

    memcpy(frame + !error, emu_ram + GPA_SYSTEM + (emu->gpr[RSP] - SYSTEM_ADDR), error ? 48 : 40);
    after->vector = (int)vector;
    after->error = (uint32_t)frame[0];
    after->rip = frame[1];
    after->rflags = frame[3] & (ARITH_FLAGS | DF_FLAG);
    after->gpr[RSP] = frame[4];
    after->sel[CS] = (uint16_t)frame[2];
    after->sel[SS] = (uint16_t)frame[5];
    after->cr2 = vector == VEC_PF ? emu->cr2 : 0;
}

static void emu_store(struct state *s)
{
    memcpy(s->gpr, emu->gpr, sizeof(s->gpr));
    s->rflags = cpu_get_eflags(emu) & (ARITH_FLAGS | DF_FLAG);
    memcpy(s->ymm, emu->ymm, sizeof(s->ymm));
    memcpy(s->fx, emu->fx, 160);
    s->in_use = xsave_in_use(emu) & 7;
    for (int k = ES; k <= GS; k++)
        s->sel[k] = emu->seg[k].sel;
    s->fs_base = emu->seg[FS].base;
    s->gs_base = emu->seg[GS].base;
}

/* Runs what stands at c->before.rip. budget: instructions between looks at the outside; single: the careful path. */
static inline void emu_go(const struct icase *c, struct state *after, int32_t budget, bool single)
{
    enum cpu_exit_reason why;

    emu_load(c);
    memset(after, 0, sizeof(*after));
    if (single)
        emu->slow |= SLOW_SINGLE;
    do
        why = emu_engine->enter(emu, budget);
    while (why == EXIT_POLL);
    emu_store(after);
    if (why == EXIT_HLT) {
        emu_frame(after);
    } else {
        after->vector = 1000 + (int)why;
        after->rip = emu->rip;
    }
    state_normalise(c, after);
}

#endif
