/* String instructions, by page where the operands are plain memory. SDM vol. 1, 7.3.9; vol. 2, REP.
 *
 * Each iteration commits rCX, rSI and rDI, so a fault or exit in a later one finds the registers where
 * hardware would have them. An interrupt is taken between iterations (here: between stretches).
 */
#include "cpu/access.h"
#include "cpu/alu.h"
#include "cpu/debug.h"
#include "cpu/sem/common.h"
#include "gen/handlers.h"
#include "isa/codecache.h"

static uint64_t address_mask(const struct insn *i)
{
    return i->am == AM_16 ? 0xffff : i->am == AM_32 || i->am == AM_64A32 ? 0xffffffff : ~0ull;
}

static void advance(struct vcpu *v, unsigned reg, uint64_t mask, int64_t by)
{
    uint64_t value = (v->gpr[reg] + (uint64_t)by) & mask;

    v->gpr[reg] = mask == 0xffff ? (v->gpr[reg] & ~0xffffull) | value : value;
}

static int64_t step_of(const struct vcpu *v, unsigned size)
{
    return v->eflags & FL_DF ? -(int64_t)size : (int64_t)size;
}

static uint64_t source(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t off = v->gpr[RSI] & address_mask(i);

    if (v->mode == MODE_LONG)
        return i->seg == FS || i->seg == GS ? v->seg[i->seg].base + off : off;
    return seg_linear(v, i->seg, off, size, false);
}

static uint64_t destination(struct vcpu *v, const struct insn *i, unsigned size, bool write)
{
    uint64_t off = v->gpr[RDI] & address_mask(i);

    return v->mode == MODE_LONG ? off : seg_linear(v, ES, off, size, write);
}

static bool repeated(const struct insn *i)
{
    return i->prefix & (PFX_REP | PFX_REPNE);
}

/* Elements from the one at `linear` on, in the direction of DF, until its page or the address size ends; 0: it is in two pages. */
static uint64_t reach(const struct vcpu *v, unsigned reg, uint64_t linear, uint64_t mask, unsigned size)
{
    uint64_t off = v->gpr[reg] & mask, in_page = linear & 0xfff, page, wrap;

    if (in_page + size > 4096)
        return 0;
    if (v->eflags & FL_DF) {
        page = in_page / size + 1;
        wrap = off / size + 1;
    } else {
        page = (4096 - in_page) / size;
        wrap = mask == ~0ull ? ~0ull : (mask - off) / size;
    }
    return page < wrap ? page : wrap;
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

enum { OVERDRAWN = -(1 << 16) };

/* After a stretch of a repeated instruction: done, or go on here after a look at the outside.
 *
 * It may have written over itself. Intel's processors read it anew at once, as seen on one. AMD's go on with what they have read; but
 * who leaves here finds other code when it comes back. So the budget's end, which the guest should not notice, is put off then, by
 * 8,192 elements at most. */
static const struct insn *repeat(struct vcpu *v, const struct insn *i, uint64_t done, bool more)
{
    bool stale = unlikely(codecache_is_rewritten(v, i));

    if (!more)
        return insn_next(i);
    v->budget -= done > 64 ? (int32_t)(done >> 3) : 8;
    if (!stale || v->amd) {
        if (v->budget > (stale ? OVERDRAWN : 0) && !__atomic_load_n(&v->kick, __ATOMIC_RELAXED) && !v->slow)
            return i;
        v->eflags |= FL_RF; /* as an interrupt between iterations saves it: SDM vol. 3, 18.3.1.1 */
    }
    v->rip = cpu_this_rip(v, i);
    v->blk_start = NULL;
    return NULL;
}

static uint64_t count_of(const struct vcpu *v, const struct insn *i)
{
    return v->gpr[RCX] & address_mask(i);
}

/* Whether a repeated instruction has nothing left to do. Of addresses of 32 bits in 64-bit code, Intel's processors first cut RCX, and
 * of MOVS and STOS the pointers too, whatever comes then; KVM's emulator does for a count of 0. */
static bool is_over(struct vcpu *v, const struct insn *i, bool cut_rsi, bool cut_rdi)
{
    if (!v->amd && i->am == AM_64A32) {
        advance(v, RCX, UINT32_MAX, 0);
        if (cut_rsi)
            advance(v, RSI, UINT32_MAX, 0);
        if (cut_rdi)
            advance(v, RDI, UINT32_MAX, 0);
    }
    return !count_of(v, i);
}

/* ---- MOVS, STOS, LODS ----------------------------------------------------------------------- */

static uint64_t element_at(const uint8_t *p, unsigned size)
{
    uint64_t x = 0;

    memcpy(&x, p, size);
    return x;
}

/* n elements from the ones at `to` and `from` on, `step` apart. */
static void copy(uint8_t *to, const uint8_t *from, uint64_t n, int64_t step, unsigned size)
{
    uint64_t bytes = n * size, ahead = (uint64_t)(step > 0 ? to - from : from - to);

    if (ahead >= bytes) { /* no element is read after it was written */
        int64_t first = step > 0 ? 0 : (int64_t)size - (int64_t)bytes;
        memmove(to + first, from + first, bytes);
        return;
    }
    for (; n; n--, to += step, from += step) {
        uint64_t element = element_at(from, size);
        memcpy(to, &element, size);
    }
}

/* Whether offset and linear address go on together. */
static bool is_plain(const struct vcpu *v, enum segreg seg)
{
    return !v->slow && (v->mode == MODE_LONG || v->seg[seg].flat);
}

static uint64_t movs_stretch(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t mask = address_mask(i), n = count_of(v, i), from, to;
    uint8_t *hfrom, *hto;

    if (!is_plain(v, i->seg) || !is_plain(v, ES))
        return 0;
    from = source(v, i, size);
    to = destination(v, i, size, true);
    n = least(n, least(reach(v, RSI, from, mask, size), reach(v, RDI, to, mask, size)));
    hfrom = mem_probe_read(v, from, 1);
    hto = mem_probe_write(v, to, 1);
    if (n < 2 || !hfrom || !hto)
        return 0;
    copy(hto, hfrom, n, step_of(v, size), size);
    advance(v, RSI, mask, (int64_t)n * step_of(v, size));
    advance(v, RDI, mask, (int64_t)n * step_of(v, size));
    advance(v, RCX, mask, -(int64_t)n);
    return n;
}

static const struct insn *movs(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t mask = address_mask(i), done = 1;

    if (repeated(i)) {
        if (is_over(v, i, true, true))
            return insn_next(i);
        done = movs_stretch(v, i, size);
        if (done)
            return repeat(v, i, done, count_of(v, i) != 0);
    }
    uint64_t value = mem_load(v, source(v, i, size), size);
    mem_store(v, destination(v, i, size, true), size, value);
    advance(v, RSI, mask, step_of(v, size));
    advance(v, RDI, mask, step_of(v, size));
    if (!repeated(i))
        return insn_next(i);
    advance(v, RCX, mask, -1);
    return repeat(v, i, 1, count_of(v, i) != 0);
}

static void fill(uint8_t *to, uint64_t n, uint64_t value, unsigned size)
{
    uint64_t bytes = n * size, byte = (uint8_t)value * 0x0101010101010101ull;

    if (!memcmp(&byte, &value, size)) {
        memset(to, (uint8_t)value, bytes);
        return;
    }
    for (uint64_t at = 0; at < bytes; at += size)
        memcpy(to + at, &value, size);
}

static uint64_t stos_stretch(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t mask = address_mask(i), n = count_of(v, i), to;
    uint8_t *host;

    if (!is_plain(v, ES))
        return 0;
    to = destination(v, i, size, true);
    n = least(n, reach(v, RDI, to, mask, size));
    host = mem_probe_write(v, to, 1);
    if (n < 2 || !host)
        return 0;
    fill(v->eflags & FL_DF ? host - (n - 1) * size : host, n, v->gpr[RAX], size);
    advance(v, RDI, mask, (int64_t)n * step_of(v, size));
    advance(v, RCX, mask, -(int64_t)n);
    return n;
}

static const struct insn *stos(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t mask = address_mask(i), done;

    if (repeated(i)) {
        if (is_over(v, i, false, true))
            return insn_next(i);
        done = stos_stretch(v, i, size);
        if (done)
            return repeat(v, i, done, count_of(v, i) != 0);
    }
    mem_store(v, destination(v, i, size, true), size, reg_get(v, RAX, size));
    advance(v, RDI, mask, step_of(v, size));
    if (!repeated(i))
        return insn_next(i);
    advance(v, RCX, mask, -1);
    return repeat(v, i, 1, count_of(v, i) != 0);
}

static const struct insn *lods(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t mask = address_mask(i);

    if (repeated(i) && is_over(v, i, false, false))
        return insn_next(i);
    reg_set(v, RAX, size, mem_load(v, source(v, i, size), size));
    advance(v, RSI, mask, step_of(v, size));
    if (!repeated(i))
        return insn_next(i);
    advance(v, RCX, mask, -1);
    return repeat(v, i, 1, count_of(v, i) != 0);
}

/* ---- CMPS, SCAS: REPE and REPNE also look at ZF ----------------------------------------------- */

static const struct insn *compared(struct vcpu *v, const struct insn *i, uint64_t a, uint64_t b, unsigned size, uint64_t n)
{
    uint32_t flags = v->oszapc;

    alu_cmp(&flags, a, b, size == 1 ? 1 : size == 2 ? 2 : size == 4 ? 4 : 8);
    if (repeated(i))
        advance(v, RCX, address_mask(i), -(int64_t)n);
    bool more = repeated(i) && count_of(v, i) != 0 && !!(flags & PF_ZF) == !(i->prefix & PFX_REPNE);
    if (v->amd || !more) /* Intel's processors show no flags of an iteration before the last: SDM vol. 2, REP */
        v->oszapc = flags;
    return repeat(v, i, n, more);
}

/* How many of n elements at `a` and `b` are compared until one pair is equal, or is not; n: none. Steps of 0 stay. */
static inline __attribute__((always_inline)) uint64_t search(const uint8_t *a, int64_t step_a, const uint8_t *b, int64_t step_b,
                                                             uint64_t n, bool equal, unsigned size)
{
    for (uint64_t k = 0; k < n; k++, a += step_a, b += step_b)
        if ((element_at(a, size) == element_at(b, size)) == equal)
            return k + 1;
    return n;
}

static uint64_t search_of_size(const uint8_t *a, int64_t step_a, const uint8_t *b, int64_t step_b, uint64_t n, bool equal,
                               unsigned size)
{
    switch (size) {
    case 1: return search(a, step_a, b, step_b, n, equal, 1);
    case 2: return search(a, step_a, b, step_b, n, equal, 2);
    case 4: return search(a, step_a, b, step_b, n, equal, 4);
    default: return search(a, step_a, b, step_b, n, equal, 8);
    }
}

static const struct insn *cmps(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t mask = address_mask(i), n = 1, from, to, a, b;
    int64_t step = step_of(v, size);

    if (repeated(i) && is_over(v, i, false, false))
        return insn_next(i);
    to = destination(v, i, size, false);
    b = mem_load(v, to, size); /* first, its segment too, when both fault: so does the processor */
    from = source(v, i, size);
    a = mem_load(v, from, size);
    if (repeated(i) && is_plain(v, i->seg) && is_plain(v, ES)) {
        const uint8_t *hfrom = mem_probe_read(v, from, 1), *hto = mem_probe_read(v, to, 1);
        uint64_t max = least(count_of(v, i), least(reach(v, RSI, from, mask, size), reach(v, RDI, to, mask, size)));
        if (hfrom && hto && max > 1) {
            n = search_of_size(hfrom, step, hto, step, max, i->prefix & PFX_REPNE, size);
            b = element_at(hto + (int64_t)(n - 1) * step, size);
            a = element_at(hfrom + (int64_t)(n - 1) * step, size);
        }
    }
    advance(v, RSI, mask, (int64_t)n * step);
    advance(v, RDI, mask, (int64_t)n * step);
    return compared(v, i, a, b, size, n);
}

static const struct insn *scas(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t mask = address_mask(i), n = 1, to, b;
    int64_t step = step_of(v, size);

    if (repeated(i) && is_over(v, i, false, false))
        return insn_next(i);
    to = destination(v, i, size, false);
    if (repeated(i) && is_plain(v, ES)) {
        const uint8_t *host = mem_probe_read(v, to, 1);
        uint64_t max = least(count_of(v, i), reach(v, RDI, to, mask, size));
        if (host && max > 1)
            n = search_of_size((const uint8_t *)&v->gpr[RAX], 0, host, step, max, i->prefix & PFX_REPNE, size);
    }
    b = mem_load(v, to + (n - 1) * (uint64_t)step, size);
    advance(v, RDI, mask, (int64_t)n * step);
    return compared(v, i, v->gpr[RAX], b, size, n);
}

/* Where it writes over itself, which drops its page, it goes on: AMD's processors read it anew only behind an interrupt. */
#define STRING_OP(op, name, size)                                                                   \
    const struct insn *op(struct vcpu *v, const struct insn *i)                                     \
    {                                                                                               \
        const struct insn *next;                                                                    \
        do                                                                                          \
            next = name(v, i, size);                                                                \
        while (next == i && unlikely(codecache_is_stale(i)));                                       \
        return next;                                                                                \
    }
#define STRING_OPS(name, b, w, d, q)                                                                \
    STRING_OP(op_##b, name, 1) STRING_OP(op_##w, name, 2) STRING_OP(op_##d, name, 4) STRING_OP(op_##q, name, 8)
STRING_OPS(movs, movsb, movsw, movsd, movsq)
STRING_OPS(stos, stosb, stosw, stosd, stosq)
STRING_OPS(lods, lodsb, lodsw, lodsd, lodsq)
STRING_OPS(cmps, cmpsb, cmpsw, cmpsd, cmpsq)
STRING_OPS(scas, scasb, scasw, scasd, scasq)

/* ---- INS, OUTS: what a device of the client's gets goes out in one exit ------------------------ */

static void io_exit(struct vcpu *v, uint16_t port, unsigned size, bool write, uint32_t count)
{
    v->exit.io.port = port;
    v->exit.io.size = (uint8_t)size;
    v->exit.io.write = write;
    v->exit.io.string = true;
    v->exit.io.done = false;
    v->exit.io.count = count;
    cpu_leave(v, EXIT_PIO);
}

/* How many elements one exit may carry: to the end of the page, of the segment, of the count, and whole ones in each. One, unless
 * memory is plain: a device's accesses are logged one by one. `index` is the register that goes along. */
static uint64_t io_batch(struct vcpu *v, const struct insn *i, enum segreg seg, unsigned index, uint64_t linear, unsigned size,
                         bool plain)
{
    uint64_t mask = address_mask(i), n = repeated(i) ? count_of(v, i) : 1;

    if (!plain || v->eflags & FL_DF || v->slow)
        return 1;
    n = least(n, reach(v, index, linear, mask, size));
    if (v->mode != MODE_LONG) {
        int64_t room = v->seg[seg].last + 1 - (int64_t)(v->gpr[index] & mask);
        n = least(n, room < 0 ? 0 : (uint64_t)room / size);
    }
    return n ? n : 1;
}

/* Is there an element to move? The rights for the port are looked at whatever the count. */
static bool io_due(struct vcpu *v, const struct insn *i, uint16_t port, unsigned size)
{
    io_check(v, port, size);
    return !repeated(i) || !is_over(v, i, false, false);
}

/* How many elements the client has dealt with; it may have written RCX meanwhile. */
static uint64_t io_answered(const struct vcpu *v, const struct insn *i)
{
    return repeated(i) ? least(v->pio_count, count_of(v, i)) : 1;
}

/* n elements have been moved; `index` is the register that goes along. */
static const struct insn *io_done(struct vcpu *v, const struct insn *i, unsigned index, uint16_t port, unsigned size,
                                  uint64_t n)
{
    uint64_t mask = address_mask(i);

    if (v->slow & SLOW_BREAKPOINT)
        debug_io_access(v, port, size);
    advance(v, index, mask, (int64_t)n * step_of(v, size));
    if (!repeated(i))
        return insn_end(v, i);
    advance(v, RCX, mask, -(int64_t)n);
    return count_of(v, i) ? repeat(v, i, n, true) : insn_end(v, i);
}

static const struct insn *outs(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint16_t port = (uint16_t)v->gpr[RDX];
    uint64_t n = 1;

    if (!io_due(v, i, port, size))
        return insn_next(i);
    if (v->log.replay && v->pio_count) {
        n = io_answered(v, i);
        v->pio_count = 0;
    } else {
        uint64_t from = source(v, i, size);
        uint32_t value = (uint32_t)mem_load(v, from, size);
        if (v->ops->pio_out(v, port, size, value)) {
            n = io_batch(v, i, i->seg, RSI, from, size, mem_probe_read(v, from, 1));
            memcpy(v->pio_data, &value, size);
            for (uint64_t k = 1; k < n; k++) {
                value = (uint32_t)mem_load(v, from + k * size, size);
                memcpy(v->pio_data + k * size, &value, size);
            }
            io_exit(v, port, size, true, (uint32_t)n);
        }
    }
    return io_done(v, i, RSI, port, size, n);
}

static const struct insn *ins(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint16_t port = (uint16_t)v->gpr[RDX];
    uint64_t n = 1;

    if (!io_due(v, i, port, size))
        return insn_next(i);
    uint64_t to = destination(v, i, size, true);
    mem_check_write(v, to, size);
    if (v->log.replay && v->pio_count) {
        n = io_answered(v, i); /* pio_count is kept until every store is done: one to a device exits, and comes back here */
        for (uint64_t k = 0; k < n; k++) {
            uint32_t value = 0;
            memcpy(&value, v->pio_data + k * size, size);
            mem_store(v, to + k * size, size, value);
        }
        v->pio_count = 0;
    } else {
        uint32_t value = 0;
        if (v->ops->pio_in(v, port, size, &value))
            io_exit(v, port, size, false, (uint32_t)io_batch(v, i, ES, RDI, to, size, mem_probe_write(v, to, 1)));
        mem_store(v, to, size, value);
    }
    return io_done(v, i, RDI, port, size, n);
}

#define IO_OPS(name, b, w, d)                                                                       \
    const struct insn *op_##b(struct vcpu *v, const struct insn *i) { return name(v, i, 1); }       \
    const struct insn *op_##w(struct vcpu *v, const struct insn *i) { return name(v, i, 2); }       \
    const struct insn *op_##d(struct vcpu *v, const struct insn *i) { return name(v, i, 4); }
IO_OPS(ins, insb, insw, insd)
IO_OPS(outs, outsb, outsw, outsd)
