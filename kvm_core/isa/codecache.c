/* The cache of decoded instructions: pages, rows, lookup, invalidation. See codecache.h. */
#include "isa/codecache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/access.h"
#include "cpu/native.h"
#include "isa/decode.h"
#include "mmu/large.h"
#include "mmu/phys.h"

enum {
    POOL_CHUNKS = 4096,  /* 16 MiB */
    BLOCK_INSNS = 48,    /* longest stretch decoded at once */
    BUCKETS = 4096,
    CROSS_ENTRIES = 64,
    CODEPAGE_MAX = 1792  /* 22 MiB */
};

struct cross { /* an instruction that spans two pages, kept by its bytes */
    uint8_t bytes[15], len, code_bits;
    uint16_t off;
    struct insn insn[2];
};

struct codecache {
    struct decoder *decoder;
    struct codepage *bucket[BUCKETS];
    struct codepage *free_pages, *retired;
    unsigned pages;
    struct insn *pool;        /* POOL_CHUNKS chunks, reserved */
    unsigned pool_used;
    struct insn **free_chunks;
    unsigned free_count;
    struct codepage *current; /* whose instructions are being executed */
    bool flush_due;
    struct cross cross[CROSS_ENTRIES];
    struct insn scratch[2];
};

int codecache_create(struct vcpu *v)
{
    struct codecache *c = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    c->pool = mmap(NULL, (size_t)POOL_CHUNKS * CHUNK_INSNS * sizeof(struct insn), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    c->free_chunks = malloc(POOL_CHUNKS * sizeof(*c->free_chunks));
    c->decoder = decoder_create();
    v->code = c;
    if (c->pool == MAP_FAILED || !c->free_chunks || !c->decoder) {
        if (c->pool == MAP_FAILED)
            c->pool = NULL;
        codecache_destroy(v);
        return -ENOMEM;
    }
    return 0;
}

static void free_list(struct codepage *p)
{
    while (p) {
        struct codepage *next = p->next;
        free(p);
        p = next;
    }
}

void codecache_destroy(struct vcpu *v)
{
    struct codecache *c = v->code;

    if (!c)
        return;
    for (unsigned n = 0; n < BUCKETS; n++)
        free_list(c->bucket[n]);
    free_list(c->free_pages);
    free_list(c->retired);
    if (c->pool)
        munmap(c->pool, (size_t)POOL_CHUNKS * CHUNK_INSNS * sizeof(struct insn));
    free(c->free_chunks);
    decoder_destroy(c->decoder);
    free(c);
    v->code = NULL;
}

static unsigned bucket_of(uint64_t gpa)
{
    return (gpa >> 12 ^ gpa >> 24) & (BUCKETS - 1);
}

/* ---- pseudo instructions -------------------------------------------------------------------- */

/* Code that may be translated comes back at each branch, to be counted; what never is goes on by itself. */
static bool is_translated(const struct vcpu *v) { return v->translator && v->code_bits != 16; }

/* Not counted: the instruction is not reached. */
static void uncount(struct vcpu *v, const struct insn *i)
{
    if (v->blk_start)
        v->budget -= (int32_t)(i - v->blk_start);
    v->blk_start = NULL;
}

static const struct insn *op_stale(struct vcpu *v, const struct insn *i)
{
    uncount(v, i);
    v->rip = cpu_this_rip(v, i);
    return NULL;
}

/* End of a decoded stretch: on with what is decoded behind it in this page, else a lookup. */
static const struct insn *op_continue(struct vcpu *v, const struct insn *i)
{
    struct codepage *p = v->code->current;

    uncount(v, i);
    if (i->off < 4096 && p && p->at[i->off] && v->budget > 0 && !__atomic_load_n(&v->kick, __ATOMIC_RELAXED)) {
        unsigned n = p->at[i->off] - 1u;
        const struct insn *next = &p->chunk[n / CHUNK_INSNS][n % CHUNK_INSNS];
        if (next->fn != op_continue && !is_translated(v)) {
            v->blk_start = next;
            return next;
        }
    }
    v->rip = (v->gpr[REG_PAGE] + i->off) & v->ip_mask;
    return NULL;
}

static const struct insn *op_invalid(struct vcpu *v, const struct insn *i)
{
    (void)i;
    cpu_ud(v);
}

static const struct insn *op_too_long(struct vcpu *v, const struct insn *i)
{
    (void)i;
    cpu_gp(v, 0);
}

/* Ends after one instruction (of two pages, or single-stepped): rip is behind it. */
static const struct insn *op_leave_row(struct vcpu *v, const struct insn *i)
{
    uncount(v, i);
    v->rip = (v->gpr[REG_PAGE] + i->off) & v->ip_mask;
    return NULL;
}

bool codecache_is_row_end(const struct insn *i)
{
    return i->fn == op_leave_row;
}

/* ---- instructions that span two pages --------------------------------------------------------- */

static void fetch_page(struct vcpu *v, uint64_t linear, struct page_ref *ref)
{
    struct walk w;

    if (!cpu_lma(v))
        linear = (uint32_t)linear;
    mmu_walk_fetch(v, linear, &w);
    if (!phys_lookup(v->phys, w.gpa, ref)) {
        memset(&v->exit.internal, 0, sizeof(v->exit.internal));
        v->exit.internal.rip = v->rip;
        cpu_leave(v, EXIT_INTERNAL);
    }
}

/* As many bytes at rip as the two pages hold; the second page is only touched when the first does not suffice. */
static enum decode_result decode_spanning(struct vcpu *v, uint64_t linear, const uint8_t *first, unsigned have,
                                          struct insn out[2])
{
    uint8_t bytes[15];
    struct page_ref ref;
    bool ends;
    uint16_t off = linear & 0xfff;
    struct cross *c = &v->code->cross[linear >> 12 & (CROSS_ENTRIES - 1)];
    enum decode_result result;

    memcpy(bytes, first, have);
    fetch_page(v, linear + have, &ref);
    memcpy(bytes + have, ref.host, 15 - have);
    if (c->len && c->off == off && c->code_bits == v->code_bits && !memcmp(c->bytes, bytes, c->len)) {
        memcpy(out, c->insn, sizeof(c->insn));
        return DECODE_OK;
    }
    result = decode_insn(v->code->decoder, v, bytes, 15, off, &out[0], &ends);
    if (result != DECODE_OK)
        return result;
    out[1] = (struct insn){.fn = op_leave_row, .off = (uint16_t)(off + out[0].len), .am = AM_NONE};
    memcpy(c->bytes, bytes, 15);
    c->len = out[0].len;
    c->off = off;
    c->code_bits = v->code_bits;
    memcpy(c->insn, out, sizeof(c->insn));
    return DECODE_OK;
}

static void handle_full(struct vcpu *v)
{
    codecache_flush(v);
    native_reset(v);
}

/* The pseudo instruction at a page's last, incomplete instruction. */
static const struct insn *op_spanning(struct vcpu *v, const struct insn *i)
{
    struct codecache *c = v->code;
    uint64_t rip = (v->gpr[REG_PAGE] + i->off) & v->ip_mask;
    uint64_t linear = (v->code_bits == 64 ? 0 : v->seg[CS].base) + rip;

    uncount(v, i);
    v->rip = rip;
    if (v->code_bits != 64 && v->seg[CS].limit != 0xffffffff && rip + 14 > v->seg[CS].limit)
        v->slow |= SLOW_SINGLE; /* the careful path looks at the limit */
    switch (decode_spanning(v, linear, c->current->host + i->off, 4096u - i->off, c->scratch)) {
    case DECODE_OK: break;
    case DECODE_FULL:
        handle_full(v);
        return NULL;
    case DECODE_INVALID: cpu_ud(v);
    default: cpu_gp(v, 0);
    }
    v->blk_start = v->cur = c->scratch;
    return c->scratch[0].fn(v, c->scratch);
}

/* ---- pages -------------------------------------------------------------------------------------- */

/* Makes a page unreachable. Its instructions, one of which may be running, become op_stale. */
static void retire(struct vcpu *v, struct codepage *p)
{
    struct codecache *c = v->code;
    struct codepage **link = &c->bucket[bucket_of(p->gpa)];

    while (*link != p)
        link = &(*link)->next;
    *link = p->next;
    for (unsigned n = 0; n < p->chunks; n++) {
        unsigned count = n + 1 == p->chunks ? p->used : CHUNK_INSNS;
        for (unsigned k = 0; k < count; k++)
            p->chunk[n][k].fn = op_stale;
    }
    if (v->translator)
        v->translator->page_retired(v, p);
    for (unsigned n = 0; n < ITLB_ENTRIES; n++)
        if (v->itlb[n].page == p)
            v->itlb[n].tag = ITLB_NONE;
    memset(p->at, 0, sizeof(p->at));
    p->stale = true;
    p->next = c->retired;
    c->retired = p;
    c->pages--;
}

static void flag_clear(struct vcpu *v, struct memslot *slot, uint64_t index)
{
    if (v->index < PAGE_CODE_OWN)
        __atomic_fetch_and(&slot->page_flags[index], (uint8_t)~page_code_flag(v->index), __ATOMIC_SEQ_CST);
}

void codecache_flush(struct vcpu *v)
{
    struct codecache *c = v->code;

    for (unsigned n = 0; n < BUCKETS; n++)
        while (c->bucket[n])
            retire(v, c->bucket[n]);
    memset(c->cross, 0, sizeof(c->cross));
    decoder_configure(c->decoder, v);
    for (unsigned n = 0; n < ITLB_ENTRIES; n++)
        v->itlb[n].tag = ITLB_NONE;
}

void codecache_written(struct vcpu *v, uint64_t gpa, unsigned size)
{
    struct codecache *c = v->code;
    uint64_t page = gpa & ~0xfffull;
    unsigned first = gpa >> 6 & 63, last = (gpa + size - 1) >> 6 & 63;
    uint64_t lines = (last == 63 ? ~0ull : (1ull << (last + 1)) - 1) & ~((1ull << first) - 1);
    struct codepage *p = c->bucket[bucket_of(page)], *next;
    struct page_ref ref;
    bool kept = false;

    for (; p; p = next) {
        next = p->next;
        if (p->gpa != page)
            continue;
        if (p->lines & lines)
            retire(v, p);
        else
            kept = true;
    }
    if (!kept && phys_lookup(v->phys, page, &ref))
        flag_clear(v, ref.slot, ref.page);
}

/* Between blocks: no instruction of a retired page can be on its way. */
static void reuse(struct codecache *c)
{
    while (c->retired) {
        struct codepage *p = c->retired;
        c->retired = p->next;
        for (unsigned n = 0; n < p->chunks; n++)
            c->free_chunks[c->free_count++] = p->chunk[n];
        p->next = c->free_pages;
        c->free_pages = p;
    }
}

static struct insn *chunk_alloc(struct codecache *c)
{
    if (c->free_count)
        return c->free_chunks[--c->free_count];
    if (c->pool_used == POOL_CHUNKS)
        return NULL;
    return &c->pool[(size_t)c->pool_used++ * CHUNK_INSNS];
}

/* The page's bytes, as far as they were decoded, are still what they were. */
static bool unchanged(const struct codepage *p, const struct page_ref *ref)
{
    if (p->host != ref->host || p->slot != ref->slot)
        return false;
    for (uint64_t left = p->lines; left; left &= left - 1) {
        unsigned line = (unsigned)__builtin_ctzll(left);
        if (memcmp(p->bytes + 64 * line, p->host + 64 * line, 64))
            return false;
    }
    return true;
}

static struct codepage *page_new(struct vcpu *v, uint64_t gpa, const struct page_ref *ref)
{
    struct codecache *c = v->code;
    struct codepage *p = c->free_pages;

    if (c->pages == CODEPAGE_MAX) {
        codecache_flush(v);
        reuse(c);
        p = c->free_pages;
    }
    if (p)
        c->free_pages = p->next;
    else if (!(p = malloc(sizeof(*p))))
        return NULL;
    memset(p->at, 0, sizeof(p->at));
    p->gpa = gpa;
    p->code_bits = v->code_bits;
    p->stale = false;
    p->blocks = 0;
    p->host = ref->host;
    p->slot = ref->slot;
    p->index = ref->page;
    p->lines = 0;
    p->chunks = 0;
    p->used = CHUNK_INSNS;
    p->next = c->bucket[bucket_of(gpa)];
    c->bucket[bucket_of(gpa)] = p;
    c->pages++;
    return p;
}

/* From now on every write to the page is noticed. The flag stands first: who gives up his direct right then cannot take
 * it again. While this vCPU waits for the others it serves them, which may drop this very page: then once more. */
static void watch(struct vcpu *v, const struct page_ref *ref)
{
    uint8_t *flags = &ref->slot->page_flags[ref->page], own = page_code_flag(v->index);

    while (!(__atomic_fetch_or(flags, own, __ATOMIC_SEQ_CST) & own)) {
        tlb_protect_host_page(v, ref->host);
        if (v->ops->code_page)
            v->ops->code_page(v, ref->slot, ref->page);
    }
}

static struct codepage *page_at(struct vcpu *v, uint64_t linear)
{
    struct codecache *c = v->code;
    uint64_t page = linear & ~0xfffull;
    struct itlb_entry *e = &v->itlb[linear >> 12 & (ITLB_ENTRIES - 1)];
    struct codepage *p;
    struct page_ref ref;
    struct walk w;

    mmu_walk_fetch(v, linear, &w);
    if (!phys_lookup(v->phys, w.gpa, &ref)) {
        memset(&v->exit.internal, 0, sizeof(v->exit.internal));
        v->exit.internal.rip = v->rip;
        cpu_leave(v, EXIT_INTERNAL);
    }
    watch(v, &ref);
    for (p = c->bucket[bucket_of(w.gpa)]; p; p = p->next)
        if (p->gpa == w.gpa && p->code_bits == v->code_bits)
            break;
    if (p && !unchanged(p, &ref)) {
        retire(v, p);
        p = NULL;
    }
    if (!p && !(p = page_new(v, w.gpa, &ref)))
        cpu_leave(v, EXIT_INTERNAL);
    e->tag = page | itlb_key(v);
    e->page = p;
    e->global = w.global;
    if (!w.global)
        fills_add(&v->itlb_fills, linear >> 12 & (ITLB_ENTRIES - 1));
    if (w.page_shift > 12)
        large_note(v, linear, w.page_shift);
    return p;
}

/* ---- decoding a stretch -------------------------------------------------------------------------- */

static void note_bytes(struct codepage *p, unsigned off, unsigned len)
{
    for (unsigned line = off / 64; line <= (off + len - 1) / 64; line++) {
        if (p->lines >> line & 1)
            continue;
        memcpy(p->bytes + 64 * line, p->host + 64 * line, 64);
        p->lines |= 1ull << line;
    }
}

static insn_fn *const bad_insn[] = {[DECODE_MORE] = op_spanning, [DECODE_INVALID] = op_invalid, [DECODE_TOO_LONG] = op_too_long};

/* Decodes from `off` on; false: out of room (everything has been dropped). */
static bool decode_stretch(struct vcpu *v, struct codepage *p, unsigned off)
{
    struct codecache *c = v->code;
    struct insn row[BLOCK_INSNS + 1];
    unsigned count = 0;
    bool ends = false;

    while (!ends && count < BLOCK_INSNS && off < 4096 && !(count && p->at[off])) {
        unsigned have = 4096 - off < 15 ? 4096 - off : 15;
        unsigned lines_end = off + have;
        note_bytes(p, off, lines_end - off);
        enum decode_result r =
            decode_insn(c->decoder, v, p->bytes + off, have, (uint16_t)off, &row[count], &ends);
        if (r == DECODE_FULL) {
            handle_full(v);
            return false;
        }
        if (r != DECODE_OK) {
            row[count] = (struct insn){.fn = bad_insn[r], .off = (uint16_t)off, .am = AM_NONE};
            ends = true;
        }
        count++;
        off += row[count - 1].len;
        v->stat_decoded++;
    }
    row[count++] = (struct insn){.fn = op_continue, .off = (uint16_t)off, .am = AM_NONE};
    if (p->used + count > CHUNK_INSNS) {
        struct insn *chunk = p->chunks < PAGE_CHUNKS ? chunk_alloc(c) : NULL;
        if (!chunk) {
            codecache_flush(v);
            return false;
        }
        p->chunk[p->chunks++] = chunk;
        p->used = 0;
    }
    unsigned base = (p->chunks - 1) * CHUNK_INSNS + p->used;
    memcpy(&p->chunk[p->chunks - 1][p->used], row, count * sizeof(row[0]));
    p->used += count;
    for (unsigned n = 0; n + 1 < count; n++)
        if (!p->at[row[n].off])
            p->at[row[n].off] = (uint16_t)(base + n + 1);
    return true;
}

const struct insn *codecache_lookup(struct vcpu *v)
{
    struct codecache *c = v->code;
    uint64_t linear = v->rip;
    unsigned off;

    if (v->code_bits != 64)
        linear = (uint32_t)(v->rip + v->seg[CS].base);
    off = linear & 0xfff;
    for (;;) {
        struct itlb_entry *e = &v->itlb[linear >> 12 & (ITLB_ENTRIES - 1)];
        struct codepage *p = e->page;

        if (unlikely(c->retired))
            reuse(c);
        if (unlikely(e->tag != ((linear & ~0xfffull) | itlb_key(v))))
            p = page_at(v, linear);
        c->current = p;
        v->gpr[REG_PAGE] = v->rip - off;
        if (likely(p->at[off])) {
            unsigned n = p->at[off] - 1u;
            return &p->chunk[n / CHUNK_INSNS][n % CHUNK_INSNS];
        }
        decode_stretch(v, p, off);
    }
}

void codecache_link(struct vcpu *v, const struct insn *i)
{
    struct codepage *p = v->code->current;
    int64_t off = (int64_t)i->off + i->len + i->disp;

    if (i >= v->code->scratch && i < v->code->scratch + 2)
        return;
    if (is_translated(v) || !p || p->stale || off < 0 || off > 4095 || !p->at[off] || v->slow)
        return;
    if (v->code_bits == 16 || i->size * 8 != v->code_bits ||
        (v->code_bits == 32 && v->seg[CS].limit != 0xffffffff))
        return; /* wraps and limits are looked at on every transfer */
    unsigned n = p->at[off] - 1u;
    ((struct insn *)i)->target = &p->chunk[n / CHUNK_INSNS][n % CHUNK_INSNS];
}

/* ---- one instruction at a time --------------------------------------------------------------------- */

const struct insn *codecache_single(struct vcpu *v)
{
    struct codecache *c = v->code;
    const struct insn *i = codecache_lookup(v);

    v->cur = NULL;
    if (i->fn == op_spanning) {
        uint64_t linear = (v->code_bits == 64 ? 0 : v->seg[CS].base) + v->rip;
        switch (decode_spanning(v, linear, c->current->host + i->off, 4096u - i->off, c->scratch)) {
        case DECODE_OK: return c->scratch;
        case DECODE_FULL:
            handle_full(v);
            return codecache_single(v);
        case DECODE_INVALID: cpu_ud(v);
        default: cpu_gp(v, 0);
        }
    }
    c->scratch[0] = *i;
    c->scratch[1] = (struct insn){.fn = op_leave_row, .off = (uint16_t)(i->off + i->len), .am = AM_NONE};
    return c->scratch;
}

bool codecache_is_stale(const struct insn *i) { return i->fn == op_stale; }

bool codecache_is_pseudo(const struct insn *i)
{
    return i->fn == op_continue || i->fn == op_stale || i->fn == op_spanning || i->fn == op_invalid || i->fn == op_too_long;
}

const struct insn *codecache_follow(const struct codepage *p, const struct insn *i)
{
    if (i->fn != op_continue)
        return i;
    return i->off < 4096 ? codecache_at(p, i->off) : NULL;
}

struct codepage *codecache_page(const struct vcpu *v) { return v->code->current; }
struct insn *codecache_pool(const struct vcpu *v) { return v->code->pool; }

unsigned codecache_bytes(struct vcpu *v, uint8_t bytes[15])
{
    uint64_t linear = v->code_bits == 64 ? v->rip : (uint32_t)(v->rip + v->seg[CS].base), gpa;
    unsigned n = 0;
    bool w, u;

    for (; n < 15; n++)
        if (!mmu_translate(v, linear + n, &gpa, &w, &u) || phys_read(v->phys, gpa, bytes + n, 1))
            break;
    return n;
}
