/* The stores of the cache of decoded instructions: see codepage.h. */
#include "isa/codepage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mmu/phys.h"
#include "mmu/tlb.h"

enum {
    KEPT_BYTES_MAX = 8 << 20,
    KEPT_BYTES = 16 << 20, /* with those that are free */
    ROWS_TRANSLATED = 1 << 17,  /* 4 MiB: mostly for what is not translated yet; at first REGIONS_TRANSLATED's share */
    ROWS_INTERPRETED = 3 << 18, /* 24 MiB */
    LINES_TRANSLATED = 12 << 10, /* 1.5 MiB */
    LINES_INTERPRETED = 48 << 10, /* 6 MiB */
    REGIONS_TRANSLATED = 12
};

static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static void release(void *p, size_t bytes)
{
    if (p)
        munmap(p, bytes);
}

int codestore_create(struct codecache *c)
{
    c->page = reserve(CODE_PAGES * sizeof(*c->page));
    c->row = reserve(ROWS_INTERPRETED * sizeof(*c->row));
    c->line = reserve((LINES_INTERPRETED + 1) * sizeof(*c->line));
    c->kept = reserve(KEPT_BYTES);
    if (!c->page || !c->row || !c->line || !c->kept)
        return -ENOMEM;
    codestore_size(c, false);
    return 0;
}

void codestore_destroy(struct codecache *c)
{
    release(c->kept, KEPT_BYTES);
    release(c->page, CODE_PAGES * sizeof(*c->page));
    release(c->row, ROWS_INTERPRETED * sizeof(*c->row));
    release(c->line, (LINES_INTERPRETED + 1) * sizeof(*c->line));
}

void codestore_size(struct codecache *c, bool translated)
{
    c->region_insns = (translated ? ROWS_TRANSLATED : ROWS_INTERPRETED) / ROW_REGIONS;
    c->regions = translated ? REGIONS_TRANSLATED : ROW_REGIONS;
    c->ring = c->regions * c->region_insns;
    c->lines_left = (translated ? LINES_TRANSLATED : LINES_INTERPRETED) / ROW_REGIONS * c->regions;
    c->lines_touched = 0;
    c->free_line = 0;
    c->region = 0;
    c->used = 1;
}

/* ---- room for bytes --------------------------------------------------------------------------- */

static uint8_t *piece_at(const struct codecache *c, uint32_t n) { return c->kept + 64u * KEPT_PIECE * n; }

/* So many pieces in a row; NULL: there is no room. */
static uint8_t *kept_take(struct codecache *c, unsigned pieces)
{
    uint32_t n = c->kept_free[pieces];

    if (n) {
        memcpy(&c->kept_free[pieces], piece_at(c, n - 1), sizeof(n));
        return piece_at(c, n - 1);
    }
    if (64u * KEPT_PIECE * (c->kept_pieces + pieces) > KEPT_BYTES)
        return NULL;
    c->kept_pieces += pieces;
    return piece_at(c, c->kept_pieces - pieces);
}

static void kept_release(struct codecache *c, struct codepage *p)
{
    unsigned pieces = p->room / KEPT_PIECE;

    if (!pieces)
        return;
    memcpy(p->bytes, &c->kept_free[pieces], sizeof(c->kept_free[pieces]));
    c->kept_free[pieces] = (uint32_t)((p->bytes - c->kept) / (64 * KEPT_PIECE)) + 1;
    c->kept_bytes -= 64u * p->room;
    p->bytes = NULL;
    p->room = 0;
}

/* For one line more than `count`. */
static bool kept_grow(struct codecache *c, struct codepage *p, unsigned count)
{
    unsigned room = p->room + KEPT_PIECE;
    uint8_t *bytes = kept_take(c, room / KEPT_PIECE);

    if (!bytes)
        return false;
    if (count)
        memcpy(bytes, p->bytes, 64 * count);
    kept_release(c, p);
    p->bytes = bytes;
    p->room = (uint16_t)room;
    c->kept_bytes += 64 * room;
    return true;
}

/* ---- pages ---------------------------------------------------------------------------------- */

static unsigned bucket_of(uint64_t gpa) { return (gpa >> 12 ^ gpa >> 24) & (PAGE_BUCKETS - 1); }

struct codepage *codepage_find(const struct codecache *c, uint64_t gpa, unsigned code_bits)
{
    struct codepage *p = c->bucket[bucket_of(gpa)];

    while (p && (p->gpa != gpa || (code_bits && p->code_bits != code_bits)))
        p = p->next;
    return p;
}

static void drop_rows(struct codecache *c, struct codepage *p)
{
    for (unsigned n = 0; n < 64; n++) {
        if (!p->line[n])
            continue;
        c->line[p->line[n]].at[0] = c->free_line;
        c->free_line = p->line[n];
        p->line[n] = 0;
        c->lines_left++;
    }
    p->regions = 0;
}

static void unlink_page(struct codecache *c, struct codepage *p)
{
    struct codepage **link = &c->bucket[bucket_of(p->gpa)];

    while (*link != p)
        link = &(*link)->next;
    *link = p->next;
}

void codepage_retire(struct vcpu *v, struct codepage *p)
{
    struct codecache *c = v->code;

    unlink_page(c, p);
    for (unsigned off = 0; off < 4096; off++) {
        if (!p->line[off >> 6])
            off |= 63;
        else if (codepage_at(c, p, off))
            codepage_at(c, p, off)->fn = codecache_stale;
    }
    drop_rows(c, p);
    if (v->translator)
        v->translator->page_retired(v, p);
    itlb_drop_page(v, p);
    p->stale = true;
    p->next = c->retired;
    c->retired = p;
}

void codepage_reuse(struct codecache *c)
{
    while (c->retired) {
        struct codepage *p = c->retired;
        c->retired = p->next;
        kept_release(c, p);
        p->next = c->free_pages;
        c->free_pages = p;
    }
    if (!c->kept_bytes) { /* pieces of any size again */
        c->kept_pieces = 0;
        memset(c->kept_free, 0, sizeof(c->kept_free));
    }
}

/* The clock: a page that was looked up since the hand came by last stays. */
static void drop_one(struct vcpu *v)
{
    struct codecache *c = v->code;
    struct codepage *p;

    for (;;) {
        p = &c->page[c->hand];
        c->hand = (c->hand + 1) % c->page_count;
        if (p->stale)
            continue;
        if (!p->recent)
            break;
        p->recent = false;
    }
    codepage_retire(v, p);
}

void codepage_trim(struct vcpu *v)
{
    while (v->code->kept_bytes > KEPT_BYTES_MAX) {
        drop_one(v);
        codepage_reuse(v->code);
    }
}

struct codepage *codepage_new(struct vcpu *v, uint64_t gpa, const struct page_ref *ref)
{
    struct codecache *c = v->code;
    struct codepage *p;

    if (c->page_count == CODE_PAGES && !c->free_pages && !c->retired)
        drop_one(v);
    codepage_reuse(c);
    p = c->free_pages;
    if (p)
        c->free_pages = p->next;
    else
        p = &c->page[c->page_count++];
    *p = (struct codepage){
        .gpa = gpa, .code_bits = v->code_bits, .host = ref->host, .slot = ref->slot, .index = ref->page,
        .number = (uint16_t)(p - c->page), .next = c->bucket[bucket_of(gpa)]};
    v->code_at[0][p->number] = v->code_at[1][p->number] = CODE_NOWHERE;
    return c->bucket[bucket_of(gpa)] = p;
}

/* ---- bytes ---------------------------------------------------------------------------------- */

bool codepage_unchanged(const struct codepage *p, uint64_t lines)
{
    const uint8_t *kept = p->bytes;

    for (uint64_t left = p->lines; left; left &= left - 1, kept += 64) {
        unsigned line = (unsigned)__builtin_ctzll(left);
        if (lines >> line & 1 && memcmp(kept, p->host + 64 * line, 64))
            return false;
    }
    return true;
}

static bool note_line(struct codecache *c, struct codepage *p, unsigned line)
{
    unsigned count = (unsigned)__builtin_popcountll(p->lines), before = codepage_rank(p, line);

    if (count == p->room && !kept_grow(c, p, count))
        return false;
    memmove(p->bytes + 64 * (before + 1), p->bytes + 64 * before, 64 * (count - before));
    memcpy(p->bytes + 64 * before, p->host + 64 * line, 64);
    p->lines |= 1ull << line;
    return true;
}

bool codepage_note(struct codecache *c, struct codepage *p, unsigned off, unsigned len)
{
    for (unsigned line = off / 64; line <= (off + len - 1) / 64; line++)
        if (!(p->lines >> line & 1) && !note_line(c, p, line))
            return false;
    return true;
}

/* ---- rows ----------------------------------------------------------------------------------- */

static uint32_t next_row(const struct codecache *c) { return c->region * c->region_insns + c->used; }

void codestore_grow(struct codecache *c)
{
    if (c->regions == ROW_REGIONS)
        return;
    for (unsigned n = 0; n < c->page_count; n++) /* whose rows are on both sides of where the ring gets longer */
        if (c->page[n].before >= next_row(c))
            drop_rows(c, &c->page[n]);
    c->regions++;
    c->ring += c->region_insns;
    c->lines_left += LINES_TRANSLATED / ROW_REGIONS;
}

/* On to the next region of the ring: whoever had rows there decodes again. */
static void next_region(struct codecache *c)
{
    c->region = (c->region + 1) % c->regions;
    c->used = c->region ? 0 : 1;
    for (unsigned n = 0; n < c->page_count; n++)
        if (c->page[n].regions >> c->region & 1)
            drop_rows(c, &c->page[n]);
}

static void line_new(struct codecache *c, struct codepage *p, unsigned line)
{
    uint16_t n = c->free_line;

    if (n)
        c->free_line = c->line[n].at[0];
    else
        n = (uint16_t)++c->lines_touched;
    memset(&c->line[n], 0, sizeof(c->line[n]));
    p->line[line] = n;
    c->lines_left--;
}

void codepage_add_row(struct codecache *c, struct codepage *p, const struct insn *row, unsigned count)
{
    unsigned first = row[0].off / 64, last = row[count - 2].off / 64; /* with an instruction */

    if (c->used + count > c->region_insns)
        next_region(c);
    while (c->lines_left < last - first + 1)
        next_region(c);
    uint32_t at = next_row(c), distance = (at - p->before + c->ring) % c->ring;
    if (!distance || distance + count > (c->ring < UINT16_MAX ? c->ring : UINT16_MAX))
        drop_rows(c, p);
    if (!p->regions) {
        p->before = (at - 1 + c->ring) % c->ring;
        distance = 1;
    }
    for (unsigned line = first; line <= last; line++)
        if (!p->line[line])
            line_new(c, p, line);
    memcpy(&c->row[at], row, count * sizeof(row[0]));
    c->used += count;
    p->regions |= 1u << c->region;
    for (unsigned n = 0; n + 1 < count; n++)
        c->line[p->line[row[n].off / 64]].at[row[n].off % 64] = (uint16_t)(distance + n);
}
