/* Far CALL, JMP and RET, direct and through gates. SDM vol. 2, CALL, JMP, RET; vol. 3, 5.8. */
#include "cpu/far.h"

#include "cpu/access.h"
#include "cpu/state.h"

/* ---- stacks ---------------- */

void far_stack_current(struct vcpu *v, struct far_stack *st, uint32_t error)
{
    st->sp = v->gpr[RSP];
    st->mask = stack_mask(v);
    st->error = error;
    st->flat = v->mode == MODE_LONG;
    st->user = v->cpl == 3;
    st->current = true;
    st->host = NULL;
    if (!st->flat)
        st->ss = v->seg[SS];
}

static void tss_check(struct vcpu *v, uint64_t last, uint32_t ext)
{
    if (last > v->seg[TR].limit)
        cpu_fault_error(v, VEC_TS, SEL_ERROR(v->seg[TR].sel) | ext);
}

uint64_t far_stack_of_tss(struct vcpu *v, unsigned dpl, unsigned ist, uint32_t ext)
{
    unsigned off = ist ? 0x24 + 8 * (ist - 1) : 4 + 8 * dpl;

    tss_check(v, off + 7, ext);
    return sys_load(v, v->seg[TR].base + off, 8);
}

void far_stack_inner(struct vcpu *v, struct far_stack *st, unsigned dpl, unsigned ist, uint32_t ext)
{
    const struct segment *tr = &v->seg[TR];
    uint64_t desc, off;
    uint16_t sel;

    *st = (struct far_stack){.error = ext, .user = dpl == 3};
    if (cpu_lma(v)) {
        st->sp = far_stack_of_tss(v, dpl, ist, ext);
        st->ss = (struct segment){.sel = (uint16_t)dpl, .ar = AR_UNUSABLE | dpl << AR_DPL_SHIFT};
        st->mask = UINT64_MAX;
        st->flat = true;
        return;
    }
    if (tr->ar & 8) { /* 32-bit TSS */
        off = 4 + 8 * dpl;
        tss_check(v, off + 5, ext);
        st->sp = sys_load(v, (uint32_t)(tr->base + off), 4);
        sel = (uint16_t)sys_load(v, (uint32_t)(tr->base + off + 4), 2);
    } else {
        off = 2 + 4 * dpl;
        tss_check(v, off + 3, ext);
        st->sp = sys_load(v, (uint32_t)(tr->base + off), 2);
        sel = (uint16_t)sys_load(v, (uint32_t)(tr->base + off + 2), 2);
    }
    desc = segment_need_stack(v, sel, dpl, VEC_TS, ext);
    segment_from_desc(&st->ss, sel, desc);
    st->mask = st->ss.ar & AR_DB ? 0xffffffff : 0xffff;
    st->error = SEL_ERROR(sel) | ext;
}

/* Linear address of [off, off + size) of the stack, or #SS. */
static uint64_t stack_slot(struct vcpu *v, const struct far_stack *st, uint64_t off, unsigned size)
{
    const struct segment *ss = &st->ss;
    uint64_t last = off + size - 1;

    if (st->flat) {
        unsigned seen = st->current ? stack_canonical_bytes(v, size) : size;
        if (!cpu_canonical(v, off) || !cpu_canonical(v, off + seen - 1))
            cpu_fault_error(v, VEC_SS, st->error);
        return off;
    }
    bool down = ss->ar & AR_EXPAND_DOWN && !(ss->ar & AR_CODE);
    uint64_t top = ss->ar & AR_DB ? 0xffffffff : 0xffff;
    if (ss->ar & AR_UNUSABLE || (down ? off <= ss->limit || last > top : last > ss->limit))
        cpu_fault_error(v, VEC_SS, st->error);
    return (uint32_t)(ss->base + off);
}

void far_push(struct vcpu *v, struct far_stack *st, unsigned size, uint64_t value)
{
    uint64_t off = (st->sp - size) & st->mask;
    uint64_t linear = stack_slot(v, st, off, size);

    if (st->current)
        mem_store(v, linear, size, value);
    else
        mem_store_kind(v, privilege_kind(v, st->user), linear, size, value);
    st->sp = (st->sp & ~st->mask) | off;
}

void far_push_all(struct vcpu *v, struct far_stack *st, unsigned size, const uint64_t *slot, unsigned count)
{
    const struct tlb_set *set = st->current ? v->tlb : &v->tlb_sets[privilege_kind(v, st->user)];
    unsigned bytes = size * count;
    uint8_t *host = st->flat ? tlb_probe_write(set, st->sp - bytes, bytes) : NULL;

    if (unlikely(!host)) {
        for (unsigned n = 0; n < count; n++)
            far_push(v, st, size, slot[n]);
        return;
    }
    st->sp -= bytes;
    for (unsigned n = 0; n < count; n++)
        host_put(host + bytes - size * (n + 1), size, slot[n]);
}

uint64_t far_pop_slot(struct vcpu *v, struct far_stack *st, unsigned size)
{
    uint64_t off = st->sp & st->mask;
    uint64_t linear = stack_slot(v, st, off, size);

    st->sp = (st->sp & ~st->mask) | ((off + size) & st->mask);
    return st->current ? mem_load(v, linear, size) : mem_load_kind(v, privilege_kind(v, st->user), linear, size);
}

void far_hold(struct vcpu *v, struct far_stack *st, unsigned bytes)
{
    st->host = mem_probe_read(v, st->sp, bytes);
}

void far_touch(struct vcpu *v, const struct far_stack *st, uint64_t off, unsigned size)
{
    struct far_stack at = *st;

    at.sp += off;
    (void)far_pop_slot(v, &at, size);
}

/* ---- targets ---------------- */

void far_check_ip(struct vcpu *v, const struct segment *cs, uint64_t ip, uint32_t error)
{
    if (cpu_lma(v) && cs->ar & AR_L ? !cpu_canonical(v, ip) : ip > cs->limit)
        cpu_gp(v, error);
}

void far_commit(struct vcpu *v, const struct segment *cs, const struct segment *ss, unsigned cpl,
                uint64_t rip)
{
    segment_put(&v->seg[CS], cs);
    v->seg[CS].sel = (uint16_t)((cs->sel & ~3u) | cpl);
    if (ss)
        segment_put(&v->seg[SS], ss);
    far_go(v, cpl, rip);
}

void far_go(struct vcpu *v, unsigned cpl, uint64_t rip)
{
    v->cpl = (uint8_t)cpl;
    if (likely(v->mode == MODE_LONG && v->seg[CS].ar & AR_L)) /* to 64-bit code again: all but the rights stays as it is */
        cpu_update_tlb_set(v);
    else
        cpu_update_mode(v);
    v->rip = rip;
}

/* L and D both set are reserved. SDM vol. 3, 5.2.1 */
static bool bad_long_code(const struct vcpu *v, uint64_t desc)
{
    return cpu_lma(v) && (desc_ar(desc) & (AR_L | AR_DB)) == (AR_L | AR_DB);
}

/* Checks a direct target of JMP and CALL, which keep the CPL; its offset too, unless that is for later. */
static void direct_code(struct vcpu *v, uint16_t sel, uint64_t desc, uint64_t *off,
                        struct segment *cs)
{
    unsigned dpl = desc_dpl(desc);

    if (desc_conforming(desc) ? dpl > v->cpl : dpl != v->cpl || sel_rpl(sel) > v->cpl)
        cpu_gp(v, SEL_ERROR(sel));
    if (bad_long_code(v, desc))
        cpu_gp(v, SEL_ERROR(sel));
    if (!desc_present(desc))
        cpu_fault_error(v, VEC_NP, SEL_ERROR(sel));
    segment_from_desc(cs, sel, desc);
    if (off) {
        *off = far_ip(v, cs, *off);
        far_check_ip(v, cs, *off, 0);
    }
    segment_mark_accessed(v, sel, &desc);
    cs->ar |= AR_ACCESSED;
}

/* ---- real and virtual-8086 mode ---------------- */

static void real_transfer(struct vcpu *v, uint16_t sel, uint64_t rip)
{
    segment_load_real(v, CS, sel);
    v->rip = rip;
}

/* ---- gates ---------------- */

struct call_gate {
    uint16_t sel;  /* of the code segment */
    uint64_t desc; /* its descriptor */
    uint64_t offset;
    unsigned size; /* of what is pushed: 2, 4, 8 */
    unsigned params;
    struct segment cs;
};

static void gate_privilege(struct vcpu *v, uint16_t sel, uint64_t gate)
{
    if (desc_dpl(gate) < v->cpl || desc_dpl(gate) < sel_rpl(sel))
        cpu_gp(v, SEL_ERROR(sel));
    if (!desc_present(gate))
        cpu_fault_error(v, VEC_NP, SEL_ERROR(sel));
}

static void read_call_gate(struct vcpu *v, uint16_t sel, uint64_t desc, struct call_gate *g)
{
    bool wide = desc_type(desc) == SYS_CALL32;
    uint64_t high;

    gate_privilege(v, sel, desc);
    g->sel = gate_sel(desc);
    g->offset = gate_offset(desc, wide);
    g->size = wide ? 4 : 2;
    g->params = (desc >> 32) & 0x1f;
    if (cpu_lma(v)) {
        if (!segment_read_high(v, sel, &high) || high & 0x1full << 40)
            cpu_gp(v, SEL_ERROR(sel));
        g->offset |= high << 32;
        g->size = 8;
        g->params = 0;
    }
    g->desc = segment_need_desc(v, g->sel, VEC_GP, 0);
    if (!desc_is_code(g->desc) || desc_dpl(g->desc) > v->cpl)
        cpu_gp(v, SEL_ERROR(g->sel));
    if (cpu_lma(v) && (desc_ar(g->desc) & (AR_L | AR_DB)) != AR_L)
        cpu_gp(v, SEL_ERROR(g->sel));
    if (!desc_present(g->desc))
        cpu_fault_error(v, VEC_NP, SEL_ERROR(g->sel));
    segment_from_desc(&g->cs, g->sel, g->desc);
}

static void gate_accessed(struct vcpu *v, struct call_gate *g)
{
    segment_mark_accessed(v, g->sel, &g->desc);
    g->cs.ar |= AR_ACCESSED;
}

static void jmp_call_gate(struct vcpu *v, uint16_t sel, uint64_t desc)
{
    struct call_gate g;

    read_call_gate(v, sel, desc, &g);
    if (!desc_conforming(g.desc) && desc_dpl(g.desc) != v->cpl)
        cpu_gp(v, SEL_ERROR(g.sel));
    far_check_ip(v, &g.cs, g.offset, 0);
    gate_accessed(v, &g);
    far_commit(v, &g.cs, NULL, v->cpl, g.offset);
}

/* To an inner level: its stack gets SS:ESP, the parameters, CS:EIP. */
static void call_inner(struct vcpu *v, struct call_gate *g, uint64_t next)
{
    struct far_stack in, old;
    unsigned dpl = desc_dpl(g->desc);
    uint64_t params[31];

    far_stack_inner(v, &in, dpl, 0, 0);
    far_check_ip(v, &g->cs, g->offset, 0);
    far_stack_current(v, &old, 0);
    for (unsigned n = 0; n < g->params; n++)
        params[n] = far_pop(v, &old, g->size);
    far_push(v, &in, g->size, v->seg[SS].sel);
    far_push(v, &in, g->size, v->gpr[RSP]);
    for (unsigned n = g->params; n-- > 0;)
        far_push(v, &in, g->size, params[n]);
    far_push(v, &in, g->size, v->seg[CS].sel);
    far_push(v, &in, g->size, next);
    gate_accessed(v, g);
    v->gpr[RSP] = in.sp;
    far_commit(v, &g->cs, &in.ss, dpl, g->offset);
}

static void call_call_gate(struct vcpu *v, uint16_t sel, uint64_t desc, uint64_t next)
{
    struct far_stack st;
    struct call_gate g;

    read_call_gate(v, sel, desc, &g);
    if (!desc_conforming(g.desc) && desc_dpl(g.desc) < v->cpl) {
        call_inner(v, &g, next);
        return;
    }
    far_check_ip(v, &g.cs, g.offset, 0);
    far_stack_current(v, &st, 0);
    far_push(v, &st, g.size, v->seg[CS].sel);
    far_push(v, &st, g.size, next);
    gate_accessed(v, &g);
    v->gpr[RSP] = st.sp;
    far_commit(v, &g.cs, NULL, v->cpl, g.offset);
}

/* Task gate or TSS as a target. */
static void jmp_task(struct vcpu *v, uint16_t sel, uint64_t desc, enum task_switch how,
                     uint64_t next)
{
    gate_privilege(v, sel, desc);
    if (desc_type(desc) == SYS_TASK)
        sel = gate_sel(desc);
    task_switch(v, sel, how, next, false, 0);
}

static bool is_task(uint64_t desc)
{
    unsigned type = desc_type(desc);
    return type == SYS_TASK || type == SYS_TSS16 || type == SYS_TSS32;
}

static bool is_call_gate(const struct vcpu *v, uint64_t desc)
{
    return desc_type(desc) == SYS_CALL32 || (desc_type(desc) == SYS_CALL16 && !cpu_lma(v));
}

/* ---- the instructions ---------------- */

void insn_jmp_far(struct vcpu *v, const struct insn *i, uint16_t sel, uint64_t off, unsigned opsize)
{
    struct segment cs;
    uint64_t desc;

    if (opsize == 2)
        off &= 0xffff;
    if (!cpu_protected(v)) {
        if (off > v->seg[CS].limit)
            cpu_gp(v, 0);
        real_transfer(v, sel, off);
        return;
    }
    desc = segment_need_desc(v, sel, VEC_GP, 0);
    if (desc_is_code(desc)) {
        direct_code(v, sel, desc, &off, &cs);
        far_commit(v, &cs, NULL, v->cpl, off);
    } else if (!desc_is_segment(desc) && is_call_gate(v, desc)) {
        jmp_call_gate(v, sel, desc);
    } else if (!desc_is_segment(desc) && is_task(desc) && !cpu_lma(v)) {
        jmp_task(v, sel, desc, TASK_JMP, cpu_next_rip(v, i));
    } else {
        cpu_gp(v, SEL_ERROR(sel));
    }
}

static void call_direct(struct vcpu *v, const struct segment *cs, uint16_t sel, uint64_t off,
                        uint64_t next, unsigned opsize)
{
    struct far_stack st;

    far_stack_current(v, &st, 0);
    if (cs && cpu_lma(v)) { /* on the stack as the new code's mode sees it */
        st.ss = v->seg[SS];
        st.flat = cs->ar & AR_L;
        st.mask = st.flat ? UINT64_MAX : st.ss.ar & AR_DB ? UINT32_MAX : 0xffff;
        if (!st.flat || v->mode != MODE_LONG)
            st.sp = (uint32_t)st.sp;
    }
    far_push(v, &st, opsize, v->seg[CS].sel);
    far_push(v, &st, opsize, next);
    if (!cs) {
        v->gpr[RSP] = st.sp;
        real_transfer(v, sel, off);
        return;
    }
    off = far_ip(v, cs, off);
    far_check_ip(v, cs, off, 0); /* what was pushed stays in memory */
    v->gpr[RSP] = st.sp;
    far_commit(v, cs, NULL, v->cpl, off);
}

void insn_call_far(struct vcpu *v, const struct insn *i, uint16_t sel, uint64_t off,
                   unsigned opsize)
{
    uint64_t next = cpu_next_rip(v, i), desc;
    struct segment cs;

    if (opsize == 2)
        off &= 0xffff;
    if (!cpu_protected(v)) {
        if (off > v->seg[CS].limit)
            cpu_gp(v, 0);
        call_direct(v, NULL, sel, off, next, opsize);
        return;
    }
    desc = segment_need_desc(v, sel, VEC_GP, 0);
    if (desc_is_code(desc)) {
        direct_code(v, sel, desc, NULL, &cs);
        call_direct(v, &cs, sel, off, next, opsize);
    } else if (!desc_is_segment(desc) && is_call_gate(v, desc)) {
        call_call_gate(v, sel, desc, next);
    } else if (!desc_is_segment(desc) && is_task(desc) && !cpu_lma(v)) {
        jmp_task(v, sel, desc, TASK_CALL, next);
    } else {
        cpu_gp(v, SEL_ERROR(sel));
    }
}

/* ---- returns ---------------- */

void far_return_code(struct vcpu *v, uint16_t sel, struct segment *cs)
{
    uint64_t desc = segment_need_desc(v, sel, VEC_GP, 0);
    unsigned rpl = sel_rpl(sel), dpl = desc_dpl(desc);

    if (!desc_is_code(desc) || rpl < v->cpl || (desc_conforming(desc) ? dpl > rpl : dpl != rpl) ||
        bad_long_code(v, desc))
        cpu_gp(v, SEL_ERROR(sel));
    if (!desc_present(desc))
        cpu_fault_error(v, VEC_NP, SEL_ERROR(sel));
    segment_mark_accessed(v, sel, &desc);
    segment_from_desc(cs, sel, desc);
}

void far_return_stack(struct vcpu *v, uint16_t sel, const struct segment *cs, struct segment *ss)
{
    unsigned rpl = sel_rpl(cs->sel);

    if (sel_null(sel)) { /* only into 64-bit code below CPL 3 */
        if (!cpu_lma(v) || !(cs->ar & AR_L) || rpl == 3 || sel_rpl(sel) != rpl)
            cpu_gp(v, 0);
        *ss = (struct segment){.sel = sel, .ar = AR_UNUSABLE | rpl << AR_DPL_SHIFT};
        return;
    }
    segment_from_desc(ss, sel, segment_need_stack(v, sel, rpl, VEC_GP, 0));
}

/* Base and limit stay, so that 64-bit code goes on with its FS and GS base: SDM vol. 2, IRET, names the selector alone,
 * and kvm-unit-tests (emulator, debug) rely on it. To load a null selector is another thing: segment_set_null(). */
void far_null_data(struct vcpu *v)
{
    static const enum segreg data[] = {ES, DS, FS, GS};

    for (unsigned n = 0; n < 4; n++) {
        struct segment *seg = &v->seg[data[n]];
        bool conforming = (seg->ar & (AR_CODE | AR_CONFORMING)) == (AR_CODE | AR_CONFORMING);
        unsigned dpl = (seg->ar & AR_DPL) >> AR_DPL_SHIFT;
        if (!(seg->ar & AR_UNUSABLE) && !conforming && dpl < v->cpl) {
            seg->sel = 0;
            seg->ar = AR_UNUSABLE;
            cpu_update_flat(v, data[n]);
        }
    }
}

static void ret_real(struct vcpu *v, unsigned opsize, unsigned pop_bytes)
{
    struct far_stack st;
    uint64_t rip;
    uint16_t sel;

    far_stack_current(v, &st, 0);
    rip = far_pop(v, &st, opsize);
    sel = (uint16_t)far_pop(v, &st, opsize);
    if (rip > v->seg[CS].limit)
        cpu_gp(v, 0);
    v->gpr[RSP] = st.sp;
    stack_set(v, v->gpr[RSP] + pop_bytes);
    real_transfer(v, sel, rip);
}

void insn_ret_far(struct vcpu *v, const struct insn *i, unsigned opsize, unsigned pop_bytes)
{
    unsigned selector_bytes = v->amd ? opsize : 2; /* read from the slot of CS */
    struct far_stack st;
    struct segment cs, ss;
    uint64_t rip, rsp;
    uint16_t sel;

    (void)i;
    if (!cpu_protected(v)) {
        ret_real(v, opsize, pop_bytes);
        return;
    }
    far_stack_current(v, &st, 0);
    far_touch(v, &st, opsize, selector_bytes);
    rip = far_pop(v, &st, opsize);
    sel = (uint16_t)far_pop(v, &st, selector_bytes);
    st.sp = (st.sp & ~st.mask) | ((st.sp + opsize - selector_bytes) & st.mask);
    if (v->amd && sel_rpl(sel) != v->cpl) {
        far_touch(v, &st, pop_bytes + opsize, opsize);
        far_touch(v, &st, pop_bytes, opsize);
    }
    far_return_code(v, sel, &cs);
    rip = far_ip(v, &cs, rip);
    if (v->amd) /* before the stack segment is looked at */
        far_check_ip(v, &cs, rip, 0);
    if (cpu_lma(v) && cs.ar & AR_L && v->mode != MODE_LONG)
        st.mask = UINT64_MAX; /* in the width of the stack to come */
    st.sp = (st.sp & ~st.mask) | ((st.sp + pop_bytes) & st.mask);
    if (sel_rpl(sel) == v->cpl) {
        far_check_ip(v, &cs, rip, 0);
        v->gpr[RSP] = st.sp;
        far_commit(v, &cs, NULL, v->cpl, rip);
        return;
    }
    rsp = far_pop(v, &st, opsize);
    sel = (uint16_t)far_pop(v, &st, opsize);
    far_return_stack(v, sel, &cs, &ss);
    far_check_ip(v, &cs, rip, 0);
    far_commit(v, &cs, &ss, sel_rpl(cs.sel), rip);
    stack_set(v, rsp + pop_bytes);
    far_null_data(v);
}
