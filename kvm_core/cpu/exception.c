/* Delivery of interrupts and exceptions through IVT and IDT, and what a fault inside it becomes.
 * SDM vol. 3, chapter 6; vol. 2, INT n; virtual-8086 mode: vol. 3, 21.2 and 21.3.
 */
#include "cpu/access.h"
#include "cpu/far.h"
#include "cpu/straight.h"

/* ---- the event ---------------- */

static bool is_soft(const struct event *e)
{
    return e->type == EVENT_SOFTINT || e->type == EVENT_SOFTEXC || e->type == EVENT_ICEBP;
}

static uint64_t return_rip(const struct vcpu *v, const struct event *e)
{
    return is_soft(e) ? (v->rip + e->insn_len) & v->ip_mask : v->rip;
}

/* EFLAGS as pushed. Faults set RF so that an instruction breakpoint does not hit again, unless they
 * are one; an instruction that completes clears it. SDM vol. 3, 18.3.1.1 */
static uint64_t saved_flags(const struct vcpu *v, const struct event *e)
{
    uint64_t flags = cpu_get_eflags(v);
    bool breakpoint = e->vector == VEC_DB && e->payload & 0xf;

    if (e->type == EVENT_FAULT && !breakpoint)
        return flags | FL_RF;
    return is_soft(e) ? flags & ~(uint64_t)FL_RF : flags;
}

/* CR2, DR6 and DR7 as the handler finds them. */
static void apply_payload(struct vcpu *v, const struct event *e)
{
    if (is_soft(e) || (e->type != EVENT_FAULT && e->type != EVENT_TRAP))
        return;
    if (e->vector == VEC_PF) {
        v->cr2 = e->payload;
    } else if (e->vector == VEC_DB) {
        v->dr[6] = (v->dr[6] & ~0xfull) | e->payload;
        v->dr[7] &= ~(1ull << 13); /* GD */
        v->debugctl &= ~3ull;      /* LBR, BTF */
    }
}

static void delivered(struct vcpu *v)
{
    v->pending.type = EVENT_NONE;
    v->delivering = EVENT_NONE;
    v->shadow = SHADOW_NONE;
    v->stat_interrupts++;
}

/* ---- real mode ---------------- */

/* Pushes FLAGS, CS, IP as an 8086 does, through the vector at `entry`. Commits all but flags. */
static void deliver_8086(struct vcpu *v, uint64_t entry, uint64_t flags, uint64_t rip)
{
    struct far_stack st;

    far_stack_current(v, &st, 0);
    far_push(v, &st, 2, flags);
    far_push(v, &st, 2, v->seg[CS].sel);
    far_push(v, &st, 2, rip);
    v->gpr[RSP] = st.sp;
    segment_load_real(v, CS, (uint16_t)(entry >> 16));
    v->rip = entry & 0xffff;
}

static void deliver_real(struct vcpu *v, const struct event *e)
{
    unsigned off = e->vector * 4u;
    uint64_t entry, flags = saved_flags(v, e);

    if (off + 3 > v->idt.limit)
        cpu_gp(v, off + 2 + exception_ext(v));
    entry = sys_load(v, (uint32_t)(v->idt.base + off), 4);
    deliver_8086(v, entry, flags, return_rip(v, e));
    cpu_set_eflags(v, cpu_get_eflags(v) & ~(uint64_t)(FL_IF | FL_TF | FL_AC | FL_RF));
}

/* ---- protected and long mode ---------------- */

struct idt_gate {
    uint64_t low;
    uint64_t offset;
    uint16_t sel;
    unsigned type, ist;
    unsigned size; /* of what is pushed: 2, 4, 8 */
    uint64_t desc; /* of the code segment */
    struct segment cs;
    unsigned cpl; /* of the handler */
};

static void read_gate(struct vcpu *v, const struct event *e, struct idt_gate *g)
{
    unsigned entry_bytes = cpu_lma(v) ? 16 : 8, off = e->vector * entry_bytes;
    uint32_t ext = exception_ext(v), error = e->vector * 8u + 2 + ext;
    uint64_t linear = v->idt.base + off;
    bool known;

    if (off + entry_bytes - 1 > v->idt.limit)
        cpu_gp(v, error);
    if (!cpu_lma(v))
        linear = (uint32_t)linear;
    g->low = sys_load(v, linear, 8);
    g->type = desc_type(g->low);
    known = g->type == SYS_INT32 || g->type == SYS_TRAP32;
    if (!cpu_lma(v))
        known |= g->type == SYS_TASK || g->type == SYS_INT16 || g->type == SYS_TRAP16;
    if (desc_is_segment(g->low) || !known)
        cpu_gp(v, error);
    if (!ext && desc_dpl(g->low) < v->cpl) /* INT n, INT3, INTO */
        cpu_gp(v, error);
    if (!desc_present(g->low))
        cpu_fault_error(v, VEC_NP, error);
    g->sel = gate_sel(g->low);
    g->offset = gate_offset(g->low, g->type & 8);
    g->size = g->type & 8 ? 4 : 2;
    g->ist = 0;
    if (cpu_lma(v)) {
        g->offset |= sys_load(v, linear + 8, 4) << 32;
        g->size = 8;
        g->ist = g->low >> 32 & 7;
    }
}

static void gate_code(struct vcpu *v, struct idt_gate *g, uint32_t ext)
{
    unsigned dpl;

    g->desc = segment_need_desc(v, g->sel, VEC_GP, ext);
    dpl = desc_dpl(g->desc);
    if (!desc_is_code(g->desc) || dpl > v->cpl)
        cpu_gp(v, SEL_ERROR(g->sel) | ext);
    if (cpu_lma(v) && (desc_ar(g->desc) & (AR_L | AR_DB)) != AR_L)
        cpu_gp(v, SEL_ERROR(g->sel) | ext);
    if (!desc_present(g->desc))
        cpu_fault_error(v, VEC_NP, SEL_ERROR(g->sel) | ext);
    g->cpl = desc_conforming(g->desc) ? v->cpl : dpl;
    if (v->mode == MODE_VM86 && g->cpl != 0)
        cpu_gp(v, SEL_ERROR(g->sel) | ext);
    segment_from_desc(&g->cs, g->sel, g->desc);
}

/* The stack of the handler, aligned to 16 bytes in long mode. SDM vol. 3, 6.14.2, 6.14.5 */
static void gate_stack(struct vcpu *v, const struct idt_gate *g, uint32_t ext, struct far_stack *st)
{
    if (g->cpl < v->cpl)
        far_stack_inner(v, st, g->cpl, g->ist, ext);
    else
        far_stack_current(v, st, ext);
    if (!cpu_lma(v))
        return;
    if (g->ist && st->current)
        st->sp = far_stack_of_tss(v, g->cpl, g->ist, ext);
    /* compatibility-mode code of the same level: the handler is 64-bit, its stack flat */
    st->mask = UINT64_MAX;
    st->flat = true;
    st->sp &= ~0xfull;
}

static void push_frame(struct vcpu *v, struct far_stack *st, const struct idt_gate *g,
                       const struct event *e)
{
    static const enum segreg data[] = {GS, FS, DS, ES};
    uint64_t slot[10];
    unsigned count = 0;

    if (v->mode == MODE_VM86) {
        for (unsigned n = 0; n < 4; n++)
            slot[count++] = v->seg[data[n]].sel;
    }
    if (g->cpl < v->cpl || cpu_lma(v)) {
        slot[count++] = v->seg[SS].sel;
        slot[count++] = v->mode == MODE_LONG ? v->gpr[RSP] : (uint32_t)v->gpr[RSP];
    }
    slot[count++] = saved_flags(v, e);
    slot[count++] = v->seg[CS].sel;
    slot[count++] = return_rip(v, e);
    if (e->has_error)
        slot[count++] = e->error;
    far_push_all(v, st, g->size, slot, count);
}

static void deliver_gate(struct vcpu *v, const struct event *e, struct idt_gate *g)
{
    static const enum segreg data[] = {GS, FS, DS, ES};
    uint64_t flags = cpu_get_eflags(v) & ~(uint64_t)(FL_TF | FL_NT | FL_RF | FL_VM);
    uint32_t ext = exception_ext(v);
    bool vm86 = v->mode == MODE_VM86, inner;
    struct far_stack st;

    gate_code(v, g, ext);
    inner = g->cpl < v->cpl;
    gate_stack(v, g, ext, &st);
    far_check_ip(v, &g->cs, g->offset, ext);
    push_frame(v, &st, g, e);
    segment_mark_accessed(v, g->sel, &g->desc);
    g->cs.ar |= AR_ACCESSED;

    if (!(g->type & 1)) /* interrupt gate */
        flags &= ~(uint64_t)FL_IF;
    cpu_set_eflags(v, flags);
    v->gpr[RSP] = st.sp;
    far_commit(v, &g->cs, inner ? &st.ss : NULL, g->cpl, g->offset);
    if (vm86) {
        for (unsigned n = 0; n < 4; n++) {
            segment_set_null(v, data[n], 0);
            cpu_update_flat(v, data[n]);
        }
    }
}

static void deliver_protected(struct vcpu *v, const struct event *e)
{
    struct idt_gate g;

    read_gate(v, e, &g);
    if (g.type == SYS_TASK) {
        task_switch_from(v, g.sel, TASK_INT, return_rip(v, e), saved_flags(v, e), e->has_error,
                         e->error);
        return;
    }
    deliver_gate(v, e, &g);
}

void exception_deliver(struct vcpu *v)
{
    const struct event *e = &v->pending;

    v->delivering = e->type;
    __asm__("" ::: "memory"); /* not both in one: what has just been stored apart would be waited for */
    v->delivering_vector = e->vector;
    if (e->type == EVENT_NMI)
        v->nmi_masked = true;
    apply_payload(v, e);
    if (v->mode == MODE_REAL)
        deliver_real(v, e);
    else if (v->mode != MODE_LONG || v->slow || !straight_gate(v, e, saved_flags(v, e), return_rip(v, e)))
        deliver_protected(v, e);
    delivered(v);
}

/* ---- a fault while delivering ---------------- */

enum fault_class { BENIGN, CONTRIBUTORY, PAGE, DOUBLE };

static enum fault_class classify(uint8_t type, uint8_t vector)
{
    if (type != EVENT_FAULT)
        return BENIGN; /* interrupts and traps, whatever their vector */
    switch (vector) {
    case VEC_DE:
    case VEC_TS:
    case VEC_NP:
    case VEC_SS:
    case VEC_GP: return CONTRIBUTORY;
    case VEC_PF: return PAGE;
    case VEC_DF: return DOUBLE;
    default: return BENIGN;
    }
}

bool exception_merge(struct vcpu *v)
{
    enum fault_class first = classify(v->delivering, v->delivering_vector);
    enum fault_class second = classify(v->fault.type, v->fault.vector);

    if (v->delivering == EVENT_NONE)
        first = BENIGN;
    v->delivering = EVENT_NONE;
    v->pending = v->fault;
    if (first == BENIGN || second == BENIGN || (first == CONTRIBUTORY && second == PAGE))
        return false;
    if (second == PAGE)
        v->cr2 = v->fault.payload;
    v->pending = (struct event){.type = EVENT_FAULT, .vector = VEC_DF, .has_error = true};
    return first == DOUBLE;
}

/* ---- INT n, INT1, INT3, INTO ---------------- */

/* Virtual-8086 mode with VME: does the redirection bitmap send this vector to the 8086 handler?
 * The 32 bytes below the I/O bitmap; SDM vol. 3, 21.3.3 */
static bool vme_redirected(struct vcpu *v, unsigned vector)
{
    const struct segment *tr = &v->seg[TR];
    uint64_t off;

    if (!(v->cr4 & CR4_VME))
        return false;
    if (!(tr->ar & 8) || tr->limit < 0x67)
        cpu_gp(v, 0);
    off = sys_load(v, (uint32_t)(tr->base + 0x66), 2) - 32 + vector / 8;
    if (off > tr->limit)
        cpu_gp(v, 0);
    return !(sys_load(v, (uint32_t)(tr->base + off), 1) >> (vector % 8) & 1);
}

/* Methods 5 and 6 of SDM vol. 3, table 21-2: the handler runs in virtual-8086 mode, on VIF below
 * IOPL 3. */
static void int_8086(struct vcpu *v, unsigned vector, uint64_t next)
{
    uint64_t flags = cpu_get_eflags(v) & ~(uint64_t)FL_RF, pushed = flags;
    uint64_t entry = mem_load(v, vector * 4, 4);
    uint64_t cleared = FL_IF;

    if (cpu_iopl(v) < 3) {
        cleared = FL_VIF;
        pushed = (flags & ~(uint64_t)FL_IF) | FL_IOPL | (flags & FL_VIF ? FL_IF : 0);
    }
    deliver_8086(v, entry, pushed, next);
    cpu_set_eflags(v, flags & ~(cleared | FL_TF));
}

void insn_int(struct vcpu *v, const struct insn *i, unsigned vector, enum event_type type)
{
    if (type == EVENT_SOFTINT && v->mode == MODE_VM86) {
        if (vme_redirected(v, vector)) {
            int_8086(v, vector, cpu_next_rip(v, i));
            return;
        }
        if (cpu_iopl(v) < 3)
            cpu_gp(v, 0);
    }
    if (type == EVENT_ICEBP) { /* takes the breakpoints of a MOV SS before it along */
        v->dr[6] |= v->db_pending;
        v->db_pending = 0;
    }
    v->rip = cpu_this_rip(v, i);
    v->pending = (struct event){.type = type, .vector = (uint8_t)vector, .insn_len = i->len};
    exception_deliver(v);
}
