/* How others reach a vCPU that is running: requests in a mailbox, a kick, an acknowledgement.
 *
 * A request is a bit of vcpu.requests; setting one is followed by setting vcpu.kick. The engine comes back with EXIT_POLL at
 * the next block end; the entry/exit loop drains the mailbox there and before every entry by vcpu_drain().
 * A requester that must know that the vCPU has seen it (a memory slot went away, a page became code) waits
 * until the bit is clear or in_guest is 0 (the thread is in its client or in a wait: it drains before it
 * enters again); while it waits it drains its own mailbox, so that two requesters cannot wait for each other.
 */
#ifndef KVMISH_CPU_SYNC_H
#define KVMISH_CPU_SYNC_H

#include <stdint.h>

struct vcpu;

enum mailbox_request {
    REQ_TLB_FLUSH = 1 << 0,     /* TLB and fetch look-aside, global entries too */
    REQ_PHYS_CHANGED = 1 << 1,  /* the machine has a new phys_map: the KVM layer sets v->phys, then all is flushed */
    REQ_WRITE_PROTECT = 1 << 2, /* forget all write tags: dirty log cleared, a page became code */
    REQ_CODE_DROP = 1 << 3      /* code pages were written by others: see cpu_code_drop() */
};

/* Lists the page at gpa for `target` to drop; the caller then sets REQ_CODE_DROP and kicks. Any thread. */
void cpu_code_drop(struct vcpu *target, uint64_t gpa);

/* Does what `requests` ask of the processor (clears TLBs, drops decoded pages). By the thread inside. */
void cpu_serve(struct vcpu *v, uint32_t requests);

#endif
