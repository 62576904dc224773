/* Repeated string instructions whose operands overlap, directly or by another address of the same page, up to a page that they
 * must not write, that is not there, a device's, or code: the host's own, element by element, by pages, and translated. The
 * registers at the fault and all memory agree. So they do when an instruction writes over itself. Arguments: cases, seed.
 */
#include <inttypes.h>

#include "cpu/cpuid.h"

#include "../isa/emu.h"
#include "../isa/host.h"
#include "device.h"

enum { FRAMES = 4, GPA_AREA = 0x90000, GPA_DEVICE = 0x10000000, AREA_ADDR = 0x30000000, PAGES = 7, CHANGING = 2,
       TABLE = 64, BEHIND_TABLE /* pages of the area: its page table, and what that maps behind itself */ };

/* Frames by page of the area; a page that changes is in their middle. */
static const uint8_t frame_of[PAGES] = {0, 1, 2, 3, 0, 1, 2};
static const struct change {
    const char *name;
    uint16_t rights; /* of its leaf */
    int host;        /* of its mapping; -1: none that is alike */
} changes[] = {{"plain", 7, PROT_READ | PROT_WRITE}, {"absent", 0, PROT_NONE}, {"read-only", 5, PROT_READ},
               {"a supervisor's", 3, -1}, {"a device's", 7 | 1 << 9 /* a bit for software */, -1}, {"code", 7 | 1 << 10, -1}};
enum { CHANGES = sizeof(changes) / sizeof(changes[0]), DEVICE = 4, IS_CODE = 5 };

static uint64_t seed;
static uint32_t below(uint32_t n)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)((seed >> 32) * n >> 32);
}

static uint8_t content[FRAMES * 4096], *host_area;
static uint64_t area_table, *leaf;

static struct outcome {
    struct state s;
    uint64_t device;
    uint8_t data[FRAMES * 4096];
} want, got;

static void make_area(void)
{
    int fd = memfd_create("frames", 0);

    if (fd < 0 || ftruncate(fd, sizeof(content)))
        exit(3);
    for (unsigned n = 0; n < PAGES; n++) {
        emu_map(AREA_ADDR + 4096 * n, GPA_AREA + 4096 * frame_of[n], 7);
        if (mmap((void *)(uintptr_t)(AREA_ADDR + 4096 * n), 4096, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, 4096 * frame_of[n]) == MAP_FAILED)
            exit(3);
    }
    host_area = mmap(NULL, sizeof(content), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    area_table = GPA_TABLES;
    for (int level = 3; level > 0; level--)
        area_table = ((uint64_t *)(emu_ram + area_table))[AREA_ADDR >> (12 + 9 * level) & 511] & ~0xfffull;
    leaf = (uint64_t *)(emu_ram + area_table);
}

/* ---- a case ---------------------------------------------------------------------------------------------------------- */

static struct icase kase = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};
static unsigned change, first_change, size;
static bool over_itself;
static bool comparing, storing;
static unsigned to_judge, judged; /* by the host, of those that write over themselves */

static void make_code(void)
{
    static const uint8_t opcodes[] = {0xa4, 0xaa, 0xa6, 0xae, 0xac};
    static const uint8_t weights[] = {0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4};
    unsigned which = weights[below(sizeof(weights))];
    uint8_t *p = kase.bytes;

    size = 1u << below(4);
    comparing = which == 2 || which == 3;
    *p++ = comparing && below(2) ? 0xf2 : 0xf3;
    if (!below(8))
        *p++ = 0x67;
    if (size == 2)
        *p++ = 0x66;
    if (size == 8)
        *p++ = 0x48;
    *p++ = opcodes[which] | (size > 1);
    kase.len = (uint8_t)(p - kase.bytes);
    storing = which < 2;
}

static uint64_t any_address(void)
{
    uint64_t page = AREA_ADDR + 4096 * below(PAGES), off = below(2) ? below(4096) : (uint64_t)(int64_t)((int)below(200) - 100);

    return page + off;
}

static void make_case(void)
{
    struct state *s = &kase.before;
    bool same = below(3);

    make_code();
    memset(s, 0, sizeof(*s));
    change = below(CHANGES);
    for (unsigned n = 0; n < sizeof(content); n++)
        content[n] = comparing ? below(2000) == 0 : (uint8_t)(n ^ n >> 8);
    s->rflags = below(2) * DF_FLAG | 1;
    s->gpr[RAX] = below(2) ? 0 : 0x0807060504030201;
    s->gpr[RCX] = below(2) ? below(100) : below(10000 / size);
    s->gpr[RSP] = DATA_ADDR + 2048;
    s->gpr[RDI] = any_address();
    s->gpr[RSI] = any_address();
    if (same) /* within a line or so, here or by the other address */
        s->gpr[RSI] = s->gpr[RDI] + below(200) - 100 + (below(2) ? 0 : s->gpr[RDI] < AREA_ADDR + 3 * 4096 ? 4 * 4096 : -4ull * 4096);
    s->rip = CODE_ADDR + 64;
    s->fx[0] = 0x7f, s->fx[1] = 3, s->fx[24] = 0x80, s->fx[25] = 0x1f;
}

static void run_host(struct outcome *o)
{
    void *page = (void *)(uintptr_t)(AREA_ADDR + 4096 * CHANGING);

    memset(o, 0, sizeof(*o));
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
    memcpy(host_area, content, sizeof(content));
    mprotect(page, 4096, changes[change].host | (over_itself ? PROT_EXEC : 0));
    host_run(&kase, &o->s);
    memcpy(o->data, host_area, sizeof(content));
}

static uint64_t entry_of(unsigned kind)
{
    return (kind == DEVICE ? GPA_DEVICE : (uint64_t)(GPA_AREA + 4096 * frame_of[CHANGING])) | changes[kind].rights;
}

static void load(void)
{
    memcpy(emu_ram + GPA_AREA, content, sizeof(content));
    for (unsigned n = 0; n < PAGES; n++)
        leaf[n] = (uint64_t)(GPA_AREA + 4096 * frame_of[n]) | 7;
    leaf[CHANGING] = entry_of(change);
    leaf[TABLE] = area_table | 7;
    leaf[BEHIND_TABLE] = entry_of(first_change);
    tlb_flush_all(emu);
    device = 0;
    emu_load(&kase);
    for (unsigned n = 0; n < FRAMES; n++)
        codecache_written(emu, GPA_AREA + 4096 * n, 4096);
    if (change == IS_CODE) { /* it has been executed */
        emu->rip = AREA_ADDR + 4096 * CHANGING;
        emu_ram[GPA_AREA + 4096 * frame_of[CHANGING]] = 0x90;
        emu->slow |= SLOW_SINGLE;
        engine_emulate.enter(emu, 1);
        emu_ram[GPA_AREA + 4096 * frame_of[CHANGING]] = content[4096 * frame_of[CHANGING]];
        emu->rip = kase.before.rip;
    }
}

/* engine NULL: element by element */
static void run(const struct engine *engine, struct outcome *o)
{
    enum cpu_exit_reason why;

    memset(o, 0, sizeof(*o));
    load();
    do {
        if (!engine)
            emu->slow |= SLOW_SINGLE;
        why = (engine ? engine : &engine_emulate)->enter(emu, engine ? 1 + (int32_t)below(2000) : 1);
    } while (why == EXIT_POLL);
    emu_store(&o->s);
    o->s.vector = 1000 + (int)why;
    if (why == EXIT_HLT)
        emu_frame(&o->s);
    state_normalise(&kase, &o->s);
    o->device = device;
    memcpy(o->data, emu_ram + GPA_AREA, sizeof(content));
}

/* A fast string operation moves up to a line's bytes at once (SDM vol. 1, 7.3.9.3). That elements overlap, Intel's processors see by their
 * linear addresses alone: one that is read by the page's other address after it was written may be read too early. */
static bool host_moves_element_by_element(void)
{
    enum { LINE = 64, OTHER_ADDRESS = 4 * 4096 };
    const struct state *s = &kase.before;
    uint64_t apart = s->gpr[RDI] - s->gpr[RSI];
    bool moves = (kase.bytes[kase.len - 1] | 1) == 0xa5 && !(s->rflags & DF_FLAG);

    return cpuid_host_is_amd() || !moves || (apart + OTHER_ADDRESS + LINE > 2 * LINE && apart - OTHER_ADDRESS + LINE > 2 * LINE);
}

/* Which operand of CMPS faults when neither is there: RDI's, but with REPE CMPSB RSI's on some processors. */
static void settle_order(void)
{
    bool cmpsb = kase.bytes[kase.len - 1] == 0xa6;

    if (cmpsb && want.s.vector == VEC_PF && want.s.cr2 == want.s.gpr[RDI] && got.s.cr2 == got.s.gpr[RSI])
        got.s.cr2 = want.s.cr2;
}

static void print_state(const char *title, const struct state *s)
{
    printf("  %s: rsi %" PRIx64 " rdi %" PRIx64 " rcx %" PRIx64 " rax %" PRIx64 " rip %" PRIx64 " flags %" PRIx64, title, s->gpr[RSI],
           s->gpr[RDI], s->gpr[RCX], s->gpr[RAX], s->rip, s->rflags);
    printf(" vector %d error %x cr2 %" PRIx64 "\n", s->vector, s->error, s->cr2);
}

static bool same(const char *who, uint64_t first)
{
    const struct state *a = &want.s, *b = &got.s;
    bool equal = !memcmp(a->gpr, b->gpr, sizeof(a->gpr)) && a->rip == b->rip && a->rflags == b->rflags && a->vector == b->vector &&
                 a->error == b->error && a->cr2 == b->cr2 && want.device == got.device && !memcmp(want.data, got.data, sizeof(content));

    if (equal)
        return true;
    printf("%s, seed %" PRIu64 ", a page is %s: ", who, first, changes[change].name);
    for (unsigned n = 0; n < kase.len; n++)
        printf("%02x ", kase.bytes[n]);
    printf("\n");
    print_state("before", &kase.before);
    print_state("expected", a);
    print_state("found", b);
    for (unsigned n = 0, shown = 0; n < sizeof(content) && shown < 4; n++)
        if (want.data[n] != got.data[n])
            printf("  at %x: %02x, not %02x\n", n, got.data[n], want.data[n]), shown++;
    return false;
}

static bool holds(void)
{
    uint64_t first = seed;
    bool well = true;

    make_case();
    emu_code_put(kase.before.rip, kase.bytes, kase.len);
    run(NULL, &want);
    if (changes[change].host >= 0 && host_moves_element_by_element()) {
        run_host(&got);
        settle_order();
        well &= same("host", first);
    }
    run(&engine_emulate, &got);
    well &= same("interpreted", first);
    for (unsigned n = 0; n < 2; n++) {
        run(&engine_translate, &got);
        well &= same("translated", first);
    }
    emu_code_put(kase.before.rip, NULL, kase.len);
    return well;
}

/* ---- over itself ----------------------------------------------------------------------------------------------------- */

/* The instruction stands in the area, and all that is around it is NOP and INT3. */
static void make_case_over_itself(void)
{
    static const uint8_t harmless[] = {0x90, 0x90, 0x90, 0xcc};
    struct state *s = &kase.before;

    do
        make_case();
    while (!storing);
    change = 0;
    s->rip = AREA_ADDR + 4096 * CHANGING + (below(2) ? 1024 + below(8) : 4097 - kase.len + below(kase.len - 1u)); /* or in two pages */
    for (unsigned n = 0; n < sizeof(content); n++)
        content[n] = harmless[below(sizeof(harmless))];
    memcpy(content + 4096 * frame_of[CHANGING] + (s->rip & 0xfff), kase.bytes, kase.len);
    s->gpr[RAX] = below(2) ? 0x90cc9090909090cc : 0xcc90cc9090909090;
    s->gpr[RDI] = s->rip + (s->rflags & DF_FLAG ? below(100) : -(uint64_t)below(100));
    s->gpr[RSI] = (below(2) ? s->gpr[RDI] + below(100) - 50 : AREA_ADDR + 4096 + below(4096));
}

/* A MOVS whose source is around it: where it ends early there may be copies of it to be executed, and not only NOP and INT3. */
static bool copies_itself(void)
{
    return (kase.bytes[kase.len - 1] | 1) == 0xa5 && kase.before.gpr[RSI] - kase.before.rip + 1024 < 2048;
}

/* By its vendor's rule. A tick of the host's ends it after any element, as it may any, and what is there by then is executed: RCX tells.
 * host_run() leaves INT3 behind where the instruction stood. */
static bool host_agrees(uint64_t first)
{
    unsigned at = 4096 * frame_of[CHANGING] + (kase.before.rip & 0xfff);
    bool in_two_pages = (kase.before.rip & 0xfff) + kase.len > 4096; /* seen on an Intel host only */

    if (copies_itself() || emu->amd != cpuid_host_is_amd() || (emu->amd && in_two_pages))
        return true;
    to_judge++;
    run_host(&got);
    if (got.s.gpr[RCX] != want.s.gpr[RCX])
        return true;
    judged++;
    memcpy(got.data + at, want.data + at, kase.len);
    return same("host", first);
}

static bool holds_over_itself(void)
{
    uint64_t first = seed;
    bool well = true;

    make_case_over_itself();
    run(&engine_emulate, &want);
    if (!emu->amd) { /* AMD's would go on, were it not looked at between its elements */
        run(NULL, &got);
        well &= same("element by element", first);
    }
    well &= host_agrees(first);
    for (unsigned n = 0; n < 2; n++) {
        run(&engine_translate, &got);
        well &= same("translated", first);
    }
    return well;
}

/* ---- into the page table, and on into the page that is mapped by what has been written there ------------------------- */

static bool holds_through_table(unsigned was, unsigned is, bool bytes)
{
    struct state *s = &kase.before;
    bool well = true;
    enum { OFFSET = 8 * BEHIND_TABLE };

    first_change = was;
    change = is;
    memset(content, 0, sizeof(content));
    *(uint64_t *)(content + OFFSET) = entry_of(is);
    memset(content + 4096, 0x5a, 4096);
    kase.len = bytes ? 2 : 3;
    memcpy(kase.bytes, bytes ? "\xf3\xa4" : "\xf3\x48\xa5", kase.len);
    s->rip = CODE_ADDR + 64;
    s->rflags = 1;
    s->gpr[RSI] = AREA_ADDR + OFFSET;
    s->gpr[RDI] = AREA_ADDR + 4096 * TABLE + OFFSET;
    s->gpr[RCX] = (4096 - OFFSET + 80) / (bytes ? 1 : 8);
    emu_code_put(s->rip, kase.bytes, kase.len);
    run(NULL, &want);
    uint64_t entry = leaf[BEHIND_TABLE];
    for (const struct engine *e = &engine_emulate; e; e = e == &engine_emulate ? &engine_translate : NULL) {
        run(e, &got);
        well &= same(e->name, was * 10 + is) && leaf[BEHIND_TABLE] == entry;
    }
    emu_code_put(s->rip, NULL, kase.len);
    return well;
}

int main(int argc, char **argv)
{
    static const struct machine_ops ops = {.mmio_read = device_read, .mmio_write = device_write};
    unsigned cases = argc > 1 ? (unsigned)atoi(argv[1]) : 3000, failures = 0;

    seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    emu_create();
    emu->ops = &ops;
    host_create();
    make_area();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, true);
    for (unsigned n = 0; n < cases && failures < 5; n++)
        failures += !holds();
    for (unsigned n = 0; n < 2 * CHANGES * CHANGES; n++)
        failures += !holds_through_table(n / CHANGES % CHANGES, n % CHANGES, n / (CHANGES * CHANGES));
    over_itself = true;
    mprotect((void *)AREA_ADDR, PAGES * 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
    for (unsigned n = 0; n < 2 * cases && failures < 5; n++) {
        emu->amd = cpuid_host_is_amd() == (n < cases);
        failures += !holds_over_itself();
    }
    return failures || judged < to_judge / 2;
}
