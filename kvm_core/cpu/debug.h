/* Debug registers beyond what cpu.h declares: which set is in force, and I/O breakpoints. */
#ifndef KVMISH_CPU_DEBUG_H
#define KVMISH_CPU_DEBUG_H

#include "cpu/cpu.h"

enum { /* SDM vol. 3, 18.2.3; bits 3:0: which breakpoint */
    DR6_BD = 1 << 13, DR6_BS = 1 << 14, DR6_BT = 1 << 15
};
enum { DEBUGCTL_LBR = 1, DEBUGCTL_BTF = 2 };

/* IN and OUT with CR4.DE: sets db_pending. */
void debug_io_access(struct vcpu *v, uint16_t port, unsigned size);

#endif
