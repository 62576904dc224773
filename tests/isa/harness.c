/* User-level instructions: random cases on our processor and on the host's, everything compared.
 *
 *   harness ISA_DIRECTORY CASES_PER_TEMPLATE [SEED [MODE [MNEMONIC]]]     MODE: 64 or 32
 */
#include <inttypes.h>
#include <time.h>

#include "emu.h"
#include "cases.h"
#include "host.h"

static unsigned reported, difference_at;

static void print_state(const char *title, const struct state *s)
{
    printf("  %s: vector %d error %x cr2 %" PRIx64 " rip %" PRIx64 " flags %" PRIx64 " fcw %02x%02x fsw %02x%02x ftw %02x mxcsr %02x%02x\n",
           title, s->vector, s->error, s->cr2, s->rip, s->rflags, s->fx[1], s->fx[0], s->fx[3], s->fx[2], s->fx[4],
           s->fx[25], s->fx[24]);
}

static void print_bytes(const uint8_t *p, int n)
{
    while (n--)
        printf("%02x", p[n]);
}

static void report(const struct icase *c, const struct state *host, const struct state *ours, const char *what)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    ZydisFormatter formatter;
    char text[128] = "?";

    if (reported++ > 40)
        return;
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
    if (is_xsave(z.mnemonic) && c->target + 576 <= DATA_ADDR + DATA_HOLE) {
        printf("  RAX %" PRIx64 " header ", c->before.gpr[0]);
        print_bytes((uint8_t *)(uintptr_t)c->target + 512, 64);
        printf("\n");
    }
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

/* piecewise: of an operand across two pages the processor reports one of its parts, in an order of its own. */
static const char *compare(const struct icase *c, const struct state *host, const struct state *ours, bool piecewise, bool staged)
{
    if (staged && !(c->before.fx[25] & 8)) /* #U unmasked: products are not seen (cpu/native.c, run_unmasked()) */
        return NULL;
    if (host->vector != ours->vector)
        return "vector";
    if (host->error != ours->error || (host->cr2 ^ ours->cr2) >> (piecewise ? 12 : 0))
        return "error code";
    if (host->rip != ours->rip)
        return "rip";
    if (memcmp(host->gpr, ours->gpr, sizeof(host->gpr)) != 0)
        return "general registers";
    if ((host->rflags ^ ours->rflags) & ~c->undefined)
        return "flags";
    if (memcmp(host->ymm, ours->ymm, sizeof(host->ymm)) != 0)
        return "vector registers";
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
    if (host->vector < 0 && (host->fx[2] & 0x80) && memcmp(host->fx + 6, ours->fx + 6, 18) != 0)
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

/* true: the same. MXCSR_MASK in FXSAVE and XSAVE images is the model's, not the host's. */
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
        difference_at = k;
        return false;
    }
    memcpy(emu_data, data, DATA_HOLE);
    return true;
}

static bool piecewise(unsigned mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_FLDENV || mnemonic == ZYDIS_MNEMONIC_FNSTENV ||
           mnemonic == ZYDIS_MNEMONIC_FNSAVE || mnemonic == ZYDIS_MNEMONIC_FRSTOR || is_fxsave(mnemonic) ||
           mnemonic == ZYDIS_MNEMONIC_FXRSTOR || mnemonic == ZYDIS_MNEMONIC_FXRSTOR64 || is_xsave(mnemonic);
}

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
    memcpy(p + 24, &mxcsr, 4);
    for (int k = 0; k < 8; k++)
        random_x87(p + 32 + 16 * k);
    if (xrstor)
        memcpy(p + 512, header, sizeof(header));
    memcpy(emu_data + at, p, 576);
}

/* Where a near return or an indirect branch finds where to go. */
static bool fill_address(const struct icase *c)
{
    uint64_t at = c->target - DATA_ADDR, to = CODE_ADDR + 5000 + below(1000);

    if (at >= DATA_READONLY)
        return false;
    if (at + 8 > DATA_HOLE)
        return true; /* faults */
    memcpy((uint8_t *)(uintptr_t)DATA_ADDR + at, &to, 8);
    memcpy(emu_data + at, &to, 8);
    return true;
}

static void run_template(const struct template *t, unsigned count)
{
    struct row *row = &rows[t->mnemonic];
    struct state host, ours;
    struct icase c;

    for (unsigned n = 0; n < count; n++) {
        if (!make_case(t, &c))
            continue;
        if (n % 64 == 0)
            fill_data();
        if (t->mem)
            fill_image(&c, t->mnemonic);
        if (c.stack && !fill_address(&c))
            continue;
        host_case = &c;
        host_run(&c, &host);
        if (host.vector == 6) { /* not an instruction of this host: not offered to guests either */
            row->undefined++;
            continue;
        }
        emu_run(&c, &ours);
        row->cases++;
        row->faults += host.vector >= 0;
        const char *what = compare(&c, &host, &ours, piecewise(t->mnemonic), staged(t->mnemonic));
        if (host.vector >= 0 && t->mnemonic == ZYDIS_MNEMONIC_ENTER) { /* pushes before it faults */
            what = host.vector == ours.vector ? NULL : "vector";
            memcpy(emu_data, (void *)(uintptr_t)DATA_ADDR, DATA_HOLE);
        }
        if (!what && (t->mem || t->no_modrm) && !same_memory(t->mnemonic))
            what = "memory";
        if (!what)
            continue;
        row->differences++;
        report(&c, &host, &ours, what);
        fill_data();
    }
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 0) : (uint64_t)time(NULL), cases = 0, faults = 0, bad = 0;
    unsigned per = argc > 2 ? strtoul(argv[2], NULL, 0) : 20, rows_seen = 0, missing = 0;
    char path[512];

    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(path, sizeof(path), "%s/vector.isa", argc > 1 ? argv[1] : "kvm_core/isa");
    want_rows(path, NULL);
#ifndef BIND_VECTOR_ONLY
    snprintf(path, sizeof(path), "%s/integer.isa", argc > 1 ? argv[1] : "kvm_core/isa");
    want_rows(path, NULL);
#endif
    rng_state[0] = seed * 0x9e3779b97f4a7c15ull + 1;
    rng_state[1] = seed ^ 0xdeadbeefcafebabeull;
    printf("seed %" PRIu64 "\n", seed);
    mode = argc > 4 ? atoi(argv[4]) : 64;
    if (mode == 64)
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    if (__builtin_cpu_is("amd")) /* 66 in front of a near branch counts */
        ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
    bind_decoder = decoder;
    enumerate();
    emu_create();
    emu_mode(mode);
    host_create();
    memcpy(emu_data + DATA_READONLY, (void *)(uintptr_t)(DATA_ADDR + DATA_READONLY), 4096);
    for (unsigned k = 0; k < template_count; k++)
        if (argc < 6 || strcmp(ZydisMnemonicGetString(templates[k].mnemonic), argv[5]) == 0)
            run_template(&templates[k], per);
    for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        if (!rows[m].wanted)
            continue;
        rows_seen++;
        cases += rows[m].cases;
        faults += rows[m].faults;
        bad += rows[m].differences;
        if (!rows[m].cases && argc < 6) {
            printf("no case: %s (%u encodings%s)\n", ZydisMnemonicGetString(m), rows[m].templates,
                   rows[m].undefined ? "; #UD on this host" : "");
            missing += !rows[m].undefined && mode == 64;
        }
        if (rows[m].differences)
            printf("%s: %" PRIu64 " of %" PRIu64 " differ\n", ZydisMnemonicGetString(m), rows[m].differences,
                   rows[m].cases);
    }
    printf("%u rows, %u templates, %" PRIu64 " cases, %" PRIu64 " with a fault, %" PRIu64 " differ, %u rows without\n",
           rows_seen, template_count, cases, faults, bad, missing);
    return bad || missing;
}
