/* x87 state in an FXSAVE64 image, for those who save, restore and reset it. */
#ifndef KVMISH_CPU_X87_H
#define KVMISH_CPU_X87_H

#include <stdbool.h>
#include <stdint.h>

#include "isa/insn.h"

struct vcpu;
struct native_op;

uint16_t x87_fcw(const uint8_t *fx);
uint16_t x87_fsw(const uint8_t *fx);
void x87_init(struct vcpu *v);        /* FNINIT */
void x87_mmx_transition(uint8_t *fx); /* TOP 0, all tags valid: SDM vol. 1, 9.5 */
void x87_check_pending(struct vcpu *v); /* #MF */

/* For an engine that has the registers in the host's. */
enum x87_class {
    X87_OTHER, X87_ARITHMETIC /* as the host does it, with pointers to be noted */, X87_FLDCW, X87_FNSTCW, X87_FNSTSW,
    X87_FNSTSW_AX, X87_FWAIT
};
enum x87_class x87_class_of(const struct insn *i);
bool x87_all_masked(const uint8_t *fx); /* #MF can only come of FLDCW, FLDENV, FRSTOR ... */
/* After an instruction that is not control: FOP, FIP and FCS; after one with an operand in memory: FDP and FDS. */
void x87_set_code_pointer(struct vcpu *v, uint8_t *fx, unsigned fop, uint64_t fip);
void x87_set_data_pointer(struct vcpu *v, uint8_t *fx, unsigned seg, uint64_t fdp);

#endif
