/* x87 state in an FXSAVE64 image, for those who save, restore and reset it. */
#ifndef KVMISH_CPU_X87_H
#define KVMISH_CPU_X87_H

#include <stdint.h>

struct vcpu;

uint16_t x87_fcw(const uint8_t *fx);
uint16_t x87_fsw(const uint8_t *fx);
void x87_init(struct vcpu *v);        /* FNINIT */
void x87_mmx_transition(uint8_t *fx); /* TOP 0, all tags valid: SDM vol. 1, 9.5 */
void x87_check_pending(struct vcpu *v); /* #MF */

#endif
