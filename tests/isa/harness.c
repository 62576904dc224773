/* User-level instructions: random cases on our processor and on the host's, everything compared.
 *
 *   harness ISA_DIRECTORY ENCODING_CASES FORM_CASES [SEED [MODE [ROW]]]
 *
 * MODE: 64; 32 with flat segments; 16, and 33 for 32 bits, with those of an LDT.
 *
 * OTHER_VENDOR in the environment: the guest's processor is of the vendor that the host's is not. Nothing is compared; whatever
 * the host executes for it must not be the end of this program.
 *
 * So many cases of each encoding, and at least so many of each operand form and size of each row of the instruction table.
 */
#include <inttypes.h>
#include <time.h>

#include "cases.h"
#include "emu.h"
#include "host.h"
#include "invalid.h"

static unsigned reported, difference_at;
static bool other_vendor;
static uint8_t reported_of[ROWS_MAX];

static void print_state(const char *title, const struct state *s)
{
    printf("  %s: rsp %" PRIx64 " vector %d error %x cr2 %" PRIx64 " rip %" PRIx64 " flags %" PRIx64
           " fcw %02x%02x fsw %02x%02x ftw %02x mxcsr %02x%02x in use %x\n",
           title, s->gpr[4], s->vector, s->error, s->cr2, s->rip, s->rflags, s->fx[1], s->fx[0], s->fx[3], s->fx[2], s->fx[4],
           s->fx[25], s->fx[24], s->in_use);
}

static void print_bytes(const uint8_t *p, int n)
{
    while (n--)
        printf("%02x", p[n]);
}

static void report(const struct icase *c, const struct state *host, const struct state *ours, const char *what,
                   unsigned row)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    ZydisFormatter formatter;
    char text[128] = "?";

    if (reported_of[row] >= (getenv("ALL") ? 200 : 2) || ++reported > (getenv("ALL") ? 4000 : 400))
        return;
    reported_of[row]++;
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    if (decode(c->bytes, c->len, &z, op))
        ZydisFormatterFormatInstruction(&formatter, &z, op, z.operand_count_visible, text, sizeof(text), c->before.rip, NULL);
    printf("DIFFERENCE in %s: %s  [", what, text);
    for (int k = 0; k < c->len; k++)
        printf("%02x%s", c->bytes[k], k + 1 < c->len ? " " : "]\n");
    if (strcmp(what, "memory") == 0) {
        printf("  at data + %x: host ", difference_at);
        print_bytes((uint8_t *)(uintptr_t)DATA_ADDR + difference_at, 8);
        printf(" ours ");
        print_bytes(emu_data + difference_at, 8);
        printf("\n");
    }
    if (is_xsave(z.mnemonic) && c->target - DATA_ADDR <= DATA_HOLE - 576) {
        printf("  RAX %" PRIx64 " header ", c->before.gpr[0]);
        print_bytes((uint8_t *)(uintptr_t)c->target + 512, 64);
        printf("\n");
    }
    if (c->stack && c->target - DATA_ADDR < DATA_HOLE - 40) {
        printf("  stack or operand:");
        for (int k = 0; k < 5; k++) {
            printf(" ");
            print_bytes((uint8_t *)(uintptr_t)c->target + 8 * k, 8);
        }
        printf("\n");
    }
    printf("  memory operand at %" PRIx64 "\n", c->target);
    for (int k = 0; k < 6; k++)
        if (host->sel[k] != ours->sel[k])
            printf("  segment register %d: host %x ours %x\n", k, host->sel[k], ours->sel[k]);
    if (host->fs_base != ours->fs_base || host->gs_base != ours->gs_base)
        printf("  bases: host %" PRIx64 " %" PRIx64 " ours %" PRIx64 " %" PRIx64 "\n", host->fs_base, host->gs_base,
               ours->fs_base, ours->gs_base);
    print_state("before", &c->before);
    print_state("host  ", host);
    print_state("ours  ", ours);
    if (memcmp(host->fx + 6, ours->fx + 6, 18) != 0) {
        printf("  FDP, FIP, FOP: host ");
        print_bytes(host->fx + 6, 18);
        printf(" ours ");
        print_bytes(ours->fx + 6, 18);
        printf("\n");
    }
    for (int k = 0; k < 16; k++)
        if (host->gpr[k] != ours->gpr[k])
            printf("  gpr %d: before %" PRIx64 " host %" PRIx64 " ours %" PRIx64 "\n", k, c->before.gpr[k],
                   host->gpr[k], ours->gpr[k]);
    for (int k = 0; k < 16; k++) {
        if (memcmp(host->ymm[k], ours->ymm[k], 32) == 0)
            continue;
        printf("  ymm %d: before ", k);
        print_bytes(c->before.ymm[k], 32);
        printf(" host ");
        print_bytes(host->ymm[k], 32);
        printf(" ours ");
        print_bytes(ours->ymm[k], 32);
        printf("\n");
    }
    for (int k = 0; k < 8; k++) {
        if (memcmp(host->fx + 32 + 16 * k, ours->fx + 32 + 16 * k, 10) == 0)
            continue;
        printf("  st%d: before ", k);
        print_bytes(c->before.fx + 32 + 16 * k, 10);
        printf(" host ");
        print_bytes(host->fx + 32 + 16 * k, 10);
        printf(" ours ");
        print_bytes(ours->fx + 32 + 16 * k, 10);
        printf("\n");
    }
}

static bool uppers_used(const struct state *s)
{
    uint8_t any = 0;

    for (int k = 0; k < 16; k++)
        for (int n = 16; n < 32; n++)
            any |= s->ymm[k][n];
    return any;
}

/* piecewise: of an operand across two pages the processor reports one of its parts, in an order of its own. */
static const char *compare(const struct icase *c, const struct state *host, const struct state *ours, bool piecewise, bool staged)
{
    uint32_t error = ~0u;

    if (staged && !(c->before.fx[25] & 8)) /* #U unmasked: products are not seen (cpu/native.c, run_unmasked()) */
        return NULL;
    /* Its first part is misaligned or not present, its last beyond the segment or not canonical: either may be reported. */
    bool straddles = c->target - (1ull << 47) + 4096 < 4096 || host->vector == 17 || ours->vector == 17;
    if ((piecewise || c->wide) && straddles && host->vector > 11 && host->vector < 18 && ours->vector > 11 &&
        ours->vector < 18)
        return NULL;
    if (host->vector != ours->vector)
        return "vector";
    if (host->cr2 >= (1ull << 47) - 4096) /* Linux reports those addresses as present */
        error = ~1u;
    if ((host->error ^ ours->error) & error || (host->cr2 ^ ours->cr2) >> (piecewise ? 12 : 0))
        return "error code";
    if (host->rip != ours->rip)
        return "rip";
    if (memcmp(host->gpr, ours->gpr, sizeof(host->gpr)) != 0)
        return "general registers";
    if ((host->rflags ^ ours->rflags) & ~c->undefined)
        return "flags";
    if (memcmp(host->ymm, ours->ymm, sizeof(host->ymm)) != 0)
        return "vector registers";
    for (int k = 0; k < 6; k++) /* the kernel's way out leaves a null selector no RPL */
        if (host->sel[k] != (ours->sel[k] < 4 ? 0 : ours->sel[k]))
            return "segment registers";
    if (host_fsgsbase && (host->fs_base != ours->fs_base || host->gs_base != ours->gs_base))
        return "segment bases";
    /* AVX alone: Linux says of x87 and SSE that they are in use, in a signal frame. Ours may be in use where the host has
     * noticed a copy of an initial register, and Intel's where 256 bits were only read (SDM vol. 1, 13.6: XINUSE is up to the
     * processor). */
    if (host->in_use & ~ours->in_use & 4 && (emu->amd || uppers_used(ours)))
        return "components in use";
    if (memcmp(host->fx, ours->fx, 5) != 0)
        return "x87 control";
    uint32_t mxcsr_host, mxcsr_ours, ignore = 0;
    memcpy(&mxcsr_host, host->fx + 24, 4);
    memcpy(&mxcsr_ours, ours->fx + 24, 4);
    if (host->vector == 19) /* which flags: cpu/native.c, run_unmasked() */
        ignore = staged ? 0x3f : mxcsr_host & ~(mxcsr_host >> 7) & 0x18 ? 0x20 : 0;
    if ((mxcsr_host ^ mxcsr_ours) & ~ignore)
        return "MXCSR";
    for (int k = 0; k < 8; k++)
        if (memcmp(host->fx + 32 + 16 * k, ours->fx + 32 + 16 * k, 10) != 0)
            return "x87 registers";
    /* The frame holds them only with an exception pending (AMD), and 0 as selectors. */
    if (host->vector < 0 && (!emu->amd || host->fx[2] & 0x80) && memcmp(host->fx + 6, ours->fx + 6, 18) != 0)
        return "x87 pointers";
    return NULL;
}

static const unsigned data_parts[][2] = {{0, DATA_HOLE}, {DATA_READONLY, 4096}};

static void fill_data(void)
{
    uint8_t *data = (uint8_t *)(uintptr_t)DATA_ADDR;

    for (unsigned k = 0; k < DATA_HOLE; k += 32)
        random_vector(data + k, 32);
    for (unsigned p = 0; p < 2; p++)
        memcpy(emu_data + data_parts[p][0], data + data_parts[p][0], data_parts[p][1]);
}

static bool is_fxsave(unsigned m) { return m == ZYDIS_MNEMONIC_FXSAVE || m == ZYDIS_MNEMONIC_FXSAVE64; }

/* true: the same. MXCSR_MASK in FXSAVE and XSAVE images is the model's, not the host's, which may have bit 17 (AMD). */
static bool same_memory(unsigned mnemonic)
{
    uint8_t *data = (uint8_t *)(uintptr_t)DATA_ADDR;

    if (memcmp(data, emu_data, DATA_HOLE) == 0)
        return true;
    for (unsigned k = 0; k < DATA_HOLE; k++) {
        if (data[k] == emu_data[k])
            continue;
        if ((is_fxsave(mnemonic) || is_xsave(mnemonic)) && k % 16 == 14 && data[k] == 2 && emu_data[k] == 0)
            continue;
        difference_at = k & ~7u;
        return false;
    }
    memcpy(emu_data, data, DATA_HOLE);
    return true;
}

/* Masked stores: Intel's processors report the last byte that they would have written to the second page. */
static bool is_masked_store(unsigned mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS || mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD ||
           mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD || mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

/* Which part of an operand across two pages faults first is the processor's own: compare(). */
static bool piecewise(unsigned mnemonic)
{
    if (is_masked_store(mnemonic))
        return !emu->amd;
    return mnemonic == ZYDIS_MNEMONIC_FLDENV || mnemonic == ZYDIS_MNEMONIC_FNSTENV ||
           mnemonic == ZYDIS_MNEMONIC_FBLD || mnemonic == ZYDIS_MNEMONIC_FBSTP ||
           mnemonic == ZYDIS_MNEMONIC_FNSAVE || mnemonic == ZYDIS_MNEMONIC_FRSTOR ||
           mnemonic == ZYDIS_MNEMONIC_FXRSTOR || mnemonic == ZYDIS_MNEMONIC_FXRSTOR64 ||
           mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU || mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU || is_fxsave(mnemonic) || is_xsave(mnemonic);
}

/* Several roundings one behind the other: which flags an unmasked exception leaves is the processor's own: compare(). */
static bool staged(unsigned mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_DPPS || mnemonic == ZYDIS_MNEMONIC_VDPPS || mnemonic == ZYDIS_MNEMONIC_DPPD ||
           mnemonic == ZYDIS_MNEMONIC_VDPPD;
}

/* Images that FXRSTOR and XRSTOR accept, most of the time. */
static void fill_image(const struct icase *c, unsigned mnemonic)
{
    bool fxrstor = mnemonic == ZYDIS_MNEMONIC_FXRSTOR || mnemonic == ZYDIS_MNEMONIC_FXRSTOR64;
    bool xrstor = mnemonic == ZYDIS_MNEMONIC_XRSTOR || mnemonic == ZYDIS_MNEMONIC_XRSTOR64;
    uint8_t *data = (uint8_t *)(uintptr_t)DATA_ADDR, *p;
    uint64_t at = c->target - DATA_ADDR, header[8] = {rnd() & 7};
    uint32_t mxcsr = rnd() & 0xffff;

    if (mnemonic == ZYDIS_MNEMONIC_LDMXCSR || mnemonic == ZYDIS_MNEMONIC_VLDMXCSR) {
        if (at + 4 <= DATA_HOLE) { /* bit 17, AMD's misaligned mode, is not the model's */
            mxcsr |= chance(10) ? 0x10000u << below(16) & ~0x20000u : 0;
            memcpy(data + at, &mxcsr, 4);
            memcpy(emu_data + at, &mxcsr, 4);
        }
        return;
    }
    if ((!fxrstor && !xrstor) || at + 576 > DATA_HOLE)
        return;
    p = data + at;
    if (chance(10)) { /* whatever is there, but for what only the host has */
        p[26] &= ~2;
        p[512] &= ~0xe0;
        p[520] &= ~0xe0;
        memcpy(emu_data + at, p, 576);
        return;
    }
    if (chance(40)) {
        header[1] = 1ull << 63 | 7;
        header[0] &= header[1];
    }
    if (chance(10)) /* not 5 to 7: AVX-512 of the host */
        header[below(8)] |= 1ull << (chance(50) ? 8 + below(56) : 3);
    if (!emu->amd && chance(3)) /* not valid: no AMD host has been asked what remains of XRSTOR then */
        mxcsr |= 0x10000u << below(16) & ~0x20000u;
    memcpy(p + 24, &mxcsr, 4);
    for (int k = 0; k < 8; k++)
        random_x87(p + 32 + 16 * k);
    if (xrstor)
        memcpy(p + 512, header, sizeof(header));
    memcpy(emu_data + at, p, 576);
}

/* What a stack slot or a memory operand must hold lest the host's process be upset, or so that something happens. */
static void fill_special(const struct icase *c, unsigned mnemonic)
{
    uint64_t at = c->target - DATA_ADDR;
    uint8_t *data = (uint8_t *)(uintptr_t)DATA_ADDR;

    if (at > DATA_HOLE - 8)
        return;
    if (mnemonic == ZYDIS_MNEMONIC_POPF || mnemonic == ZYDIS_MNEMONIC_POPFD || mnemonic == ZYDIS_MNEMONIC_POPFQ) {
        data[at + 1] &= ~1; /* TF, AC */
        data[at + 2] &= ~4;
    } else if (takes_selector(mnemonic) || mnemonic == ZYDIS_MNEMONIC_MOV || mnemonic == ZYDIS_MNEMONIC_POP) {
        uint16_t sel = random_selector();
        memcpy(data + at, &sel, 2);
    } else if (mnemonic == ZYDIS_MNEMONIC_LSS || mnemonic == ZYDIS_MNEMONIC_LDS || mnemonic == ZYDIS_MNEMONIC_LES) {
        uint16_t sel = random_selector();
        memcpy(data + at + (c->bytes[0] == 0x66 ? 2 : 4), &sel, 2);
    }
    memcpy(emu_data + at, data + at, 8);
}

/* What a far return pops, or where a far pointer leads: mostly what works, for a user program. */
static void fill_frame(const struct icase *c, unsigned mnemonic)
{
    uint64_t at = c->target - DATA_ADDR, slot[5];
    bool pointer = mnemonic == ZYDIS_MNEMONIC_CALL || mnemonic == ZYDIS_MNEMONIC_JMP;
    unsigned bytes = far_bytes(c), stride = bytes;

    if (at + 5 * bytes > DATA_HOLE || chance(20))
        return;
    slot[0] = random_code_target();
    slot[1] = chance(60) ? (chance(50) && mode == 64 ? 0x33 : segmented ? c->cs : 0x23) : random_selector();
    slot[2] = rnd() & ~0x40100ull; /* flags, not TF and AC */
    slot[3] = (segmented ? 0 : DATA_ADDR) + below(DATA_HOLE);
    slot[4] = chance(70) ? (chance(50) ? 0x2b : c->ss) : random_selector();
    if (mnemonic == ZYDIS_MNEMONIC_RET) /* SS:rSP behind what is popped besides: as the memory has it */
        slot[2] = 0;
    for (unsigned k = 0; k < (pointer || mnemonic == ZYDIS_MNEMONIC_RET ? 2 : 5); k++) {
        memcpy((uint8_t *)(uintptr_t)DATA_ADDR + at + k * stride, &slot[k], bytes);
        memcpy(emu_data + at + k * stride, &slot[k], bytes);
    }
}

/* Where a near return or an indirect branch finds where to go. */
static bool fill_address(const struct icase *c)
{
    uint64_t at = c->target - DATA_ADDR, to = random_code_target();

    if (at >= DATA_READONLY && at < DATA_BYTES)
        return false;
    if (at >= DATA_HOLE || at + 8 > DATA_HOLE)
        return true; /* faults */
    memcpy((uint8_t *)(uintptr_t)DATA_ADDR + at, &to, 8);
    memcpy(emu_data + at, &to, 8);
    return true;
}

/* One case on ours: by the engine's loop or the careful path, with many or few instructions between polls, with the
 * operand's pages known to the TLB or not.
 */
struct how {
    bool single, flush;
    int32_t budget;
};

static struct how random_how(void)
{
    return (struct how){.single = chance(15), .flush = chance(10), .budget = chance(15) ? 1 + (int32_t)below(3) : 1000};
}

static void run_ours(const struct icase *c, struct state *ours, const struct how *how)
{
    if (how->flush)
        tlb_flush_all(emu);
    emu_go(c, ours, how->budget, how->single);
}

/* A direct branch that was executed before is linked to its target; also in the careful path. */
static const char *run_linked(const struct icase *c, const struct state *host, struct state *ours)
{
    for (int k = 0; k < 3; k++) {
        emu_go(c, ours, 1000, k == 2);
        if (compare(c, host, ours, false, false))
            return k < 2 ? "second execution" : "second execution, careful";
    }
    return NULL;
}

static const char *run_once(const struct template *t, const struct icase *c, struct state *host, struct state *ours,
                            const struct how *how)
{
    struct cell *cell = &cells[t->cell];
    const char *what;

    host_case = c;
    if (!other_vendor)
        host_run(c, host);
    emu_code_put(c->code_base + c->before.rip, c->bytes, c->len + c->tail);
    run_ours(c, ours, how);
    if (other_vendor) {
        *host = *ours;
        emu_code_put(c->code_base + c->before.rip, NULL, c->len + c->tail);
        return NULL;
    }
    what = compare(c, host, ours, piecewise(t->mnemonic), staged(t->mnemonic));
    cell->odd_flags += !what && host->rflags != ours->rflags;
    if (!what && c->branch)
        what = run_linked(c, host, ours);
    if (!what && !same_memory(t->mnemonic))
        what = "memory";
    emu_code_put(c->code_base + c->before.rip, NULL, c->len + c->tail);
    return what;
}

/* "FAR" of CALL_far and its like, "IRET", or "". */
static const char *far_name(unsigned row)
{
    const char *name = rows[row].name;

    return strncmp(name, "IRET", 4) == 0 ? name : strstr(name, "_far") ? "FAR" : "-";
}

/* A difference must show three times in a row: between an x87 instruction and the FNSTENV behind it the host's kernel may
 * switch to another program, and then the pointers are gone (AMD saves them with an exception pending only).
 */
static const char *run_case(const struct template *t, const struct icase *c, struct state *host, struct state *ours)
{
    static uint8_t before[DATA_HOLE];
    struct cell *cell = &cells[t->cell];
    struct how how = random_how();
    const char *what = NULL;

    memcpy(before, emu_data, DATA_HOLE);
    for (int k = 0; k < 3; k++) {
        what = run_once(t, c, host, ours, &how);
        if (!what)
            break;
        if (k < 2) {
            memcpy(emu_data, before, DATA_HOLE);
            memcpy((void *)(uintptr_t)DATA_ADDR, before, DATA_HOLE);
        }
    }
    cell->cases++;
    cell->faults += host->vector >= 0;
    cell->went += host->vector < 0;
    return what;
}

/* SHLD, SHRD of 16 bits by more than that: undefined (SDM vol. 2); portable_alu.h has it as AMD's processors do, whatever the host. */
static bool is_undefined(const struct template *t, const struct icase *c)
{
#ifdef KVMISH_PORTABLE_ALU
    bool shift = t->mnemonic == ZYDIS_MNEMONIC_SHLD || t->mnemonic == ZYDIS_MNEMONIC_SHRD;
    uint64_t by = t->imm_bytes ? c->bytes[c->len - 1] : c->before.gpr[1];

    return shift && cells[t->cell].size_bytes == 2 && (by & 31) > 16 && !emu->amd;
#else
    (void)t;
    (void)c;
    return false;
#endif
}

static void run_template(const struct template *t, unsigned count)
{
    struct cell *cell = &cells[t->cell];
    struct state host, ours;
    struct icase c;
    const char *what;

    for (unsigned n = 0; n < count; n++) {
        if (!make_case(t, &c) || is_undefined(t, &c))
            continue;
        if (n % 64 == 0)
            fill_data();
        if (t->mem)
            fill_image(&c, t->mnemonic);
        if (t->mem || t->no_modrm)
            fill_special(&c, t->mnemonic);
        if (c.stack && !fill_address(&c))
            continue;
        if (c.stack && strchr("FI", *far_name(cell->row)))
            fill_frame(&c, t->mnemonic);
        what = run_case(t, &c, &host, &ours);
        if (!what)
            continue;
        if (host.vector == 6 && ++cell->lacking && !cell->went) { /* this host has not got it */
            memcpy(emu_data, (void *)(uintptr_t)DATA_ADDR, DATA_HOLE);
            continue;
        }
        cell->differences++;
        report(&c, &host, &ours, what, cell->row);
        fill_data();
    }
}

/* Bytes that are no instruction, as if they were a row of the table. */
static void run_invalid(unsigned count)
{
    static struct template none;
    struct state host, ours;
    struct icase c;

    none.cell = (uint16_t)cell_count;
    cells[cell_count++] = (struct cell){.row = (uint16_t)row_count, .templates = 1};
    snprintf(rows[row_count++].name, sizeof(rows[0].name), "(invalid)");
    fill_data();
    for (unsigned n = 0; n < count; n++) {
        const char *what;

        make_invalid(&c);
        what = run_case(&none, &c, &host, &ours);
        if (!what)
            continue;
        cells[none.cell].differences++;
        report(&c, &host, &ours, what, row_count - 1);
        fill_data();
    }
}

/* Cells whose encodings were too few, or whose cases hard to find. */
static void top_up(unsigned per, const char *only)
{
    for (unsigned k = 0; k < template_count; k++) {
        const struct cell *cell = &cells[templates[k].cell];

        if (only && strcmp(rows[cell->row].name, only) != 0)
            continue;
        for (unsigned tries = 0; tries < 20 && cell->cases < per; tries++)
            run_template(&templates[k], per - (unsigned)cell->cases);
    }
}

struct totals {
    uint64_t cases, faults, differences, odd_flags;
    unsigned cells, rows, short_of, without;
};

static void sum_row(unsigned row, unsigned per, struct totals *all)
{
    struct totals one = {.cases = 0};
    uint64_t least = ~0ull;
    bool lacking = true;

    for (unsigned k = 0; k < cell_count; k++) {
        const struct cell *cell = &cells[k];
        if (cell->row != row || !cell->templates)
            continue;
        one.cells++;
        one.cases += cell->cases;
        one.faults += cell->faults;
        one.differences += cell->differences;
        one.odd_flags += cell->odd_flags;
        one.short_of += cell->cases < per;
        lacking &= cell->lacking && !cell->went;
        least = cell->cases < least ? cell->cases : least;
        if (cell->cases < per)
            printf("too few: %s %s %u bytes: %" PRIu64 "\n", rows[row].name, cell->form, cell->size_bytes, cell->cases);
    }
    if (!one.cells && (rows[row].reason || mode != 64 || only_in_legacy(rows[row].name))) {
        printf("%-16s not compared: %s\n", rows[row].name,
               rows[row].reason ? rows[row].reason : mode == 64 ? "not in 64-bit mode" : "in 64-bit mode only");
    } else if (!one.cells) {
        printf("%-16s NO CASE\n", rows[row].name);
        all->without++;
    } else {
        printf("%-16s %3u forms, at least %5" PRIu64 " each %8" PRIu64 " cases %7" PRIu64 " faults", rows[row].name,
               one.cells, least, one.cases, one.faults);
        if (one.odd_flags)
            printf(" %" PRIu64 " undefined flags", one.odd_flags);
        printf("%s\n", lacking ? " (#UD: this host has not got it)" : "");
        all->rows++;
    }
    if (one.differences)
        printf("%s: %" PRIu64 " of %" PRIu64 " DIFFER\n", rows[row].name, one.differences, one.cases);
    all->cases += one.cases;
    all->faults += one.faults;
    all->differences += one.differences;
    all->odd_flags += one.odd_flags;
    all->cells += one.cells;
    all->short_of += one.short_of;
}

/* The host's GDT differs from processor to processor by what LSL reads from one of its descriptors. */
static void stay(void)
{
    cpu_set_t here;

    CPU_ZERO(&here);
    CPU_SET((unsigned)sched_getcpu(), &here);
    sched_setaffinity(0, sizeof(here), &here);
}

static void become_other(void)
{
    static struct kvm_cpuid_entry2 model[256];
    int n = emu_vendor_model(model, sizeof(model) / sizeof(model[0]), !cpuid_host_is_amd());

    if (n <= 0 || cpuid_set(emu, model, (unsigned)n))
        exit(3);
    other_vendor = true;
}

int main(int argc, char **argv)
{
    static const char *const files[] = {"integer", "vector", "system", "far"};
    unsigned each = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 20;
    unsigned per = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 0) : 100;
    uint64_t seed = argc > 4 ? strtoull(argv[4], NULL, 0) : (uint64_t)time(NULL);
    const char *only = argc > 6 ? argv[6] : NULL;
    struct totals all = {.cases = 0};

    setvbuf(stdout, NULL, _IOLBF, 0);
    mode = argc > 5 ? atoi(argv[5]) : 64;
    segmented = mode == 33 || mode == 16;
    mode = mode == 33 ? 32 : mode;
    for (unsigned k = 0; k < 4; k++)
        read_rows(argc > 1 ? argv[1] : "kvm_core/isa", files[k]);
    rng_state[0] = seed * 0x9e3779b97f4a7c15ull + 1;
    rng_state[1] = seed ^ 0xdeadbeefcafebabeull;
    printf("seed %" PRIu64 ", %d-bit code%s\n", seed, mode, segmented ? ", segments of an LDT" : "");
    decoder_init();
    enumerate();
    stay();
    emu_create();
    host_create();
    emu_fs_base = host_home[0];
    if (getenv("OTHER_VENDOR"))
        become_other();
    if (segmented) {
        emu_ldt();
        if (!ldt_install()) {
            printf("this kernel has no modify_ldt\n");
            return 77;
        }
    }
    memcpy(emu_data + DATA_READONLY, (void *)(uintptr_t)(DATA_ADDR + DATA_READONLY), 4096);
    for (unsigned k = 0; k < template_count; k++)
        if (!only || strcmp(rows[cells[templates[k].cell].row].name, only) == 0)
            run_template(&templates[k], each);
    top_up(per, only);
    if (!only || strcmp(only, "(invalid)") == 0)
        run_invalid(200 * each);
    for (unsigned row = 0; row < row_count; row++)
        if (!only || strcmp(rows[row].name, only) == 0)
            sum_row(row, per, &all);
    printf("%d-bit code%s: %u rows, %u operand forms and sizes, %u encodings, %" PRIu64 " cases, %" PRIu64
           " with a fault, %" PRIu64 " with undefined flags unlike the host's, %" PRIu64 " differ, %u too few, "
           "%u rows without a reason\n",
           mode, segmented ? ", segmented" : "", all.rows, all.cells, template_count, all.cases, all.faults, all.odd_flags, all.differences,
           all.short_of, all.without);
    return all.differences || all.short_of || all.without;
}
