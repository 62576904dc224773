/* Guest memory as instructions see it: effective addresses, loads, stores, read-modify-write.
 *
 * The fast path is a TLB probe and a host load. Whatever does not hit (page crossing, MMIO, code pages, clean
 * pages, watched pages, faults) goes to the slow path of mmu/access.c, which either completes or leaves the
 * instruction (cpu_fault*, cpu_leave).
 */
#ifndef KVMISH_CPU_ACCESS_H
#define KVMISH_CPU_ACCESS_H

#include <string.h>

#include "cpu/cpu.h"
#include "mmu/hostmem.h"
#include "mmu/tlb.h"

/* Slow paths, size 1, 2, 4, 8. */
uint64_t mem_load_slow(struct vcpu *v, uint64_t linear, unsigned size);
void mem_store_slow(struct vcpu *v, uint64_t linear, unsigned size, uint64_t value);
uint64_t ea_slow(struct vcpu *v, const struct insn *i, unsigned size, bool write);

/* Linear address of the memory operand; checks segment limits and rights for `size` bytes where
 * there are any (write: with write rights). */
static inline uint64_t ea(struct vcpu *v, const struct insn *i, unsigned size, bool write)
{
    if (likely(i->am == AM_FLAT64))
        return v->gpr[i->base] + (v->gpr[i->index] << i->scale) + (int64_t)i->disp;
    if (i->am == AM_32 && likely(v->seg[i->seg].flat))
        return (uint32_t)(v->gpr[i->base] + (v->gpr[i->index] << i->scale) + (int64_t)i->disp);
    return ea_slow(v, i, size, write);
}
/* The offset alone (LEA): no segment, no check. */
uint64_t ea_offset(struct vcpu *v, const struct insn *i);

/* Host address of [linear, linear + size) for reading / writing, or NULL when the fast path does not apply. */
static inline void *tlb_probe_read(const struct tlb_set *set, uint64_t linear, unsigned size)
{
    unsigned n = tlb_index(linear);
    uint64_t off = linear ^ set->read.entry[n].tag;
    if (likely(off <= 4096 - size))
        return (void *)(set->read.entry[n].host + off);
    return NULL;
}
static inline void *tlb_probe_write(const struct tlb_set *set, uint64_t linear, unsigned size)
{
    unsigned n = tlb_index(linear);
    uint64_t off = linear ^ set->write.entry[n].tag;
    if (likely(off <= 4096 - size))
        return (void *)(set->write.entry[n].host + off);
    return NULL;
}
static inline void *mem_probe_read(struct vcpu *v, uint64_t linear, unsigned size)
{
    return tlb_probe_read(v->tlb, linear, size);
}
static inline void *mem_probe_write(struct vcpu *v, uint64_t linear, unsigned size)
{
    return tlb_probe_write(v->tlb, linear, size);
}

static inline uint64_t mem_load(struct vcpu *v, uint64_t linear, const unsigned size)
{
    void *p = mem_probe_read(v, linear, size);
    if (unlikely(!p))
        return mem_load_slow(v, linear, size);
    return host_get(p, size);
}
static inline void mem_store(struct vcpu *v, uint64_t linear, const unsigned size, uint64_t value)
{
    void *p = mem_probe_write(v, linear, size);
    if (unlikely(!p)) {
        mem_store_slow(v, linear, size, value);
        return;
    }
    host_put(p, size, value);
}

/* Any number of bytes up to 4096 (two pages at most); a store checks both pages before it writes.
 * Restartable like every access: device fragments go through the log. */
void mem_read_bytes(struct vcpu *v, uint64_t linear, void *buf, size_t n);
void mem_write_bytes(struct vcpu *v, uint64_t linear, const void *buf, size_t n);
/* #GP(0), of SS #SS(0), unless n bytes have canonical addresses. */
void mem_check_canonical(struct vcpu *v, uint64_t linear, size_t n);
/* Raises the fault that a store of n bytes would raise, and nothing else (sets A and D). */
void mem_check_write(struct vcpu *v, uint64_t linear, size_t n);
/* The same three without a look at alignment (EFLAGS.AC): elements of gathers and masked moves. */
void mem_read_elements(struct vcpu *v, uint64_t linear, void *buf, size_t n);
void mem_write_elements(struct vcpu *v, uint64_t linear, const void *buf, size_t n);
void mem_check_elements(struct vcpu *v, uint64_t linear, size_t n);

/* Read-modify-write. begin: value read, all write rights checked; end: cannot fault. For RAM within a page `host`
 * is the address, else NULL. */
struct rmw {
    void *host;
    uint64_t linear;
    uint64_t value;
    uint64_t frame[2]; /* slow path: both pages' physical addresses */
    bool exclusive;    /* in RAM of two pages: no other vCPU runs until the end */
};
void mem_rmw_begin(struct vcpu *v, uint64_t linear, unsigned size, struct rmw *m);
void mem_rmw_end(struct vcpu *v, unsigned size, struct rmw *m, uint64_t value);
/* Instead of mem_rmw_end() where the caller has stored at m->host itself (atomically). */
void mem_rmw_stored(struct vcpu *v, unsigned size, struct rmw *m);

/* ---- with rights that need not be the current ones; `kind` is never TLB_USER_AC ---------------- */

uint64_t mem_load_kind_slow(struct vcpu *v, enum tlb_set_kind kind, uint64_t linear, unsigned size);
void mem_store_kind_slow(struct vcpu *v, enum tlb_set_kind kind, uint64_t linear, unsigned size, uint64_t value);

static inline uint64_t wrap_linear(const struct vcpu *v, uint64_t linear) { return cpu_lma(v) ? linear : (uint32_t)linear; }
static inline uint64_t mem_load_kind(struct vcpu *v, enum tlb_set_kind kind, uint64_t linear, const unsigned size)
{
    const void *p = tlb_probe_read(&v->tlb_sets[kind], wrap_linear(v, linear), size);

    return likely(p != NULL) ? host_get(p, size) : mem_load_kind_slow(v, kind, linear, size);
}
static inline void mem_store_kind(struct vcpu *v, enum tlb_set_kind kind, uint64_t linear, const unsigned size, uint64_t value)
{
    void *p = tlb_probe_write(&v->tlb_sets[kind], wrap_linear(v, linear), size);

    if (likely(p != NULL))
        host_put(p, size, value);
    else
        mem_store_kind_slow(v, kind, linear, size, value);
}

/* Supervisor accesses that the processor makes on its own (GDT, LDT, IDT, TSS), whatever the CPL. */
static inline enum tlb_set_kind system_kind(const struct vcpu *v) { return v->cr4 & CR4_SMAP ? TLB_SUPER_SMAP : TLB_SUPER; }
static inline uint64_t sys_load(struct vcpu *v, uint64_t linear, const unsigned size)
{
    return mem_load_kind(v, system_kind(v), linear, size);
}
static inline void sys_store(struct vcpu *v, uint64_t linear, const unsigned size, uint64_t value)
{
    mem_store_kind(v, system_kind(v), linear, size, value);
}

/* Those of a given privilege, of a stack of an inner level: user = CPL 3. CPL 3 may set AC at will: it does not open the way for
 * what the processor does on its behalf. */
static inline enum tlb_set_kind privilege_kind(const struct vcpu *v, bool user)
{
    if (user)
        return TLB_USER;
    return v->cr4 & CR4_SMAP && !(v->cpl < 3 && v->eflags & FL_AC) ? TLB_SUPER_SMAP : TLB_SUPER;
}

/* Segment-relative access with limit and rights checks: `off` within segment s (stack, far pointers, strings).
 * Returns the linear address. #SS(0) for SS, else #GP(0). */
uint64_t seg_linear(struct vcpu *v, enum segreg s, uint64_t off, unsigned size, bool write);

/* The device accesses of the instruction in execution (vcpu.log): the answer that is already there, or NULL; recording one. */
struct access_fragment *access_log_next(struct vcpu *v, uint8_t kind, uint64_t addr, unsigned size,
                                        bool write);
void access_log_append(struct vcpu *v, uint8_t kind, uint64_t addr, unsigned size, bool write,
                       uint64_t data);

/* Physical memory, for page tables and tests; false where there is no RAM. */
bool phys_load64(struct vcpu *v, uint64_t gpa, uint64_t *value);

/* ---- the stack: width by SS.B / long mode ---------------------------------------------------- */

static inline uint64_t stack_mask(const struct vcpu *v)
{
    return v->stack_size == 8 ? ~0ull : v->stack_size == 4 ? 0xffffffffull : 0xffffull;
}
static inline void stack_set(struct vcpu *v, uint64_t sp)
{
    if (v->stack_size == 8)
        v->gpr[RSP] = sp;
    else if (v->stack_size == 4)
        v->gpr[RSP] = (uint32_t)sp;
    else
        v->gpr[RSP] = (v->gpr[RSP] & ~0xffffull) | (sp & 0xffff);
}
/* Linear address of the stack slot at `sp` (already masked). */
static inline uint64_t stack_linear(struct vcpu *v, uint64_t sp, unsigned size, bool write)
{
    if (likely(v->mode == MODE_LONG))
        return sp;
    return seg_linear(v, SS, sp, size, write);
}
/* Loads and stores of the stack: an address that is not canonical is #SS(0), not #GP(0). */
void stack_check_canonical(struct vcpu *v, uint64_t linear, unsigned size);
/* How much of a slot is looked at for that. What straddles the end is misaligned, and with alignment checks Intel's processors
 * say so first. */
static inline unsigned stack_canonical_bytes(const struct vcpu *v, unsigned size)
{
    return v->tlb == &v->tlb_sets[TLB_USER_AC] && !v->amd ? 1 : size;
}
uint64_t stack_load_slow(struct vcpu *v, uint64_t linear, unsigned size);
void stack_store_slow(struct vcpu *v, uint64_t linear, unsigned size, uint64_t value);
static inline uint64_t stack_load(struct vcpu *v, uint64_t linear, const unsigned size)
{
    void *p = mem_probe_read(v, linear, size);
    if (unlikely(!p))
        return stack_load_slow(v, linear, size);
    return host_get(p, size);
}
static inline void stack_store(struct vcpu *v, uint64_t linear, const unsigned size, uint64_t value)
{
    void *p = mem_probe_write(v, linear, size);
    if (unlikely(!p)) {
        stack_store_slow(v, linear, size, value);
        return;
    }
    host_put(p, size, value);
}
static inline void stack_push(struct vcpu *v, const unsigned size, uint64_t value)
{
    uint64_t sp = (v->gpr[RSP] - size) & stack_mask(v);
    stack_store(v, stack_linear(v, sp, size, true), size, value);
    stack_set(v, sp);
}
/* Reads the top; the caller commits with stack_set(v, v->gpr[RSP] + size). */
static inline uint64_t stack_peek(struct vcpu *v, const unsigned size)
{
    return stack_load(v, stack_linear(v, v->gpr[RSP] & stack_mask(v), size, false), size);
}

#endif
