/* Runs two engines on one state and reports the first difference. See lockstep.h. */
#include "cpu/lockstep.h"

#include <stdlib.h>
#include <string.h>

#include "cpu/lockstep_internal.h"
#include "cpu/tsc.h"
#include "isa/codecache.h"
#include "mmu/phys.h"
#include "mmu/tlb.h"

enum { RACES_MAX = 100, STRETCHES_AGAIN = 32, STEPS_PER_INSTRUCTION = 64, STEPS_MIN = 70000 /* REP by pages against REP by elements */ };

/* ---- memory -------------------------------------------------------------------------------------------------------- */

void lockstep_page(struct vcpu *v, struct memslot *slot, uint64_t page, uint8_t *host)
{
    struct lockstep *l = v->lockstep;

    for (unsigned n = 0; n < l->pages; n++)
        if (l->page[n].host == host)
            return;
    if (l->pages == PAGES_MAX) {
        l->overflow = true;
        return;
    }
    l->page[l->pages++] = (struct saved_page){.host = host, .slot = slot, .index = page};
    memcpy(l->page[l->pages - 1].before, host, 4096);
    if (l->pages > PAGES_MAX * 3 / 4) /* the stretch ends here */
        __atomic_store_n(&v->kick, 1, __ATOMIC_SEQ_CST);
}

static void put_page(struct vcpu *v, struct saved_page *p, const uint8_t *content)
{
    memcpy(p->host, content, 4096);
    if (__atomic_load_n(&p->slot->page_flags[p->index], __ATOMIC_SEQ_CST))
        codecache_written(v, p->slot->gpa + (p->index << 12), 4096);
}

static void memory_before(struct vcpu *v, struct lockstep *l, unsigned pages)
{
    for (unsigned n = 0; n < pages; n++)
        put_page(v, &l->page[n], l->page[n].before);
}

/* First byte that differs from what the engine under test left, as page and offset; false: none. The reference may have
 * written pages that the other did not. */
static bool memory_differs(const struct lockstep *l, uint64_t *gpa)
{
    for (unsigned n = 0; n < l->pages; n++) {
        const struct saved_page *p = &l->page[n];
        const uint8_t *want = n < l->tested_pages ? p->after : p->before;
        if (!memcmp(p->host, want, 4096))
            continue;
        *gpa = p->slot->gpa + (p->index << 12);
        for (unsigned k = 0; p->host[k] == want[k]; k++)
            ++*gpa;
        return true;
    }
    return false;
}

/* ---- state --------------------------------------------------------------------------------------------------------- */

#define BEFORE_ASYNC offsetof(struct vcpu, kick)

/* Everything that is the vCPU's own; what others write meanwhile, and the jump buffer, stay. */
static void state_put(struct vcpu *v, const struct vcpu *from)
{
    size_t first = offsetof(struct vcpu, kick) + sizeof(v->kick), out = offsetof(struct vcpu, out);
    size_t behind = out + sizeof(v->out), mailbox = offsetof(struct vcpu, requests);

    memcpy(v, from, BEFORE_ASYNC);
    memcpy((uint8_t *)v + first, (const uint8_t *)from + first, out - first);
    memcpy((uint8_t *)v + behind, (const uint8_t *)from + behind, mailbox - behind);
    v->instructions = from->instructions;
}

static void state_save(struct vcpu *to, const struct vcpu *v) { memcpy(to, v, offsetof(struct vcpu, directory_generation)); }

/* ---- a stretch ------------------------------------------------------------------------------------------------------ */

static enum cpu_exit_reason run_one(struct vcpu *v, const struct engine *engine, int32_t budget, uint8_t slow)
{
    enum cpu_exit_reason reason;

    v->slow |= slow;
    reason = engine->enter(v, budget);
    v->slow &= (uint8_t)~(SLOW_LOCKSTEP | SLOW_SINGLE);
    return reason;
}

static bool ended_alike(struct vcpu *v, struct lockstep *l, enum cpu_exit_reason reason)
{
    bool poll = l->reason == EXIT_POLL || l->reason == EXIT_WINDOW;
    uint64_t gpa;

    if (poll ? reason != EXIT_POLL : reason != l->reason)
        return false;
    if (l->tested_after.rip != v->rip || memcmp(l->tested_after.gpr, v->gpr, 16 * sizeof(v->gpr[0])))
        return false;
    l->nearly = lockstep_state_differs(&l->tested_after, v, NULL);
    if (!l->nearly && memory_differs(l, &gpa))
        l->nearly = "memory";
    if (!l->nearly && l->devices.next != l->device_end)
        l->nearly = "device accesses";
    return !l->nearly;
}

/* The reference follows until it stands where the other stood; false: it never does. */
static bool follow(struct vcpu *v, struct lockstep *l, uint64_t steps_max)
{
    bool window = v->want_window, same = ended_alike(v, l, EXIT_POLL); /* a kick may have kept the other from starting */
    uint32_t kicked = 0;

    v->want_window = false;
    for (uint64_t step = 0; step < steps_max && !same; step++) {
        kicked |= __atomic_exchange_n(&v->kick, 0, __ATOMIC_SEQ_CST);
        enum cpu_exit_reason reason = run_one(v, &engine_emulate, v->pending.type ? 0 : 1, SLOW_SINGLE); /* 0: delivers */
        same = ended_alike(v, l, reason);
        if (reason != EXIT_POLL && !same)
            break;
    }
    if (kicked)
        __atomic_store_n(&v->kick, 1, __ATOMIC_SEQ_CST);
    v->want_window = window;
    return same;
}

/* One stretch by both; `slow` is SLOW_LOCKSTEP for a single instruction. True: they agree, or it could not be compared. */
static bool compare(struct vcpu *v, struct lockstep *l, int32_t budget, uint8_t slow)
{
    uint64_t executed;
    bool same;

    l->pages = 0;
    l->overflow = false;
    state_save(&l->before, v);
    tlb_flush_all(v);
    l->devices.replay = false;
    l->device_first = l->devices.next;
    l->reason = run_one(v, l->tested, budget, slow);
    executed = v->instructions - l->before.instructions;
    state_save(&l->tested_after, v);
    if (l->overflow) {
        l->skipped++;
        return true;
    }
    l->tested_pages = l->pages;
    l->nearly = NULL;
    for (unsigned n = 0; n < l->tested_pages; n++)
        memcpy(l->page[n].after, l->page[n].host, 4096);

    memory_before(v, l, l->tested_pages);
    state_put(v, &l->before);
    tlb_flush_all(v);
    l->device_end = l->devices.next;
    l->devices.next = l->device_first;
    l->devices.replay = true;
    same = follow(v, l, slow ? 4 : executed * STEPS_PER_INSTRUCTION + STEPS_MIN);
    l->compared++;
    if (!same)
        return false;
    /* what differs and does not count (RF, statistics) is as the engine under test has it */
    state_put(v, &l->tested_after);
    return true;
}

/* The stretch again, instruction by instruction, with the devices' answers of the first time. */
static void narrow(struct vcpu *v, struct lockstep *l)
{
    struct vcpu *start = &l->start;
    uint64_t executed = l->tested_after.instructions - l->before.instructions;

    state_save(start, &l->before);
    lockstep_describe(v, l, "the engines differ behind this stretch as a whole");
    memory_before(v, l, l->pages);
    state_put(v, start);
    l->devices.next = l->device_first;
    for (uint64_t n = 0; n <= executed; n++) {
        __atomic_store_n(&v->kick, 0, __ATOMIC_SEQ_CST);
        if (!compare(v, l, 1, SLOW_LOCKSTEP)) {
            lockstep_describe(v, l, "the engines differ behind this instruction");
            return;
        }
        if (l->reason != EXIT_POLL)
            return;
    }
}

/* The stretch from its start once more, as far as its device accesses go. What agrees this time was disturbed by somebody
 * who writes memory: a device. */
static bool again(struct vcpu *v, struct lockstep *l, int32_t budget)
{
    memory_before(v, l, l->pages);
    state_put(v, &l->before);
    l->devices.next = l->device_first;
    for (unsigned n = 0; n < STRETCHES_AGAIN; n++) { /* it may go another way, to no device */
        if (!compare(v, l, budget, 0))
            return false;
        if (l->devices.next >= l->devices.count || l->reason != EXIT_POLL)
            break;
    }
    l->races++;
    return true;
}

enum cpu_exit_reason lockstep_enter(struct vcpu *v, int32_t budget)
{
    struct lockstep *l = v->lockstep;
    const struct machine_ops *ops = v->ops;
    enum cpu_exit_reason reason;

    l->ops = ops;
    do {
        int32_t part = budget < l->stretch ? budget : l->stretch;
        uint64_t before = v->instructions;

        l->devices.count = l->devices.next = 0;
        v->frozen_tsc = cpu_rdtsc(v);
        v->ops = &lockstep_ops;
        bool same = compare(v, l, part, 0);
        if (!same && l->races < RACES_MAX)
            same = again(v, l, part);
        if (!same)
            narrow(v, l);
        v->ops = ops;
        v->frozen_tsc = 0;
        reason = l->reason;
        if (!same) {
            v->exit.internal.size = 0;
            return v->exit.reason = EXIT_INTERNAL;
        }
        budget -= (int32_t)(v->instructions - before);
    } while (reason == EXIT_POLL && budget > 0 && !__atomic_load_n(&v->kick, __ATOMIC_SEQ_CST));
    v->exit.reason = reason;
    return reason;
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

struct lockstep *lockstep_create(struct vcpu *v, const struct engine *tested, int32_t stretch)
{
    struct lockstep *l = aligned_alloc(4096, (sizeof(*l) + 4095) & ~4095ul);

    if (!l)
        return NULL;
    memset(l, 0, sizeof(*l));
    l->tested = tested;
    l->stretch = stretch;
    v->lockstep = l;
    return l;
}

void lockstep_destroy(struct lockstep *l) { free(l); }

const char *lockstep_report(const struct lockstep *l) { return l->report; }

void lockstep_counts(const struct lockstep *l, uint64_t *compared, uint64_t *skipped)
{
    *compared = l->compared;
    *skipped = l->skipped;
}
