/* Page tables that change under the code that runs by them: the translator and the interpreter against the same processor
 * without any memory of translations (everything is flushed before each instruction).
 *
 * A case is a program of functions in pages that call each other, by all kinds of branches, and read and write each other;
 * and kernel routines that change the page tables and then invalidate as little as the architecture asks for (SDM vol. 3,
 * 4.10.4). Supervisor code calls these routines from the middle of it all. Pages have the same instructions at the same
 * places, but other numbers in them, so that a return into a page that has been exchanged goes on sensibly. What must agree:
 * all memory, thus the page tables with their accessed and dirty bits, every fault's address and error code, registers.
 * Arguments: cases, seed.
 */
#include "device.h"
#include "pages_change.h"

#include <inttypes.h>

#include "cpu/sync.h"

enum { STEPS = 40, INSTRUCTIONS_MAX = 60000 };

static uint8_t before[RAM_BYTES], wanted[RAM_BYTES]; /* all of it: stray code reads and writes anywhere */

static struct outcome {
    enum cpu_exit_reason why;
    uint64_t gpr[16], rip, cr2, cr3, device, instructions;
} want, got;

static void memory_restore(void)
{
    for (uint64_t gpa = 0; gpa < RAM_BYTES; gpa += 4096)
        if (memcmp(emu_ram + gpa, before + gpa, 4096)) {
            memcpy(emu_ram + gpa, before + gpa, 4096);
            codecache_written(emu, gpa, 4096);
        }
}

static int port_in(struct vcpu *v, uint16_t port, unsigned size, uint32_t *data)
{
    (void)v, (void)size;
    *data = port;
    return 0;
}
static int port_out(struct vcpu *v, uint16_t port, unsigned size, uint32_t data)
{
    return device_write(v, port, size, data);
}
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

static void make_tables(void)
{
    uint64_t *root = (uint64_t *)(emu_ram + GPA_TABLES), low = *root & ~0xfffull;

    memset(emu_ram + GPA_INSTANCES, 0, TABLES_BYTES);
    for (unsigned n = 0; n < INSTANCES; n++)
        for (unsigned slot = 0; slot < SLOTS; slot++) {
            ((uint64_t *)(emu_ram + instance_gpa(n, 0)))[slot + 1] = any_directory_entry(n, slot);
            for (unsigned table = 1 + 2 * slot; table < 3 + 2 * slot; table++)
                for (unsigned page = 0; page < PAGES; page++)
                    ((uint64_t *)(emu_ram + instance_gpa(n, table)))[page] = any_leaf(n, page);
        }
    for (unsigned n = 0; n < SPACES; n++) {
        uint64_t *top = (uint64_t *)(emu_ram + GPA_ROOTS + 4096 * n), *third = (uint64_t *)(emu_ram + GPA_LOW + 4096 * n);
        /* accessed: global pages, known from another space, need not be walked to */
        top[0] = (uint64_t)(GPA_LOW + 4096 * n) | E_P | E_W | E_U | E_A;
        top[511] = GPA_HIGH | E_P | E_W | E_U | E_A;
        third[0] = *(uint64_t *)(emu_ram + low) | E_A;
        third[1] = any_giant_entry(n);
    }
    ((uint64_t *)(emu_ram + GPA_HIGH))[510] = any_giant_entry(SHARED);
}

static void make_script(void)
{
    struct script *s = (struct script *)(emu_ram + GPA_SCRIPT);

    memset(s, 0, SCRIPT_BYTES);
    for (unsigned n = 0; n < STEPS; n++, s++) {
        bool fixed = chance(50);
        s->what = chance(20) ? STEP_ROUTINE : chance(50) ? STEP_USER : STEP_SUPER;
        s->where = s->what == STEP_ROUTINE ? ROUTINES_ADDR + ROUTINE_BYTES * below(ROUTINES) : any_function();
        s->rsp = fixed && s->what == STEP_SUPER ? KERNEL_ADDR + GPA_STACK - GPA_TEXT + 1024 + 8 * below(100) : any_stack();
        s->fuel = 10 + below(60);
        s->repairs = chance(30) ? 0 : 1 + below(6);
        s->rflags = 2 | (s->what == STEP_SUPER && chance(85) ? FL_AC : 0);
    }
}

static void make_case(void)
{
    pcid = chance(50);
    keys = chance(30) && cpu_has(emu, FEAT_PKU);
    make_shapes();
    for (unsigned n = 0; n < HOT; n++)
        hot[n] = any_place(STACK_PAGE);
    for (unsigned slot = 0; slot < SLOTS; slot++)
        for (unsigned page = 0; page < PAGES; page++) {
            if (page < STACK_PAGE)
                put_page(emu_ram + pool_gpa(slot, page));
            else
                put_returns(emu_ram + pool_gpa(slot, page), 512);
        }
    put_returns(emu_ram + GPA_STACK, 256);
    for (unsigned n = 0; n < 512; n++)
        ((uint64_t *)(emu_ram + GPA_POINTERS))[n] = any_function();
    memset(emu_ram + GPA_ROUTINES, 0xcc, ROUTINES_BYTES);
    for (unsigned n = 0; n < ROUTINES; n++) {
        out = emu_ram + GPA_ROUTINES + ROUTINE_BYTES * n;
        put_routine();
    }
    make_tables();
    make_script();
    memset(emu_ram + GPA_LOG, 0, LOG_BYTES);
    *(struct variables *)(emu_ram + GPA_VARIABLES) = (struct variables){.script = SCRIPT_ADDR, .log = LOG_ADDR};
    for (uint64_t gpa = 0; gpa < RAM_BYTES; gpa += 4096)
        codecache_written(emu, gpa, 4096);
    memcpy(before, emu_ram, RAM_BYTES);
}

static struct vcpu *start; /* the processor at the start of a case, as far as copies go */
static size_t start_bytes(void) { return offsetof(struct vcpu, directory_generation); }

static void make_processor(void)
{
    memset(emu->gpr, 0, 16 * sizeof(emu->gpr[0]));
    emu_segment(CS, 0x10);
    emu_segment(SS, 0x18);
    emu->cpl = 0;
    emu->cr2 = 0;
    emu->cr3 = cr3_of(below(SPACES));
    emu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | (chance(75) ? CR4_PGE : 0) | (chance(15) ? CR4_SMEP : 0) |
               (chance(30) ? CR4_SMAP : 0) | (pcid ? CR4_PCIDE : 0) | (keys ? CR4_PKE : 0);
    emu->pkru = 0;
    emu->frozen_tsc = 1; /* stray code may ask */
    emu->rip = KERNEL_ADDR;
    cpu_set_eflags(emu, 2);
    cpu_update_mode(emu);
    memcpy(start, emu, start_bytes());
}

/* What others ask for at any time, and the guest must not notice. */
static void disturb(void)
{
    switch (below(40)) {
    case 0: cpu_serve(emu, REQ_TLB_FLUSH); break;
    case 1: cpu_serve(emu, REQ_WRITE_PROTECT); break;
    case 2: codecache_flush(emu); break;
    case 3: codecache_written(emu, pool_gpa(below(SLOTS), below(PAGES)), 4096); break;
    default: break;
    }
}

/* engine NULL: without any memory of translations, instruction by instruction. */
static void run(const struct engine *engine, struct outcome *o, uint64_t limit)
{
    memory_restore();
    memcpy(emu, start, start_bytes());
    tlb_flush_all(emu);
    memset(o, 0, sizeof(*o));
    device = 0;
    do {
        if (!engine) {
            tlb_flush_all(emu);
            emu->slow |= SLOW_SINGLE;
        } else {
            disturb();
        }
        o->why = (engine ? engine : &engine_emulate)->enter(emu, engine ? 1 + (int32_t)below(2000) : 1);
    } while (o->why == EXIT_POLL && emu->instructions - start->instructions < limit);
    emu->slow &= (uint8_t)~SLOW_SINGLE;
    memcpy(o->gpr, emu->gpr, sizeof(o->gpr));
    o->rip = emu->rip;
    o->cr2 = emu->cr2;
    o->cr3 = emu->cr3;
    o->device = device;
    o->instructions = emu->instructions - start->instructions;
}

static void describe_log(const struct log *l)
{
    printf("vector %" PRId64 " error %" PRIx64 " rip %" PRIx64 " rsp %" PRIx64 " rbx %" PRIx64 " cr2 %" PRIx64 " cr3 %" PRIx64
           " fuel %" PRId64 "\n", l->vector, l->error, l->rip, l->rsp, l->rbx, l->cr2, l->cr3, l->fuel);
}

static void describe(const char *way, unsigned number, uint64_t first)
{
    const struct log *a = (const struct log *)(wanted + GPA_LOG), *b = (const struct log *)(emu_ram + GPA_LOG);
    unsigned shown = 0;

    printf("%s: case %u from seed %" PRIu64 " (cr4 %" PRIx64 ", cr3 %" PRIx64 "): exit %d, not %d; rip %" PRIx64 ", not %" PRIx64
           "; %" PRIu64 " instructions, not %" PRIu64 "\n",
           way, number, first, start->cr4, start->cr3, (int)got.why, (int)want.why, got.rip, want.rip, got.instructions, want.instructions);
    for (unsigned n = 0; n < LOG_BYTES / sizeof(*a); n++)
        if (memcmp(a + n, b + n, sizeof(*a))) {
            for (unsigned k = n > 2 ? n - 2 : 0; k < n; k++)
                printf("  before, %u: ", k), describe_log(a + k);
            printf("  expected, %u: ", n), describe_log(a + n);
            printf("  found, %u:    ", n), describe_log(b + n);
            break;
        }
    for (uint64_t k = 0; k < RAM_BYTES && shown < 12; k += 8)
        if (memcmp(wanted + k, emu_ram + k, 8))
            printf("  memory at %" PRIx64 ": %" PRIx64 ", not %" PRIx64 "\n", k, *(uint64_t *)(emu_ram + k),
                   *(uint64_t *)(wanted + k)), shown++;
}

static uint64_t executed;

static bool differs(const char *way, const struct engine *engine, unsigned number)
{
    uint64_t first = seed;
    bool same;

    make_case();
    make_processor();
    run(NULL, &want, INSTRUCTIONS_MAX);
    memcpy(wanted, emu_ram, RAM_BYTES);
    executed += want.instructions;
    if (want.why == EXIT_POLL)
        return false; /* too long */
    run(engine, &got, 2 * INSTRUCTIONS_MAX);
    want.instructions = got.instructions; /* a repeated string instruction may count more than once */
    same = !memcmp(&want, &got, sizeof(want)) && !memcmp(wanted, emu_ram, RAM_BYTES);
    if (!same)
        describe(way, number, first);
    return !same;
}

/* ---- the kernel and what it needs ------------------------------------------------------------------------------------- */

/* Each vector has 8 bytes: push vector; jmp. */
static void make_gates(void)
{
    uint64_t *idt = (uint64_t *)(emu_ram + GPA_SYSTEM + IDT_ADDR - SYSTEM_ADDR), ist = KERNEL_ADDR + GPA_IST - GPA_TEXT + 4096;

    for (unsigned n = 0; n < 256; n++) {
        bool error = n == VEC_DF || (n >= VEC_TS && n <= VEC_PF) || n == VEC_AC;
        uint64_t to = FAULT_ADDR + (error ? (uint64_t)(guest_fault_with_error - (const uint8_t *)guest_fault) : 0);
        out = emu_ram + GPA_SYSTEM + HANDLER_ADDR - SYSTEM_ADDR + 8 * n;
        put(0x6a), put(n), put(0xe9);
        put_bytes((uint32_t)(to - (HANDLER_ADDR + 8 * n + 7)), 4);
        idt[2 * n] |= 1ull << 32; /* IST 1 */
        if (n == 0x80)
            idt[2 * n] |= 3ull << 45;
    }
    memcpy(emu_ram + GPA_SYSTEM + TSS_ADDR - SYSTEM_ADDR + 36, &ist, 8);
}

static void make_kernel(void)
{
    enum { PLAIN = E_P | E_W | E_A | E_D | E_G };

    for (uint64_t k = 0; k < GPA_LOG + LOG_BYTES - GPA_TEXT; k += 4096)
        emu_map(KERNEL_ADDR + k, GPA_TEXT + k, PLAIN);
    emu_map(KERNEL_ADDR, GPA_TEXT, PLAIN & ~E_W); /* else stray code makes of it what changes page tables and invalidates nothing */
    for (uint64_t k = 0; k < ROUTINES_BYTES; k += 4096)
        emu_map(ROUTINES_ADDR + k, GPA_ROUTINES + k, PLAIN & ~E_W);
    emu_map(USER_ADDR, GPA_USER, E_P | E_U | E_A | E_G);
    emu_map(POINTERS_ADDR, GPA_POINTERS, E_P | E_U | E_A | E_G);
    for (uint64_t k = 0; k < TABLES_BYTES; k += 4096)
        emu_map(TABLES_ADDR + k, GPA_INSTANCES + k, PLAIN);
    for (unsigned n = 0; n < SLOTS * PAGES; n++)
        emu_map(POOL_ADDR + 4096 * n, pool_gpa(n / PAGES, n % PAGES), PLAIN);
    memset(emu_ram + (1 << 20), 0xcc, RAM_BYTES - (1 << 20));
    memcpy(emu_ram + GPA_TEXT, (const void *)guest_step, PART_BYTES);
    memcpy(emu_ram + GPA_TEXT + PART_BYTES, (const void *)guest_fault, PART_BYTES);
    memcpy(emu_ram + GPA_TEXT + 2 * PART_BYTES, (const void *)guest_repair, PART_BYTES);
    memcpy(emu_ram + GPA_USER, (const uint8_t[]){0xcd, 0x80}, 2);
    make_gates();
}

int main(int argc, char **argv)
{
    static const struct machine_ops ops = {.mmio_read = device_read, .mmio_write = device_write, .pio_in = port_in,
                                           .pio_out = port_out, .rdmsr = no_rdmsr, .wrmsr = no_wrmsr};
    static const char *const ways[] = {"interpreted", "translated when hot", "translated", "translated exactly"};
    unsigned cases = argc > 1 ? (unsigned)atoi(argv[1]) : 100, failures = 0;

    seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    emu_create();
    emu->ops = &ops;
    start = aligned_alloc(64, (sizeof(*start) + 63) & ~63ul);
    make_kernel();
    for (unsigned k = 0; k < 4; k++) {
        if (k == 1 && !emu->translator && translate_create(emu))
            return 3;
        if (k >= 2)
            translate_at_once(emu, k == 3);
        for (unsigned n = 0; n < cases && failures < 3; n++)
            failures += differs(ways[k], k ? &engine_translate : &engine_emulate, n);
    }
    printf("%u cases in four ways, %" PRIu64 " instructions: %u differ\n", cases, executed, failures);
    return failures != 0;
}
