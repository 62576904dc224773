/* Fast system calls: SYSCALL, SYSRET (EFER.SCE, STAR), SYSENTER, SYSEXIT (IA32_SYSENTER_*).
 * SDM vol. 2; AMD APM vol. 2, 6.1. Segments are not read from tables but fixed: flat, of the new
 * privilege.
 */
#include "cpu/far.h"

/* Flat code and stack of privilege dpl; `code` is AR_L (64-bit) or AR_DB (32-bit). */
static struct segment flat_code(uint16_t sel, unsigned dpl, uint32_t code)
{
    return (struct segment){.limit = UINT32_MAX,
                            .sel = sel,
                            .ar = AR_G | code | AR_P | dpl << AR_DPL_SHIFT | AR_S | AR_CODE |
                                  AR_READABLE | AR_ACCESSED};
}

static struct segment flat_stack(uint16_t sel, unsigned dpl)
{
    return (struct segment){.limit = UINT32_MAX,
                            .sel = sel,
                            .ar = AR_G | AR_DB | AR_P | dpl << AR_DPL_SHIFT | AR_S | AR_WRITABLE |
                                  AR_ACCESSED};
}

static void enter_kernel(struct vcpu *v, uint16_t sel, bool long_mode, uint64_t rip)
{
    struct segment cs = flat_code(sel & 0xfffc, 0, long_mode ? AR_L : AR_DB);
    struct segment ss = flat_stack((uint16_t)((sel & 0xfffc) + 8), 0);

    far_commit(v, &cs, &ss, 0, rip);
}

void insn_syscall(struct vcpu *v, const struct insn *i)
{
    uint64_t next = cpu_next_rip(v, i), flags = cpu_get_eflags(v) & ~(uint64_t)FL_RF;
    uint16_t sel = (uint16_t)(v->star >> 32);

    if (!(v->efer & EFER_SCE) || !cpu_protected(v) || (!v->amd && v->mode != MODE_LONG))
        cpu_ud(v);
    v->gpr[RCX] = next;
    if (cpu_lma(v)) {
        uint64_t rip = v->mode == MODE_LONG ? v->lstar : v->cstar;
        v->gpr[R11] = flags;
        cpu_set_eflags(v, flags & ~v->sfmask);
        enter_kernel(v, sel, true, rip);
    } else {
        cpu_set_eflags(v, flags & ~(uint64_t)(FL_IF | FL_VM));
        enter_kernel(v, sel, false, (uint32_t)v->star);
    }
}

void insn_sysret(struct vcpu *v, const struct insn *i, unsigned opsize)
{
    const uint64_t restored = 0x3c7fd7; /* all but RF and VM */
    uint16_t sel = (uint16_t)(v->star >> 48);
    bool wide = opsize == 8;
    struct segment cs, ss;
    uint64_t rip;

    (void)i;
    if (!(v->efer & EFER_SCE) || (!v->amd && v->mode != MODE_LONG))
        cpu_ud(v);
    if (!cpu_protected(v) || v->cpl != 0)
        cpu_gp(v, 0);
    rip = wide ? v->gpr[RCX] : (uint32_t)v->gpr[RCX];
    /* Intel checks here, at CPL 0; AMD faults at the target, at CPL 3 */
    if (wide && !v->amd && !cpu_canonical(v, rip))
        cpu_gp(v, 0);
    cs = flat_code((uint16_t)((sel + (wide ? 16 : 0)) | 3), 3, wide ? AR_L : AR_DB);
    ss = flat_stack((uint16_t)((sel + 8) | 3), 3);
    if (v->amd) { /* base, limit and attributes of SS stay: APM vol. 3, SYSRET */
        uint16_t ss_sel = ss.sel;
        ss = v->seg[SS];
        ss.sel = ss_sel;
        ss.ar |= AR_DPL;
    }
    if (cpu_lma(v))
        cpu_set_eflags(v, v->gpr[R11] & restored);
    else
        cpu_set_eflags(v, cpu_get_eflags(v) | FL_IF);
    far_commit(v, &cs, &ss, 3, rip);
    if (v->eflags & FL_TF) /* the TF just loaded counts, unlike IRET's: APM vol. 2, 13.1.4 */
        v->pending = (struct event){.type = EVENT_TRAP, .vector = VEC_DB, .payload = 1 << 14 /* BS */};
}

void insn_sysenter(struct vcpu *v, const struct insn *i)
{
    bool lma = cpu_lma(v);
    uint16_t sel = (uint16_t)v->sysenter_cs;

    (void)i;
    if (lma && v->amd)
        cpu_ud(v);
    if (v->mode == MODE_REAL || sel_null(sel))
        cpu_gp(v, 0);
    cpu_set_eflags(v, cpu_get_eflags(v) & ~(uint64_t)(FL_VM | FL_IF | FL_RF));
    v->gpr[RSP] = lma ? v->sysenter_esp : (uint32_t)v->sysenter_esp;
    enter_kernel(v, sel, lma, lma ? v->sysenter_eip : (uint32_t)v->sysenter_eip);
}

void insn_sysexit(struct vcpu *v, const struct insn *i, unsigned opsize)
{
    uint16_t sel = (uint16_t)v->sysenter_cs;
    bool wide = opsize == 8;
    uint64_t rip = v->gpr[RDX], rsp = v->gpr[RCX];
    struct segment cs, ss;

    (void)i;
    if (!cpu_protected(v) || v->cpl != 0)
        cpu_gp(v, 0);
    if (cpu_lma(v) && v->amd)
        cpu_ud(v);
    if (sel_null(sel))
        cpu_gp(v, 0);
    if (wide && (!cpu_canonical(v, rip) || !cpu_canonical(v, rsp)))
        cpu_gp(v, 0);
    if (!wide) {
        rip = (uint32_t)rip;
        rsp = (uint32_t)rsp;
    }
    sel &= 0xfffc;
    cs = flat_code((uint16_t)((sel + (wide ? 32 : 16)) | 3), 3, wide ? AR_L : AR_DB);
    ss = flat_stack((uint16_t)((sel + (wide ? 40 : 24)) | 3), 3);
    v->gpr[RSP] = rsp;
    far_commit(v, &cs, &ss, 3, rip);
}
