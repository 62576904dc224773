/* Segment registers: what loading one checks and leaves behind. SDM vol. 3, chapters 3 and 5. */
#include "cpu/segment.h"

#include "cpu/access.h"
#include "cpu/cpuid.h"
#include "cpu/msr.h"

/* ---- descriptor tables ---------------- */

/* Linear address of [off, off + size) of the selector's table; false when beyond the limit. */
static bool table_linear(const struct vcpu *v, uint16_t sel, unsigned off, unsigned size,
                         uint64_t *linear)
{
    uint64_t base = v->gdt.base, limit = v->gdt.limit;
    uint32_t first = (sel & 0xfff8u) + off;

    if (sel_ldt(sel)) {
        const struct segment *ldt = &v->seg[LDTR];
        if (ldt->ar & AR_UNUSABLE || !(ldt->ar & AR_P))
            return false;
        base = ldt->base;
        limit = ldt->limit;
    }
    if ((uint64_t)first + size - 1 > limit)
        return false;
    *linear = base + first;
    if (!cpu_lma(v))
        *linear = (uint32_t)*linear;
    return true;
}

bool segment_read_desc(struct vcpu *v, uint16_t sel, uint64_t *desc)
{
    uint64_t linear;

    if (!table_linear(v, sel, 0, 8, &linear))
        return false;
    *desc = sys_load(v, linear, 8);
    return true;
}

bool segment_read_high(struct vcpu *v, uint16_t sel, uint64_t *high)
{
    uint64_t linear;

    if (!table_linear(v, sel, 8, 8, &linear))
        return false;
    *high = sys_load(v, linear, 8);
    return true;
}

uint64_t segment_need_desc(struct vcpu *v, uint16_t sel, unsigned vector, uint32_t ext)
{
    uint64_t desc;

    if (sel_null(sel))
        cpu_fault_error(v, vector, ext);
    if (!segment_read_desc(v, sel, &desc))
        cpu_fault_error(v, vector, SEL_ERROR(sel) | ext);
    return desc;
}

void segment_mark_accessed(struct vcpu *v, uint16_t sel, uint64_t *desc)
{
    uint64_t linear;

    if (*desc & 1ull << 40 || !table_linear(v, sel, 5, 1, &linear))
        return;
    *desc |= 1ull << 40;
    sys_store(v, linear, 1, (uint8_t)(*desc >> 40));
}

void segment_mark_busy(struct vcpu *v, uint16_t sel, bool busy)
{
    uint64_t linear, type;

    if (!table_linear(v, sel, 5, 1, &linear))
        return;
    type = sys_load(v, linear, 1);
    sys_store(v, linear, 1, busy ? type | TSS_BUSY : type & ~(uint64_t)TSS_BUSY);
}

/* ---- checks ---------------- */

uint64_t segment_need_stack(struct vcpu *v, uint16_t sel, unsigned cpl, unsigned vector,
                            uint32_t ext)
{
    uint64_t desc = segment_need_desc(v, sel, vector, ext);

    if (sel_rpl(sel) != cpl || !desc_writable_data(desc) || desc_dpl(desc) != cpl)
        cpu_fault_error(v, vector, SEL_ERROR(sel) | ext);
    if (!desc_present(desc))
        cpu_fault_error(v, VEC_SS, SEL_ERROR(sel) | ext);
    segment_mark_accessed(v, sel, &desc);
    return desc;
}

/* Conforming code is open to all; else neither CPL nor RPL may be beyond DPL. */
static bool data_privilege(uint64_t desc, unsigned cpl, unsigned rpl)
{
    return desc_conforming(desc) || (rpl <= desc_dpl(desc) && cpl <= desc_dpl(desc));
}

uint64_t segment_need_data(struct vcpu *v, uint16_t sel, unsigned cpl, unsigned vector,
                           uint32_t ext)
{
    uint64_t desc = segment_need_desc(v, sel, vector, ext);

    if (!desc_readable(desc) || !data_privilege(desc, cpl, sel_rpl(sel)))
        cpu_fault_error(v, vector, SEL_ERROR(sel) | ext);
    if (!desc_present(desc))
        cpu_fault_error(v, VEC_NP, SEL_ERROR(sel) | ext);
    segment_mark_accessed(v, sel, &desc);
    return desc;
}

/* Long mode: base 63:32 from the second half, whose type field must be 0. SDM vol. 3, 3.5.1, 7.2.3
 */
static void system_high(struct vcpu *v, uint16_t sel, unsigned vector, struct segment *seg)
{
    uint64_t high;

    if (!segment_read_high(v, sel, &high) || high & 0x1full << 40)
        cpu_fault_error(v, vector, SEL_ERROR(sel));
    seg->base |= high << 32;
    if (!msr_canonical(v, seg->base)) /* by the widest address of the processor, whatever CR4.LA57: SDM vol. 3, 4.5.2 */
        cpu_fault_error(v, vector, SEL_ERROR(sel));
}

void segment_need_ldt(struct vcpu *v, uint16_t sel, unsigned vector, unsigned absent_vector,
                      uint32_t ext, struct segment *out)
{
    uint64_t desc;

    if (sel_ldt(sel))
        cpu_fault_error(v, vector, SEL_ERROR(sel) | ext);
    desc = segment_need_desc(v, sel, vector, ext);
    if (desc_is_segment(desc) || desc_type(desc) != SYS_LDT)
        cpu_fault_error(v, vector, SEL_ERROR(sel) | ext);
    if (!desc_present(desc))
        cpu_fault_error(v, absent_vector, SEL_ERROR(sel) | ext);
    segment_from_desc(out, sel, desc);
    if (cpu_lma(v))
        system_high(v, sel, vector, out);
}

/* ---- loads ---------------- */

void segment_set_null(struct vcpu *v, enum segreg s, uint16_t sel)
{
    struct segment *seg = &v->seg[s];

    seg->sel = sel;
    seg->ar = AR_UNUSABLE | (s == SS ? (uint32_t)v->cpl << AR_DPL_SHIFT : 0);
    /* AMD processors before Zen 2 keep what was there: CPUID 8000_0021 EAX bit 6 */
    if (!v->amd || cpu_has(v, FEAT_NULL_SEL_CLR_BASE)) {
        seg->base = 0;
        seg->limit = 0;
    }
}

void segment_set_vm86(struct vcpu *v, enum segreg s, uint16_t sel)
{
    v->seg[s] = (struct segment){.base = (uint32_t)sel << 4,
                                 .limit = 0xffff,
                                 .sel = sel,
                                 .ar = AR_P | AR_DPL | AR_S | AR_WRITABLE | AR_ACCESSED};
}

void segment_load_real(struct vcpu *v, enum segreg s, uint16_t sel)
{
    struct segment *seg = &v->seg[s];

    if (v->mode == MODE_VM86) {
        segment_set_vm86(v, s, sel);
    } else {
        /* limit, B and G stay as protected mode left them ("unreal" mode): SDM vol. 3, 9.9.2 */
        if (seg->ar & AR_UNUSABLE)
            *seg = (struct segment){.limit = 0xffff};
        seg->sel = sel;
        seg->base = (uint32_t)sel << 4;
        seg->ar = (seg->ar & (AR_AVL | AR_DB | AR_G)) | AR_P | AR_S | AR_WRITABLE | AR_ACCESSED;
        if (s == CS)
            seg->ar |= AR_CODE;
    }
    cpu_update_flat(v, s);
}

void segment_load(struct vcpu *v, enum segreg s, uint16_t sel)
{
    uint64_t desc;

    if (!cpu_protected(v)) {
        segment_load_real(v, s, sel);
    } else if (sel_null(sel)) {
        /* a null SS is a usable one in 64-bit mode below CPL 3: SDM vol. 3, 5.4.1.1 */
        if (s == SS && !(v->mode == MODE_LONG && v->cpl != 3 && sel_rpl(sel) == v->cpl))
            cpu_gp(v, 0);
        segment_set_null(v, s, sel);
    } else {
        desc = s == SS ? segment_need_stack(v, sel, v->cpl, VEC_GP, 0)
                       : segment_need_data(v, sel, v->cpl, VEC_GP, 0);
        segment_from_desc(&v->seg[s], sel, desc);
    }
    if (s == SS)
        cpu_update_mode(v);
    else
        cpu_update_flat(v, s);
}

void segment_load_ldt(struct vcpu *v, uint16_t sel)
{
    struct segment ldt;

    if (sel_null(sel)) {
        v->seg[LDTR] = (struct segment){.sel = sel, .ar = AR_UNUSABLE};
        return;
    }
    segment_need_ldt(v, sel, VEC_GP, VEC_NP, 0, &ldt);
    v->seg[LDTR] = ldt;
}

void segment_load_tr(struct vcpu *v, uint16_t sel)
{
    struct segment tr;
    uint64_t desc;

    if (sel_null(sel))
        cpu_gp(v, 0);
    if (sel_ldt(sel))
        cpu_gp(v, SEL_ERROR(sel));
    desc = segment_need_desc(v, sel, VEC_GP, 0);
    if (desc_is_segment(desc) ||
        (desc_type(desc) != SYS_TSS32 && (cpu_lma(v) || desc_type(desc) != SYS_TSS16)))
        cpu_gp(v, SEL_ERROR(sel));
    if (!desc_present(desc))
        cpu_fault_error(v, VEC_NP, SEL_ERROR(sel));
    segment_from_desc(&tr, sel, desc);
    if (cpu_lma(v))
        system_high(v, sel, VEC_GP, &tr);
    segment_mark_busy(v, sel, true);
    tr.ar |= TSS_BUSY;
    v->seg[TR] = tr;
}

/* ---- LAR, LSL, VERR, VERW ---------------- */

/* Which system types the instruction accepts, as a bitmap by type: SDM vol. 2, tables 3-53 and
 * 3-56. */
static bool query(struct vcpu *v, uint16_t sel, uint32_t system_types, uint64_t *desc)
{
    if (sel_null(sel) || !segment_read_desc(v, sel, desc))
        return false;
    if (!desc_is_segment(*desc) && !(system_types >> desc_type(*desc) & 1))
        return false;
    return data_privilege(*desc, v->cpl, sel_rpl(sel));
}

bool segment_lar(struct vcpu *v, uint16_t sel, uint32_t *rights)
{
    uint64_t desc;
    uint32_t types = 1 << SYS_LDT | 1 << SYS_TSS32 | 1 << SYS_TSS32_BUSY | 1 << SYS_CALL32;

    if (!cpu_lma(v))
        types |= 1 << SYS_TSS16 | 1 << SYS_TSS16_BUSY | 1 << SYS_CALL16 | 1 << SYS_TASK;
    if (!query(v, sel, types, &desc))
        return false;
    /* bits 19:16 are undefined by the manual; processors give limit 19:16 */
    *rights = (uint32_t)(desc >> 32) & 0x00ffff00;
    return true;
}

bool segment_lsl(struct vcpu *v, uint16_t sel, uint32_t *limit)
{
    uint64_t desc;
    uint32_t types = 1 << SYS_LDT | 1 << SYS_TSS32 | 1 << SYS_TSS32_BUSY;

    if (!cpu_lma(v))
        types |= 1 << SYS_TSS16 | 1 << SYS_TSS16_BUSY;
    if (!query(v, sel, types, &desc))
        return false;
    *limit = desc_limit(desc);
    return true;
}

bool segment_verify(struct vcpu *v, uint16_t sel, bool write)
{
    uint64_t desc;

    if (!query(v, sel, 0, &desc))
        return false;
    return write ? desc_writable_data(desc) : desc_readable(desc);
}
