/* Fast system calls: SYSCALL, SYSRET (EFER.SCE, STAR), SYSENTER, SYSEXIT (IA32_SYSENTER_*).
 * SDM vol. 2; AMD APM vol. 2, 6.1. Segments are not read from tables but fixed: flat, of the new
 * privilege.
 */
#include "cpu/far.h"

/* Code and stack: flat, of privilege dpl; `bits` is AR_L for 64-bit code, AR_DB for 32-bit code and for the stack. Written in place:
 * the processor would wait for a copy of fields that have just been written one by one. */
static void load_flat(struct vcpu *v, enum segreg s, unsigned sel, unsigned dpl, uint32_t bits)
{
    uint32_t type = s == CS ? AR_CODE | AR_READABLE : AR_WRITABLE;
    struct segment *seg = &v->seg[s];

    seg->base = 0;
    seg->limit = UINT32_MAX;
    seg->sel = (uint16_t)(sel | dpl);
    seg->ar = AR_G | bits | AR_P | dpl << AR_DPL_SHIFT | AR_S | type | AR_ACCESSED;
}

static void enter_kernel(struct vcpu *v, unsigned sel, bool long_mode, uint64_t rip)
{
    sel &= 0xfffc;
    load_flat(v, CS, sel, 0, long_mode ? AR_L : AR_DB);
    load_flat(v, SS, sel + 8, 0, AR_DB);
    far_go(v, 0, rip);
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
    load_flat(v, CS, sel + (wide ? 16 : 0), 3, wide ? AR_L : AR_DB);
    if (v->amd) { /* base, limit and attributes of SS stay: APM vol. 3, SYSRET */
        v->seg[SS].sel = (uint16_t)((sel + 8) | 3);
        v->seg[SS].ar |= AR_DPL;
    } else {
        load_flat(v, SS, sel + 8, 3, AR_DB);
    }
    if (cpu_lma(v))
        cpu_set_eflags(v, v->gpr[R11] & restored);
    else
        cpu_set_eflags(v, cpu_get_eflags(v) | FL_IF);
    far_go(v, 3, rip);
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
    load_flat(v, CS, sel + (wide ? 32 : 16), 3, wide ? AR_L : AR_DB);
    load_flat(v, SS, sel + (wide ? 40 : 24), 3, AR_DB);
    v->gpr[RSP] = rsp;
    far_go(v, 3, rip);
}
