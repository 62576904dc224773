/* Hostile code makes the translator slow, and nothing else: no crash, no hang, no memory beyond its caches, and afterwards it
 * still works. Random bytes, prefixes without end, jumps into instructions, code that rewrites itself at each turn, new code
 * without end, the same bytes at two privileges and in two modes, all that looks like VEX. Arguments: rounds of each, seed, and
 * who executes it: translate, emulate, or both in lockstep, an AMD processor of VEX only.
 */
#define EMU_RAM_BYTES (8 << 20)
#include "../isa/emu.h"

#include "cpu/lockstep.h"
#include "isa/decode.h"

#include <inttypes.h>
#include <sys/resource.h>
#include <unistd.h>

enum { GPA_FIELD = 1 << 20, FIELD_PAGES = 1700, FIELD_ADDR = 0x50000000, ENTRIES = 12, BUDGET = 3000, GROWTH_KIB = 100 << 10 };

static uint64_t seed;
static uint8_t *field; /* code, all of it writable and executable by everybody */

static uint32_t random32(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 32);
}
static uint32_t below(uint32_t n) { return (uint32_t)((uint64_t)random32() * n >> 32); }
static bool chance(unsigned percent) { return below(100) < percent; }

/* ---- code ------------------------------------------------------------------------------------------------------------- */

static void fill(unsigned page, unsigned pages, uint8_t (*byte)(void))
{
    for (unsigned n = 0; n < pages * 4096; n++)
        field[page * 4096 + n] = byte();
}

static void put(unsigned at, const uint8_t *bytes, unsigned n) { memcpy(field + at, bytes, n); }
#define PUT(at, ...) put(at, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static uint8_t any_byte(void) { return (uint8_t)random32(); }

/* Often enough something that is an instruction, touches memory, or goes somewhere near. */
static uint8_t likely_byte(void)
{
    static const uint8_t bytes[] = {0x48, 0x89, 0x8b, 0x01, 0x07, 0x0f, 0xeb, 0x74, 0x75, 0xe8, 0xc3, 0xff, 0xe0, 0x50, 0x58, 0x66,
                                    0xf0, 0x41, 0xc7, 0x05, 0x00, 0x00, 0x10, 0xf3, 0xa4, 0xab, 0xe2, 0xc8, 0x9c, 0x9d, 0xcf, 0x6f};
    return chance(85) ? bytes[below(sizeof(bytes))] : any_byte();
}

static uint8_t prefix_byte(void)
{
    static const uint8_t bytes[] = {0x66, 0x67, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0xf0, 0xf2, 0xf3, 0x40, 0x48, 0x4f};
    return chance(90) ? bytes[below(sizeof(bytes))] : likely_byte();
}

/* VEX, mostly with an opcode of its map and prefix, and what looks like it: W, L and vvvv at random, other maps, prefixes that
 * it may not have; EVEX and XOP, which no model has. */
static unsigned vector_insn(uint8_t *p)
{
    static const uint8_t forbidden[] = {0x66, 0xf0, 0xf2, 0xf3, 0x40, 0x48, 0x67, 0x2e, 0x64};
    static const uint8_t general[] = {0xf2, 0xf3, 0xf5, 0xf6, 0xf7, 0x13, 0x18, 0x58, 0x8c, 0x8e, 0x90, 0x91, 0x92, 0x93};
    static const uint8_t escape[] = {0x62, 0x8f, 0xc4, 0xc4, 0xc4, 0xc4, 0xc5, 0xc5};
    unsigned n = 0, kind = escape[below(sizeof(escape))], map = chance(90) ? 1 + below(3) : below(32);

    while (chance(8))
        p[n++] = forbidden[below(sizeof(forbidden))];
    p[n++] = (uint8_t)kind;
    if (kind != 0xc5)
        p[n++] = (uint8_t)((random32() & 0xe0) | (kind == 0x8f ? 8 + below(3) : map));
    p[n++] = (uint8_t)((random32() & 0x87) | (chance(50) ? 0x78 : random32() & 0x78));
    if (kind == 0x62)
        p[n++] = (uint8_t)random32();
    p[n++] = map > 1 && chance(30) ? general[below(sizeof(general))] : (uint8_t)random32();
    p[n++] = (uint8_t)(random32() & (chance(50) ? 0x3f : 0xff)); /* ModRM, SIB, displacement, immediate */
    for (unsigned k = chance(60) ? below(3) : below(7); k; k--)
        p[n++] = (uint8_t)random32();
    return n;
}

static unsigned starts[8 * 4096], start_count; /* of its instructions */

/* One after the other, so that few bytes are executed as what they are not: a REP STOS that happens to write over itself goes on
 * for longer than one that is looked at between its elements (docs/decisions/009). */
static void vector_code(void)
{
    unsigned at = 0, end = 8 * 4096 - 32;

    start_count = 0;
    while (at < end) {
        unsigned n = vector_insn(field + at), real = decode_length(64, field + at, n);
        if (!real && chance(90))
            continue;
        starts[start_count++] = at;
        at += real ? real : n;
        if (chance(10)) { /* over a byte that is none */
            PUT(at, 0xeb, 0x01, 0x06);
            at += 3;
        }
    }
    memset(field + at, 0xcc, 64);
}

/* Each jump's last byte is the first of another. */
static uint8_t jump_byte(void)
{
    static const uint8_t bytes[] = {0xeb, 0x01, 0xeb, 0xff, 0x75, 0x74, 0x03, 0xe9, 0x00, 0xe3, 0xfd, 0x7f, 0x90};
    return bytes[below(sizeof(bytes))];
}

/* 1: inc dword [rip - 7, the number of the next but one]; inc byte [its opcode's low bits]; add eax, number; jmp 1b */
static void rewrite_itself(void)
{
    for (unsigned page = 0; page < 4; page++)
        for (unsigned at = page * 4096 + below(64); at < page * 4096 + 4060; at += 32)
            PUT(at, 0xff, 0x05, 1, 0, 0, 0, 0x05, 1, 2, 3, 4, 0x80, 0x35, 0xf4, 0xff, 0xff, 0xff, 8, 0xeb, 0xec);
}

/* Writes a function at each place of the field, calls it, goes on to the next: mov dword [rdi], ...; call rdi; add rdi, step; jmp */
static void endless_code(void)
{
    uint8_t step = (uint8_t)(1 + below(90));

    for (unsigned page = 0; page < 8; page++)
        PUT(page * 4096, 0xc7, 0x07, 0xff, 0xc0, 0x90, 0xc3, 0xff, 0xd7, 0x48, 0x83, 0xc7, step, 0xeb, 0xf2);
}

/* Everywhere an INC and a jump of random length: each offset is an entry, each page full of blocks. */
static void endless_blocks(void)
{
    for (unsigned page = 0; page < FIELD_PAGES; page++)
        for (unsigned at = 0; at < 4096 - 16; at += 8)
            PUT(page * 4096 + at, 0xff, 0xc0, 0x74, (uint8_t)(below(8) * 8), 0xe9, (uint8_t)(below(200) * 8 + 7), (uint8_t)below(16), 0);
}

/* Far returns between 64-bit code and the same page as 32-bit code: push cs; push address; xor byte [rsp + 8], ...; retfq */
static void alternate_modes(void)
{
    for (unsigned at = 0; at + 32 < 4 * 4096; at += 32)
        PUT(at, 0xff, 0xc0, 0x6a, 0x23, 0x68, (uint8_t)(at + 16), (uint8_t)((at + 16) >> 8), (FIELD_ADDR >> 16) & 0xff,
            FIELD_ADDR >> 24, 0x48, 0xcb, 0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xc1, 0x6a, 0x33, 0x68, (uint8_t)(at + 32),
            (uint8_t)((at + 32) >> 8), (FIELD_ADDR >> 16) & 0xff, FIELD_ADDR >> 24, 0xcb);
}

static void random_code(void) { fill(0, 8, any_byte); }
static void likely_code(void) { fill(0, 8, likely_byte); }
static void prefixes(void) { fill(0, 8, prefix_byte); }
static void jumps(void) { fill(0, 8, jump_byte); }

static const struct attack {
    const char *name;
    void (*make)(void);
    unsigned pages, rounds; /* where it starts; how many of 100 */
    bool ordered;           /* starts at the beginning, RDI and RSP somewhere in the field */
    bool vectors;           /* registers full of numbers, 32-bit code too */
} attacks[] = {
    {"random bytes", random_code, 8, 100, false, false},
    {"likely bytes", likely_code, 8, 100, false, false},
    {"prefixes", prefixes, 8, 100, false, false},
    {"jumps", jumps, 8, 100, false, false},
    {"rewrites itself", rewrite_itself, 4, 30, false, false},
    {"vector code", vector_code, 8, 2000, false, true},
    {"endless code", endless_code, 1, 30, true, false},
    {"endless blocks", endless_blocks, FIELD_PAGES, 50, false, false},
    {"two modes", alternate_modes, 1, 30, true, false},
};

/* ---- machine ---------------------------------------------------------------------------------------------------------- */

static int device_read(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t *data)
{
    (void)v, (void)size;
    *data = gpa;
    return chance(20);
}
static int device_write(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t data)
{
    (void)v, (void)gpa, (void)size, (void)data;
    return chance(20);
}
static int port_in(struct vcpu *v, uint16_t port, unsigned size, uint32_t *data)
{
    (void)v, (void)size;
    *data = port;
    return chance(20);
}
static int port_out(struct vcpu *v, uint16_t port, unsigned size, uint32_t data)
{
    (void)v, (void)port, (void)size, (void)data;
    return chance(20);
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

static struct vcpu *start; /* as far as copies of the state go */
static const struct engine *engine = &engine_translate;
static struct lockstep *lockstep; /* or both */

static void fill_vectors(void)
{
    uint32_t mxcsr = 0x1f80 & ~(chance(10) ? random32() : 0);

    for (unsigned n = 0; n < 16 * 8; n++)
        ((uint32_t *)emu->ymm)[n] = chance(40) ? random32() : chance(50) ? below(4096) : 0u - below(2);
    memcpy(emu->fx + 24, &mxcsr, 4);
    emu->xinuse = 7;
}

static void processor_start(const struct attack *a)
{
    bool user = chance(60);
    unsigned data = a->vectors && chance(90) ? 16 * 4096 : 0; /* behind the code */

    memcpy(emu, start, offsetof(struct vcpu, directory_generation));
    tlb_flush_all(emu);
    if (a->vectors)
        fill_vectors();
    emu_segment(CS, !user ? 0x10 : a->vectors && chance(30) ? 0x23 : 0x33);
    emu_segment(SS, user ? 0x2b : 0x18);
    emu->cpl = user ? 3 : 0;
    for (unsigned n = 0; n < 16; n++)
        emu->gpr[n] = chance(70) ? FIELD_ADDR + data + below(a->pages * 4096) : random32();
    emu->gpr[RSP] = FIELD_ADDR + (uint64_t)(FIELD_PAGES - 1 - below(8)) * 4096 + 2048;
    emu->gpr[RDI] = a->ordered ? FIELD_ADDR + 8 * 4096 + below(FIELD_PAGES / 2 * 4096) : emu->gpr[RDI];
    emu->rip = FIELD_ADDR + (a->ordered   ? 0
                             : a->vectors ? starts[below(start_count)]
                             : chance(30) ? below(a->pages) * 4096 + 4096 - below(16)
                                          : below(a->pages * 4096));
    cpu_set_eflags(emu, (random32() & (FL_ARITH | FL_DF | FL_IOPL)) | FL_FIXED | (chance(2) ? FL_TF : 0));
    cpu_update_mode(emu);
}

/* A repeated store that has written over itself goes on for so long: cpu/strings.c. */
enum { OVERDRAWN = 1 << 16 };

/* Some thousand instructions; true: it came back each time when it had to. */
static bool attack(const struct attack *a)
{
    enum cpu_exit_reason why = EXIT_POLL;

    processor_start(a);
    for (unsigned n = 0; n < ENTRIES && why == EXIT_POLL; n++) {
        uint64_t before = emu->instructions;
        why = lockstep ? lockstep_enter(emu, BUDGET) : engine->enter(emu, BUDGET);
        if (lockstep && *lockstep_report(lockstep)) {
            printf("%s: %s\n", a->name, lockstep_report(lockstep));
            exit(1);
        }
        if (emu->instructions - before > 2 * BUDGET + OVERDRAWN) {
            printf("%s: %" PRIu64 " instructions for %u\n", a->name, emu->instructions - before, BUDGET);
            return false;
        }
        if (chance(5))
            codecache_written(emu, GPA_FIELD + below(a->pages) * 4096, 4096);
    }
    return true;
}

/* 1: add rax, rcx; dec rcx; jnz 1b; hlt */
static bool still_works(void)
{
    PUT(0, 0x48, 0x01, 0xc8, 0x48, 0xff, 0xc9, 0x75, 0xf8, 0xf4);
    for (unsigned page = 0; page < FIELD_PAGES; page++)
        codecache_written(emu, GPA_FIELD + page * 4096, 4096);
    processor_start(&attacks[0]);
    emu_segment(CS, 0x10);
    emu_segment(SS, 0x18);
    emu->cpl = 0;
    cpu_set_eflags(emu, FL_FIXED);
    cpu_update_mode(emu);
    emu->rip = FIELD_ADDR;
    emu->gpr[RAX] = 0;
    emu->gpr[RCX] = 1000;
    return engine->enter(emu, 10000) == EXIT_HLT && emu->gpr[RAX] == 500500;
}

static long resident_kib(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    if (!f || fscanf(f, "%*d %ld", &pages) != 1)
        exit(3);
    fclose(f);
    return pages * 4;
}

int main(int argc, char **argv)
{
    static const struct machine_ops ops = {.mmio_read = device_read, .mmio_write = device_write, .pio_in = port_in,
                                           .pio_out = port_out, .rdmsr = no_rdmsr, .wrmsr = no_wrmsr};
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 100, failures = 0;
    long first;

    seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    emu_create();
    emu->ops = &ops;
    field = emu_ram + GPA_FIELD;
    for (unsigned n = 0; n < FIELD_PAGES; n++)
        emu_map(FIELD_ADDR + (uint64_t)n * 4096, (uint64_t)GPA_FIELD + n * 4096, 0x67);
    start = aligned_alloc(64, (sizeof(*start) + 63) & ~63ul);
    memcpy(start, emu, offsetof(struct vcpu, directory_generation));
    if (!emu->translator && translate_create(emu))
        return 3;
    if (argc > 3 && !strcmp(argv[3], "emulate"))
        engine = &engine_emulate;
    if (argc > 3 && !strcmp(argv[3], "lockstep") && !(lockstep = lockstep_create(emu, &engine_translate, 200)))
        return 3;
    start->translator = emu->translator;
    start->lockstep = emu->lockstep;
    memset(field, 0xcc, (size_t)FIELD_PAGES * 4096);
    first = resident_kib();
    alarm(600); /* a hang ends here */
    for (unsigned once = 0; once < 2; once++) {
        if (once)
            translate_at_once(emu, false);
        for (const struct attack *a = attacks; a < attacks + sizeof(attacks) / sizeof(attacks[0]); a++) {
            if (lockstep && !a->vectors && emu->amd) /* what is written over a REP that is not looked at: vector_code() */
                continue;
            for (unsigned n = 0; n < rounds * a->rounds / 100 + 1; n++) {
                if (n % 8 == 0) { /* else what the last one left */
                    a->make();
                    for (unsigned page = 0; page < a->pages; page++)
                        codecache_written(emu, GPA_FIELD + page * 4096, 4096);
                }
                failures += !attack(a);
            }
        }
        if (!still_works())
            failures++, printf("it does not work any more\n");
    }
    printf("%u rounds, %ld KiB more, %u failures\n", rounds, resident_kib() - first, failures);
    return failures || resident_kib() - first > GROWTH_KIB;
}
