/* The only ways out of the middle of an instruction: a fault of the guest, or an exit to the
 * client.
 *
 * Both jump to v->out. v->rip is not touched: the engine knows whether v->cur is the instruction
 * being left.
 */
#include "cpu/cpu.h"

/* No signal mask, no cleanup handlers: what the C library's longjmp() would look at at each fault of the guest. */
void cpu_jump_out(struct vcpu *v, uint8_t left)
{
    v->left = left;
    __builtin_longjmp(v->out, 1);
}

static _Noreturn void raise_event(struct vcpu *v, struct event event)
{
    event.type = EVENT_FAULT;
    v->fault = event;
    v->stat_faults++;
    cpu_jump_out(v, LEFT_FAULT);
}

void cpu_fault(struct vcpu *v, unsigned vector)
{
    raise_event(v, (struct event){.vector = vector});
}

void cpu_fault_error(struct vcpu *v, unsigned vector, uint32_t error)
{
    raise_event(v, (struct event){.vector = vector, .has_error = true, .error = error});
}

void cpu_page_fault(struct vcpu *v, uint64_t linear, uint32_t error)
{
    raise_event(
        v, (struct event){.vector = VEC_PF, .has_error = true, .error = error, .payload = linear});
}

void cpu_debug_fault(struct vcpu *v, uint64_t dr6_bits)
{
    raise_event(v, (struct event){.vector = VEC_DB, .payload = dr6_bits});
}

void cpu_leave(struct vcpu *v, enum cpu_exit_reason reason)
{
    v->fault.type = EVENT_NONE;
    v->exit.reason = reason;
    cpu_jump_out(v, LEFT_EXIT);
}

void cpu_unbacked(struct vcpu *v, uint64_t gpa, bool write)
{
    v->unbacked = (gpa & ~0xfffull) | (write ? UNBACKED_WRITE : UNBACKED_READ);
    cpu_leave(v, EXIT_UNBACKED);
}
