/* Through a 64-bit interrupt or trap gate, and back by IRETQ, where nothing stands in the way. */
#ifndef KVMISH_CPU_STRAIGHT_H
#define KVMISH_CPU_STRAIGHT_H

#include "cpu/cpu.h"

/* In 64-bit code both, without v->slow. False: nothing has been changed, it is exception.c's and iret.c's.
 * flags, rip: as pushed. */
bool straight_gate(struct vcpu *v, const struct event *e, uint64_t flags, uint64_t rip);
/* may_change: the flags that the image may change. */
bool straight_iretq(struct vcpu *v, uint64_t may_change);

#endif
