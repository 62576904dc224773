/* The stores of the cache of decoded instructions: see codepage.h. */
#include "isa/codepage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mmu/phys.h"
#include "mmu/tlb.h"

enum {
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
    if (!c->page || !c->row || !c->line)
        return -ENOMEM;
    codestore_size(c, false);
    return codekey_create(&c->key);
}

void codestore_destroy(struct codecache *c)
{
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
        p->next = c->free_pages;
        c->free_pages = p;
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

static uint64_t lines_of_sum(unsigned n) { return ((1ull << SUM_LINES) - 1) << n * SUM_LINES; }

bool codepage_unchanged(const struct codecache *c, const struct codepage *p, uint64_t lines)
{
    for (unsigned n = 0; n < PAGE_SUMS; n++) {
        codesum sum = 0;
        if (!(p->lines & lines & lines_of_sum(n)))
            continue;
        for (uint64_t left = p->lines & lines_of_sum(n); left; left &= left - 1)
            sum += codesum_line(&c->key, (unsigned)__builtin_ctzll(left), p->host);
        if (sum != p->sum[n])
            return false;
    }
    return true;
}

/* What lies in one sum. Guest memory may change meanwhile: what is summed up is the copy. */
static bool take(const struct codecache *c, struct codepage *p, unsigned n, uint64_t lines, uint8_t *bytes)
{
    codesum before = 0, new = 0;

    for (uint64_t left = (p->lines | lines) & lines_of_sum(n); left; left &= left - 1) {
        unsigned line = (unsigned)__builtin_ctzll(left);
        memcpy(bytes + LINE_BYTES * line, p->host + LINE_BYTES * line, LINE_BYTES);
        __asm__ volatile("" ::: "memory"); /* no second look */
        codesum sum = codesum_line(&c->key, line, bytes);
        if (p->lines >> line & 1)
            before += sum;
        else
            new += sum;
    }
    if (before != p->sum[n])
        return false;
    p->sum[n] += new;
    p->lines |= lines & lines_of_sum(n);
    return true;
}

bool codepage_take(const struct codecache *c, struct codepage *p, uint64_t lines, uint8_t bytes[4096])
{
    for (unsigned n = 0; n < PAGE_SUMS; n++)
        if (lines & lines_of_sum(n) && !take(c, p, n, lines, bytes))
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
