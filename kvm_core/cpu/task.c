/* Hardware task switches. SDM vol. 3, chapter 8 (8.2.1, 8.3, 8.4).
 *
 * Up to the commit point a fault belongs to the old task and leaves it unchanged. Afterwards the
 * registers are the new task's and v->cur is NULL: v->rip is exact, and faults (of its segment
 * registers) are raised in the new task.
 */
#include <string.h>

#include "cpu/access.h"
#include "cpu/debug.h"
#include "cpu/far.h"

struct tss_layout { /* offsets in bytes; SDM vol. 3, figures 8-2 and 8-10 */
    unsigned word;  /* size of a register's slot */
    unsigned min_limit, cr3, ip, flags, regs, segs, seg_count, ldt, trap;
    unsigned static_end;
};

static const struct tss_layout tss32 = {.word = 4,
                                        .min_limit = 0x67,
                                        .cr3 = 0x1c,
                                        .ip = 0x20,
                                        .flags = 0x24,
                                        .regs = 0x28,
                                        .segs = 0x48,
                                        .seg_count = 6,
                                        .ldt = 0x60,
                                        .trap = 0x64,
                                        .static_end = 0x68};
static const struct tss_layout tss16 = {.word = 2,
                                        .min_limit = 0x2b,
                                        .ip = 0x0e,
                                        .flags = 0x10,
                                        .regs = 0x12,
                                        .segs = 0x22,
                                        .seg_count = 4,
                                        .ldt = 0x2a,
                                        .static_end = 0x2c};

struct task { /* an incoming task, as read from its TSS */
    const struct tss_layout *layout;
    struct segment tr;
    uint64_t cr3, ip, flags, reg[8];
    uint16_t seg[6], ldt;
    bool trap;
};

struct task_fault { /* what a bad TSS selector raises */
    unsigned vector;
    uint32_t ext;
};

static const struct tss_layout *layout_of(uint32_t ar) { return ar & 8 ? &tss32 : &tss16; }

static uint64_t tss_linear(const struct segment *tr, unsigned off)
{
    return (uint32_t)(tr->base + off);
}

/* ---- before the commit point ---------------- */

static void read_tss_desc(struct vcpu *v, uint16_t sel, enum task_switch how, struct task_fault f,
                          struct task *t)
{
    unsigned type, busy = how == TASK_IRET ? TSS_BUSY : 0;
    uint64_t desc;

    if (sel_ldt(sel))
        cpu_fault_error(v, f.vector, SEL_ERROR(sel) | f.ext);
    if (sel_null(sel)) /* SEL_ERROR of it is 0 */
        cpu_fault_error(v, f.vector, f.ext);
    desc = segment_need_desc(v, sel, f.vector, f.ext);
    type = desc_type(desc);
    if (desc_is_segment(desc) || (type & ~(unsigned)TSS_BUSY & ~8u) != SYS_TSS16 ||
        (type & TSS_BUSY) != busy)
        cpu_fault_error(v, f.vector, SEL_ERROR(sel) | f.ext);
    if (!desc_present(desc))
        cpu_fault_error(v, VEC_NP, SEL_ERROR(sel) | f.ext);
    segment_from_desc(&t->tr, sel, desc);
    t->layout = layout_of(t->tr.ar);
    if (t->tr.limit < t->layout->min_limit)
        cpu_fault_error(v, VEC_TS, SEL_ERROR(sel) | f.ext);
}

static void read_tss(struct vcpu *v, struct task *t)
{
    const struct tss_layout *l = t->layout;

    t->cr3 = l->cr3 ? sys_load(v, tss_linear(&t->tr, l->cr3), 4) : v->cr3;
    t->ip = sys_load(v, tss_linear(&t->tr, l->ip), l->word);
    t->flags = sys_load(v, tss_linear(&t->tr, l->flags), l->word);
    for (unsigned n = 0; n < 8; n++)
        t->reg[n] = sys_load(v, tss_linear(&t->tr, l->regs + n * l->word), l->word);
    for (unsigned n = 0; n < l->seg_count; n++)
        t->seg[n] = (uint16_t)sys_load(v, tss_linear(&t->tr, l->segs + n * l->word), 2);
    t->ldt = (uint16_t)sys_load(v, tss_linear(&t->tr, l->ldt), 2);
    t->trap = l->trap && sys_load(v, tss_linear(&t->tr, l->trap), 2) & 1;
}

/* The dynamic fields of the outgoing task; the last of them is tried first, so that a missing page
 * is noticed before the first is written (a TSS spans two pages at most). */
static void save_tss(struct vcpu *v, uint64_t next_rip, uint64_t flags)
{
    const struct segment *tr = &v->seg[TR];
    const struct tss_layout *l = layout_of(tr->ar);
    unsigned last = l->segs + (l->seg_count - 1) * l->word;

    sys_store(v, tss_linear(tr, last), 2, v->seg[l->seg_count - 1].sel);
    sys_store(v, tss_linear(tr, l->ip), l->word, next_rip);
    sys_store(v, tss_linear(tr, l->flags), l->word, flags);
    for (unsigned n = 0; n < 8; n++)
        sys_store(v, tss_linear(tr, l->regs + n * l->word), l->word, v->gpr[n]);
    for (unsigned n = 0; n < l->seg_count; n++)
        sys_store(v, tss_linear(tr, l->segs + n * l->word), 2, v->seg[n].sel);
}

/* ---- the commit ---------------- */

/* General registers, selectors without descriptors, flags; nothing here can fault but CR3's PDPTEs.
 */
static void commit(struct vcpu *v, const struct task *t, enum task_switch how, uint16_t old_tr)
{
    bool nested = how == TASK_CALL || how == TASK_INT;

    if (t->layout->cr3 && v->cr0 & CR0_PG)
        cpu_write_cr3(v, t->cr3);
    if (nested)
        sys_store(v, tss_linear(&t->tr, 0), 2, old_tr);
    if (how == TASK_JMP || how == TASK_IRET)
        segment_mark_busy(v, old_tr, false);
    if (how != TASK_IRET)
        segment_mark_busy(v, t->tr.sel, true);

    v->cur = NULL;
    v->rf_saved = 0; /* the old task's */
    v->seg[TR] = t->tr;
    v->seg[TR].ar |= TSS_BUSY;
    v->cr0 |= CR0_TS;
    v->dr[7] &= ~0x155ull; /* L0 to L3, LE: SDM vol. 3, 18.2.4 */
    for (unsigned n = 0; n < 8; n++)
        v->gpr[n] = t->layout->word == 4 ? t->reg[n] : (v->gpr[n] & 0xffff0000) | t->reg[n];
    v->rip = t->ip;
    v->seg[LDTR] = (struct segment){.sel = t->ldt, .ar = AR_UNUSABLE};
    cpu_set_eflags(v, nested ? t->flags | FL_NT : t->flags);
    v->cpl = t->flags & FL_VM ? 3 : (uint8_t)sel_rpl(t->seg[CS]);
    for (unsigned n = ES; n <= GS; n++)
        v->seg[n] = (struct segment){.sel = t->seg[n], .ar = AR_UNUSABLE};
    v->seg[SS].ar |= (uint32_t)v->cpl << AR_DPL_SHIFT;
    v->seg[CS].ar =
        AR_P | AR_S | AR_CODE | AR_READABLE | AR_ACCESSED | (t->layout->word == 4 ? AR_DB : 0);
    v->shadow = SHADOW_NONE;
    cpu_update_mode(v);
}

/* ---- in the new task ---------------- */

static void load_code(struct vcpu *v, uint16_t sel, uint32_t ext)
{
    uint64_t desc = segment_need_desc(v, sel, VEC_TS, ext);
    unsigned dpl = desc_dpl(desc);

    if (!desc_is_code(desc) || (desc_conforming(desc) ? dpl > v->cpl : dpl != v->cpl))
        cpu_fault_error(v, VEC_TS, SEL_ERROR(sel) | ext);
    if (!desc_present(desc))
        cpu_fault_error(v, VEC_NP, SEL_ERROR(sel) | ext);
    segment_mark_accessed(v, sel, &desc);
    segment_from_desc(&v->seg[CS], sel, desc);
}

/* A good SS is in place before CS is looked at: the handler of CS's fault needs a stack. */
static void preload_stack(struct vcpu *v, uint16_t sel)
{
    uint64_t desc;

    if (sel_null(sel) || !segment_read_desc(v, sel, &desc))
        return;
    if (sel_rpl(sel) != v->cpl || !desc_writable_data(desc) || desc_dpl(desc) != v->cpl ||
        !desc_present(desc))
        return;
    segment_from_desc(&v->seg[SS], sel, desc);
    cpu_update_mode(v);
}

/* Segment registers in the order of SDM vol. 3, table 8-1. */
static void load_segments(struct vcpu *v, const struct task *t, uint32_t ext)
{
    static const enum segreg data[] = {DS, ES, FS, GS};
    struct segment ldt;

    if (!sel_null(t->ldt)) {
        segment_need_ldt(v, t->ldt, VEC_TS, VEC_TS, ext, &ldt);
        v->seg[LDTR] = ldt;
    } else if (sel_ldt(t->ldt)) {
        cpu_fault_error(v, VEC_TS, ext);
    }
    if (v->mode == MODE_VM86) {
        for (unsigned n = ES; n <= GS; n++)
            segment_set_vm86(v, n, t->seg[n]);
        cpu_update_mode(v);
        return;
    }
    preload_stack(v, t->seg[SS]);
    load_code(v, t->seg[CS], ext);
    cpu_update_mode(v);
    segment_from_desc(&v->seg[SS], t->seg[SS],
                      segment_need_stack(v, t->seg[SS], v->cpl, VEC_TS, ext));
    cpu_update_mode(v);
    for (unsigned n = 0; n < 4; n++) {
        uint16_t sel = t->seg[data[n]];
        if (sel_null(sel))
            segment_set_null(v, data[n], sel);
        else
            segment_from_desc(&v->seg[data[n]], sel,
                              segment_need_data(v, sel, v->cpl, VEC_TS, ext));
        cpu_update_flat(v, data[n]);
    }
}

static void push_error(struct vcpu *v, const struct task *t, uint32_t error, uint32_t ext)
{
    struct far_stack st;

    far_stack_current(v, &st, ext);
    far_push(v, &st, t->layout->word, error);
    v->gpr[RSP] = st.sp;
}

void task_switch_from(struct vcpu *v, uint16_t sel, enum task_switch how, uint64_t next_rip,
                      uint64_t saved_flags, bool has_error, uint32_t error)
{
    uint32_t ext = exception_ext(v);
    struct task_fault f = {.vector = how == TASK_IRET ? VEC_TS : VEC_GP, .ext = ext};
    uint16_t old_tr = v->seg[TR].sel;
    struct task t = {0};

    if (v->seg[TR].limit < layout_of(v->seg[TR].ar)->min_limit)
        cpu_fault_error(v, VEC_TS, SEL_ERROR(old_tr) | ext);
    read_tss_desc(v, sel, how, f, &t);
    read_tss(v, &t);
    if (how == TASK_IRET)
        saved_flags &= ~(uint64_t)FL_NT;
    save_tss(v, next_rip, saved_flags);
    if (old_tr == sel) /* a task that returns to itself: what was just saved */
        read_tss(v, &t);
    commit(v, &t, how, old_tr);
    load_segments(v, &t, ext);
    if (has_error)
        push_error(v, &t, error, ext);
    far_check_ip(v, &v->seg[CS], v->rip, ext);
    if (t.trap) {
        v->db_pending |= DR6_BT;
        v->slow |= SLOW_DB_DUE;
    }
}

void task_switch(struct vcpu *v, uint16_t tss_sel, enum task_switch how, uint64_t next_rip,
                 bool has_error, uint32_t error)
{
    task_switch_from(v, tss_sel, how, next_rip, cpu_get_eflags(v) & ~(uint64_t)FL_RF, has_error,
                     error);
}
