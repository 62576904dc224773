/* The engine `emulate`: executes decoded instructions one after the other. It defines the truth for all others. */
#include <linux/kvm.h>
#include <string.h>

#include "cpu/access.h"
#include "cpu/cpu.h"
#include "cpu/debug.h"
#include "cpu/engine.h"
#include "cpu/native.h"
#include "gen/handlers.h"
#include "isa/codecache.h"
#include "isa/decode.h"

/* Counts what ran since blk_start, the current instruction included. */
static void settle(struct vcpu *v, bool current)
{
    if (v->blk_start && v->cur)
        v->budget -= (int32_t)(v->cur - v->blk_start) + current;
    v->blk_start = NULL;
}

/* A guest debugger's (KVM_SET_GUEST_DEBUG) #DB or #BP: true when it goes to the client instead of the guest. */
static bool debugger_takes(struct vcpu *v, bool halted)
{
    const struct event *e = &v->pending;
    bool db = e->vector == VEC_DB && (e->type == EVENT_FAULT || e->type == EVENT_TRAP) &&
              v->guest_debug & (KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP);
    bool bp = e->vector == VEC_BP && e->type == EVENT_SOFTEXC && v->guest_debug & KVM_GUESTDBG_USE_SW_BP;

    if (!db && !bp)
        return false;
    v->exit.debug.vector = e->vector;
    v->exit.debug.halted = halted;
    v->exit.debug.pc = v->rip + (v->code_bits == 64 ? 0 : v->seg[CS].base);
    v->exit.debug.dr6 = db ? e->payload | 0xffff0ff0 : 0;
    v->exit.debug.dr7 = v->guest_debug & KVM_GUESTDBG_USE_HW_BP ? v->guest_debug_dr[7] : v->dr[7];
    v->exit.reason = EXIT_DEBUG;
    v->pending.type = EVENT_NONE;
    return true;
}

/* Whether the instruction at rip may be a taken branch to DEBUGCTL.BTF: by its name, since one may lead to what follows it. */
static bool branches(struct vcpu *v, uint32_t flags)
{
    static const char *const names[] = {"J", "LOOP", "CALL", "RET", "IRET"};
    uint8_t bytes[15];
    const char *name;

    if (likely(!(flags & FL_TF) || !(v->debugctl & DEBUGCTL_BTF)))
        return false;
    name = decode_name(v->code_bits, bytes, codecache_bytes(v, bytes), NULL);
    for (unsigned n = 0; name && n < sizeof(names) / sizeof(names[0]); n++)
        if (!strncmp(name, names[n], strlen(names[n])))
            return true;
    return false;
}

/* Whether TF traps after the instruction. INT n, INT1, INT3 and INTO clear TF without a trap; SYSCALL and SYSRET are judged
 * by the TF that they leave (APM vol. 2, 13.1.4), so that SFMASK can prevent the trap. DEBUGCTL.BTF: taken branches only.
 * SDM vol. 3, 18.3.1.4 */
static bool single_step_due(const struct vcpu *v, insn_fn *fn, uint32_t flags, uint64_t next_rip, bool taken)
{
    if (fn == op_syscall || fn == op_sysret)
        return v->eflags & FL_TF;
    if (!(flags & FL_TF) || fn == op_int || fn == op_int1 || fn == op_int3 || (fn == op_into && v->rip != next_rip))
        return false;
    return !(v->debugctl & DEBUGCTL_BTF) || taken;
}

static bool loads_ss(const struct insn *i)
{
    return (i->fn == op_mov_to_sreg || i->fn == op_pop_sreg) && i->dst == SS;
}

/* A trap that is not due to the instruction at rip but to what led there. */
static void debug_trap(struct vcpu *v)
{
    v->pending = (struct event){.type = EVENT_TRAP, .vector = VEC_DB, .payload = v->db_pending};
    v->db_pending = 0;
    v->slow &= (uint8_t)~SLOW_DB_DUE;
}

/* The careful path: one instruction, with everything that is due before and after it. */
static void step(struct vcpu *v)
{
    uint32_t flags = v->eflags;
    uint8_t shadow = v->shadow;
    uint64_t linear = v->code_bits == 64 ? v->rip : (uint32_t)(v->rip + v->seg[CS].base), next_rip, dr6;
    const struct insn *i, *next;
    insn_fn *fn;
    bool branch;

    v->cur = NULL;
    if (v->slow & SLOW_DB_DUE) {
        debug_trap(v);
        return;
    }
    if (shadow != SHADOW_MOV_SS) /* which holds traps of its own instruction back: SDM vol. 3, 6.8.3 */
        v->db_pending = 0;
    if ((v->slow & SLOW_BREAKPOINT) && !(flags & FL_RF) && !v->log.replay && (v->amd || shadow != SHADOW_MOV_SS) &&
        debug_insn_breakpoint(v, linear, &dr6))
        cpu_debug_fault(v, dr6);
    i = codecache_single(v);
    if (v->code_bits != 64 && v->rip + (i->len ? i->len : 1) - 1 > v->seg[CS].limit)
        cpu_gp(v, 0);
    v->log.next = 0;
    v->cur = v->blk_start = i;
    v->rf_saved = flags & FL_RF; /* IRET, POPF, task switches set RF anew for the instruction behind them */
    v->eflags &= ~(uint32_t)FL_RF;
    fn = i->fn;
    next_rip = cpu_next_rip(v, i);
    branch = branches(v, flags);
    next = fn(v, i);
    v->rf_saved = 0;
    if (next == i) { /* a repeated string instruction that goes on: it does not meet its breakpoint again */
        v->eflags |= FL_RF;
        v->rip = cpu_this_rip(v, i);
    } else if (next) { /* what follows, or a direct branch's linked target */
        v->rip = (v->gpr[REG_PAGE] + next->off) & v->ip_mask;
    }
    v->budget--;
    v->blk_start = NULL;
    v->cur = NULL;
    v->log.replay = false;
    v->log.count = 0;
    v->pio_count = 0;
    /* It held for this instruction. Where several in a row load SS, AMD processors extend it, Intel's do not. */
    if (v->shadow == shadow && !(v->amd && loads_ss(i)))
        v->shadow = SHADOW_NONE;
    v->slow &= (uint8_t)~SLOW_SINGLE;
    if (v->shadow == SHADOW_MOV_SS)
        return;
    if (v->guest_debug & KVM_GUESTDBG_SINGLESTEP || single_step_due(v, fn, flags, next_rip, branch && next != insn_next(i)))
        v->db_pending |= DR6_BS;
    if (v->db_pending)
        debug_trap(v);
}

void engine_single(struct vcpu *v)
{
    const struct insn *i, *next;

    v->cur = NULL;
    i = codecache_lookup(v);
    v->blk_start = v->cur = i;
    next = i->fn(v, i);
    settle(v, true);
    if (next)
        v->rip = (v->gpr[REG_PAGE] + next->off) & v->ip_mask;
    v->slow &= (uint8_t)~SLOW_LOCKSTEP;
}

/* Whether the next instruction needs the careful path. */
static bool careful(const struct vcpu *v)
{
    if (unlikely(v->slow | v->shadow) || unlikely(v->eflags & FL_TF) || unlikely(v->log.replay))
        return true;
    /* a limit that cuts this page */
    return v->code_bits != 64 && unlikely(v->seg[CS].limit - v->rip < 4096 + 15 || v->rip > v->seg[CS].limit) &&
           v->seg[CS].limit != 0xffffffff;
}

static bool window_open(const struct vcpu *v)
{
    return v->want_window && v->eflags & FL_IF && !v->shadow && !v->log.replay;
}

/* RF keeps breakpoints away from one instruction, which now begins. Without breakpoints (SLOW_BREAKPOINT is careful) nobody looks
 * at it before that is complete: it need not be executed with care. Should it fault, RF is pushed whatever it was. */
static bool go(struct vcpu *v)
{
    v->eflags &= ~(uint32_t)FL_RF;
    return true;
}

bool engine_ready(struct vcpu *v)
{
    bool ready = likely(!v->pending.type && !__atomic_load_n(&v->kick, __ATOMIC_RELAXED) && !window_open(v) && !careful(v));

    return ready && go(v);
}

bool engine_between(struct vcpu *v, void (*one)(struct vcpu *v))
{
    for (;;) {
        while (unlikely(v->pending.type)) {
            if (v->pending.type == EVENT_EXIT) {
                v->pending.type = EVENT_NONE;
                v->exit.reason = EXIT_PIO;
                return false;
            }
            if (v->guest_debug && debugger_takes(v, false))
                return false;
            v->cur = NULL;
            exception_deliver(v);
        }
        if (unlikely(v->code_doubtful) && !v->log.replay) /* which is an instruction of before */
            codecache_look_anew(v);
        v->exit.reason = EXIT_POLL;
        if ((v->budget <= 0 || __atomic_load_n(&v->kick, __ATOMIC_RELAXED)) && !v->log.replay)
            return false;
        if (unlikely(window_open(v))) {
            v->exit.reason = EXIT_WINDOW;
            return false;
        }
        if (likely(!careful(v)))
            return go(v);
        if (v->slow == SLOW_LOCKSTEP && !v->shadow && !(v->eflags & (FL_TF | FL_RF)) && !v->log.replay)
            one(v);
        else
            step(v);
    }
}

void engine_row(struct vcpu *v, const struct insn *i)
{
    v->blk_start = i;
    do {
        v->cur = i;
        i = i->fn(v, i);
    } while (i);
    settle(v, true);
}

static void run(struct vcpu *v)
{
    while (engine_between(v, engine_single)) {
        v->cur = NULL;
        engine_row(v, codecache_lookup(v));
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
        if (v->slow & (SLOW_SINGLE | SLOW_LOCKSTEP))
            v->budget--; /* one step ends at the handler's first instruction */
        v->slow &= (uint8_t)~(SLOW_SINGLE | SLOW_LOCKSTEP | SLOW_DB_DUE);
        if (exception_merge(v)) {
            v->exit.reason = EXIT_SHUTDOWN;
            return false;
        }
        return true;
    }
    switch (v->exit.reason == EXIT_PIO && v->exit.io.done ? EXIT_POLL : v->exit.reason) {
    case EXIT_PIO:
    case EXIT_MMIO:
    case EXIT_RDMSR:
    case EXIT_WRMSR:
    case EXIT_INTERNAL:
    case EXIT_UNBACKED:
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
        /* HLT, MWAIT, MOV CR8, most OUTs; a debug trap ends the waiting at once */
        if (v->guest_debug & KVM_GUESTDBG_SINGLESTEP || (cur && single_step_due(v, cur->fn, v->eflags, v->rip, false)))
            v->db_pending |= DR6_BS;
        if (v->db_pending && v->exit.reason != EXIT_DEBUG) {
            bool waits = v->exit.reason == EXIT_HLT || v->exit.reason == EXIT_MWAIT;

            debug_trap(v);
            return waits && !(v->guest_debug && debugger_takes(v, v->exit.reason == EXIT_HLT));
        }
    }
    return false;
}

enum cpu_exit_reason engine_enter(struct vcpu *v, int32_t budget, void (*run_guest)(struct vcpu *v))
{
    v->budget = budget;
    v->blk_start = v->cur = NULL;
    if (!v->log.replay)
        v->log.count = 0;
    native_enter(v);
    if (!__builtin_setjmp(v->out) || left(v, v->left))
        run_guest(v);
    native_leave(v);
    v->cur = NULL;
    v->instructions += (uint64_t)((int64_t)budget - v->budget);
    return v->exit.reason;
}

static enum cpu_exit_reason enter(struct vcpu *v, int32_t budget) { return engine_enter(v, budget, run); }

const struct engine engine_emulate = {.name = "emulate", .enter = enter};
