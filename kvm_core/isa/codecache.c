/* The cache of decoded instructions: lookup, decoding, invalidation. See codecache.h. */
#include "isa/codepage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/access.h"
#include "cpu/native.h"
#include "isa/decode.h"
#include "mmu/large.h"
#include "mmu/phys.h"
#include "mmu/reach.h"

enum { BLOCK_INSNS = 48 /* longest stretch decoded at once */, AHEAD_INSNS = 3, BESIDE_MAX = 1024 /* a power of two */ };

int codecache_create(struct vcpu *v)
{
    struct codecache *c = v->code = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    c->decoder = decoder_create();
    if (codestore_create(c) || !c->decoder) {
        codecache_destroy(v);
        return -ENOMEM;
    }
    return 0;
}

void codecache_destroy(struct vcpu *v)
{
    struct codecache *c = v->code;

    if (!c)
        return;
    codestore_destroy(c);
    decoder_destroy(c->decoder);
    free(c);
    v->code = NULL;
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

const struct insn *codecache_stale(struct vcpu *v, const struct insn *i)
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
    if (i->off < 4096 && p && v->budget > 0 && !__atomic_load_n(&v->kick, __ATOMIC_RELAXED)) {
        const struct insn *next = codepage_at(v->code, p, i->off);
        if (next && next->fn != op_continue && !is_translated(v)) {
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

/* ---- instructions that span two pages --------------------------------------------------------- */

static struct codepage *page_at(struct vcpu *v, uint64_t linear);

static struct codepage *page_of(struct vcpu *v, uint64_t linear)
{
    const struct itlb_entry *e = itlb_entry_of(v, linear, v->cpl == 3);

    return likely(e->tag == ((linear & ~0xfffull) | itlb_key(v))) ? e->page : page_at(v, linear);
}

static struct cross *cross_of(struct vcpu *v, uint64_t linear) { return &v->code->cross[linear >> 12 & (CROSS_ENTRIES - 1)]; }

/* As many bytes at rip as the two pages hold; the second page is only touched when the first does not suffice. */
static enum decode_result decode_spanning(struct vcpu *v, uint64_t linear, const uint8_t *first, unsigned have,
                                          struct insn out[2])
{
    uint8_t bytes[15];
    bool ends;
    uint16_t off = linear & 0xfff;
    struct cross *c = cross_of(v, linear);
    enum decode_result result;

    memcpy(bytes, first, have);
    linear += have;
    const struct codepage *second = page_of(v, cpu_lma(v) ? linear : (uint32_t)linear);
    memcpy(bytes + have, second->host, 15 - have);
    v->code->spanning.cross = c;
    v->code->spanning.first = v->code->current;
    v->code->spanning.second = second;
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

bool codecache_is_rewritten(const struct vcpu *v, const struct insn *i)
{
    const struct codepage *first = v->code->spanning.first, *second = v->code->spanning.second;
    const uint8_t *bytes;
    unsigned have = 4096u - i->off;

    if (likely(i->len <= have))
        return codecache_is_stale(i);
    bytes = v->code->spanning.cross->bytes;
    return first->stale || second->stale || memcmp(first->host + i->off, bytes, have) || memcmp(second->host, bytes + have, i->len - have);
}

static void handle_full(struct vcpu *v)
{
    codecache_flush(v);
    native_reset(v);
}

/* The pseudo instruction at a page's last, incomplete instruction. */
const struct insn *codecache_span(struct vcpu *v, const struct insn *i)
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

bool codecache_spanning(struct vcpu *v, const struct insn *i, struct insn *insn, uint8_t bytes[15])
{
    struct codecache *c = v->code;

    if (i->fn != codecache_span ||
        decode_spanning(v, v->rip, c->current->host + i->off, 4096u - i->off, c->scratch) != DECODE_OK || c->current->stale)
        return false;
    *insn = c->scratch[0];
    memcpy(bytes, cross_of(v, v->rip)->bytes, 15);
    return true;
}

/* ---- pages -------------------------------------------------------------------------------------- */

static void flag_clear(struct vcpu *v, struct memslot *slot, uint64_t index)
{
    if (v->index < PAGE_CODE_OWN)
        __atomic_fetch_and(&slot->page_flags[index], (uint8_t)~page_code_flag(v->index), __ATOMIC_SEQ_CST);
}

void codecache_flush(struct vcpu *v)
{
    struct codecache *c = v->code;

    for (unsigned n = 0; n < PAGE_BUCKETS; n++)
        while (c->bucket[n])
            codepage_retire(v, c->bucket[n]);
    memset(c->cross, 0, sizeof(c->cross));
    decoder_configure(c->decoder, v);
}

void codecache_translated(struct vcpu *v)
{
    codecache_flush(v);
    codestore_size(v->code, true);
}

void codecache_grow(struct vcpu *v) { codestore_grow(v->code); }

/* Come to since this was asked last? */
static bool is_used(struct codepage *p)
{
    bool used = p->recent;

    p->recent = false;
    return used;
}

/* These lines have been written: is what was decoded what it was? Each such store takes the slow path. When the same is written once
 * more, code that runs in between stays; what does not is data by now. So is what many stores have gone beside. */
static bool still_code(const struct codecache *c, struct codepage *p, uint64_t lines)
{
    if (!(p->lines & lines))
        return ++p->beside % BESIDE_MAX || is_used(p);
    return codepage_unchanged(c, p, lines) && is_used(p);
}

void codecache_written(struct vcpu *v, uint64_t gpa, unsigned size)
{
    struct codecache *c = v->code;
    uint64_t page = gpa & ~0xfffull;
    unsigned first = gpa >> 6 & 63, last = (gpa + size - 1) >> 6 & 63;
    uint64_t lines = (last == 63 ? ~0ull : (1ull << (last + 1)) - 1) & ~((1ull << first) - 1);
    struct codepage *p = codepage_find(c, page, 0), *next;
    struct page_ref ref;
    bool kept = false;

    for (; p; p = next) {
        next = p->next;
        if (p->gpa != page)
            continue;
        if (still_code(c, p, lines))
            kept = true;
        else
            codepage_retire(v, p);
    }
    if (!kept && phys_lookup(v->phys, page, &ref))
        flag_clear(v, ref.slot, ref.page);
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
    struct codepage *p;
    struct page_ref ref;
    struct walk w;

    mmu_walk_fetch(v, linear, &w);
    if (!phys_lookup(v->phys, w.gpa, &ref)) {
        memset(&v->exit.internal, 0, sizeof(v->exit.internal));
        v->exit.internal.rip = v->rip;
        cpu_leave(v, EXIT_INTERNAL);
    }
    if (unlikely(!reach_read(ref.host)))
        cpu_unbacked(v, w.gpa, false);
    watch(v, &ref);
    p = codepage_find(v->code, w.gpa, v->code_bits);
    if (p && (p->host != ref.host || p->slot != ref.slot || !codepage_unchanged(v->code, p, ~0ull))) {
        codepage_retire(v, p);
        p = NULL;
    }
    if (!p)
        p = codepage_new(v, w.gpa, &ref);
    itlb_enter(v, linear, p, w.global);
    if (w.page_shift > 12)
        large_note(v, linear, w.page_shift);
    return p;
}

/* Where it stands now is compared at once: many exits come back to a page that is all they need. */
void codecache_look_anew(struct vcpu *v)
{
    uint64_t linear = v->code_bits == 64 ? v->rip : (uint32_t)(v->rip + v->seg[CS].base);
    const struct itlb_entry here = *itlb_entry_of(v, linear, v->cpl == 3);

    v->code_doubtful = false;
    itlb_clear(v);
    if (here.tag == ((linear & ~0xfffull) | itlb_key(v)) && reach_read(here.page->host) && codepage_unchanged(v->code, here.page, ~0ull))
        itlb_enter(v, linear, here.page, here.global);
}

/* ---- decoding a stretch -------------------------------------------------------------------------- */

static insn_fn *const bad_insn[] = {[DECODE_MORE] = codecache_span, [DECODE_INVALID] = op_invalid, [DECODE_TOO_LONG] = op_too_long};

/* Bytes that are others than what was decoded near them are another page's. */
static bool take(struct vcpu *v, struct codepage *p, uint64_t lines, uint8_t *bytes)
{
    bool same = codepage_take(v->code, p, lines, bytes);

    if (!same)
        codepage_retire(v, p);
    return same;
}

bool codecache_bytes_of(struct vcpu *v, struct codepage *p, uint8_t bytes[4096]) { return !p->stale && take(v, p, p->lines, bytes); }

/* The lines that hold [off, off + len). */
static uint64_t lines_of(unsigned off, unsigned len) { return (2ull << (off + len - 1) / LINE_BYTES) - (1ull << off / LINE_BYTES); }

/* Decodes at most so many instructions from `off` on; false: the page, or everything, has been dropped. */
static bool decode_stretch(struct vcpu *v, struct codepage *p, unsigned off, unsigned max)
{
    struct codecache *c = v->code;
    struct insn row[BLOCK_INSNS + 1];
    uint8_t bytes[4096];
    uint64_t taken = 0;
    unsigned count = 0;
    bool ends = false;

    while (!ends && count < max && off < 4096 && !(count && codepage_at(c, p, off))) {
        unsigned have = 4096 - off < 15 ? 4096 - off : 15;
        struct insn *i = &row[count];
        if (!take(v, p, lines_of(off, have) & ~taken, bytes))
            return false;
        taken |= lines_of(off, have);
        enum decode_result r = decode_insn(c->decoder, v, bytes + off, have, (uint16_t)off, i, &ends);
        if (r == DECODE_FULL) {
            handle_full(v);
            return false;
        }
        if (r != DECODE_OK) {
            *i = (struct insn){.fn = bad_insn[r], .off = (uint16_t)off, .am = AM_NONE};
            ends = true;
        }
        count++;
        off += i->len;
        v->stat_decoded++;
    }
    row[count++] = (struct insn){.fn = op_continue, .off = (uint16_t)off, .am = AM_NONE};
    codepage_add_row(c, p, row, count);
    return true;
}

static uint64_t code_linear(const struct vcpu *v, uint64_t rip)
{
    return v->code_bits == 64 ? rip : (uint32_t)(rip + v->seg[CS].base);
}

struct codepage *codecache_enter(struct vcpu *v)
{
    struct codecache *c = v->code;
    uint64_t linear = code_linear(v, v->rip);
    const struct itlb_entry *e = itlb_entry_of(v, linear, v->cpl == 3);
    struct codepage *p = e->page;

    if (unlikely(c->retired))
        codepage_reuse(c);
    if (unlikely(e->tag != ((linear & ~0xfffull) | itlb_key(v))))
        p = page_at(v, linear);
    p->recent = true;
    c->current = p;
    v->gpr[REG_PAGE] = v->rip - (linear & 0xfff);
    return p;
}

const struct insn *codecache_lookup(struct vcpu *v)
{
    for (;;) {
        struct codepage *p = codecache_enter(v);
        unsigned off = (uint16_t)(v->rip - v->gpr[REG_PAGE]);
        const struct insn *i = codepage_at(v->code, p, off);

        if (likely(i != NULL))
            return i;
        decode_stretch(v, p, off, BLOCK_INSNS);
    }
}

const struct insn *codecache_insn(struct vcpu *v, uint32_t ref)
{
    struct codecache *c = v->code;
    struct codepage *p = &c->page[ref >> 12];
    const struct insn *i = codepage_at(c, p, ref & 0xfff);

    if (likely(i != NULL))
        return i;
    return decode_stretch(v, p, ref & 0xfff, 1) ? codepage_at(c, p, ref & 0xfff) : NULL;
}

void codecache_ahead(struct vcpu *v, struct codepage *p, unsigned off)
{
    if (!codepage_at(v->code, p, off))
        decode_stretch(v, p, off, AHEAD_INSNS);
}

void codecache_link(struct vcpu *v, const struct insn *i)
{
    struct codepage *p = v->code->current;
    int64_t off = (int64_t)i->off + i->len + i->disp;

    if (i >= v->code->scratch && i < v->code->scratch + 2)
        return;
    if (is_translated(v) || !p || p->stale || off < 0 || off > 4095 || v->slow)
        return;
    if (v->code_bits == 16 || i->size * 8 != v->code_bits ||
        (v->code_bits == 32 && v->seg[CS].limit != 0xffffffff))
        return; /* wraps and limits are looked at on every transfer */
    ((struct insn *)i)->target = codepage_at(v->code, p, (unsigned)off);
}

/* ---- one instruction at a time --------------------------------------------------------------------- */

const struct insn *codecache_single(struct vcpu *v)
{
    struct codecache *c = v->code;
    const struct insn *i = codecache_lookup(v);

    v->cur = NULL;
    if (i->fn == codecache_span) {
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

bool codecache_is_pseudo(const struct insn *i)
{
    return i->fn == op_continue || i->fn == codecache_stale || i->fn == codecache_span || i->fn == op_invalid || i->fn == op_too_long;
}

const struct insn *codecache_at(const struct vcpu *v, const struct codepage *p, unsigned off)
{
    return codepage_at(v->code, p, off);
}

struct codepage *codecache_mapped(const struct vcpu *v, uint64_t rip)
{
    uint64_t linear = code_linear(v, rip);
    const struct itlb_entry *e = itlb_entry_of(v, linear, v->cpl == 3);

    return e->tag == ((linear & ~0xfffull) | itlb_key(v)) ? e->page : NULL;
}

const struct insn *codecache_follow(const struct vcpu *v, const struct codepage *p, const struct insn *i)
{
    if (i->fn != op_continue)
        return i;
    return i->off < 4096 ? codecache_at(v, p, i->off) : NULL;
}

struct codepage *codecache_page(const struct vcpu *v) { return v->code->current; }

unsigned codecache_bytes(struct vcpu *v, uint8_t bytes[15])
{
    uint64_t linear = code_linear(v, v->rip), gpa;
    unsigned n = 0;
    bool w, u;

    for (; n < 15; n++)
        if (!mmu_translate(v, linear + n, &gpa, &w, &u) || phys_read(v->phys, gpa, bytes + n, 1))
            break;
    return n;
}
