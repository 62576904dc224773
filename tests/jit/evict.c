/* Code many times larger than all caches: it runs right, round after round, some of it changed in between, and the process
 * does not grow beyond the bound. Each page is a chain of blocks that jump to each other, and goes on in the next page. */
#include "inside.h"

enum {
    PAGES = 12288, STRETCHES = 24, STRETCH_BYTES = 32, ROUNDS = 3, CHANGED_EVERY = 5,
    BIG_GPA = 0x10000000, BIG_ADDR = 0x50000000, BOUND_MIB = 64
};

static uint8_t *big;

static void put(uint8_t **p, const void *bytes, unsigned n)
{
    memcpy(*p, bytes, n);
    *p += n;
}
#define PUT(...) put(&p, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static uint32_t addend(unsigned page, unsigned stretch, unsigned version)
{
    return (page * 977 + stretch * 31 + version * 7) & 0x7fffff;
}

static void put_stretch(unsigned page, unsigned n, unsigned version)
{
    uint8_t *p = big + 4096 * page + n * STRETCH_BYTES;
    uint32_t add = addend(page, n, version);
    int32_t next = 4096 - (int32_t)(n * STRETCH_BYTES + 17 + 5);

    PUT(0x48, 0x05), put(&p, &add, 4); /* add rax, imm32 */
    PUT(0x48, 0x03, 0x56, 0x08);       /* add rdx, [rsi + 8] */
    PUT(0xa8, 0x01, 0x74, 0x03);       /* test al, 1; jz 1f */
    PUT(0x48, 0xff, 0xc1);             /* inc rcx; 1: */
    if (n < STRETCHES - 1) {
        PUT(0xeb, STRETCH_BYTES - 19); /* jmp to the next stretch */
    } else if (page < PAGES - 1) {
        PUT(0xe9), put(&p, &next, 4); /* jmp to the next page */
    } else {
        PUT(0xcc);
    }
}

static double resident_mib(void)
{
    unsigned long size, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    if (!f || fscanf(f, "%lu %lu", &size, &resident) != 2)
        exit(3);
    fclose(f);
    return resident / 256.0;
}

static void map_big(void)
{
    static struct memobj obj;
    static struct memslot slot;
    struct phys_map *map = calloc(1, sizeof(*map) + 2 * sizeof(map->slot[0]));

    big = mmap(NULL, 4096ul * PAGES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    obj = (struct memobj){big, 4096ul * PAGES};
    slot = (struct memslot){.gpa = BIG_GPA, .size_bytes = 4096ul * PAGES, .obj = &obj, .page_flags = calloc(PAGES, 1)};
    map->count = 2;
    map->slot[0] = emu->phys->slot[0];
    map->slot[1] = &slot;
    emu->phys = map;
    for (unsigned n = 0; n < PAGES; n++)
        emu_map(BIG_ADDR + 4096 * n, BIG_GPA + 4096 * n, 0x67);
}

static unsigned version_of(unsigned page, unsigned round) { return page % CHANGED_EVERY ? 0 : round; }

static unsigned run(unsigned round)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};
    uint64_t rax = 0, rcx = 0, rdx = 0;
    struct state after;

    for (unsigned page = 0; page < PAGES; page++)
        for (unsigned n = 0; n < STRETCHES; n++) {
            rax += addend(page, n, version_of(page, round));
            rcx += rax & 1;
            rdx += 3;
        }
    c.before.rip = BIG_ADDR;
    c.before.gpr[RSI] = DATA_ADDR;
    memcpy(emu_data + 8, &(uint64_t){3}, 8);
    emu_go(&c, &after, 100000, false);
    if (after.vector == -1 && after.gpr[RAX] == rax && after.gpr[RCX] == rcx && after.gpr[RDX] == rdx)
        return 0;
    printf("%s, round %u: vector %d, rax %llx (%llx), rcx %llx (%llx), rdx %llx (%llx)\n", emu_engine->name, round, after.vector,
           (unsigned long long)after.gpr[RAX], (unsigned long long)rax, (unsigned long long)after.gpr[RCX], (unsigned long long)rcx,
           (unsigned long long)after.gpr[RDX], (unsigned long long)rdx);
    return 1;
}

static void change(unsigned round)
{
    for (unsigned page = 0; page < PAGES; page++) {
        if (round && page % CHANGED_EVERY)
            continue;
        for (unsigned n = 0; n < STRETCHES; n++)
            put_stretch(page, n, version_of(page, round));
        codecache_written(emu, BIG_GPA + 4096 * page, 4096);
    }
}

int main(void)
{
    unsigned failed = 0;

    emu_create();
    map_big();
    double before = resident_mib();
    if (emu->translator)
        translate_at_once(emu, false);
    for (unsigned round = 0; round < ROUNDS; round++) {
        change(round);
        failed += run(round);
    }
    if (resident_mib() - before > BOUND_MIB) {
        printf("%s: %.1f MiB more than before\n", emu_engine->name, resident_mib() - before);
        failed++;
    }
    if (emu->translator && !jit_of(emu)->stat_reclaimed) {
        printf("the code cache was large enough for all of it\n");
        failed++;
    }
    return failed != 0;
}
