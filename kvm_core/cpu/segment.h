/* Descriptors: their fields, and the checks that every way of loading a segment register shares.
 *
 * Vectors differ by context (a bad SS is #GP for MOV, #TS for a gate), so the checks take the
 * vector. `ext` is the EXT bit of the error code. SDM vol. 3, 3.4.5 and 6.13.
 */
#ifndef KVMISH_CPU_SEGMENT_H
#define KVMISH_CPU_SEGMENT_H

#include "cpu/cpu.h"

enum system_type { /* descriptor types with S = 0; SDM vol. 3, table 3-2 */
                   SYS_TSS16 = 1,
                   SYS_LDT = 2,
                   SYS_TSS16_BUSY = 3,
                   SYS_CALL16 = 4,
                   SYS_TASK = 5,
                   SYS_INT16 = 6,
                   SYS_TRAP16 = 7,
                   SYS_TSS32 = 9,
                   SYS_TSS32_BUSY = 11,
                   SYS_CALL32 = 12,
                   SYS_INT32 = 14,
                   SYS_TRAP32 = 15 /* 9, 11, 12, 14, 15 are the 64-bit ones in long mode */
};
enum { TSS_BUSY = 2 };

#define SEL_ERROR(sel) ((uint32_t)(sel)&0xfffc)

static inline bool sel_null(uint16_t sel) { return !(sel & 0xfffc); }
static inline bool sel_ldt(uint16_t sel) { return sel & 4; }
static inline unsigned sel_rpl(uint16_t sel) { return sel & 3; }

static inline uint32_t desc_ar(uint64_t d) { return (uint32_t)(d >> 40) & 0xf0ff; }
static inline unsigned desc_dpl(uint64_t d) { return (d >> 45) & 3; }
static inline bool desc_present(uint64_t d) { return d >> 47 & 1; }
static inline bool desc_is_segment(uint64_t d) { return d >> 44 & 1; } /* S: code or data */
static inline unsigned desc_type(uint64_t d) { return (d >> 40) & 0xf; }
static inline bool desc_is_code(uint64_t d) { return desc_is_segment(d) && d >> 43 & 1; }
static inline bool desc_conforming(uint64_t d) { return desc_is_code(d) && d >> 42 & 1; }
static inline bool desc_writable_data(uint64_t d)
{
    return desc_is_segment(d) && !desc_is_code(d) && d >> 41 & 1;
}
static inline bool desc_readable(uint64_t d)
{
    return desc_is_segment(d) && (!desc_is_code(d) || d >> 41 & 1);
}
static inline uint64_t desc_base(uint64_t d)
{
    return (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000);
}
static inline uint32_t desc_limit(uint64_t d)
{
    uint32_t limit = (uint32_t)(d & 0xffff) | ((uint32_t)(d >> 32) & 0xf0000);
    return d >> 55 & 1 ? limit << 12 | 0xfff : limit;
}
/* Gates: SDM vol. 3, figures 5-8 and 6-2. */
static inline uint16_t gate_sel(uint64_t d) { return (uint16_t)(d >> 16); }
static inline uint32_t gate_offset(uint64_t d, bool wide)
{
    return wide ? (uint32_t)((d & 0xffff) | (d >> 32 & 0xffff0000)) : (uint32_t)(d & 0xffff);
}

static inline void segment_from_desc(struct segment *out, uint16_t sel, uint64_t desc)
{
    *out = (struct segment){.base = desc_base(desc), .limit = desc_limit(desc), .ar = desc_ar(desc), .sel = sel};
}

/* Field by field: a wide load of what narrower stores have just left would wait for them. */
static inline void segment_put(struct segment *to, const struct segment *from)
{
    uint64_t base = from->base;
    uint32_t limit = from->limit, ar = from->ar;

    __asm__("" : "+r"(base), "+r"(limit), "+r"(ar)); /* not put together again */
    to->base = base;
    to->limit = limit;
    to->ar = ar;
    to->sel = from->sel;
}

/* The descriptor, or vector(ext) for a null selector, vector(sel | ext) beyond its table. */
uint64_t segment_need_desc(struct vcpu *v, uint16_t sel, unsigned vector, uint32_t ext);
/* Second half of a 16-byte descriptor; false when beyond the limit. */
bool segment_read_high(struct vcpu *v, uint16_t sel, uint64_t *high);
/* Sets the accessed bit, in memory only when it is clear. */
void segment_mark_accessed(struct vcpu *v, uint16_t sel, uint64_t *desc);
/* Sets or clears the busy bit of a TSS descriptor in the GDT. */
void segment_mark_busy(struct vcpu *v, uint16_t sel, bool busy);
/* A stack segment for privilege `cpl`: vector(sel), #SS(sel) when absent; marks it accessed. Not
 * null. */
uint64_t segment_need_stack(struct vcpu *v, uint16_t sel, unsigned cpl, unsigned vector,
                            uint32_t ext);
/* A data segment readable at `cpl`: vector(sel), #NP(sel). Not null. */
uint64_t segment_need_data(struct vcpu *v, uint16_t sel, unsigned cpl, unsigned vector,
                           uint32_t ext);
/* An LDT: sets *out; vector(sel), absent_vector(sel). Not null. */
void segment_need_ldt(struct vcpu *v, uint16_t sel, unsigned vector, unsigned absent_vector,
                      uint32_t ext, struct segment *out);
/* What a null selector leaves in a segment register; SS keeps the CPL as its DPL. */
void segment_set_null(struct vcpu *v, enum segreg s, uint16_t sel);
/* Virtual-8086 segment registers: base = sel << 4, 64 KiB, DPL 3. SDM vol. 3, 21.2.1 */
void segment_set_vm86(struct vcpu *v, enum segreg s, uint16_t sel);

#endif
