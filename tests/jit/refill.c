/* A page that the TLB has lost is found again without leaving translated code, but for what a walk would mark or refuse. */
#include "inside.h"
#include "eax.h"

#include "mmu/paging.h"
#include "mmu/refill.h"

enum { SPACING = TLB_ENTRIES * 4096, FIRST = 0x30000000, SECOND = FIRST + SPACING /* shares FIRST's entry */, LARGE = FIRST + 2 * SPACING };

static void use(enum tlb_set_kind kind) { emu->tlb = &emu->tlb_sets[kind]; }

/* As translated code calls it. */
static bool refill(uint64_t linear, bool write)
{
    const struct tlb_table *t = write ? &emu->tlb->write : &emu->tlb->read;
    unsigned n = tlb_index(linear);
    struct refilled r = mmu_refill(emu, linear ^ t->entry[n].tag, n * sizeof(t->entry[0]), write);

    expect("linear", r.linear, linear);
    if (r.done)
        expect("tag", t->entry[n].tag, linear & ~0xfffull);
    return r.done;
}

static bool is_writable(uint64_t linear) { return emu->tlb->write.entry[tlb_index(linear)].tag == (linear & ~0xfffull); }

/* Whether it is for the processor alone to read and to write. */
static void expect_page(const char *what, uint64_t gpa, uint64_t rights, bool read, bool write)
{
    char text[80];

    emu_map(SECOND, gpa, rights);
    tlb_drop_page(emu, SECOND);
    snprintf(text, sizeof(text), "%s, read", what);
    expect(text, refill(SECOND + 8, false), read);
    snprintf(text, sizeof(text), "%s, writable once read", what);
    expect(text, is_writable(SECOND), read && write);
    tlb_drop_page(emu, SECOND);
    snprintf(text, sizeof(text), "%s, written", what);
    expect(text, refill(SECOND + 8, true), write);
    tlb_drop_page(emu, SECOND);
}

static void entries(struct memslot *slot)
{
    emu_map(FIRST, GPA_DATA, 0x67);
    emu_map(SECOND, GPA_DATA, 0x67);
    expect("no directory", refill(SECOND, false), false);
    mem_load(emu, FIRST, 8);
    expect("the level above not accessed", refill(SECOND, false), false);
    mem_load(emu, SECOND, 8);
    tlb_drop_page(emu, FIRST);
    expect_page("all rights", GPA_DATA, 0x67, true, true);
    expect_page("not executable", GPA_DATA, 0x67 | PTE_NX, true, true);
    expect_page("clean", GPA_DATA, 0x27, true, false);
    expect_page("not accessed", GPA_DATA, 0x47, false, false);
    expect_page("read-only", GPA_DATA, 0x65, true, false);
    expect_page("absent", GPA_DATA, 0x66, false, false);
    expect_page("reserved", GPA_DATA, 0x67 | 1ull << 51, false, false);
    expect_page("no memory", RAM_BYTES, 0x67, false, false);
    emu->efer &= ~(uint64_t)EFER_NXE;
    expect_page("NX reserved", GPA_DATA, 0x67 | PTE_NX, false, false);
    emu->efer |= EFER_NXE;
    slot->page_flags[GPA_DATA >> 12] = 1;
    expect_page("code", GPA_DATA, 0x67, true, false);
    slot->page_flags[GPA_DATA >> 12] = 0;
    slot->readonly = true;
    expect_page("ROM", GPA_DATA, 0x67, true, false);
    slot->readonly = false;
    emu->cr4 |= CR4_PKE;
    emu->pkru = 1 << 3; /* WD of key 1, which is left to the walk */
    expect_page("key", GPA_DATA, 0x67 | 1ull << 59, false, false);
    expect_page("another key", GPA_DATA, 0x67 | 2ull << 59, true, true);
    emu->cr4 &= ~(uint64_t)CR4_PKE;
}

static void privileges(void)
{
    expect_page("the supervisor's", GPA_DATA, 0x63, false, false);
    use(TLB_SUPER);
    expect_page("the supervisor's", GPA_DATA, 0x63, true, true);
    expect_page("the user's", GPA_DATA, 0x67, true, true);
    use(TLB_SUPER_SMAP);
    expect_page("the supervisor's", GPA_DATA, 0x63, true, true);
    expect_page("SMAP", GPA_DATA, 0x67, false, false);
    use(TLB_USER);
}

static void invalidated(void)
{
    emu_map(SECOND, GPA_DATA, 0x67);
    expect("before", refill(SECOND, false), true);
    emu->kick = 1;
    tlb_drop_page(emu, SECOND);
    expect("somebody waits", refill(SECOND, false), false);
    emu->kick = 0;
    expect("nobody does", refill(SECOND, false), true);
    expect("beyond the page's end", refill(SECOND + 4095, false), false);
    tlb_flush_page(emu, SECOND);
    expect("after INVLPG", refill(SECOND, false), false);
    mem_load(emu, FIRST, 8);
    expect("with the directory again", refill(SECOND, false), true);
    tlb_flush_nonglobal(emu);
    expect("after MOV CR3", refill(SECOND, false), false);
}

static void large(void)
{
    uint64_t pml4e = *(uint64_t *)(emu_ram + GPA_TABLES), pdpte = *(uint64_t *)(emu_ram + (pml4e & PTE_FRAME));
    uint64_t *pde = (uint64_t *)(emu_ram + (pdpte & PTE_FRAME)) + (LARGE >> 21 & 511);

    *pde = 0xe7; /* RAM's start */
    mem_load(emu, LARGE + GPA_DATA, 8);
    tlb_drop_page(emu, LARGE + GPA_DATA);
    expect("part of a large page", refill(LARGE + GPA_DATA + 4096, true), true);
    expect("another", refill(LARGE + GPA_DATA, false), true);
    tlb_flush_page(emu, LARGE);
    expect("all are dropped", emu->tlb->read.entry[tlb_index(LARGE + GPA_DATA)].tag == LARGE + GPA_DATA, false);
    expect("all are dropped", is_writable(LARGE + GPA_DATA + 4096), false);
}

/* Two pages in one entry in turns, with something in each register. */
static void registers(void)
{
    static const uint8_t code[] = {
        0xb8, 0x40, 0, 0, 0, 0x66, 0x0f, 0x6e, 0xc0,             /* mov eax, 64; movd xmm0, eax */
        0xb9, 0, 1, 0, 0,                                        /* mov ecx, 256 */
        0xba, 1, 0, 0, 0, 0xbe, 2, 0, 0, 0, 0xbf, 4, 0, 0, 0,    /* mov edx, 1; mov esi, 2; mov edi, 4 */
        0x41, 0xb8, 8, 0, 0, 0, 0x41, 0xb9, 16, 0, 0, 0,         /* mov r8d, 8; mov r9d, 16 */
        0x41, 0xba, 32, 0, 0, 0,                                 /* mov r10d, 32 */
        0x89, 0x04, 0x25, 0, 0, 0, 0x30,                         /* again: mov [FIRST], eax */
        0x89, 0x04, 0x25, 0, 0, 0, 0x32,                         /* mov [SECOND], eax */
        0xff, 0xc9, 0x75, 0xee,                                  /* dec ecx; jne again */
        0x66, 0x0f, 0x7e, 0xc0, 0x01, 0xd0, 0x01, 0xf0, 0x01, 0xf8, /* movd eax, xmm0; add eax, edx; esi; edi */
        0x44, 0x01, 0xc0, 0x44, 0x01, 0xc8, 0x44, 0x01, 0xd0, 0xcc, /* r8d; r9d; r10d */
    };
    uint64_t before = emu->stat_tlb_miss;

    emu_map(SECOND, GPA_DATA + 4096, 0x67);
    tlb_flush_all(emu);
    emu_code_put(CODE_ADDR, code, sizeof(code));
    expect_eax("registers", CODE_ADDR, 127);
    expect("each step misses", emu->stat_tlb_miss - before > 256, true);
}

int main(void)
{
    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    emu_engine = &engine_translate;
    entries(emu->phys->slot[0]);
    privileges();
    invalidated();
    large();
    registers();
    return failures != 0;
}
