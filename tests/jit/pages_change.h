/* Random kernel routines that change page tables and then invalidate no more than the architecture asks for, for pages.c.
 * SDM vol. 3, 4.10.4 */
#ifndef TESTS_JIT_PAGES_CHANGE_H
#define TESTS_JIT_PAGES_CHANGE_H

#include "pages_code.h"

static uint64_t entry_addr(unsigned instance, unsigned table, unsigned index)
{
    return TABLES_ADDR + instance * INSTANCE_BYTES + table * 4096 + index * 8;
}
static uint64_t instance_gpa(unsigned instance, unsigned table) { return GPA_INSTANCES + instance * INSTANCE_BYTES + table * 4096; }

/* Rights of an entry that maps something. In the shared GiB every other page is always global, the others never. */
static uint64_t any_rights(bool global)
{
    uint64_t rights = (chance(96) ? E_P : 0) | (chance(90) ? E_W : 0) | (chance(90) ? E_U : 0) | (chance(40) ? E_A : 0) |
                      (chance(40) ? E_D : 0) | (chance(4) ? PTE_NX : 0) | (chance(1) ? E_RESERVED : 0) | (global ? E_G : 0);

    return rights | (keys ? (uint64_t)below(4) << 59 : 0);
}

static bool is_global(unsigned instance, unsigned page) { return instance == SHARED && page % 2 == 0; }

static uint64_t any_leaf(unsigned instance, unsigned page)
{
    uint64_t rights = any_rights(is_global(instance, page));

    if (page >= STACK_PAGE)
        return pool_gpa(below(SLOTS), STACK_PAGE + below(PAGES - STACK_PAGE)) | rights | PTE_NX;
    if (chance(2))
        return (uint64_t)(GPA_DEVICE + page * 4096) | rights | PTE_NX;
    return pool_gpa(below(SLOTS), below(STACK_PAGE)) | rights;
}

/* A page directory's entry for a slot: one of two tables, or a large page. */
static uint64_t any_directory_entry(unsigned instance, unsigned slot)
{
    if (chance(3))
        return 0;
    if (chance(35))
        return pool_gpa(below(SLOTS), 0) | any_rights(instance == SHARED && chance(50)) | E_PS;
    return instance_gpa(instance, 1 + 2 * slot + chance(15)) | E_P | (chance(97) ? E_W : 0) | (chance(97) ? E_U : 0) |
           (chance(50) ? E_A : 0) | (chance(1) ? PTE_NX : 0);
}

static uint64_t any_giant_entry(unsigned instance)
{
    if (chance(15))
        return any_rights(instance == SHARED && chance(50)) | E_PS; /* of guest physical 0 */
    return instance_gpa(instance, 0) | E_P | (chance(98) ? E_W : 0) | (chance(98) ? E_U : 0) | (chance(50) ? E_A : 0);
}

/* ---- what the architecture asks for ------------------------------------------------------------------------------------ */

static void put_toggle_global(void)
{
    PUT(0x0f, 0x20, 0xe0);                               /* mov rax, cr4 */
    for (unsigned n = 0; n < 2; n++)
        PUT(0x35, CR4_PGE, 0, 0, 0, 0x0f, 0x22, 0xe0);   /* xor eax, PGE; mov cr4, rax */
}

/* INVPCID of `type`. The descriptor stands at the end of the routine: the stack may be what has changed. */
static void put_invpcid(unsigned type, unsigned space, uint64_t linear)
{
    uint64_t routine = (uint64_t)(out - emu_ram - GPA_ROUTINES) / ROUTINE_BYTES, end = (routine + 1) * ROUTINE_BYTES - 16;
    uint64_t descriptor[2] = {pcid && type < 2 ? space + 1 : 0, linear};

    memcpy(emu_ram + GPA_ROUTINES + end, descriptor, 16);
    put(0xb8), put_bytes(type, 4);
    PUT(0x66, 0x0f, 0x38, 0x82, 0x04, 0x25); /* invpcid rax, [descriptor] */
    put_bytes(ROUTINES_ADDR + end, 4);
}

static void put_invlpg(uint64_t linear)
{
    put_load(RAX, linear);
    PUT(0x0f, 0x01, 0x38);
}

/* Everything of one space that is not global: goes there and comes back, where need be. */
static void put_reload(unsigned space)
{
    PUT(0x0f, 0x20, 0xd9); /* mov rcx, cr3 */
    if (pcid) {
        put_load(RAX, cr3_of(space));
        PUT(0x0f, 0x22, 0xd8, 0x48, 0x0f, 0xba, 0xe9, 63); /* mov cr3, rax; bts rcx, 63 */
    }
    PUT(0x0f, 0x22, 0xd9); /* mov cr3, rcx */
}

/* All that an instance's non-leaf entry may have led to. */
static void put_forget_all(unsigned instance)
{
    if (instance == SHARED) {
        chance(50) ? put_toggle_global() : put_invpcid(2, 0, 0);
        return;
    }
    switch (below(5)) {
    case 0: put_toggle_global(); break;
    case 1: put_invpcid(1, instance, 0); break;
    case 2: put_invpcid(2, 0, 0); break;
    case 3: put_invpcid(3, 0, 0); break;
    default: put_reload(instance);
    }
}

/* One page, mapped by a page table. */
static void put_forget_page(unsigned instance, unsigned page, uint64_t linear)
{
    if (instance == SHARED) { /* INVLPG takes what is global, or of the current PCID */
        if (is_global(instance, page) || !pcid)
            chance(70) ? put_invlpg(linear) : put_forget_all(instance);
        else
            chance(50) ? put_forget_all(instance) : put_invpcid(3, 0, 0);
    } else if (!pcid) { /* in another space there is nothing to forget */
        chance(60) ? put_invlpg(linear) : put_forget_all(instance);
    } else {
        chance(60) ? put_invpcid(0, instance, linear) : put_forget_all(instance);
    }
}

/* Behind each write of an entry: stray code that finds an entry's address in RDX writes there and invalidates nothing. */
static void put_forget_address(void) { PUT(0x31, 0xd2); } /* xor edx, edx */

static void put_entry(uint64_t address, uint64_t value)
{
    put_load(RDX, address);
    put_load(RAX, value);
    PUT(0x48, 0x89, 0x02);
    put_forget_address();
}

static void put_exchange_entry(uint64_t address, uint64_t value) /* RAX: what it was */
{
    put_load(RDX, address);
    put_load(RAX, value);
    PUT(0x48, 0x87, 0x02);
    put_forget_address();
}

static void put_clear_in_entry(uint64_t address, unsigned bits) /* below 128 */
{
    put_load(RDX, address);
    PUT(0x48, 0x83, 0x22), put(0xff & ~bits);
    put_forget_address();
}

static void put_change_leaf(void)
{
    struct place p = chance(20) ? any_place(PAGES) : any_code_place();
    unsigned instance = p.shared ? SHARED : below(SPACES), page = p.page;
    uint64_t entry = entry_addr(instance, 1 + 2 * p.slot + chance(15), page), linear = place_addr(p);

    if (chance(20)) { /* what was not present need not be forgotten: test al, 1; jnz over; ret */
        put_exchange_entry(entry, any_leaf(instance, page));
        PUT(0xa8, 1, 0x75, 1, 0xc3);
    } else if (chance(25)) {
        put_clear_in_entry(entry, chance(50) ? E_A | E_D : E_D);
    } else {
        put_entry(entry, any_leaf(instance, page));
    }
    put_forget_page(instance, page, linear);
}

static void put_change_directory(void)
{
    unsigned instance = below(INSTANCES), slot = below(SLOTS);
    uint64_t entry = entry_addr(instance, 0, slot + 1);

    if (chance(20)) {
        put_clear_in_entry(entry, E_A | E_D);
    } else if (instance != SHARED && !pcid && chance(70)) { /* of a large page any address will do: test al, PS; jz over */
        put_exchange_entry(entry, any_directory_entry(instance, slot));
        PUT(0xa8, E_PS, 0x74, 14);
        put_invlpg(page_addr(false, slot, below(PAGES)));
        put(0xc3);
    } else {
        put_entry(entry, any_directory_entry(instance, slot));
    }
    put_forget_all(instance);
}

static void put_change_giant(void)
{
    unsigned instance = below(INSTANCES);
    uint64_t table = instance == SHARED ? GPA_HIGH + 8 * 510 : GPA_LOW + 4096 * instance + 8;

    put_entry(TABLES_ADDR + table - GPA_INSTANCES, any_giant_entry(instance));
    if (instance != SHARED && !pcid && chance(70)) /* page by page: the caches of upper levels go with any */
        for (unsigned n = 0; n < SLOTS * PAGES; n++)
            put_invlpg(page_addr(false, n / PAGES, n % PAGES));
    else
        put_forget_all(instance);
}

static void put_routine(void)
{
    unsigned what = below(100), space;

    if (what < 60) {
        put_change_leaf();
    } else if (what < 74) {
        put_change_directory();
    } else if (what < 80) {
        put_change_giant();
    } else if (what < 90) {
        space = below(SPACES);
        put_load(RAX, cr3_of(space) | (pcid && chance(60) ? CR3_NO_FLUSH : 0));
        PUT(0x0f, 0x22, 0xd8);
    } else { /* what a page says, by another address: mov [rdx], eax; or all of it: rep movsq */
        unsigned to = below(SLOTS * PAGES), from = below(SLOTS * PAGES);
        if (chance(85) || to % PAGES >= STACK_PAGE || from % PAGES >= STACK_PAGE) {
            put_load(RDX, POOL_ADDR + 4096 * (to / PAGES * PAGES + to % STACK_PAGE) + function_offset(below(FUNCTIONS)) + 1);
            PUT(0x89, 0x02);
        } else {
            put_load(RSI, POOL_ADDR + 4096 * from);
            put_load(RDI, POOL_ADDR + 4096 * to);
            PUT(0xb9, 0, 2, 0, 0, 0xf3, 0x48, 0xa5);
        }
    }
    put(0xc3);
}

#endif
