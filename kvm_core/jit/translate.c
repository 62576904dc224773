/* The engine `translate`: runs translated code, and interprets what is too cold or too strange for it. */
#include "jit/jit.h"

#include <errno.h>
#include <stdlib.h>

#include "cpu/engine.h"
#include "jit/translate.h"

enum { HOT = 6 }; /* entries before a block is translated */

static bool translatable(const struct vcpu *v)
{
    int64_t top = (int64_t)v->rip >> 47; /* 48 bits, of one sign: nothing but a direct branch leads out of them */

    return v->code_model != CODE_SEGMENTED && (v->cpl == 0 || v->cpl == 3) && (top == 0 || top == -1) &&
           v->tlb != &v->tlb_sets[TLB_USER_AC];
}

static unsigned kind_of(const struct vcpu *v) { return (unsigned)(v->tlb - v->tlb_sets); }

static struct jump_cache *jumps_of(struct vcpu *v)
{
    return &v->jumps[kind_of(v) + (v->code_model == CODE_LONG ? JUMPS_LONG : JUMPS_FLAT32)];
}

/* Behind an instruction that was interpreted and that the block does not go on behind, a system call or a return from an interrupt
 * above all: straight to the code of what comes next, if that is known, nothing is due in between and no jump wants to be linked. */
static int go_on(struct vcpu *v)
{
    if (v->run.left <= 0 || v->run.patch || !engine_ready(v) || !translatable(v))
        return RESULT_LEAVE;
    const struct jump_entry *hint = &jumps_of(v)->entry[jump_index(v->rip)];
    if (hint->rip != v->rip)
        return RESULT_LEAVE;
    v->run.target[1] = hint->code;
    return RESULT_GO;
}

/* -> the instruction, when the block goes on behind it; NULL: it is left, v->rip is set. */
static const struct insn *interpret_one(struct vcpu *v, uint32_t ref, uint32_t executed)
{
    uint8_t shadow = v->shadow; /* STI's, if that is the instruction before */
    uint64_t drops = v->tlb_drops; /* remembered calls and host addresses that are kept hold as long as none goes */
    const struct insn *i = codecache_insn(v, ref), *next;

    if (unlikely(!i)) { /* the page has been dropped */
        v->rip = v->gpr[REG_PAGE] + (ref & 0xfff);
        v->run.left -= (int32_t)executed;
        return NULL;
    }
    v->budget = v->run.hidden + v->run.left - (int32_t)executed;
    v->cur = v->blk_start = i;
    if (unlikely(codecache_is_spanning(i))) {
        v->rip = cpu_this_rip(v, i);
        v->cur = NULL;
        engine_row(v, codecache_lookup(v)); /* which takes its bytes from the page of the last lookup */
        next = NULL;
    } else {
        do
            next = i->fn(v, i);
        while (next == i); /* a string instruction goes on */
    }
    if (unlikely(shadow) && v->shadow == shadow)
        v->shadow = SHADOW_NONE;
    /* a PAUSE loop would else run on for a whole slice, giving its time away at each look at the other vCPUs */
    bool kicked = __atomic_load_n(&v->kick, __ATOMIC_RELAXED);
    bool as_made = !codecache_is_stale(i) && v->code_model != CODE_SEGMENTED; /* a segment register may have been loaded */
    if (next == i + 1 && likely(as_made && !kicked && v->tlb_drops == drops)) {
        v->run.left = v->budget + (int32_t)executed - v->run.hidden;
        v->blk_start = v->cur = NULL;
        return i;
    }
    if (next) /* it has changed what the code was made for, or somebody waits for us */
        v->rip = cpu_next_rip(v, i);
    if (v->blk_start)
        v->budget--;
    v->blk_start = v->cur = NULL;
    v->run.left = v->budget - v->run.hidden;
    return NULL;
}

/* Leaves the block behind `i`, number `executed` in it. */
static int leave_behind(struct vcpu *v, const struct insn *i, uint32_t executed)
{
    v->run.left -= (int32_t)executed + 1;
    v->rip = cpu_next_rip(v, i);
    return RESULT_LEAVE;
}

_Static_assert(CODE_PAGES << 12 <= 1 << REF_BITS && BLOCK_OPS < 1 << (31 - REF_BITS), "jit_place() has room for both");

int jit_interpret(struct vcpu *v, uint32_t place)
{
    uint8_t vectors = jit_vectors_left(v);
    uint32_t executed = (uint32_t)((int32_t)place >> REF_BITS);
    const struct insn *i = interpret_one(v, place & ((1u << REF_BITS) - 1), executed);

    if (!i)
        return go_on(v);
    if (!vectors)
        return RESULT_NEXT;
    return likely(jit_vectors_enter(v, vectors)) ? RESULT_VECTORS : leave_behind(v, i, executed);
}

int jit_vectors(struct vcpu *v, uint32_t ref, uint32_t executed)
{
    const struct insn *i;
    uint32_t need = executed >> 16;
    uint8_t held = jit_vectors_left(v);

    if (jit_vectors_enter(v, held | (uint8_t)need)) {
        if (!(v->run.lack & need))
            return RESULT_VECTORS;
        jit_vectors_left(v);
    }
    /* once by the interpreter, which raises what is to be raised, and takes components of XSAVE into use */
    i = interpret_one(v, ref, executed & 0xffff);
    return i ? leave_behind(v, i, executed & 0xffff) : RESULT_LEAVE;
}

int jit_group(struct vcpu *v, uint32_t ref, uint32_t group)
{
    uint8_t vectors = jit_vectors_left(v);
    uint32_t n = group & 63, last = group >> 6 & 63, need = group >> 12 & 31;
    const struct insn *i;

    jit_block_missed(jit_of(v), ref >> 12, group >> 17 & 0xfff, group >> 29);
    for (;; n++, ref += i->len) {
        i = interpret_one(v, ref, n);
        if (!i)
            return RESULT_LEAVE;
        if (n == last)
            break;
    }
    if (!vectors && !need)
        return RESULT_NEXT;
    if (likely(jit_vectors_enter(v, vectors | (uint8_t)need))) {
        if (likely(!(v->run.lack & need)))
            return RESULT_VECTORS;
        jit_vectors_left(v);
    }
    return leave_behind(v, i, last);
}

/* ---- the loop -------------------------------------------------------------------------------------- */

/* -> the prologue that found its page elsewhere, or 0. */
static uint64_t execute(struct vcpu *v, const void *code)
{
    struct jit *j = jit_of(v);
    int32_t slice = v->budget < SLICE_MAX ? v->budget : SLICE_MAX;

    if (unlikely(j->profile != NULL))
        slice = jit_profile_slice(j->profile, slice);
    v->run.hidden = v->budget - slice;
    v->run.left = slice;
    v->run.patch = 0;
    v->run.stale = 0;
    v->run.lack = 0xff;
    v->cur = v->blk_start = NULL;
    j->stat_exits++;
    j->enter(v, code);
    if (v->run.stale)
        v->rip += jit_prologue_off(v->run.stale);
    jit_vectors_left(v);
    v->budget = v->run.hidden + v->run.left;
    if (unlikely(j->profile != NULL))
        jit_profile_count(v, slice - v->run.left);
    return v->run.stale;
}

static void interpret(struct vcpu *v, const struct insn *i)
{
    struct jit *j = jit_of(v);
    int32_t budget = v->budget;

    j->stat_rows++;
    engine_row(v, i);
    if (unlikely(j->profile != NULL))
        jit_profile_count(v, budget - v->budget);
}

/* How often the code at rip was come to. What is translated is forgotten, so that who shares its place stays cold. */
static bool is_hot(struct jit *j, const struct codepage *p, unsigned off)
{
    uint8_t *heat = &j->heat[(p->number * 0x9e3779b1u >> 12 ^ off) & (HEAT_ENTRIES - 1)];

    if (*heat < HOT && !j->at_once && !jit_was_dropped(j, p, off)) {
        ++*heat;
        return false;
    }
    *heat = 0;
    return true;
}

/* The block at rip, translated if it is hot enough; NULL: *i is to be interpreted. */
static struct block *find(struct vcpu *v, struct codepage *p, const struct insn **i)
{
    struct jit *j = jit_of(v);
    unsigned off = v->rip & 0xfff;
    struct block *b = jit_block_find(j, p->number, off, kind_of(v));

    if (b && !b->diverted)
        return b;
    *i = codecache_lookup(v);
    p = codecache_page(v);
    if (!b && !is_hot(j, p, off))
        return NULL;
    b = jit_build(v, p, off, kind_of(v));
    if (!b)
        *i = codecache_lookup(v); /* it may have dropped the page */
    return b;
}

/* Another page is there now: who was linked to the block asks where to go. */
static void cut_links(struct jit *j, uint64_t prologue, const struct codepage *p)
{
    struct block *b = jit_block_at(j, (uint32_t)(prologue - (uint64_t)j->rx));

    if (b->page != p)
        jit_links_cut_far(j, b);
}

static void run(struct vcpu *v)
{
    struct jit *j = jit_of(v);
    uint64_t rip = 0, stale = 0;

    j->patch = 0;
    while (engine_between(v, jit_single)) {
        const struct insn *i;
        v->cur = NULL;
        if (unlikely(!translatable(v))) {
            interpret(v, codecache_lookup(v));
            continue;
        }
        struct codepage *p = codecache_enter(v);
        struct jump_cache *jumps = jumps_of(v);
        unsigned n = jump_index(v->rip);
        struct jump_entry *hint = &jumps->entry[n];
        if (unlikely(stale) && stale != hint->code)
            cut_links(j, stale, p);
        stale = 0;
        if (hint->rip != v->rip || j->patch) {
            struct block *b = find(v, p, &i);
            if (!b) {
                j->patch = 0;
                interpret(v, i);
                continue;
            }
            if (j->patch && rip == v->rip)
                jit_link(j, j->patch, b);
            *hint = (struct jump_entry){v->rip, (uint64_t)(j->rx + b->entry - JIT_PROLOGUE)};
            jumps->used = true;
        }
        rip = v->rip;
        int32_t budget = v->budget;
        stale = execute(v, (const void *)hint->code);
        if (unlikely(v->rip == rip && v->budget == budget))
            hint->rip = jump_none(n); /* its page was retired, or is another now */
        j->patch = v->run.patch;
        rip = v->rip;
    }
}

/* Lockstep: one instruction, translated. */
void jit_single(struct vcpu *v)
{
    const struct insn *i;
    const uint8_t *code = NULL;

    v->cur = NULL;
    i = codecache_lookup(v);
    if (translatable(v))
        code = jit_build_once(v, codecache_page(v), i->off, kind_of(v));
    if (code)
        execute(v, code);
    else
        engine_single(v);
    v->slow &= (uint8_t)~SLOW_LOCKSTEP;
}

static enum cpu_exit_reason enter(struct vcpu *v, int32_t budget)
{
    if (!v->translator && translate_create(v))
        return engine_emulate.enter(v, budget);
    return engine_enter(v, budget, run);
}

const struct engine engine_translate = {.name = "translate", .enter = enter};

/* ---- life ---------------------------------------------------------------------------------------------- */

static void destroy(struct vcpu *v)
{
    struct jit *j = jit_of(v);

    jit_profile_destroy(j);
    jit_cache_destroy(j);
    free(j);
    v->translator = NULL;
}

int translate_possible(void)
{
#ifdef __x86_64__
    return jit_cache_possible();
#else
    return -ENOTSUP;
#endif
}

int translate_create(struct vcpu *v)
{
    int err = translate_possible();
    struct jit *j = err ? NULL : calloc(1, sizeof(*j));

    if (!j)
        return err ? err : -ENOMEM;
    j->base = (struct translator){.page_retired = jit_page_retired, .destroy = destroy, .fault = jit_fault};
    jit_profile_create(j);
    err = jit_cache_create(v, j);
    if (err) {
        jit_profile_destroy(j);
        free(j);
        return err;
    }
    codecache_translated(v); /* rows linked by the interpreter would go round us */
    v->translator = &j->base;
    return 0;
}

void translate_at_once(struct vcpu *v, bool exact)
{
    codecache_flush(v);
    jit_of(v)->at_once = true;
    jit_of(v)->exact = exact;
}

void translate_without_bmi2(struct vcpu *v)
{
    codecache_flush(v);
    jit_of(v)->bmi2 = false;
}
