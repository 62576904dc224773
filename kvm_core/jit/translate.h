/* The translator as the rest of the core sees it: engine_translate (cpu/cpu.h), and what reports on it. */
#ifndef KVMISH_JIT_TRANSLATE_H
#define KVMISH_JIT_TRANSLATE_H

#include "cpu/cpu.h"

/* Gives the vCPU a translator; engine_translate does so at its first entry. -ENOMEM, -errno of
 * memfd_create, mmap; -ENOTSUP: the host is no x86-64. */
int translate_create(struct vcpu *v);
/* 0 where a translator could be made: the host is an x86-64 and lets us map memory executable. Else as above. */
int translate_possible(void);
/* For comparisons: everything is translated at its first execution; `exact`: the arithmetic flags are right at every exit
 * and fault, not only where the guest's next instructions look at them. */
void translate_at_once(struct vcpu *v, bool exact);
void translate_without_bmi2(struct vcpu *v); /* as on a host that has none */
void jit_single(struct vcpu *v);

#endif
