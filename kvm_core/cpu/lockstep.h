/* Two engines on one state: a stretch by the engine under test, then the same stretch by the interpreter's careful path.
 *
 * The engine under test goes first and does what a guest does: its device accesses are real and are recorded. Then the
 * state and the pages that it wrote are put back, and the reference executes instruction by instruction, with the recorded
 * answers, until it stands where the first one stood. The first difference ends it: `report` then has the instruction, the
 * state before it and both states behind it.
 *
 * For one vCPU: another would write into pages that are put back. So would a device that writes memory while the vCPU runs:
 * our own VMM keeps it waiting meanwhile; with other clients a stretch that differs is repeated, and counts as different
 * when it differs again.
 * Within a stretch time stands still, and RDRAND is a function of it.
 */
#ifndef KVMISH_CPU_LOCKSTEP_H
#define KVMISH_CPU_LOCKSTEP_H

#include "cpu/cpu.h"

struct memslot;
struct lockstep;

/* `tested` runs in stretches of `stretch` instructions or a little more. NULL: no memory. Attaches itself to v. */
struct lockstep *lockstep_create(struct vcpu *v, const struct engine *tested, int32_t stretch);
void lockstep_destroy(struct lockstep *l);
/* As engine->enter(). EXIT_INTERNAL with lockstep_report() not empty: the engines differ. */
enum cpu_exit_reason lockstep_enter(struct vcpu *v, int32_t budget);
/* The first difference, as text; "" while there is none. */
const char *lockstep_report(const struct lockstep *l);
/* Stretches compared, and those that could not be: more pages or device accesses than there is room for. */
void lockstep_counts(const struct lockstep *l, uint64_t *compared, uint64_t *skipped);

/* For mmu/: the page is about to be written. */
void lockstep_page(struct vcpu *v, struct memslot *slot, uint64_t page, uint8_t *host);

#endif
