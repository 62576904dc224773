/* Random functions that fill pages, for pages.c: they call each other by all kinds of branches, and read and write each other. */
#ifndef TESTS_JIT_PAGES_CODE_H
#define TESTS_JIT_PAGES_CODE_H

#include "pages_guest.h"

enum {
    ROUTINES = 32, ROUTINE_BYTES = ROUTINES_BYTES / ROUTINES, FUNCTIONS = 16, FUNCTION_BYTES = 184,
    FUNCTION_FIRST = 0x40, FUNCTION_DISTANCE = 0x100, SPANNING = 0xffd /* an instruction that ends in the next page */
};

static uint64_t seed;
static bool pcid, keys; /* of this case: CR4.PCIDE, CR4.PKE */

static uint32_t random32(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 32);
}
static uint32_t below(uint32_t n) { return (uint32_t)((uint64_t)random32() * n >> 32); }
static bool chance(unsigned percent) { return below(100) < percent; }

/* ---- addresses --------------------------------------------------------------------------------------------------- */

static uint64_t page_addr(bool shared, unsigned slot, unsigned page)
{
    return (shared ? SHARED_ADDR : PRIVATE_ADDR) + ((uint64_t)(slot + 1) << 21) + page * 4096;
}

enum { HOT = 5 };
static struct place { /* a page of interest */
    bool shared;
    uint8_t slot, page;
} hot[HOT]; /* where most of a case happens */

static struct place any_place(unsigned pages) { return (struct place){chance(50), (uint8_t)below(SLOTS), (uint8_t)below(pages)}; }
static struct place any_code_place(void) { return chance(75) ? hot[below(HOT)] : any_place(STACK_PAGE); }
static uint64_t place_addr(struct place p) { return page_addr(p.shared, p.slot, p.page); }
static unsigned function_offset(unsigned n) { return FUNCTION_FIRST + FUNCTION_DISTANCE * n; }
static uint64_t any_function(void) { return place_addr(any_code_place()) + (chance(8) ? SPANNING : function_offset(below(FUNCTIONS))); }
static uint64_t any_stack(void)
{
    return page_addr(chance(50), below(SLOTS), STACK_PAGE + (chance(60) ? 1 : below(PAGES - STACK_PAGE))) + 8 * below(500);
}

/* Four bytes that may be written: the number of a function's first instruction, or of the one that spans two pages. */
static uint64_t any_datum(void)
{
    struct place p = any_code_place();

    return place_addr(p) + (p.page + 1 < STACK_PAGE && chance(20) ? SPANNING + 1 : function_offset(below(FUNCTIONS)) + 1);
}

static uint64_t cr3_of(unsigned space) { return (uint64_t)(GPA_ROOTS + space * 4096) | (pcid ? space + 1 : 0); }
static uint64_t pool_gpa(unsigned slot, unsigned page) { return GPA_POOL + ((uint64_t)slot << 21) + page * 4096; }

/* ---- bytes --------------------------------------------------------------------------------------------------------- */

static uint8_t *out;

static void put(unsigned b) { *out++ = (uint8_t)b; }
static void put_bytes(uint64_t value, unsigned n)
{
    memcpy(out, &value, n);
    out += n;
}
static void put_array(const uint8_t *bytes, unsigned n)
{
    memcpy(out, bytes, n);
    out += n;
}
#define PUT(...) put_array((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void put_load(unsigned reg, uint64_t value) /* mov reg, imm64 */
{
    put(0x48), put(0xb8 | reg);
    put_bytes(value, 8);
}

/* ---- code of the pages ------------------------------------------------------------------------------------------------ */

enum item {
    ITEM_LOAD, ITEM_LOADS, ITEM_WRITE, ITEM_WALK, ITEM_COPY, ITEM_VECTOR, ITEM_LAST_OF_MEMORY = ITEM_VECTOR,
    ITEM_CALL, ITEM_CALL_LOOP, ITEM_CALL_REG, ITEM_CALL_TABLE, ITEM_ROUTINE, ITEM_STACK, ITEM_INVLPG, ITEM_KEYS, ITEM_COUNT
};
static struct shape { /* of a function: in all pages the same */
    uint8_t items, item[6], end;
} shape[FUNCTIONS];

/* Where a direct branch, the next byte of which is at `offset` of its page, goes: a function nearby. */
static void put_near_target(unsigned offset)
{
    static const int16_t pages[] = {0, 0, 0, 0, 1, -1, 2, -3, 512, -512, 513};
    unsigned target = chance(8) ? SPANNING : function_offset(below(FUNCTIONS));

    put_bytes((uint32_t)(pages[below(11)] * 4096 + (int)target - (int)(offset + 4)), 4);
}

static void put_write(void)
{
    switch (below(4)) {
    case 0: PUT(0x90, 0x89, 0x1f); break;       /* nop; mov [rdi], ebx */
    case 1: PUT(0x90, 0x01, 0x1f); break;       /* nop; add [rdi], ebx */
    case 2: PUT(0xf0, 0x31, 0x1f); break;       /* lock xor [rdi], ebx */
    default: PUT(0x90, 0x87, 0x1f); break;      /* nop; xchg [rdi], ebx */
    }
}

static void put_memory_item(enum item item)
{
    uint8_t *loop;

    if (item != ITEM_COPY)
        put_load(RDI, any_datum());
    switch (item) {
    case ITEM_LOAD: PUT(0x8b, 0x17, 0x01, 0xd3); break; /* mov edx, [rdi]; add ebx, edx */
    case ITEM_LOADS:                                   /* neighbours, 4 and 8 bytes */
        put(0x8b), put(0x57), put(below(256));
        PUT(0x01, 0xd3, 0x48, 0x03, 0x5f), put(below(256));
        PUT(0x2b, 0x5f), put(below(256));
        break;
    case ITEM_WRITE: put_write(); break;
    case ITEM_WALK: /* the same place in the next pages */
        put(0xb9), put_bytes(1 + below(4), 4);
        loop = out;
        PUT(0x03, 0x1f, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0xff, 0xc9, 0x75);
        put((unsigned)(loop - out - 1));
        break;
    case ITEM_COPY: /* rep movsb, 4 bytes */
        put_load(RSI, any_datum());
        put_load(RDI, any_datum());
        PUT(0xb9, 4, 0, 0, 0, 0xf3, 0xa4);
        break;
    default: PUT(0x0f, 0x10, 0x07, 0x66, 0x0f, 0x7e, 0xc2, 0x01, 0xd3); break; /* movups xmm0, [rdi]; movd edx, xmm0; add ebx, edx */
    }
}

static void put_call_item(enum item item, const uint8_t *page)
{
    uint8_t *loop;

    switch (item) {
    case ITEM_CALL:
        put(0xe8);
        put_near_target((unsigned)(out - page));
        break;
    case ITEM_CALL_LOOP: /* r12 counts, and is counted down by others too */
        PUT(0x41, 0xbc), put_bytes(2 + below(5), 4);
        loop = out;
        put(0xe8);
        put_near_target((unsigned)(out - page));
        PUT(0x41, 0xff, 0xcc, 0x7f);
        put((unsigned)(loop - out - 1));
        break;
    case ITEM_CALL_REG:
        put_load(RDI, any_function());
        PUT(0xff, 0xd7);
        break;
    case ITEM_CALL_TABLE:
        PUT(0xff, 0x14, 0x25);
        put_bytes(POINTERS_ADDR + 8 * below(512), 4);
        break;
    default: /* a routine, by a supervisor only: mov eax, cs; test al, 3; jnz over; call */
        PUT(0x8c, 0xc8, 0xa8, 3, 0x75, 12);
        put_load(RDI, ROUTINES_ADDR + ROUTINE_BYTES * below(ROUTINES));
        PUT(0xff, 0xd7);
    }
}

static void put_item(enum item item, const uint8_t *page)
{
    switch (item) {
    case ITEM_STACK: PUT(0x57, 0x53, 0x5a, 0x5f, 0x48, 0x03, 0x5c, 0x24, 0x08); break; /* push, push, pop, pop; add rbx, [rsp + 8] */
    case ITEM_INVLPG: /* by a supervisor */
        PUT(0x8c, 0xc8, 0xa8, 3, 0x75, 13);
        put_load(RDI, any_datum());
        PUT(0x0f, 0x01, 0x3f);
        break;
    case ITEM_KEYS: /* wrpkru */
        if (keys) {
            PUT(0x31, 0xc9, 0x31, 0xd2, 0xb8), put_bytes(chance(80) ? 0 : random32() & 0x3f, 4);
            PUT(0x0f, 0x01, 0xef);
        }
        break;
    default: item <= ITEM_LAST_OF_MEMORY ? put_memory_item(item) : put_call_item(item, page);
    }
}

static void put_function(const struct shape *s, unsigned offset, uint8_t *page)
{
    uint8_t *exhausted;

    out = page + offset;
    put(0xb8), put_bytes(random32(), 4);                       /* mov eax, number */
    put(0x01 | below(8) << 3), put(0xc3);                      /* add, or, adc, sbb, and, sub, xor, cmp ebx, eax */
    PUT(0x48, 0x8d, 0x5c, 0x5b, 1);                            /* lea rbx, [rbx + rbx * 2 + 1] */
    PUT(0x41, 0xff, 0xce, 0x0f, 0x88);                         /* dec r14d; js exhausted */
    exhausted = out;
    put_bytes(0, 4);
    for (unsigned n = 0; n < s->items; n++)
        put_item(s->item[n], page);
    switch (s->end) {
    case 0: /* jmp */
        put(0xe9);
        put_near_target((unsigned)(out - page));
        break;
    case 1: /* push rdi; ret, and jmp rdi */
    case 2:
        put_load(RDI, any_function());
        put(s->end == 1 ? 0x57 : 0xff), put(s->end == 1 ? 0xc3 : 0xe7);
        break;
    default: break;
    }
    *(guest_u32 *)exhausted = (uint32_t)(out - exhausted - 4);
    put(0xc3);
}

static void make_shapes(void)
{
    static const uint8_t room[ITEM_COUNT] = {14, 22, 13, 29, 27, 19, 5, 17, 12, 7, 18, 9, 19, 12};

    for (unsigned n = 0; n < FUNCTIONS; n++) {
        unsigned left = FUNCTION_BYTES - 21 - 13, wanted = 1 + below(6);
        shape[n] = (struct shape){.end = (uint8_t)below(8)};
        while (shape[n].items < wanted) {
            unsigned item = below(ITEM_COUNT);
            if (room[item] > left)
                break;
            left -= room[item];
            shape[n].item[shape[n].items++] = (uint8_t)item;
        }
    }
}

static void put_page(uint8_t *page)
{
    memset(page, 0xcc, 4096);
    out = page;
    put_bytes(random32(), 2); /* the second half of the spanning instruction's number */
    PUT(0x01, 0xc3, 0xc3);    /* add ebx, eax; ret */
    for (unsigned n = 0; n < FUNCTIONS; n++)
        put_function(&shape[n], function_offset(n), page);
    out = page + SPANNING; /* mov eax, number */
    put(0xb8), put_bytes(random32(), 2);
}

/* Returns go from one function to the next, until one ends the visit. */
static void put_returns(uint8_t *at, unsigned count)
{
    for (unsigned n = 0; n < count; n++) {
        uint64_t to = chance(70) ? any_function() : USER_ADDR;
        memcpy(at + 8 * n, &to, 8);
    }
}

#endif
