/* What must be seen after each way to invalidate a translation: INVLPG, MOV CR3, CR4.PGE, INVPCID, with global pages and
 * with process-context identifiers; and who may not. SDM vol. 3, 4.10; vol. 2, INVPCID
 *
 * A processor may keep or drop what nobody invalidated, so that only what is required is printed. With -DCONTEXTS: what
 * QEMU TCG lacks, PCID and INVPCID.
 */
#include "metal64.h"

enum { P = 1, W = 2, U = 4, A = 32, PS = 128, G = 256 };
enum { TABLES = 0x200000, DATA = 0x400000 };
enum { CR4_PGE = 1 << 7, CR4_PCIDE = 1 << 17 };
#define L 0x8000000000 /* the test address: entry 1 of the PML4 */
#define BOOT 0x80000   /* boot64.S's PML4 */
#define KEEP (1ull << 63)

SNIPPET(touch, "mov (%rdi), %rax");
SNIPPET(do_invlpg, "invlpg (%rdi)");
SNIPPET(do_invpcid, "invpcid (%rdi), %rcx");
SNIPPET(lock_invpcid, ".byte 0xf0; invpcid (%rdi), %rcx");
SNIPPET(put_cr3, "mov %rcx, %cr3");
SNIPPET(put_cr4, "mov %rcx, %cr4");
SNIPPET(put_cr0, "mov %rcx, %cr0");

#define WRITE_CR(n, value) __asm__ volatile("mov %0, %%cr" #n : : "r"((uint64_t)(value)) : "memory")
#define READ_CR(n)                                                                                 \
    ({                                                                                             \
        uint64_t value_;                                                                           \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(value_));                                     \
        value_;                                                                                    \
    })

static struct {
    uint64_t pcid, address;
} descriptor_ __attribute__((aligned(16)));

static uint64_t *table(unsigned space, unsigned level) { return (uint64_t *)(uint64_t)(TABLES + 0x10000 * space + 0x1000 * level); }
static uint64_t root(unsigned space) { return (uint64_t)table(space, 4); }

/* An address space: the boot tables' entries, and a path to L whose last entry is at `level`. */
static void build(unsigned space, unsigned level, uint64_t leaf)
{
    for (unsigned n = 0; n < 512; n++)
        table(space, 4)[n] = ((uint64_t *)BOOT)[n];
    for (unsigned n = 4; n > level; n--)
        table(space, n)[n == 4] = (uint64_t)table(space, n - 1) | P | W | U | A;
    table(space, level)[level == 4] = leaf;
}

static uint64_t *leaf(unsigned space, unsigned level) { return &table(space, level)[0]; }

/* Frames that a page of this size may lie at; a word of the frame's number stands at its start. */
static uint64_t frame(unsigned level, unsigned n) { return level == 3 ? 0 : DATA + (level == 2 ? 0x200000ul : 0x1000ul) * n; }

static char look(uint64_t address)
{
    struct entry e = at(touch, 0);

    e.rdi = address;
    run(&e);
    return last.vector == DONE ? "0AB?"[last.rax & 3] : last.vector == 14 ? 'x' : '!';
}

static char act(const void *code, unsigned cpl, uint64_t rdi, uint64_t rcx)
{
    struct entry e = at(code, cpl);

    e.rdi = rdi;
    e.rcx = rcx;
    run(&e);
    return outcome();
}

static void toggle_pge(void)
{
    uint64_t cr4 = READ_CR(4);

    WRITE_CR(4, cr4 ^ CR4_PGE);
    WRITE_CR(4, cr4);
}

static char invpcid(uint64_t type, uint64_t pcid, uint64_t address)
{
    descriptor_.pcid = pcid;
    descriptor_.address = address;
    return act(do_invpcid, 0, (uint64_t)&descriptor_, type);
}

/* ---- one address space ---------------------------------------------------------------------------- */

enum { INVLPG, INVLPG_WITHIN, MOV_CR3, TOGGLE_PGE, ONE_ADDRESS, ONE_CONTEXT, ALL, ALL_BUT_GLOBAL, EVERY_WAY };
static const char *const way_names[EVERY_WAY] = {"invlpg",    "invlpg_within", "mov_cr3",   "toggle_pge",
                                                 "invpcid_0", "invpcid_1",     "invpcid_2", "invpcid_3"};
#ifdef CONTEXTS
enum { FIRST_WAY = ONE_ADDRESS, WAYS = EVERY_WAY };
#else
enum { FIRST_WAY = INVLPG, WAYS = ONE_ADDRESS };
#endif

static char invalidate(unsigned way, unsigned level)
{
    uint64_t last_byte = L + (level == 3 ? 1ul << 30 : level == 2 ? 1ul << 21 : 4096) - 1;

    switch (way) {
    case INVLPG: return act(do_invlpg, 0, L, 0);
    case INVLPG_WITHIN: return act(do_invlpg, 0, last_byte, 0);
    case MOV_CR3: WRITE_CR(3, READ_CR(3)); return '.';
    case TOGGLE_PGE: toggle_pge(); return '.';
    default: return invpcid(way - ONE_ADDRESS, 0, last_byte);
    }
}

static void one_space(unsigned way, unsigned level, uint64_t global)
{
    uint64_t bits = P | W | U | global | (level > 1 ? PS : 0);

    if (global && (way == MOV_CR3 || way == ONE_CONTEXT || way == ALL_BUT_GLOBAL))
        return; /* global translations may stay */
    put(way_names[way]);
    put_char(' ');
    put_hex(level, 1);
    put_char(global ? 'g' : 'n');
    put_char(' ');
    build(0, level, frame(level, 0) | bits);
    toggle_pge();
    put_char(look(L));
    put_char(look(L + 8)); /* and so it is in the TLB */
    *leaf(0, level) = frame(level, 1) | bits;
    put_char(invalidate(way, level));
    put_char(look(L));
    put_char(*leaf(0, level) & A ? 'a' : '-'); /* the entry was read */
    *leaf(0, level) = 0;
    put_char(invalidate(way, level));
    put_char(look(L));
    *leaf(0, level) = frame(level, 0) | bits; /* nobody invalidates: absence is never cached */
    put_char(look(L));
    line_end();
}

static void one_space_all(void)
{
    build(0, 1, 0);
    WRITE_CR(3, root(0));
    for (unsigned pge = 0; pge < 2; pge++) {
        put(pge ? "with global pages\n" : "without global pages\n");
        WRITE_CR(4, (READ_CR(4) & ~(uint64_t)CR4_PGE) | (pge ? CR4_PGE : 0));
        for (unsigned level = 1; level < 4; level++)
            for (unsigned way = FIRST_WAY; way < WAYS; way++) {
                one_space(way, level, 0);
                one_space(way, level, G);
            }
    }
}

static void try(const char *name, const void *code, unsigned cpl, uint64_t rdi, uint64_t rcx)
{
    put(name);
    put_char(' ');
    put_char(act(code, cpl, rdi, rcx));
    put_char(' ');
    put_hex(last.error, 4);
    line_end();
}

#ifndef CONTEXTS
/* An upper level changes: INVLPG drops what is cached of the path too. */
static void upper(void)
{
    put("upper levels\n");
    for (unsigned level = 2; level < 5; level++) {
        build(0, 1, frame(1, 0) | P | W | U);
        build(1, 1, frame(1, 1) | P | W | U);
        toggle_pge();
        put("upper ");
        put_hex(level, 1);
        put_char(' ');
        put_char(look(L));
        table(0, level)[level == 4] = (uint64_t)table(1, level - 1) | P | W | U;
        put_char(act(do_invlpg, 0, L, 0));
        put_char(look(L));
        line_end();
    }
}
#else
/* ---- process contexts ------------------------------------------------------------------------------ */

static void two_spaces(void)
{
    put("two contexts\n");
    for (unsigned way = 0; way < EVERY_WAY; way++) {
        for (unsigned n = 0; n < 2; n++)
            build(n, 1, frame(1, n) | P | W | U);
        put("contexts ");
        put(way_names[way]);
        put_char(' ');
        for (unsigned n = 0; n < 4; n++) {
            put_char(act(put_cr3, 0, 0, root(n & 1) | (n & 1 ? 2 : 1) | (n & 2 ? KEEP : 0)));
            put_char(look(L));
        }
        put_hex(READ_CR(3) & 0x8000000000000fff, 16); /* bit 63 is not kept */
        put_char(' ');
        *leaf(0, 1) = 0; /* of context 1, from context 2 */
        switch (way) {
        case INVLPG:
        case INVLPG_WITHIN: /* the current context's only */
            put_char(act(put_cr3, 0, 0, root(0) | 1 | KEEP));
            put_char(act(do_invlpg, 0, L + (way == INVLPG ? 0 : 0xfff), 0));
            break;
        case MOV_CR3: put_char(act(put_cr3, 0, 0, root(0) | 1)); break;
        case TOGGLE_PGE: toggle_pge(); break;
        default: put_char(invpcid(way - ONE_ADDRESS, 1, L));
        }
        put_char(act(put_cr3, 0, 0, root(0) | 1 | KEEP));
        put_char(look(L));
        put_char(act(put_cr3, 0, 0, root(1) | 2 | KEEP));
        put_char(look(L));
        line_end();
    }
    act(put_cr3, 0, 0, root(0));
}

static void try_invpcid(const char *name, uint64_t type, uint64_t pcid, uint64_t address)
{
    put(name);
    put_char(' ');
    put_hex(type, 1);
    put_char(' ');
    put_char(invpcid(type, pcid, address));
    put_char(' ');
    put_hex(last.error, 4);
    line_end();
}

static void refusals(unsigned pcide)
{
    uint64_t cr4 = READ_CR(4), where = (uint64_t)&descriptor_;

    put(pcide ? "refused with contexts\n" : "refused without contexts\n");
    for (uint64_t type = 0; type < 6; type++) {
        try_invpcid("invpcid context_0", type, 0, L);
        try_invpcid("invpcid context_fff", type, 0xfff, L);
        try_invpcid("invpcid reserved_12", type, 0x1000, L);
        try_invpcid("invpcid reserved_63", type, 1ull << 63, L);
        try_invpcid("invpcid not_canonical", type, 0, 1ull << 63);
    }
    try_invpcid("invpcid type_high", 1ull << 32, 0, L);
    descriptor_.pcid = 0;
    try("invpcid user", do_invpcid, 3, where, 2);
    try("invpcid lock", lock_invpcid, 0, where, 2);
    try("invpcid absent", do_invpcid, 0, L + 0x1000, 2);
    try("invpcid nowhere", do_invpcid, 0, 1ull << 63, 2);
    try("cr3 keep", put_cr3, 0, 0, root(0) | KEEP);
    try("cr3 reserved_62", put_cr3, 0, 0, root(0) | 1ull << 62);
    try("cr3 reserved_40", put_cr3, 0, 0, root(0) | 1ull << 40);
    try("cr3 low", put_cr3, 0, 0, root(0) | 0x18);
    try("cr4 contexts_from_low", put_cr4, 0, 0, cr4 | CR4_PCIDE);
    WRITE_CR(3, root(0));
    if (pcide)
        try("cr0 no paging", put_cr0, 0, 0, READ_CR(0) & ~(1ul << 31));
}

#endif

void tests(void)
{
    *(uint64_t *)DATA = *(uint64_t *)(DATA + 8) = 1;
    *(uint64_t *)(DATA + 0x1000) = 2;
    *(uint64_t *)(DATA + 0x200000) = 2;
    one_space_all();
    build(0, 1, frame(1, 0) | P | W | U);
    WRITE_CR(3, root(0));
#ifdef CONTEXTS
    refusals(0);
    try("contexts on", put_cr4, 0, 0, READ_CR(4) | CR4_PCIDE);
    refusals(1);
    two_spaces();
    try("contexts off", put_cr4, 0, 0, READ_CR(4) & ~(uint64_t)CR4_PCIDE);
#else
    upper();
    try("invlpg user", do_invlpg, 3, L, 0);
    try("invlpg nowhere", do_invlpg, 0, 1ull << 63, 0);
    try("cr3 user", put_cr3, 3, 0, root(0));
#endif
}
