/* What every engine that runs decoded instructions shares with the interpreter: the frame around them (interp.c). */
#ifndef KVMISH_CPU_ENGINE_H
#define KVMISH_CPU_ENGINE_H

#include "cpu/cpu.h"

/* The whole of an engine's enter(): `run` executes until v->exit.reason says otherwise, and is called anew behind a fault. */
enum cpu_exit_reason engine_enter(struct vcpu *v, int32_t budget, void (*run)(struct vcpu *v));
/* Between two blocks: delivers events, polls, steps with care where that is due. True: the instruction at rip can be
 * executed at full speed. False: leave. `one` executes one instruction of the engine's own kind (SLOW_LOCKSTEP). */
bool engine_between(struct vcpu *v, void (*one)(struct vcpu *v));
/* Can it, at once? Within a budget, which is the caller's to look at. */
bool engine_ready(struct vcpu *v);
/* Interprets from `i`, which codecache_lookup() has found, to the end of its stretch. */
void engine_row(struct vcpu *v, const struct insn *i);
/* Lockstep: one instruction as the interpreter's fast path executes it. */
void engine_single(struct vcpu *v);

#endif
