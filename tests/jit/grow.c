/* The cache grows to make room for a block whose instructions are old in the ring of decoded ones: they go, and have to be decoded
 * again. Pages of INC RAX, each of which leads to the next. */
#include "inside.h"

enum { PAGES = 64, EACH = 1000, FROM = 30, BIG_GPA = 0x10000000, BIG_ADDR = 0x50000000 };

static void map_big(void)
{
    static struct memobj obj;
    static struct memslot slot;
    static uint8_t flags[PAGES];
    struct phys_map *map = calloc(1, sizeof(*map) + 2 * sizeof(map->slot[0]));
    uint8_t *big = aligned_alloc(4096, 4096 * PAGES);

    obj = (struct memobj){big, 4096 * PAGES};
    slot = (struct memslot){.gpa = BIG_GPA, .size_bytes = 4096 * PAGES, .obj = &obj, .page_flags = flags};
    map->count = 2;
    map->slot[0] = emu->phys->slot[0];
    map->slot[1] = &slot;
    emu->phys = map;
    for (unsigned page = 0; page < PAGES; page++) {
        uint8_t *p = big + 4096 * page;
        int32_t next = 4096 - 3 * EACH - 5;
        for (unsigned n = 0; n < EACH; n++, p += 3)
            memcpy(p, "\x48\xff\xc0", 3);
        *p = page < PAGES - 1 ? 0xe9 : 0xcc;
        memcpy(p + 1, &next, 4);
        emu_map(BIG_ADDR + 4096 * page, BIG_GPA + 4096 * page, 0x67);
    }
}

static void run(const char *what, unsigned page)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};
    struct state after;

    c.before.rip = BIG_ADDR + 4096 * page;
    emu_go(&c, &after, 1000, false);
    expect(what, after.gpr[RAX], (PAGES - page) * EACH);
}

/* As when what was dropped is wanted again and again. There is no block. */
static void fill(struct jit *j)
{
    for (unsigned r = 0; r < j->regions; r++)
        j->region[r] = (struct region){.begun = r + 1};
    j->region[j->filling].used = REGION_BYTES;
    j->region[j->filling].again = 1;
}

int main(void)
{
    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    emu_engine = &engine_translate;
    map_big();
    for (int exact = 1; exact >= 0; exact--) {
        struct jit *j = jit_of(emu);
        unsigned regions = j->regions;
        j->at_once = false;
        run("decoded", 0); /* once round the ring and further */
        fill(j);
        j->at_once = true;
        j->exact = exact;
        run(exact ? "exactly" : "translated", FROM);
        expect("regions", j->regions, regions + 1);
        codecache_flush(emu);
    }
    return failures != 0;
}
