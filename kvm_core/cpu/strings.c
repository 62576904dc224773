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

/* Elements until the page of `linear` ends, going up. */
static uint64_t in_page(uint64_t linear, unsigned size)
{
    return (4096 - (linear & 0xfff)) / size;
}

/* Elements for which the offset in `reg` stays within its address size and (legacy modes) a flat segment. */
static uint64_t until_wrap(const struct vcpu *v, unsigned reg, uint64_t mask, unsigned size)
{
    uint64_t off = v->gpr[reg] & mask;

    return mask == ~0ull ? ~0ull : (mask - off) / size;
}

/* After a stretch of a repeated instruction: done, or go on here after a look at the outside. */
static const struct insn *repeat(struct vcpu *v, const struct insn *i, uint64_t done, bool more)
{
    if (!more)
        return insn_next(i);
    v->budget -= done > 64 ? (int32_t)(done >> 3) : 8;
    if (v->budget > 0 && !__atomic_load_n(&v->kick, __ATOMIC_RELAXED) && !v->slow)
        return i;
    v->eflags |= FL_RF; /* as an interrupt between iterations saves it: SDM vol. 3, 18.3.1.1 */
    v->rip = cpu_this_rip(v, i);
    v->blk_start = NULL;
    return NULL;
}

static uint64_t count_of(const struct vcpu *v, const struct insn *i)
{
    return v->gpr[RCX] & address_mask(i);
}

/* ---- MOVS, STOS, LODS ----------------------------------------------------------------------- */

static void copy_up(uint8_t *to, const uint8_t *from, uint64_t n, unsigned size)
{
    if ((uint64_t)(to - from) >= n) { /* no element is read after it was written */
        memmove(to, from, n);
        return;
    }
    for (uint64_t at = 0; at < n; at += size) {
        uint64_t element;
        memcpy(&element, from + at, size);
        memcpy(to + at, &element, size);
    }
}

static uint64_t movs_stretch(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t mask = address_mask(i), count = count_of(v, i), n = count, bytes, from, to;
    uint8_t *hfrom, *hto;

    if (v->eflags & FL_DF || v->slow)
        return 0;
    if (v->mode != MODE_LONG && !(v->seg[i->seg].flat && v->seg[ES].flat))
        return 0;
    from = source(v, i, size);
    to = destination(v, i, size, true);
    n = n < in_page(from, size) ? n : in_page(from, size);
    n = n < in_page(to, size) ? n : in_page(to, size);
    n = n < until_wrap(v, RSI, mask, size) ? n : until_wrap(v, RSI, mask, size);
    n = n < until_wrap(v, RDI, mask, size) ? n : until_wrap(v, RDI, mask, size);
    hfrom = mem_probe_read(v, from, 1);
    hto = mem_probe_write(v, to, 1);
    if (n < 2 || !hfrom || !hto)
        return 0;
    bytes = n * size;
    copy_up(hto, hfrom, bytes, size);
    advance(v, RSI, mask, (int64_t)bytes);
    advance(v, RDI, mask, (int64_t)bytes);
    advance(v, RCX, mask, -(int64_t)n);
    return n;
}

static const struct insn *movs(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t mask = address_mask(i), done = 1;

    if (repeated(i)) {
        if (!count_of(v, i))
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

static uint64_t stos_stretch(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t mask = address_mask(i), n = count_of(v, i), to = destination(v, i, size, true);
    uint8_t *host;

    if (v->eflags & FL_DF || v->slow || (v->mode != MODE_LONG && !v->seg[ES].flat))
        return 0;
    n = n < in_page(to, size) ? n : in_page(to, size);
    n = n < until_wrap(v, RDI, mask, size) ? n : until_wrap(v, RDI, mask, size);
    host = mem_probe_write(v, to, 1);
    if (n < 2 || !host)
        return 0;
    if (size == 1)
        memset(host, (uint8_t)v->gpr[RAX], n);
    else
        for (uint64_t k = 0; k < n; k++)
            memcpy(host + k * size, &v->gpr[RAX], size);
    advance(v, RDI, mask, (int64_t)(n * size));
    advance(v, RCX, mask, -(int64_t)n);
    return n;
}

static const struct insn *stos(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t mask = address_mask(i), done;

    if (repeated(i)) {
        if (!count_of(v, i))
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

    if (repeated(i) && !count_of(v, i))
        return insn_next(i);
    reg_set(v, RAX, size, mem_load(v, source(v, i, size), size));
    advance(v, RSI, mask, step_of(v, size));
    if (!repeated(i))
        return insn_next(i);
    advance(v, RCX, mask, -1);
    return repeat(v, i, 1, count_of(v, i) != 0);
}

/* ---- CMPS, SCAS: REPE and REPNE also look at ZF ----------------------------------------------- */

static const struct insn *compared(struct vcpu *v, const struct insn *i, uint32_t flags)
{
    v->oszapc = flags;
    if (!repeated(i))
        return insn_next(i);
    advance(v, RCX, address_mask(i), -1);
    bool more = count_of(v, i) != 0 && !!(flags & PF_ZF) == !(i->prefix & PFX_REPNE);
    return repeat(v, i, 1, more);
}

static const struct insn *cmps(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t mask = address_mask(i);
    uint32_t flags = v->oszapc;

    if (repeated(i) && !count_of(v, i))
        return insn_next(i);
    uint64_t a = mem_load(v, source(v, i, size), size);
    uint64_t b = mem_load(v, destination(v, i, size, false), size);
    alu_cmp(&flags, a, b, size == 1 ? 1 : size == 2 ? 2 : size == 4 ? 4 : 8);
    advance(v, RSI, mask, step_of(v, size));
    advance(v, RDI, mask, step_of(v, size));
    return compared(v, i, flags);
}

static const struct insn *scas(struct vcpu *v, const struct insn *i, unsigned size)
{
    uint64_t mask = address_mask(i);
    uint32_t flags = v->oszapc;

    if (repeated(i) && !count_of(v, i))
        return insn_next(i);
    uint64_t b = mem_load(v, destination(v, i, size, false), size);
    alu_cmp(&flags, v->gpr[RAX], b, size == 1 ? 1 : size == 2 ? 2 : size == 4 ? 4 : 8);
    advance(v, RDI, mask, step_of(v, size));
    return compared(v, i, flags);
}

#define STRING_OPS(name, b, w, d, q)                                                                \
    const struct insn *op_##b(struct vcpu *v, const struct insn *i) { return name(v, i, 1); }       \
    const struct insn *op_##w(struct vcpu *v, const struct insn *i) { return name(v, i, 2); }       \
    const struct insn *op_##d(struct vcpu *v, const struct insn *i) { return name(v, i, 4); }       \
    const struct insn *op_##q(struct vcpu *v, const struct insn *i) { return name(v, i, 8); }
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

/* How many elements one exit may carry: to the end of the page, of the data page, of the count. One, unless memory is
 * plain: a device's accesses are logged one by one. */
static uint64_t io_batch(struct vcpu *v, const struct insn *i, uint64_t linear, unsigned size, bool plain)
{
    uint64_t n = repeated(i) ? count_of(v, i) : 1;

    if (!plain || v->eflags & FL_DF || v->slow || (v->mode != MODE_LONG && !v->seg[i->seg].flat && n > 1))
        return 1;
    n = n < in_page(linear, size) ? n : in_page(linear, size);
    n = n < PIO_DATA_BYTES / size ? n : PIO_DATA_BYTES / size;
    return n ? n : 1;
}

/* Is there an element to move? AMD looks at the rights for the port whatever the count. */
static bool io_due(struct vcpu *v, const struct insn *i, uint16_t port, unsigned size)
{
    bool due = !repeated(i) || count_of(v, i);

    if (v->amd || due)
        io_check(v, port, size);
    return due;
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
        n = v->pio_count;
        v->pio_count = 0;
    } else {
        uint64_t from = source(v, i, size);
        uint32_t value = (uint32_t)mem_load(v, from, size);
        if (v->ops->pio_out(v, port, size, value)) {
            n = io_batch(v, i, from, size, mem_probe_read(v, from, 1));
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
        n = v->pio_count; /* kept until every store is done: one to a device exits, and comes back here */
        for (uint64_t k = 0; k < n; k++) {
            uint32_t value = 0;
            memcpy(&value, v->pio_data + k * size, size);
            mem_store(v, to + k * size, size, value);
        }
        v->pio_count = 0;
    } else {
        uint32_t value = 0;
        if (v->ops->pio_in(v, port, size, &value))
            io_exit(v, port, size, false, (uint32_t)io_batch(v, i, to, size, mem_probe_write(v, to, 1)));
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
