/* Blocks: where their code is, how they are found, and which go when there is no more room.
 *
 * The code cache is a number of regions, filled one after the other. One of which little is left, as of the firmware's, is filled
 * anew at once. When all are full, the one that was begun first is. While much of what is translated had been dropped so before,
 * there are too few regions, and one more is begun instead, up to a bound.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "jit/emit.h"

#define BLOCKS_BYTES (REGIONS_MAX * REGION_BLOCKS * sizeof(struct block))
#define SITES_BYTES (REGIONS_MAX * REGION_SITES * sizeof(uint32_t))

enum {
    MISSED_MAX = 32,
    SPENT = 4, /* not so much of a region's blocks is left */
    GHOST_BITS = 1 << 18 /* by a hash: blocks that were dropped for lack of room */
};

/* ---- the index: open addressing, the number of the block, which has its key ------------------------------- */

static uint32_t key_of(unsigned page, unsigned off, unsigned kind) { return page << 16 | off << 4 | kind; }

static uint32_t key_of_block(const struct jit *j, uint32_t n)
{
    const struct block *b = &j->blocks[n];

    return key_of(b->page->number, b->off, b->kind);
}

static uint32_t home_of(const struct jit *j, uint32_t key) { return (uint32_t)(key * 0x9e3779b97f4a7c15ull >> 32) & j->index_mask; }

/* In the place of another one of the same key, if there is one. */
static void index_put(struct jit *j, uint32_t n)
{
    uint32_t key = key_of_block(j, n), at = home_of(j, key);

    while (j->index[at] && key_of_block(j, j->index[at]) != key)
        at = (at + 1) & j->index_mask;
    j->index[at] = n;
}

/* If it is there. What stands behind it moves up, if its home is not behind the gap. */
static void index_remove(struct jit *j, uint32_t n)
{
    uint32_t gap = home_of(j, key_of_block(j, n)), at;

    while (j->index[gap] != n) {
        if (!j->index[gap])
            return;
        gap = (gap + 1) & j->index_mask;
    }
    for (at = (gap + 1) & j->index_mask; j->index[at]; at = (at + 1) & j->index_mask) {
        uint32_t home = home_of(j, key_of_block(j, j->index[at]));
        if (((at - home) & j->index_mask) >= ((at - gap) & j->index_mask)) {
            j->index[gap] = j->index[at];
            gap = at;
        }
    }
    j->index[gap] = 0;
}

/* As large as the blocks of so many regions want it, with an eighth of it free. -> false: no memory, it is what it was */
static bool index_resize(struct jit *j, unsigned regions)
{
    uint32_t entries = j->index ? j->index_mask + 1 : 1, before = j->index ? entries : 0;
    uint32_t *old = j->index, *grown;

    while (entries / 8 * 7 < regions * REGION_BLOCKS)
        entries *= 2;
    if (entries == before)
        return true;
    grown = calloc(entries, sizeof(*grown));
    if (!grown)
        return false;
    j->index = grown;
    j->index_mask = entries - 1;
    for (uint32_t at = 0; at < before; at++)
        if (old[at])
            index_put(j, old[at]);
    free(old);
    return true;
}

struct block *jit_block_find(struct jit *j, unsigned page, unsigned off, unsigned kind)
{
    uint32_t key = key_of(page, off, kind);

    for (uint32_t at = home_of(j, key); j->index[at]; at = (at + 1) & j->index_mask)
        if (key_of_block(j, j->index[at]) == key)
            return &j->blocks[j->index[at]];
    return NULL;
}

/* ---- dropping -------------------------------------------------------------------------------------------- */

static uint64_t *ghost_of(struct jit *j, const struct codepage *p, unsigned off, uint64_t *bit)
{
    uint64_t h = ((p->gpa >> 12) * 0x9e3779b97f4a7c15ull + off * 0xc2b2ae3d27d4eb4full) >> 40 & (GHOST_BITS - 1);

    *bit = 1ull << h % 64;
    return &j->ghosts[h / 64];
}

static void lead(struct jit *j, uint32_t from, uint32_t to)
{
    struct emit e = {.p = j->rw + from, .rw = j->rw};

    jump_to(&e, to);
}

/* Who comes by the jump cache finds the way back to C in the first bytes; nobody else is left to come. */
static void drop_block(struct jit *j, uint32_t n)
{
    struct block *b = &j->blocks[n];

    j->region[n / REGION_BLOCKS].live--;
    index_remove(j, n);
    jit_links_cut(j, b);
    jit_links_forget(j, b);
    b->page = NULL;
    lead(j, b->entry - JIT_PROLOGUE, j->exit_rip);
}

void jit_block_drop(struct jit *j, struct block *b)
{
    struct codepage *p = b->page;
    uint32_t n = (uint32_t)(b - j->blocks), *listed = &p->blocks;

    while (*listed != n)
        listed = &j->blocks[*listed].next_in_page;
    *listed = b->next_in_page;
    drop_block(j, n);
}

void jit_page_retired(struct vcpu *v, struct codepage *p)
{
    struct jit *j = jit_of(v);

    for (uint32_t n = p->blocks; n; n = j->blocks[n].next_in_page)
        drop_block(j, n);
    p->blocks = 0;
}

bool jit_was_dropped(struct jit *j, const struct codepage *p, unsigned off)
{
    uint64_t bit;

    return *ghost_of(j, p, off, &bit) & bit;
}

/* Makes region r empty. Nothing of what it held may be reached from anywhere. */
static void reclaim(struct vcpu *v, unsigned r)
{
    struct jit *j = jit_of(v);

    for (uint32_t k = 1; k <= j->region[r].blocks; k++) {
        struct block *b = &j->blocks[r * REGION_BLOCKS + k];
        uint64_t bit;
        if (!b->page)
            continue;
        *ghost_of(j, b->page, b->off, &bit) |= bit;
        jit_block_drop(j, b);
    }
    uint64_t first = (uint64_t)(j->rx + CODE_HEAD + r * REGION_BYTES);
    for (unsigned s = 0; s < JUMP_CACHES; s++)
        jump_cache_drop(&v->jumps[s], first, first + REGION_BYTES);
    j->patch = 0;
    j->stat_reclaimed++;
}

/* ---- translated anew ------------------------------------------------------------------------------------- */

/* The block may be running: it goes on behind a probe, which is behind what is overwritten here. */
void jit_block_missed(struct jit *j, unsigned page, unsigned off, unsigned kind)
{
    struct block *b = jit_block_find(j, page, off, kind);

    if (!b || b->diverted || ++b->missed < MISSED_MAX)
        return;
    struct emit e = {.p = j->rw + b->entry, .rw = j->rw};
    lead(j, b->entry - JIT_PROLOGUE, j->exit_rip);
    jit_links_cut(j, b);
    load_imm32(&e, H_T1, off);
    jump_to(&e, j->exit_page);
    b->diverted = true;
}

/* ---- life -------------------------------------------------------------------------------------------- */

static void *reserve(size_t bytes)
{
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

int jit_blocks_create(struct jit *j)
{
    j->blocks = reserve(BLOCKS_BYTES);
    j->sites = reserve(SITES_BYTES);
    j->ghosts = calloc(GHOST_BITS / 64, sizeof(*j->ghosts));
    if (j->blocks == MAP_FAILED || j->sites == MAP_FAILED || !j->ghosts || jit_links_create(j) || !index_resize(j, REGIONS_MIN))
        return -ENOMEM;
    j->regions = REGIONS_MIN;
    j->region[0] = (struct region){.begun = 1, .sites = SITE_WORDS_MAX};
    return 0;
}

void jit_blocks_destroy(struct jit *j)
{
    if (j->blocks != MAP_FAILED)
        munmap(j->blocks, BLOCKS_BYTES);
    if (j->sites != MAP_FAILED)
        munmap(j->sites, SITES_BYTES);
    jit_links_destroy(j);
    free(j->index);
    free(j->ghosts);
}

/* ---- room ------------------------------------------------------------------------------------------------ */

static bool is_spent(const struct region *r) { return r->begun && r->live * SPENT < r->blocks; }

static uint64_t turn_of(const struct region *r)
{
    return is_spent(r) ? r->begun : (uint64_t)(r->begun ? 2 : 1) << 32 | r->begun;
}

/* What little is left of, as of the firmware's code; else what is not in use yet; else what was begun first. */
static unsigned next_region(const struct jit *j)
{
    unsigned found = 0;

    for (unsigned r = 1; r < j->regions; r++)
        if (turn_of(&j->region[r]) < turn_of(&j->region[found]))
            found = r;
    return found;
}

/* Whether too much of what was dropped is translated again, after the region has been filled. What a boot's user programs regret is
 * not worth another one, what a compiler does is worth many. */
static bool is_regretted(const struct jit *j, const struct region *filled)
{
    return j->regions < REGIONS_MAX && filled->again > filled->blocks / (j->regions == REGIONS_MIN ? 2 : 4);
}

static void begin_region(struct vcpu *v)
{
    struct jit *j = jit_of(v);
    struct region *last = &j->region[j->filling];
    unsigned r = next_region(j);

    if (j->region[r].begun && !is_spent(&j->region[r]) && is_regretted(j, last) && index_resize(j, j->regions + 1)) {
        r = j->regions++;
        codecache_grow(v);
    }
    if (j->region[r].begun)
        reclaim(v, r);
    j->region[r] = (struct region){.begun = last->begun + 1, .sites = SITE_WORDS_MAX};
    j->filling = r;
    if (last->begun % REGIONS_MAX == 0)
        memset(j->ghosts, 0, GHOST_BITS / 8);
}

uint32_t jit_code_room(struct vcpu *v)
{
    struct jit *j = jit_of(v);
    struct region *r = &j->region[j->filling];

    if (r->used + BLOCK_BYTES_MAX > REGION_BYTES || r->blocks == REGION_BLOCKS - 1 || r->sites + SITE_WORDS_MAX > REGION_SITES) {
        begin_region(v);
        r = &j->region[j->filling];
    }
    return CODE_HEAD + j->filling * REGION_BYTES + r->used;
}

struct block *jit_block_add(struct jit *j, struct codepage *p, unsigned off, unsigned kind, uint32_t entry)
{
    struct region *r = &j->region[j->filling];
    uint32_t n = j->filling * REGION_BLOCKS + ++r->blocks;

    r->again += jit_was_dropped(j, p, off);
    j->blocks[n] = (struct block){.page = p, .entry = entry, .off = (uint16_t)off, .kind = (uint8_t)kind, .next_in_page = p->blocks};
    p->blocks = n;
    index_put(j, n);
    r->live++;
    j->stat_blocks++;
    return &j->blocks[n];
}

void jit_code_used(struct jit *j, uint32_t end) { j->region[j->filling].used = end - CODE_HEAD - j->filling * REGION_BYTES; }

/* ---- by the place of its code ---------------------------------------------------------------------------- */

struct block *jit_block_at(const struct jit *j, uint32_t at)
{
    unsigned r = (at - CODE_HEAD) / REGION_BYTES;
    struct block *first = &j->blocks[r * REGION_BLOCKS];
    uint32_t low = 0, high = j->region[r].blocks + 1;

    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (first[mid].entry - JIT_HEAD <= at)
            low = mid;
        else
            high = mid;
    }
    return low ? &first[low] : NULL;
}
