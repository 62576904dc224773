/* The engine `emulate`: executes decoded instructions one after the other. It defines the truth for all others. */
#include <linux/kvm.h>

#include "cpu/access.h"
#include "cpu/cpu.h"
#include "cpu/debug.h"
#include "cpu/native.h"
#include "isa/codecache.h"

/* Counts what ran since blk_start, the current instruction included. */
static void settle(struct vcpu *v, bool current)
{
    if (v->blk_start && v->cur)
        v->budget -= (int32_t)(v->cur - v->blk_start) + current;
    v->blk_start = NULL;
}

/* A guest debugger's (KVM_SET_GUEST_DEBUG) #DB or #BP: true when it goes to the client instead of the guest. */
static bool debugger_takes(struct vcpu *v)
{
    const struct event *e = &v->pending;
    bool db = e->vector == VEC_DB && (e->type == EVENT_FAULT || e->type == EVENT_TRAP) &&
              v->guest_debug & (KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP);
    bool bp = e->vector == VEC_BP && e->type == EVENT_SOFTEXC && v->guest_debug & KVM_GUESTDBG_USE_SW_BP;

    if (!db && !bp)
        return false;
    v->exit.debug.vector = e->vector;
    v->exit.debug.pc = v->rip + (v->code_bits == 64 ? 0 : v->seg[CS].base);
    v->exit.debug.dr6 = db ? e->payload | 0xffff0ff0 : 0;
    v->exit.debug.dr7 = v->guest_debug & KVM_GUESTDBG_USE_HW_BP ? v->guest_debug_dr[7] : v->dr[7];
    v->exit.reason = EXIT_DEBUG;
    v->pending.type = EVENT_NONE;
    return true;
}

/* The careful path: one instruction, with everything that is due before and after it. */
static void step(struct vcpu *v)
{
    uint32_t flags = v->eflags;
    uint8_t shadow = v->shadow;
    uint64_t linear = v->rip + (v->code_bits == 64 ? 0 : v->seg[CS].base), dr6;
    const struct insn *i, *next;

    v->cur = NULL;
    v->db_pending = 0;
    if ((v->slow & SLOW_BREAKPOINT) && !(flags & FL_RF) && !v->log.replay && debug_insn_breakpoint(v, linear, &dr6))
        cpu_debug_fault(v, dr6);
    i = codecache_single(v);
    if (v->code_bits != 64 && v->rip + (i->len ? i->len : 1) - 1 > v->seg[CS].limit)
        cpu_gp(v, 0);
    v->log.next = 0;
    v->cur = v->blk_start = i;
    v->rf_saved = flags & FL_RF; /* IRET, POPF, task switches set RF anew for the instruction behind them */
    v->eflags &= ~(uint32_t)FL_RF;
    next = i->fn(v, i);
    if (next == i)
        v->eflags |= v->rf_saved;
    v->rf_saved = 0;
    if (next == i) /* a repeated string instruction that goes on */
        v->rip = cpu_this_rip(v, i);
    else if (next) /* what follows, or a direct branch's linked target */
        v->rip = (v->gpr[REG_PAGE] + next->off) & v->ip_mask;
    v->budget--;
    v->blk_start = NULL;
    v->cur = NULL;
    v->log.replay = false;
    v->log.count = 0;
    v->pio_count = 0;
    if (v->shadow == shadow)
        v->shadow = SHADOW_NONE; /* it held for this instruction */
    if ((flags & FL_TF || v->guest_debug & KVM_GUESTDBG_SINGLESTEP) && v->shadow != SHADOW_MOV_SS)
        v->db_pending |= 1 << 14; /* DR6.BS */
    if (v->db_pending && v->shadow != SHADOW_MOV_SS) {
        v->pending = (struct event){.type = EVENT_TRAP, .vector = VEC_DB, .payload = v->db_pending};
        v->db_pending = 0;
    }
    v->slow &= (uint8_t)~SLOW_SINGLE;
}

/* Whether the next instruction needs the careful path. */
static bool careful(const struct vcpu *v)
{
    if (unlikely(v->slow | v->shadow) || unlikely(v->eflags & (FL_TF | FL_RF)) || unlikely(v->log.replay))
        return true;
    /* a limit that cuts this page */
    return v->code_bits != 64 && unlikely(v->seg[CS].limit - v->rip < 4096 + 15 || v->rip > v->seg[CS].limit) &&
           v->seg[CS].limit != 0xffffffff;
}

static bool window_open(const struct vcpu *v)
{
    return v->want_window && v->eflags & FL_IF && !v->shadow && !v->log.replay;
}

static void run(struct vcpu *v)
{
    const struct insn *i = NULL;

    for (;;) {
        while (v->pending.type) {
            if (v->guest_debug && debugger_takes(v))
                return;
            v->cur = NULL;
            exception_deliver(v);
        }
        v->exit.reason = EXIT_POLL;
        if ((v->budget <= 0 || __atomic_load_n(&v->kick, __ATOMIC_RELAXED)) && !v->log.replay)
            return;
        if (unlikely(window_open(v))) {
            v->exit.reason = EXIT_WINDOW;
            return;
        }
        if (unlikely(careful(v))) {
            step(v);
            continue;
        }
        v->cur = NULL;
        i = codecache_lookup(v);
        v->blk_start = i;
        do {
            v->cur = i;
            i = i->fn(v, i);
        } while (i);
        settle(v, true);
    }
}

/* An instruction was left in its middle: by a fault, or for an exit. True: back to the guest. */
static bool left(struct vcpu *v, int how)
{
    const struct insn *cur = v->cur;

    if (how == LEFT_FAULT) {
        settle(v, false);
        v->eflags |= v->rf_saved;
        v->rf_saved = 0;
        if (cur && !v->delivering)
            v->rip = cpu_this_rip(v, cur);
        v->log.replay = false;
        v->log.count = 0;
        v->pio_count = 0;
        v->db_pending = 0;
        v->shadow = SHADOW_NONE;
        v->slow &= (uint8_t)~SLOW_SINGLE;
        v->stat_faults++;
        if (exception_merge(v)) {
            v->exit.reason = EXIT_SHUTDOWN;
            return false;
        }
        return true;
    }
    switch (v->exit.reason) {
    case EXIT_PIO:
    case EXIT_MMIO:
    case EXIT_RDMSR:
    case EXIT_WRMSR:
    case EXIT_INTERNAL:
        settle(v, false);
        v->eflags |= v->rf_saved;
        v->rf_saved = 0;
        if (cur)
            v->rip = cpu_this_rip(v, cur);
        if (v->exit.reason == EXIT_INTERNAL) {
            v->exit.internal.rip = v->rip;
            v->exit.internal.size = (uint8_t)codecache_bytes(v, v->exit.internal.bytes);
        }
        break;
    default: /* rip is behind the instruction, which is complete */
        settle(v, true);
        v->rf_saved = 0;
        v->shadow = SHADOW_NONE;
        v->log.replay = false;
        v->log.count = 0;
    }
    return false;
}

static enum cpu_exit_reason enter(struct vcpu *v, int32_t budget)
{
    int how;

    v->budget = budget;
    v->blk_start = v->cur = NULL;
    if (!v->log.replay)
        v->log.count = 0;
    native_enter(v);
    how = setjmp(v->out);
    if (!how || left(v, how))
        run(v);
    native_leave(v);
    v->cur = NULL;
    v->instructions += (uint64_t)((int64_t)budget - v->budget);
    return v->exit.reason;
}

const struct engine engine_emulate = {.name = "emulate", .enter = enter};
