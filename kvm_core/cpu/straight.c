/* The straight way through a gate and back: what nearly every event of a 64-bit system takes. Its pages are in the TLB, its descriptors
 * in the GDT and marked accessed, its code is 64-bit, and there is nothing to fault on. Whatever is not like that is left, untouched, to
 * exception.c and iret.c, which know all the rest, and which do this too in the careful path: lockstep compares both.
 * SDM vol. 3, 6.14; vol. 2, IRET.
 */
#include "cpu/straight.h"

#include "cpu/access.h"
#include "cpu/far.h"
#include "cpu/state.h"

#define DESC_AR(ar) ((uint64_t)(ar) << 40)

enum { FRAME_BYTES = 40 };

static const uint64_t CODE_BITS = DESC_AR(AR_P | AR_S | AR_CODE | AR_CONFORMING | AR_ACCESSED | AR_L | AR_DB | AR_DPL),
                      CODE_64 = DESC_AR(AR_P | AR_S | AR_CODE | AR_ACCESSED | AR_L), /* not conforming; and its DPL */
    STACK_BITS = DESC_AR(AR_P | AR_S | AR_CODE | AR_WRITABLE | AR_ACCESSED | AR_DPL),
                      STACK = DESC_AR(AR_P | AR_S | AR_WRITABLE | AR_ACCESSED),
                      GATE_BITS = DESC_AR(AR_P | AR_S | (AR_TYPE & ~1u)), GATE = DESC_AR(AR_P | SYS_INT32); /* or SYS_TRAP32 */

/* The selector's descriptor; 0, which nobody takes, where it is not simply there. */
static inline uint64_t gdt_entry(const struct vcpu *v, const struct tlb_set *sys, uint16_t sel)
{
    const void *p = (sel | 7u) <= v->gdt.limit ? tlb_probe_read(sys, v->gdt.base + (sel & 0xfff8u), 8) : NULL;

    return p && !sel_ldt(sel) && !sel_null(sel) ? host_get(p, 8) : 0;
}

static inline void put_segment(struct segment *to, uint16_t sel, uint64_t desc)
{
    to->base = desc_base(desc);
    to->limit = desc_limit(desc);
    to->ar = desc_ar(desc);
    to->sel = sel;
}

/* A null SS, of CPL 0 to 2. */
static inline void put_null_stack(struct segment *ss, uint16_t sel)
{
    ss->base = 0;
    ss->limit = 0;
    ss->ar = AR_UNUSABLE | (uint32_t)sel_rpl(sel) << AR_DPL_SHIFT;
    ss->sel = sel;
}

/* RSP of level 0, or of the gate's IST, in the TSS. */
static inline bool tss_stack(const struct vcpu *v, const struct tlb_set *sys, unsigned ist, uint64_t *sp)
{
    unsigned at = ist ? 0x24 + 8 * (ist - 1) : 4;
    const void *p = at + 7 <= v->seg[TR].limit ? tlb_probe_read(sys, v->seg[TR].base + at, 8) : NULL;

    if (!p)
        return false;
    *sp = host_get(p, 8);
    return true;
}

bool straight_gate(struct vcpu *v, const struct event *e, uint64_t flags, uint64_t rip)
{
    const struct tlb_set *sys = &v->tlb_sets[system_kind(v)];
    unsigned off = e->vector * 16u, bytes = FRAME_BYTES + (e->has_error ? 8 : 0);
    const uint8_t *entry = off + 15 <= v->idt.limit ? tlb_probe_read(sys, v->idt.base + off, 16) : NULL;

    if (!entry)
        return false;
    uint64_t gate = host_get(entry, 8), to = gate_offset(gate, true) | host_get(entry + 8, 4) << 32;
    uint64_t desc = gdt_entry(v, sys, gate_sel(gate)), sp = v->gpr[RSP];
    unsigned ist = gate >> 32 & 7;
    bool asked = e->type == EVENT_SOFTINT || e->type == EVENT_SOFTEXC;
    if ((gate & GATE_BITS) != GATE || (desc & CODE_BITS) != CODE_64 || (asked && desc_dpl(gate) < v->cpl) || !cpu_canonical(v, to))
        return false;
    if ((ist || v->cpl) && !tss_stack(v, sys, ist, &sp))
        return false;
    sp = (sp & ~0xfull) - bytes;
    uint8_t *frame = tlb_probe_write(&v->tlb_sets[privilege_kind(v, false)], sp, bytes);
    if (!frame)
        return false;

    if (e->has_error) {
        host_put(frame, 8, e->error);
        frame += 8;
    }
    host_put(frame, 8, rip);
    host_put(frame + 8, 8, v->seg[CS].sel);
    host_put(frame + 16, 8, flags);
    host_put(frame + 24, 8, v->gpr[RSP]);
    host_put(frame + 32, 8, v->seg[SS].sel);
    uint64_t cleared = FL_TF | FL_NT | FL_RF | FL_VM | (desc_type(gate) == SYS_INT32 ? FL_IF : 0);
    cpu_set_eflags(v, cpu_get_eflags(v) & ~cleared);
    v->gpr[RSP] = sp;
    put_segment(&v->seg[CS], gate_sel(gate) & 0xfffc, desc);
    if (v->cpl)
        put_null_stack(&v->seg[SS], 0);
    far_go(v, 0, to);
    return true;
}

bool straight_iretq(struct vcpu *v, uint64_t may_change)
{
    const struct tlb_set *sys = &v->tlb_sets[system_kind(v)];
    const uint8_t *frame = tlb_probe_read(v->tlb, v->gpr[RSP], FRAME_BYTES);

    if (!frame)
        return false;
    uint64_t rip = host_get(frame, 8), flags = host_get(frame + 16, 8), rsp = host_get(frame + 24, 8), stack = 0;
    uint16_t cs = (uint16_t)host_get(frame + 8, 8), ss = (uint16_t)host_get(frame + 32, 8);
    unsigned cpl = sel_rpl(cs), old = v->cpl;
    uint64_t desc = gdt_entry(v, sys, cs), dpl = DESC_AR(cpl << AR_DPL_SHIFT);
    if (cpl < old || (desc & CODE_BITS) != (CODE_64 | dpl) || !cpu_canonical(v, rip) || sel_rpl(ss) != cpl)
        return false;
    if (!sel_null(ss)) {
        stack = gdt_entry(v, sys, ss);
        if ((stack & STACK_BITS) != (STACK | dpl))
            return false;
    } else if (cpl == 3) {
        return false;
    }

    cpu_set_eflags(v, (cpu_get_eflags(v) & ~may_change) | (flags & may_change));
    put_segment(&v->seg[CS], cs, desc);
    if (stack)
        put_segment(&v->seg[SS], ss, stack);
    else
        put_null_stack(&v->seg[SS], ss);
    v->gpr[RSP] = rsp;
    far_go(v, cpl, rip);
    if (cpl > old)
        far_null_data(v);
    return true;
}
