/* What control transfers between segments and privilege levels share: stacks not yet current,
 * targets, returns.
 *
 * Nothing here changes *v until far_commit(): all that can fault comes first.
 */
#ifndef KVMISH_CPU_FAR_H
#define KVMISH_CPU_FAR_H

#include "cpu/segment.h"
#include "mmu/hostmem.h"

/* A stack being filled or emptied, perhaps not the current one. */
struct far_stack {
    struct segment ss; /* unless it is flat */
    uint64_t sp; /* the whole register; only `mask` of it moves */
    uint64_t mask;
    uint32_t error; /* code of the #SS that a lack of room raises */
    bool flat;      /* 64-bit: no segment */
    bool user;      /* accessed with the rights of CPL 3 */
    bool current;   /* of the current privilege level */
    const uint8_t *host; /* of sp, when far_hold() holds what is popped; or NULL */
};

void far_stack_current(struct vcpu *v, struct far_stack *st, uint32_t error);
/* SS:ESP of privilege `dpl` from the TSS, checked (#TS); long mode: RSPn or, of `ist` 1 to 7, ISTn alone, null SS. SDM vol. 3, 7.2
 */
void far_stack_inner(struct vcpu *v, struct far_stack *st, unsigned dpl, unsigned ist, uint32_t ext);
uint64_t far_stack_of_tss(struct vcpu *v, unsigned dpl, unsigned ist, uint32_t ext); /* of long mode */
void far_push(struct vcpu *v, struct far_stack *st, unsigned size, uint64_t value);
/* A frame, slot[0] first. */
void far_push_all(struct vcpu *v, struct far_stack *st, unsigned size, const uint64_t *slot, unsigned count);
uint64_t far_pop_slot(struct vcpu *v, struct far_stack *st, unsigned size);
/* Of a 64-bit stack: whether the next `bytes` can be popped without a fault, in one place. */
void far_hold(struct vcpu *v, struct far_stack *st, unsigned bytes);
static inline uint64_t far_pop(struct vcpu *v, struct far_stack *st, unsigned size)
{
    if (!st->host)
        return far_pop_slot(v, st, size);
    st->sp += size;
    st->host += size;
    return host_get(st->host - size, size);
}
/* Reads `size` bytes at `off` from the top, for the fault that may come of it. Processors read the slots of RET and IRET in an
 * order of their own: CS or flags first; AMD's SS of an outer level before CS is looked at. */
void far_touch(struct vcpu *v, const struct far_stack *st, uint64_t off, unsigned size);

/* An offset of 64 bits in a segment of compatibility mode: AMD's processors refuse it, Intel's take its low half. */
static inline uint64_t far_ip(const struct vcpu *v, const struct segment *cs, uint64_t ip)
{
    return v->amd || cs->ar & AR_L ? ip : (uint32_t)ip;
}
/* Offset within a code segment: limit, or canonical in 64-bit code; else #GP(error). */
void far_check_ip(struct vcpu *v, const struct segment *cs, uint64_t ip, uint32_t error);
/* Code segment of RET and IRET, whose RPL is the new CPL; all checks of the manuals. */
void far_return_code(struct vcpu *v, uint16_t sel, struct segment *cs);
/* Stack segment of a return to the privilege of `cs`. */
void far_return_stack(struct vcpu *v, uint16_t sel, const struct segment *cs, struct segment *ss);
/* After a return to an outer level: data segments of an inner one become null. SDM vol. 3, 5.8.6 */
void far_null_data(struct vcpu *v);
/* Makes cs (with RPL = cpl), ss (unless NULL) and rip current. */
void far_commit(struct vcpu *v, const struct segment *cs, const struct segment *ss, unsigned cpl,
                uint64_t rip);
/* The same, CS and SS being there. */
void far_go(struct vcpu *v, unsigned cpl, uint64_t rip);

/* Task gate in the GDT, LDT or IDT -> task switch. `error` is the code for faults of the gate's TSS
 * selector's checks; saved_flags goes into the outgoing TSS. */
void task_switch_from(struct vcpu *v, uint16_t sel, enum task_switch how, uint64_t next_rip,
                      uint64_t saved_flags, bool has_error, uint32_t error);

/* EXT of an error code: the fault comes up while delivering something that the program did not ask
 * for. SDM vol. 3, 6.13 */
static inline uint32_t exception_ext(const struct vcpu *v)
{
    return v->delivering != EVENT_NONE && v->delivering != EVENT_SOFTINT &&
           v->delivering != EVENT_SOFTEXC;
}

/* Operand size in bytes of a far transfer, whatever its memory operand's size. */
static inline unsigned far_opsize(const struct vcpu *v, const struct insn *i)
{
    if (v->code_bits == 64 && i->prefix & PFX_REXW)
        return 8;
    return (v->code_bits == 16) != !!(i->prefix & PFX_OPSIZE) ? 2 : 4;
}

#endif
