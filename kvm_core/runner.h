/* The loop around KVM_RUN of a client to whom an exit costs much more than it costs KVM: Python.
 *
 * A driver that polls reads the same byte again and again. Whoever has the device can leave a standing answer, which is
 * then given without asking it. All of this is the client's: KVM sees exits that are answered quickly.
 */
#ifndef KVMISH_RUNNER_H
#define KVMISH_RUNNER_H

#include <stdbool.h>
#include <stdint.h>

struct kvm_run;

/* A standing answer is port << 16 | ANSWER_STANDS | byte; 0 is none. It may change at any time. */
enum { ANSWER_STANDS = 0x100 };

/* KVM_RUN, again and again while a standing answer serves the exit; 0 or -errno. `run` is what was mapped from fd.
 * The vCPU is one of this process's core, or of a device file's. */
int runner_direct(int fd, struct kvm_run *run, const uint32_t *answers, unsigned count);
int runner_device(int fd, struct kvm_run *run, const uint32_t *answers, unsigned count);

/* Before a vCPU of this process's core is entered. */
void runner_start(void);
/* Before the process ends: from now on KVM_RUN of this process's core returns EINTR. Waits until no thread is inside, for at most so long;
 * false: one is. */
bool runner_end(unsigned ms);

#endif
