/* Decoded instructions, kept by the physical page that holds their bytes. Private to one vCPU.
 *
 * A page is found by (gpa, code size). Its instructions are decoded in stretches, each a row of consecutive `struct insn`
 * that ends with a transfer of control; entering a stretch in its middle is fine. A row never moves while
 * the vCPU is inside: a dropped page's instructions become `op_stale`, which look up again, and its
 * rows are used anew only when no instruction of them can be on its way (codecache_lookup()).
 *
 * Writes by vCPUs are noticed (page_flags take away direct write access). Writes by the client, by a device's DMA, are not:
 * a page's bytes are therefore compared each time the fetch look-aside is refilled.
 */
#ifndef KVMISH_ISA_CODECACHE_H
#define KVMISH_ISA_CODECACHE_H

#include "cpu/vcpu.h"
#include "isa/insn.h"

int codecache_create(struct vcpu *v);
void codecache_destroy(struct vcpu *v);
/* Drops everything (new memory map, new CPUID). */
void codecache_flush(struct vcpu *v);
/* [gpa, gpa + size) was written, within one page: drop the page's instructions when they are concerned. */
void codecache_written(struct vcpu *v, uint64_t gpa, unsigned size);
/* The instruction at v->rip, decoded; sets REG_PAGE. Raises #PF, #GP; leaves with EXIT_INTERNAL
 * where there is no memory. Only between blocks. */
const struct insn *codecache_lookup(struct vcpu *v);
/* Links the direct branch `i`, being executed, to its target when that is decoded in the same page. */
void codecache_link(struct vcpu *v, const struct insn *i);
/* A private copy of the instruction at v->rip, followed by one that ends the row: for the careful path. */
const struct insn *codecache_single(struct vcpu *v);
bool codecache_is_row_end(const struct insn *i);
/* The raw bytes at rip as far as they can be fetched (for reports); returns how many. */
unsigned codecache_bytes(struct vcpu *v, uint8_t bytes[15]);

#endif
