/* Where translated code touches guest memory, and how the guest's state is found there when that is gone.
 *
 * What the TLB leads to is there, unless its owner has taken it away without a word (kvm/backing.c). The host's access raises a
 * signal then, at an instruction of the host's that has changed nothing: the guest's registers are as before its own
 * instruction, and where they are everywhere in the block. So code is left as at a block's end, and all that must be known is
 * which instruction it is. A block's sites are in a store of the region's that its code is in:
 *
 *     word: 12 bits how many bytes of code behind the one before, 12 bits offset of the guest's instruction in the page,
 *           6 bits its number in the block, or NOWHERE; 1 bit: another word follows
 *     another: 16 bits the landing, from the block's entry, or 0; 8 bits SITE_*; 8 bits what r15 lacks, signed
 *
 * and a word of 0. A strip has registers of its own and counts otherwise: it is left by its landing (strip.c).
 */
#include "jit/strip.h"

#include <stdlib.h>
#include <ucontext.h>

enum { STEP_BITS = 12, STEP_MAX = (1 << STEP_BITS) - 1, NOWHERE = 63, MORE = 1 << 30 };

_Static_assert((int)BLOCK_OPS <= (int)NOWHERE && BLOCK_BYTES_MAX <= UINT16_MAX, "a site's numbers have room");
_Static_assert(SITES_MAX > 5 * BLOCK_OPS + 2 * COPIED_MAX && 2 * COPIED_MAX <= INT8_MAX + 1, "so have a nest's copies");

/* ---- while the block is built ---------------------------------------------------------------------------------- */

static unsigned here_in_block(const struct build *b) { return here(&b->e) - b->entry; }

void site_add(struct build *b, unsigned n, unsigned how)
{
    struct site *s = &b->site[b->sites++];

    if (b->flags == FLAGS_IN_HOST && b->op[n].live)
        how |= SITE_FLAGS;
    *s = (struct site){.at = (uint16_t)here_in_block(b), .off = b->op[n].i->off, .n = (uint8_t)n, .how = (uint8_t)how,
                       .in_strip = b->strip, .owed = (int8_t)strip_owed(b)};
}

void sites_land(struct build *b)
{
    for (struct site *s = b->site; s < b->site + b->sites; s++)
        if (s->in_strip)
            s->landing = (uint16_t)here_in_block(b);
}

static uint32_t *words_of(const struct jit *j, const struct block *b)
{
    return &j->sites[(size_t)(b - j->blocks) / REGION_BLOCKS * REGION_SITES + b->sites];
}

static uint32_t *put_site(uint32_t *to, const struct site *s, unsigned step)
{
    bool more = s->landing || s->how;

    for (; step > STEP_MAX; step -= STEP_MAX)
        *to++ = STEP_MAX | (uint32_t)NOWHERE << 24;
    *to++ = step | (uint32_t)s->off << STEP_BITS | (uint32_t)s->n << 24 | (more ? MORE : 0);
    if (more)
        *to++ = s->landing | (uint32_t)s->how << 16 | (uint32_t)(uint8_t)s->owed << 24;
    return to;
}

void sites_keep(struct build *b)
{
    struct region *r = &b->j->region[b->j->filling];
    struct block *block = b->block ? b->block : &b->j->blocks[0];
    uint32_t *first, *to;
    unsigned last = 0;

    block->sites = b->block ? (uint16_t)r->sites : 0;
    first = to = words_of(b->j, block);
    for (const struct site *s = b->site; s < b->site + b->sites; s++) {
        to = put_site(to, s, s->at - last);
        last = s->at;
    }
    *to++ = 0;
    if (b->block)
        r->sites += (uint32_t)(to - first);
}

/* ---- in the signal's handler -------------------------------------------------------------------------------------- */

static bool find(const uint32_t *from, unsigned at, struct site *s)
{
    unsigned now = 0;

    while (*from) {
        uint32_t word = *from++, more = word & MORE ? *from++ : 0;
        now += word & STEP_MAX;
        *s = (struct site){.at = (uint16_t)now, .off = word >> STEP_BITS & 0xfff, .n = word >> 24 & 63, .landing = (uint16_t)more,
                           .how = (uint8_t)(more >> 16), .owed = (int8_t)(more >> 24)};
        if (now == at && s->n != NOWHERE)
            return true;
    }
    return false;
}

/* As LAHF and SETO AL leave them. */
static uint32_t packed(uint64_t eflags) { return (uint32_t)((eflags & 0xff) << 8 | (eflags >> 11 & 1)); }

/* What the instruction has changed already: pointers of a string, AL and AH. */
static void undo(const struct vcpu *v, unsigned how, long long *regs)
{
    static const uint8_t swapped[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX};

    if (how & SITE_FROM)
        regs[REG_RSI] -= regs[REG_R10];
    if (how & SITE_TO)
        regs[REG_RDI] -= (long long)v->run.target[0];
    if (how & SITE_SWAPPED) {
        long long *reg = &regs[swapped[how >> SITE_REGISTER]], was = *reg;
        *reg = (was & ~0xffffll) | (was & 0xff) << 8 | (was >> 8 & 0xff);
    }
}

bool jit_fault(struct vcpu *v, long long *regs)
{
    struct jit *j = jit_of(v);
    uint64_t at = (uint64_t)regs[REG_RIP] - (uint64_t)j->rx;
    const struct block *b;
    struct site s;

    if (at >= CODE_BYTES)
        return false;
    b = at < CODE_HEAD ? &j->blocks[0] : jit_block_at(j, (uint32_t)at);
    if (!b || !find(words_of(j, b), (unsigned)at - b->entry, &s))
        abort(); /* guest memory is touched nowhere else: there is no state to go on from */
    undo(v, s.how, regs);
    if (s.how & SITE_FLAGS)
        v->oszapc = packed((uint64_t)regs[REG_EFL]);
    v->rip = (v->gpr[REG_PAGE] + s.off) & v->ip_mask;
    regs[REG_R15] = (uint32_t)((int32_t)regs[REG_R15] + s.owed - s.n);
    regs[REG_R10] = (long long)v->rip;
    regs[REG_RIP] = (long long)(j->rx + (s.landing ? b->entry + s.landing : j->exit_rip));
    return true;
}
