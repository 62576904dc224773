/* Segment registers and control transfers: every combination of type, privilege and presence
 * against the manual's rules written a second time, then stacks, frames, tasks and flags case by
 * case.
 */
#include "fixture.h"

#include "cpu/far.h"
#include "gen/handlers.h"

enum { OK = -1 };
enum { /* memory, and selectors of the GDT */
       GDT = 0x1000,
       IDT = 0x2000,
       TSS = 0x3000,
       TSS2 = 0x3200,
       STACK0 = 0x8000,
       STACK3 = 0x9000,
       STACK_NEW = 0xa000,
       S_CODE0 = 0x08,
       S_DATA0 = 0x10,
       S_CODE3 = 0x1b,
       S_DATA3 = 0x23,
       S_TSS = 0x28,
       S_TSS2 = 0x38,
       S_TEST = 0x48,
       S_CONF = 0x58,
       S_CODE64 = 0x60,
       S_CODE64_3 = 0x6b,
       S_GATE = 0x70,
       S_LDT = 0x80,
       S_CODE16 = 0x90
};

static void put(uint64_t at, unsigned size, uint64_t value) { memcpy(ram + at, &value, size); }
static uint64_t get(uint64_t at, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, ram + at, size);
    return value;
}

/* ar as in struct segment (G at 15). */
static uint64_t desc(uint32_t base, uint32_t limit, uint32_t ar)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(ar & 0xff) << 40 |
           (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)(ar >> 12 & 0xf) << 52 |
           (uint64_t)(base >> 24) << 56;
}
static void gdt_set(unsigned sel, uint64_t d) { put(GDT + (sel & 0xfff8), 8, d); }
static uint64_t gdt_get(unsigned sel) { return get(GDT + (sel & 0xfff8), 8); }

static uint64_t gate(unsigned sel, uint32_t off, unsigned type, unsigned dpl, unsigned params)
{
    return (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)params << 32 |
           (uint64_t)(0x80 | dpl << 5 | type) << 40 | (uint64_t)(off >> 16) << 48;
}

static const uint32_t F = AR_G | AR_DB, L = AR_G | AR_L;

static void tables(struct vcpu *v)
{
    memset(ram, 0, 0x10000);
    gdt_set(S_CODE0, desc(0, 0xfffff, F | 0x9a));
    gdt_set(S_DATA0, desc(0, 0xfffff, F | 0x92));
    gdt_set(S_CODE3, desc(0, 0xfffff, F | 0xfa));
    gdt_set(S_DATA3, desc(0, 0xfffff, F | 0xf2));
    gdt_set(S_TSS, desc(TSS, 0xff, 0x8b));
    gdt_set(S_TSS2, desc(TSS2, 0x67, 0x89));
    gdt_set(S_CONF, desc(0, 0xfffff, F | 0x9e));
    gdt_set(S_CODE64, desc(0, 0xfffff, L | 0x9a));
    gdt_set(S_CODE64_3, desc(0, 0xfffff, L | 0xfa));
    gdt_set(S_LDT, desc(0x4000, 0xff, 0x82));
    gdt_set(S_CODE16, desc(0x5000, 0xffff, 0x9a));
    put(TSS + 4, 4, STACK0);
    put(TSS + 8, 2, S_DATA0);
    v->gdt = (struct desc_table){.base = GDT, .limit = 0x9f};
    v->idt = (struct desc_table){.base = IDT, .limit = 0x7ff};
    v->seg[TR] = (struct segment){.base = TSS, .limit = 0xff, .ar = 0x8b, .sel = S_TSS};
}

static struct segment from_gdt(unsigned sel)
{
    struct segment s;
    segment_from_desc(&s, (uint16_t)sel, gdt_get(sel) | 1ull << 40);
    return s;
}

/* Flat 32-bit protected mode at `cpl`, no paging. */
static void protected_mode(struct vcpu *v, unsigned cpl)
{
    cpu_reset(v, false);
    tables(v);
    v->cr0 = CR0_PE | CR0_ET;
    v->cpl = (uint8_t)cpl;
    v->seg[CS] = from_gdt(cpl ? S_CODE3 : S_CODE0);
    v->seg[CS].sel = (uint16_t)((v->seg[CS].sel & ~3) | cpl);
    for (unsigned s = ES; s <= GS; s++)
        if (s != CS)
            v->seg[s] = from_gdt(cpl ? S_DATA3 : S_DATA0);
    v->gpr[RSP] = cpl ? STACK3 : STACK0;
    v->gpr[REG_PAGE] = 0x6000;
    cpu_update_mode(v);
}

/* The same in long mode: 2 MiB identity mapping. */
static void long_mode(struct vcpu *v, unsigned cpl)
{
    protected_mode(v, cpl);
    put(0xc000, 8, 0xd000 | 7);
    put(0xd000, 8, 0xe000 | 7);
    put(0xe000, 8, 0x87);
    v->cr3 = 0xc000;
    v->cr4 = CR4_PAE;
    v->efer = EFER_LME | EFER_LMA | EFER_SCE;
    v->cr0 |= CR0_PG;
    v->seg[CS] = from_gdt(cpl ? S_CODE64_3 : S_CODE64);
    put(TSS + 4, 8, STACK0 - 8);
    put(TSS + 0x24, 8, STACK_NEW);
    gdt_set(S_TSS, desc(TSS, 0x67, 0x8b));
    tlb_flush_all(v);
    cpu_update_mode(v);
    CHECK(v->mode == MODE_LONG);
}

static const struct insn insn2 = {.off = 0x10, .len = 2, .am = AM_NONE};

/* ---- loads ---------------- */

/* SDM vol. 2, MOV: what loading a data segment register or SS must do. */
static int expected_load(bool stack, unsigned cpl, unsigned rpl, unsigned ar)
{
    bool s = ar & AR_S, code = s && ar & 8, writable = ar & 2;
    unsigned dpl = ar >> 5 & 3;

    if (stack) {
        if (rpl != cpl || !s || code || !writable || dpl != cpl)
            return VEC_GP;
        return ar & AR_P ? OK : VEC_SS;
    }
    if (!s || (code && !writable) || (!(code && ar & 4) && (rpl > dpl || cpl > dpl)))
        return VEC_GP;
    return ar & AR_P ? OK : VEC_NP;
}

static void test_load_matrix(struct vcpu *v)
{
    for (unsigned n = 0; n < 4 * 4 * 256; n++) {
        unsigned ar = n & 0xff, rpl = n >> 8 & 3, cpl = n >> 10 & 3;
        for (unsigned stack = 0; stack < 2; stack++) {
            enum segreg s = stack ? SS : FS;
            uint16_t sel = (uint16_t)(S_TEST | rpl);
            int want = expected_load(stack, cpl, rpl, ar), got;

            protected_mode(v, 0);
            v->cpl = (uint8_t)cpl;
            gdt_set(S_TEST, desc(0x12345678, 0x54321, ar));
            got = OUTCOME(v, segment_load(v, s, sel));
            CHECK(got == want, "ar %02x rpl %u cpl %u stack %u: %d for %d", ar, rpl, cpl, stack,
                  got, want);
            if (want == OK) {
                CHECK(v->seg[s].base == 0x12345678 && v->seg[s].limit == 0x54321 &&
                      v->seg[s].sel == sel);
                CHECK(gdt_get(S_TEST) >> 40 & 1, "not marked accessed");
            } else {
                CHECK(v->fault.error == S_TEST, "error %x", v->fault.error);
                CHECK(v->seg[s].sel == S_DATA0 && gdt_get(S_TEST) == desc(0x12345678, 0x54321, ar));
            }
        }
    }
}

static void test_null_and_limits(struct vcpu *v)
{
    protected_mode(v, 0);
    CHECK(OUTCOME(v, segment_load(v, ES, 3)) == OK && v->seg[ES].ar & AR_UNUSABLE &&
          v->seg[ES].sel == 3);
    CHECK(OUTCOME(v, segment_load(v, SS, 0)) == VEC_GP && v->fault.error == 0);
    CHECK(OUTCOME(v, segment_load(v, ES, 0xa0)) == VEC_GP && v->fault.error == 0xa0);
    CHECK(OUTCOME(v, segment_load(v, ES, S_DATA0 | 4)) == VEC_GP && v->fault.error == (S_DATA0 | 4),
          "no LDT");
    long_mode(v, 0);
    CHECK(OUTCOME(v, segment_load(v, SS, 0)) == OK && v->seg[SS].ar & AR_UNUSABLE);
    CHECK(OUTCOME(v, segment_load(v, SS, 1)) == VEC_GP);
    long_mode(v, 3);
    CHECK(OUTCOME(v, segment_load(v, SS, 3)) == VEC_GP);
}

static void test_unreal(struct vcpu *v)
{
    protected_mode(v, 0);
    v->cr0 &= ~(uint64_t)CR0_PE;
    cpu_update_mode(v);
    segment_load(v, DS, 0x1234);
    CHECK(v->seg[DS].base == 0x12340 && v->seg[DS].limit == UINT32_MAX,
          "unreal mode keeps the limit");
    CHECK(v->seg[DS].ar & AR_G);
}

/* CMPS reads at rDI first: what is wrong there is told before that rSI is beyond its segment. */
static void test_two_operands(struct vcpu *v)
{
    static const struct insn cmpsd = {.seg = DS, .am = AM_32, .len = 1};

    for (unsigned beyond = 0; beyond < 2; beyond++) {
        protected_mode(v, 3);
        v->cr0 |= CR0_AM;
        cpu_set_eflags(v, v->eflags | FL_AC);
        gdt_set(S_TEST, desc(0, 0xfff, AR_DB | 0xf2));
        v->seg[beyond ? ES : DS] = from_gdt(S_TEST);
        cpu_update_mode(v);
        v->gpr[RSI] = beyond ? 0x801 : 0x2000;
        v->gpr[RDI] = beyond ? 0x2000 : 0x801;
        CHECK(OUTCOME(v, op_cmpsd(v, &cmpsd)) == (beyond ? VEC_GP : VEC_AC), "beyond %u", beyond);
    }
}

static void test_system_registers(struct vcpu *v)
{
    uint32_t value;

    protected_mode(v, 0);
    CHECK(OUTCOME(v, segment_load_ldt(v, S_LDT)) == OK && v->seg[LDTR].base == 0x4000);
    put(0x4008, 8, desc(0, 1, 0x92));
    CHECK(OUTCOME(v, segment_load(v, GS, 0xc)) == OK && v->seg[GS].limit == 1);
    CHECK(OUTCOME(v, segment_load_ldt(v, S_TSS)) == VEC_GP && v->fault.error == S_TSS);
    CHECK(OUTCOME(v, segment_load_tr(v, S_TSS)) == VEC_GP, "busy");
    CHECK(OUTCOME(v, segment_load_tr(v, S_TSS2)) == OK && v->seg[TR].base == TSS2);
    CHECK(v->seg[TR].ar == 0x8b && (gdt_get(S_TSS2) >> 40 & 0xff) == 0x8b, "busy bit");
    CHECK(OUTCOME(v, segment_load_tr(v, 0)) == VEC_GP && v->fault.error == 0);
    CHECK(segment_lar(v, S_TSS, &value) && value == 0x8b00);
    CHECK(segment_lar(v, S_CODE3, &value) && (value & 0xf0ff00) == 0xc0fa00);
    CHECK(segment_lsl(v, S_CODE3, &value) && value == UINT32_MAX);
    CHECK(!segment_lar(v, 0, &value) && !segment_lsl(v, 0xa0, &value));
    CHECK(segment_verify(v, S_DATA0, true) && !segment_verify(v, S_CODE0, true));
    CHECK(!segment_verify(v, S_DATA0 | 3, false), "RPL beyond DPL");
    CHECK(segment_verify(v, S_CONF | 3, false), "conforming code is open to all");
    long_mode(v, 0);
    put(GDT + S_TSS2 + 8, 8, 0xffff8000);
    CHECK(OUTCOME(v, segment_load_tr(v, S_TSS2)) == OK &&
          v->seg[TR].base == (0xffff800000000000 | TSS2));
    gdt_set(S_TSS2, desc(TSS2, 0x67, 0x89));
    put(GDT + S_TSS2 + 8, 8, 0x00008000);
    CHECK(OUTCOME(v, segment_load_tr(v, S_TSS2)) == OK, "57 bits count even with CR4.LA57 clear");
    gdt_set(S_TSS2, desc(TSS2, 0x67, 0x89));
    put(GDT + S_TSS2 + 8, 8, 0x01000000);
    CHECK(OUTCOME(v, segment_load_tr(v, S_TSS2)) == VEC_GP && v->fault.error == S_TSS2,
          "not canonical");
}

/* ---- interrupts ---------------- */

static int deliver(struct vcpu *v, enum event_type type, unsigned vector, bool has_error,
                   uint32_t error)
{
    v->pending = (struct event){.type = type,
                                .vector = (uint8_t)vector,
                                .has_error = has_error,
                                .error = error,
                                .insn_len = 2};
    return OUTCOME(v, exception_deliver(v));
}

static void test_real_interrupt(struct vcpu *v)
{
    cpu_reset(v, false);
    tables(v);
    v->idt = (struct desc_table){.base = 0, .limit = 0x3ff};
    put(0x21 * 4, 4, 0x02001234);
    v->gpr[RSP] = 0x100;
    v->seg[SS].base = 0x9000;
    v->seg[SS].sel = 0x900;
    v->rip = 0x10;
    cpu_set_eflags(v, FL_IF | FL_TF | FL_CF);
    CHECK(deliver(v, EVENT_EXTINT, 0x21, false, 0) == OK);
    CHECK(v->rip == 0x1234 && v->seg[CS].sel == 0x200 && v->seg[CS].base == 0x2000 &&
          v->gpr[RSP] == 0xfa);
    CHECK(get(0x90fa, 2) == 0x10 && get(0x90fc, 2) == 0xf000 &&
          get(0x90fe, 2) == (FL_IF | FL_TF | FL_CF | 2));
    CHECK(cpu_get_eflags(v) == (FL_CF | 2));
    v->nmi_masked = true;
    CHECK(OUTCOME(v, insn_iret(v, &insn2, 2)) == OK);
    CHECK(v->rip == 0x10 && v->seg[CS].sel == 0xf000 && v->gpr[RSP] == 0x100 && !v->nmi_masked);
    CHECK(cpu_get_eflags(v) == (FL_IF | FL_TF | FL_CF | 2));
    v->idt.limit = 0x21 * 4 + 2;
    CHECK(deliver(v, EVENT_EXTINT, 0x21, false, 0) == VEC_GP);
}

static void test_inner_interrupt(struct vcpu *v)
{
    protected_mode(v, 3);
    put(IDT + 14 * 8, 8, gate(S_CODE0, 0x12345, SYS_INT32, 0, 0));
    v->rip = 0x777;
    cpu_set_eflags(v, FL_IF | FL_TF | FL_AC | FL_ZF);
    CHECK(deliver(v, EVENT_FAULT, 14, true, 0x5) == OK);
    CHECK(v->cpl == 0 && v->seg[CS].sel == S_CODE0 && v->seg[SS].sel == S_DATA0 &&
          v->rip == 0x12345);
    CHECK(v->gpr[RSP] == STACK0 - 24);
    CHECK(get(STACK0 - 24, 4) == 5 && get(STACK0 - 20, 4) == 0x777 &&
          get(STACK0 - 16, 4) == S_CODE3);
    CHECK(get(STACK0 - 12, 4) == (FL_RF | FL_IF | FL_TF | FL_AC | FL_ZF | 2), "RF for a fault");
    CHECK(get(STACK0 - 8, 4) == STACK3 && get(STACK0 - 4, 4) == S_DATA3);
    CHECK(cpu_get_eflags(v) == (FL_AC | FL_ZF | 2) && v->pending.type == EVENT_NONE);
    v->gpr[RSP] += 4;
    CHECK(OUTCOME(v, insn_iret(v, &insn2, 4)) == OK);
    CHECK(v->cpl == 3 && v->rip == 0x777 && v->gpr[RSP] == STACK3 && v->seg[SS].sel == S_DATA3);
    CHECK(v->seg[DS].sel == S_DATA3, "DPL 3 data survives");
    CHECK(cpu_get_eflags(v) == (FL_RF | FL_IF | FL_TF | FL_AC | FL_ZF | 2));
}

static void test_gate_faults(struct vcpu *v)
{
    static const struct {
        uint64_t gate;
        enum event_type type;
        int vector;
        uint32_t error;
    } t[] = {
        {0, EVENT_EXTINT, VEC_GP, 0x30 * 8 + 3},
        {0, EVENT_SOFTINT, VEC_GP, 0x30 * 8 + 2},
        {0x800e00080000 | 1ull << 44, EVENT_EXTINT, VEC_GP, 0x30 * 8 + 3},
        {0x0e0000080000, EVENT_EXTINT, VEC_NP, 0x30 * 8 + 3},
        {0x8e0000080000, EVENT_SOFTINT, VEC_GP, 0x30 * 8 + 2}, /* DPL 0 from CPL 3 */
        {0x8e0000080000, EVENT_SOFTEXC, VEC_GP, 0x30 * 8 + 2},
        {0x8e0000000000, EVENT_EXTINT, VEC_GP, 1},
        {0xee0000000000, EVENT_SOFTINT, VEC_GP, 0},
        {0x8e0000100000, EVENT_EXTINT, VEC_GP, S_DATA0 + 1}, /* data segment */
        {0x8e0000a00000, EVENT_ICEBP, VEC_GP, 0xa1},
    };
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        int got;
        protected_mode(v, 3);
        put(IDT + 0x30 * 8, 8, t[n].gate);
        got = deliver(v, t[n].type, 0x30, false, 0);
        CHECK(got == t[n].vector && v->fault.error == t[n].error, "case %u: %d, %x", n, got,
              v->fault.error);
        CHECK(v->cpl == 3 && v->gpr[RSP] == STACK3 && v->seg[CS].sel == S_CODE3);
        CHECK(!exception_merge(v) && v->pending.vector == t[n].vector &&
              v->delivering == EVENT_NONE);
    }
    protected_mode(v, 3); /* bad inner stacks */
    put(IDT + 0x30 * 8, 8, gate(S_CODE0, 0, SYS_INT32, 0, 0));
    put(TSS + 8, 2, 0);
    CHECK(deliver(v, EVENT_EXTINT, 0x30, false, 0) == VEC_TS && v->fault.error == 1);
    put(TSS + 8, 2, S_DATA3);
    CHECK(deliver(v, EVENT_EXTINT, 0x30, false, 0) == VEC_TS &&
          v->fault.error == (S_DATA3 & ~3) + 1);
    put(TSS + 8, 2, S_DATA0);
    v->seg[TR].limit = 8;
    CHECK(deliver(v, EVENT_EXTINT, 0x30, false, 0) == VEC_TS && v->fault.error == S_TSS + 1);
}

static void test_long_interrupt(struct vcpu *v)
{
    for (unsigned ist = 0; ist < 2; ist++) {
        uint64_t top = ist ? STACK_NEW : STACK0 - 16; /* RSP0 is rounded down */
        long_mode(v, 3);
        put(IDT + 13 * 16, 8, gate(S_CODE64, 0x12345678, SYS_INT32, 0, ist));
        put(IDT + 13 * 16 + 8, 8, 0xffff8000);
        v->rip = 0x777;
        v->gpr[RSP] = STACK3 - 3;
        CHECK(deliver(v, EVENT_FAULT, 13, true, 0x50) == OK);
        CHECK(v->rip == 0xffff800012345678 && v->cpl == 0 && v->seg[SS].sel == 0 &&
              v->seg[SS].ar & AR_UNUSABLE);
        CHECK(v->gpr[RSP] == top - 48, "rsp %" PRIx64, v->gpr[RSP]);
        CHECK(get(top - 48, 8) == 0x50 && get(top - 40, 8) == 0x777 &&
              get(top - 32, 8) == S_CODE64_3);
        CHECK(get(top - 16, 8) == STACK3 - 3 && get(top - 8, 8) == S_DATA3);
        v->gpr[RSP] += 8;
        CHECK(OUTCOME(v, insn_iret(v, &insn2, 8)) == OK);
        CHECK(v->cpl == 3 && v->gpr[RSP] == STACK3 - 3 && v->mode == MODE_LONG &&
              v->seg[SS].sel == S_DATA3);
    }
    /* same level: aligned too, SS kept; the return may load a null SS */
    long_mode(v, 0);
    put(IDT + 13 * 16, 8, gate(S_CODE64, 0x1000, SYS_TRAP32, 0, 0));
    v->gpr[RSP] = STACK0 - 5;
    CHECK(deliver(v, EVENT_EXTINT, 13, false, 0) == OK && v->gpr[RSP] == ((STACK0 - 5) & ~15) - 40);
    CHECK(v->seg[SS].sel == S_DATA0);
    put(v->gpr[RSP] + 32, 8, 0);
    CHECK(OUTCOME(v, insn_iret(v, &insn2, 8)) == OK && v->gpr[RSP] == STACK0 - 5 &&
          v->seg[SS].ar & AR_UNUSABLE);
    put(IDT + 13 * 16, 8, gate(S_CODE0, 0x1000, SYS_TRAP32, 0, 0));
    CHECK(deliver(v, EVENT_EXTINT, 13, false, 0) == VEC_GP && v->fault.error == S_CODE0 + 1,
          "32-bit handler");
    put(IDT + 13 * 16 + 8, 8, 0x8000);
    put(IDT + 13 * 16, 8, gate(S_CODE64, 0x1000, SYS_TRAP32, 0, 0));
    CHECK(deliver(v, EVENT_EXTINT, 13, false, 0) == VEC_GP && v->fault.error == 1, "not canonical");
}

/* SDM vol. 3, tables 6-4 and 6-5. */
static void test_merge(struct vcpu *v)
{
    for (unsigned first = 0; first < 20; first++) {
        for (unsigned second = 0; second < 20; second++) {
            for (unsigned type = EVENT_EXTINT; type <= EVENT_ICEBP; type++) {
                bool c1 = first == 0 || (first >= 10 && first <= 13), p1 = first == 14,
                     d1 = first == 8;
                bool c2 = second == 0 || (second >= 10 && second <= 13), p2 = second == 14,
                     d2 = second == 8;
                bool fault = type == EVENT_FAULT, dbl, dead;

                dbl = fault && ((c1 && (c2 || d2)) || (p1 && (c2 || p2 || d2)));
                dead = fault && d1 && (c2 || p2 || d2);
                v->delivering = (uint8_t)type;
                v->delivering_vector = (uint8_t)first;
                v->fault =
                    (struct event){.type = EVENT_FAULT, .vector = (uint8_t)second, .error = 7};
                CHECK(exception_merge(v) == dead, "%u then %u", first, second);
                if (dead)
                    continue;
                CHECK(v->pending.vector == (dbl ? 8 : second), "%u then %u", first, second);
                CHECK(v->pending.error == (dbl ? 0 : 7));
            }
        }
    }
    v->pending.type = EVENT_NONE;
}

/* A return to CPL 3 takes inner data segments away, but not what they left in GS base. */
static void test_nullified_base(struct vcpu *v)
{
    for (unsigned iret = 0; iret < 2; iret++) {
        uint64_t sp = STACK0 - 40;

        long_mode(v, 0);
        v->seg[GS].base = 0x400000;
        v->gpr[RSP] = sp;
        put(sp, 8, 0x777);
        put(sp + 8, 8, S_CODE64_3);
        if (iret)
            put(sp + 16, 8, 2);
        put(sp + 16 + 8 * iret, 8, STACK3);
        put(sp + 24 + 8 * iret, 8, S_DATA3);
        if (iret)
            CHECK(OUTCOME(v, insn_iret(v, &insn2, 8)) == OK);
        else
            CHECK(OUTCOME(v, insn_ret_far(v, &insn2, 8, 0)) == OK);
        CHECK(v->cpl == 3 && v->rip == 0x777 && v->mode == MODE_LONG);
        for (unsigned s = FS; s <= GS; s++)
            CHECK(v->seg[s].sel == 0 && v->seg[s].ar & AR_UNUSABLE, "segment %u", s);
        CHECK(v->seg[GS].base == 0x400000);
        segment_load(v, GS, 0); /* which does, on Intel's processors */
        CHECK(v->seg[GS].base == 0);
    }
}

/* ---- virtual-8086 mode ---------------- */

static void vm86_mode(struct vcpu *v, unsigned iopl)
{
    protected_mode(v, 0);
    cpu_set_eflags(v, FL_VM | FL_IF | (uint64_t)iopl << 12);
    for (unsigned s = ES; s <= GS; s++)
        segment_set_vm86(v, s, (uint16_t)(0x700 + s));
    v->gpr[RSP] = 0x100;
    cpu_update_mode(v);
    CHECK(v->mode == MODE_VM86 && v->cpl == 3);
    put(TSS + 0x66, 2, 0x68 + 32);
}

static void test_vm86(struct vcpu *v)
{
    uint64_t flags;

    vm86_mode(v, 0);
    flags = cpu_get_eflags(v);
    put(IDT + 13 * 8, 8, gate(S_CODE0, 0x100, SYS_INT32, 0, 0));
    v->rip = 0x55;
    CHECK(deliver(v, EVENT_FAULT, 13, true, 0) == OK && v->cpl == 0 && v->mode == MODE_PROT);
    CHECK(v->gpr[RSP] == STACK0 - 40 && v->seg[DS].sel == 0 && v->seg[GS].ar & AR_UNUSABLE);
    CHECK(get(STACK0 - 4, 4) == 0x705 && get(STACK0 - 16, 4) == 0x700 &&
          get(STACK0 - 20, 4) == 0x702);
    CHECK(get(STACK0 - 28, 4) == (flags | FL_RF));
    v->gpr[RSP] += 4;
    CHECK(OUTCOME(v, insn_iret(v, &insn2, 4)) == OK && v->mode == MODE_VM86 && v->cpl == 3);
    CHECK(v->rip == 0x55 && v->gpr[RSP] == 0x100 && v->seg[FS].base == 0x7040 &&
          v->seg[SS].sel == 0x702);
    put(IDT + 13 * 8, 8, gate(S_CODE3, 0x100, SYS_INT32, 3, 0));
    CHECK(deliver(v, EVENT_FAULT, 13, true, 0) == VEC_GP && v->fault.error == (S_CODE3 & ~3) + 1,
          "DPL not 0");
}

/* SDM vol. 3, table 21-2: the six ways to handle INT n. */
static void test_vm86_int(struct vcpu *v)
{
    for (unsigned n = 0; n < 8; n++) {
        unsigned iopl = n & 1 ? 3 : 0;
        bool vme = n & 2, bit = n & 4;
        int got, want = iopl < 3 && (!vme || bit) ? VEC_GP : OK;

        vm86_mode(v, iopl);
        v->cr4 |= vme ? CR4_VME : 0;
        v->eflags |= FL_VIF;
        put(TSS + 0x68 + 0x21 / 8, 1, bit ? 1 << 0x21 % 8 : 0);
        put(0x21 * 4, 4, 0x05000042);
        put(IDT + 0x21 * 8, 8, gate(S_CODE0, 0x100, SYS_INT32, 3, 0));
        got = OUTCOME(v, insn_int(v, &insn2, 0x21, EVENT_SOFTINT));
        CHECK(got == want, "case %u: %d", n, got);
        if (want != OK)
            continue;
        CHECK((v->mode == MODE_VM86) == (vme && !bit), "case %u", n);
        if (v->mode != MODE_VM86)
            continue;
        CHECK(v->seg[CS].sel == 0x500 && v->rip == 0x42 && v->gpr[RSP] == 0xfa &&
              get(0x7020 + 0xfa, 2) == 0x6012);
        CHECK((get(0x7020 + 0xfe, 2) & 0x3200) == 0x3200, "IOPL 3 and IF in the image");
        CHECK(!(v->eflags & (iopl < 3 ? FL_VIF : FL_IF)) &&
              v->eflags & (iopl < 3 ? FL_IF : FL_VIF));
        CHECK(OUTCOME(v, insn_iret(v, &insn2, 2)) == OK && v->rip == 0x6012 &&
              v->seg[CS].sel == 0x701);
        CHECK((v->eflags & (FL_IF | FL_VIF)) == (FL_IF | FL_VIF) && cpu_iopl(v) == iopl);
    }
}

/* ---- far transfers ---------------- */

static void test_call_gate(struct vcpu *v)
{
    protected_mode(v, 3);
    gdt_set(S_GATE, gate(S_CODE0, 0x4321, SYS_CALL32, 3, 2));
    put(STACK3, 8, 0x2222222211111111);
    CHECK(OUTCOME(v, insn_call_far(v, &insn2, S_GATE | 3, 0xdead, 4)) == OK);
    CHECK(v->cpl == 0 && v->rip == 0x4321 && v->gpr[RSP] == STACK0 - 24 &&
          v->seg[SS].sel == S_DATA0);
    CHECK(get(STACK0 - 24, 4) == 0x6012 && get(STACK0 - 20, 4) == S_CODE3);
    CHECK(get(STACK0 - 16, 8) == 0x2222222211111111 && get(STACK0 - 8, 4) == STACK3);
    v->seg[GS] = from_gdt(S_DATA0);
    CHECK(OUTCOME(v, insn_ret_far(v, &insn2, 4, 8)) == OK);
    CHECK(v->cpl == 3 && v->rip == 0x6012 && v->gpr[RSP] == STACK3 + 8 &&
          v->seg[SS].sel == S_DATA3);
    CHECK(v->seg[GS].ar & AR_UNUSABLE && v->seg[DS].sel == S_DATA3, "DPL 0 data becomes null");
    CHECK(OUTCOME(v, insn_jmp_far(v, &insn2, S_GATE | 3, 0, 4)) == VEC_GP &&
          v->fault.error == S_CODE0);
    gdt_set(S_GATE, gate(S_CONF, 0x4321, SYS_CALL16, 3, 0));
    CHECK(OUTCOME(v, insn_call_far(v, &insn2, S_GATE | 3, 0, 4)) == OK && v->cpl == 3);
    CHECK(v->seg[CS].sel == (S_CONF | 3) && get(STACK3 + 4, 4) == 0x1b6012, "16-bit frame");
    gdt_set(S_GATE, gate(S_CODE0, 0x4321, SYS_CALL32, 0, 0));
    CHECK(OUTCOME(v, insn_call_far(v, &insn2, S_GATE | 3, 0, 4)) == VEC_GP &&
          v->fault.error == S_GATE);
}

static void test_long_far(struct vcpu *v)
{
    long_mode(v, 3);
    gdt_set(S_GATE, gate(S_CODE64, 0x4321, SYS_CALL32, 3, 2));
    put(GDT + S_GATE + 8, 8, 0xffff8000);
    CHECK(OUTCOME(v, insn_call_far(v, &insn2, S_GATE | 3, 0, 4)) == OK);
    CHECK(v->cpl == 0 && v->rip == 0xffff800000004321 && v->gpr[RSP] == STACK0 - 8 - 32 &&
          v->seg[SS].sel == 0);
    CHECK(get(STACK0 - 40, 8) == 0x6012 && get(STACK0 - 16, 8) == S_DATA3);
    CHECK(OUTCOME(v, insn_ret_far(v, &insn2, 8, 0)) == OK && v->cpl == 3 && v->gpr[RSP] == STACK3);
    CHECK(OUTCOME(v, insn_jmp_far(v, &insn2, S_CODE3, 0x1234, 4)) == OK && v->mode == MODE_COMPAT);
    CHECK(OUTCOME(v, insn_jmp_far(v, &insn2, S_CODE64_3, 0x1234, 4)) == OK && v->mode == MODE_LONG);
    CHECK(OUTCOME(v, insn_jmp_far(v, &insn2, S_CODE64_3, 1ull << 47, 8)) == VEC_GP &&
          v->fault.error == 0);
    gdt_set(S_TEST, desc(0, 0xfffff, L | AR_DB | 0xfa));
    CHECK(OUTCOME(v, insn_jmp_far(v, &insn2, S_TEST | 3, 0, 4)) == VEC_GP &&
              v->fault.error == S_TEST,
          "L and D");
    CHECK(OUTCOME(v, insn_jmp_far(v, &insn2, S_TSS2, 0, 4)) == VEC_GP, "no tasks in long mode");
}

static void test_direct_far(struct vcpu *v)
{
    protected_mode(v, 0);
    CHECK(OUTCOME(v, insn_jmp_far(v, &insn2, S_CODE16, 0x10000, 4)) == VEC_GP &&
              v->fault.error == 0,
          "limit");
    CHECK(OUTCOME(v, insn_jmp_far(v, &insn2, S_CODE16, 0x1234, 4)) == OK && v->code_bits == 16);
    CHECK(v->ip_mask == 0xffff && v->seg[CS].base == 0x5000 && gdt_get(S_CODE16) >> 40 & 1);
    CHECK(OUTCOME(v, insn_jmp_far(v, &insn2, S_CODE3, 0, 4)) == VEC_GP &&
          v->fault.error == (S_CODE3 & ~3));
    CHECK(OUTCOME(v, insn_jmp_far(v, &insn2, 0, 0, 4)) == VEC_GP && v->fault.error == 0);
    CHECK(OUTCOME(v, insn_call_far(v, &insn2, S_CONF, 0x20, 2)) == OK && v->gpr[RSP] == STACK0 - 4);
    CHECK(get(STACK0 - 4, 4) == 0x906012);
    v->gpr[RSP] -= 4;
    put(v->gpr[RSP], 8, (uint64_t)S_DATA0 << 32 | 5);
    CHECK(OUTCOME(v, insn_ret_far(v, &insn2, 4, 0)) == VEC_GP && v->fault.error == S_DATA0);
    CHECK(v->gpr[RSP] == STACK0 - 8, "a fault changes nothing");
}

/* ---- tasks ---------------- */

static void fill_tss2(void)
{
    put(TSS2 + 0x20, 4, 0x4444);
    put(TSS2 + 0x24, 4, FL_ZF | 2);
    for (unsigned n = 0; n < 8; n++)
        put(TSS2 + 0x28 + 4 * n, 4, n == RSP ? STACK_NEW : 0x1000 + n);
    for (unsigned n = 0; n < 6; n++)
        put(TSS2 + 0x48 + 4 * n, 4, n == CS ? S_CODE0 : S_DATA0);
    put(TSS2 + 0x60, 2, S_LDT);
}

static void test_task(struct vcpu *v)
{
    protected_mode(v, 0);
    fill_tss2();
    put(TSS2 + 0x64, 2, 1);
    v->gpr[RAX] = 0xabcd;
    v->dr[7] = 0x401;
    CHECK(OUTCOME(v, insn_call_far(v, &insn2, S_TSS2, 0, 4)) == OK);
    CHECK(v->rip == 0x4444 && v->gpr[RAX] == 0x1000 && v->gpr[RSP] == STACK_NEW &&
          v->seg[LDTR].base == 0x4000);
    CHECK(cpu_get_eflags(v) == (FL_NT | FL_ZF | 2) && v->cr0 & CR0_TS && v->dr[7] == 0x400);
    CHECK(v->db_pending == 1 << 15 && v->seg[TR].sel == S_TSS2 && get(TSS2, 2) == S_TSS);
    CHECK((gdt_get(S_TSS2) >> 40 & 15) == 11 && (gdt_get(S_TSS) >> 40 & 15) == 11, "both busy");
    CHECK(get(TSS + 0x20, 4) == 0x6012 && get(TSS + 0x28, 4) == 0xabcd &&
          get(TSS + 0x4c, 2) == S_CODE0);
    v->gpr[REG_PAGE] = 0x4000;
    CHECK(OUTCOME(v, insn_iret(v, &insn2, 4)) == OK && v->rip == 0x6012 && v->gpr[RAX] == 0xabcd);
    CHECK((gdt_get(S_TSS2) >> 40 & 15) == 9 && v->seg[TR].sel == S_TSS && !(v->eflags & FL_NT));
    CHECK(!(get(TSS2 + 0x24, 4) & FL_NT) && get(TSS2 + 0x20, 4) == 0x4012);
    v->eflags |= FL_NT;
    put(TSS, 2, S_TSS2); /* not busy */
    CHECK(OUTCOME(v, insn_iret(v, &insn2, 4)) == VEC_TS && v->fault.error == S_TSS2);
}

static void test_task_faults(struct vcpu *v)
{
    static const struct {
        unsigned off, size;
        uint64_t value;
        int vector;
        uint32_t error;
    } t[] = {
        {0x4c, 2, S_DATA0, VEC_TS, S_DATA0}, {0x50, 2, S_DATA3, VEC_TS, S_DATA3 & ~3},
        {0x60, 2, S_TSS, VEC_TS, S_TSS},     {0x48, 2, S_TSS, VEC_TS, S_TSS},
        {0x20, 4, 0x2000, VEC_GP, 0},        {0x4c, 2, S_CODE16, OK, 0},
    };
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        int got;
        protected_mode(v, 0);
        fill_tss2();
        gdt_set(S_TEST, desc(0, 0x1000, AR_DB | 0x9a));
        if (t[n].vector == VEC_GP)
            put(TSS2 + 0x4c, 2, S_TEST);
        put(TSS2 + t[n].off, t[n].size, t[n].value);
        v->cur = &insn2;
        got = OUTCOME(v, insn_jmp_far(v, &insn2, S_TSS2, 0, 4));
        CHECK(got == t[n].vector && (got == OK || v->fault.error == t[n].error), "case %u: %d, %x",
              n, got, v->fault.error);
        CHECK(v->seg[TR].sel == S_TSS2 && v->cur == NULL && v->rip == get(TSS2 + 0x20, 4),
              "in the new task");
    }
    protected_mode(v, 0);
    gdt_set(S_TSS2, desc(TSS2, 0x66, 0x89));
    CHECK(OUTCOME(v, insn_jmp_far(v, &insn2, S_TSS2, 0, 4)) == VEC_TS && v->seg[TR].sel == S_TSS,
          "short TSS");
    protected_mode(v, 0); /* an exception through a task gate: the error code is on the new stack */
    fill_tss2();
    put(IDT + 13 * 8, 8, (uint64_t)S_TSS2 << 16 | (uint64_t)0x85 << 40);
    v->rip = 0x99;
    CHECK(deliver(v, EVENT_FAULT, 13, true, 0x123) == OK && v->gpr[RSP] == STACK_NEW - 4);
    CHECK(get(STACK_NEW - 4, 4) == 0x123 && get(TSS + 0x20, 4) == 0x99 &&
          get(TSS + 0x24, 4) & FL_RF);
}

/* ---- system calls ---------------- */

static void test_syscall(struct vcpu *v)
{
    for (unsigned amd = 0; amd < 2; amd++) {
        long_mode(v, 3);
        v->amd = amd;
        v->star = (uint64_t)0x50 << 48 | (uint64_t)S_CODE64 << 32;
        v->lstar = 0xffff800000001000;
        v->cstar = 0x2000;
        v->sfmask = FL_IF | FL_TF;
        cpu_set_eflags(v, FL_IF | FL_CF | FL_RF);
        CHECK(OUTCOME(v, insn_syscall(v, &insn2)) == OK && v->cpl == 0 && v->rip == v->lstar);
        CHECK(v->gpr[RCX] == 0x6012 && v->gpr[R11] == (FL_IF | FL_CF | 2) &&
              cpu_get_eflags(v) == (FL_CF | 2));
        CHECK(v->seg[CS].sel == S_CODE64 && v->seg[SS].sel == S_CODE64 + 8 && v->mode == MODE_LONG);
        v->gpr[RCX] = 1ull << 50;
        CHECK(OUTCOME(v, insn_sysret(v, &insn2, 8)) == (amd ? OK : VEC_GP) &&
              v->cpl == (amd ? 3 : 0));
        v->cpl = 0;
        v->gpr[RCX] = 0x6012;
        CHECK(OUTCOME(v, insn_sysret(v, &insn2, 8)) == OK && v->cpl == 3 && v->seg[CS].sel == 0x63);
        CHECK(v->seg[SS].sel == 0x5b && cpu_get_eflags(v) == (FL_IF | FL_CF | 2) &&
              v->rip == 0x6012);
        CHECK(OUTCOME(v, insn_sysret(v, &insn2, 8)) == VEC_GP, "CPL 3");
        CHECK(OUTCOME(v, insn_jmp_far(v, &insn2, S_CODE3, 0, 4)) == OK && v->mode == MODE_COMPAT);
        CHECK(OUTCOME(v, insn_syscall(v, &insn2)) == (amd ? OK : VEC_UD) &&
              v->rip == (amd ? 0x2000 : 0));
        long_mode(v, 3);
        v->amd = amd;
        v->sysenter_cs = S_CODE64;
        v->sysenter_esp = STACK_NEW;
        v->sysenter_eip = 0xffff800000003000;
        CHECK(OUTCOME(v, insn_sysenter(v, &insn2)) == (amd ? VEC_UD : OK));
        if (amd)
            continue;
        CHECK(v->cpl == 0 && v->rip == v->sysenter_eip && v->gpr[RSP] == STACK_NEW);
        v->gpr[RDX] = 0x1234;
        v->gpr[RCX] = STACK3;
        CHECK(OUTCOME(v, insn_sysexit(v, &insn2, 4)) == OK && v->mode == MODE_COMPAT &&
              v->cpl == 3);
        CHECK(v->seg[CS].sel == S_CODE64 + 16 + 3 && v->seg[SS].sel == S_CODE64 + 24 + 3 &&
              v->rip == 0x1234);
    }
    v->amd = false;
}

int main(void)
{
    struct vcpu *v = new_vcpu();

    test_load_matrix(v);
    test_null_and_limits(v);
    test_unreal(v);
    test_two_operands(v);
    test_system_registers(v);
    test_real_interrupt(v);
    test_inner_interrupt(v);
    test_gate_faults(v);
    test_long_interrupt(v);
    test_nullified_base(v);
    test_merge(v);
    test_vm86(v);
    test_vm86_int(v);
    test_call_gate(v);
    test_long_far(v);
    test_direct_far(v);
    test_task(v);
    test_task_faults(v);
    test_syscall(v);
    free_vcpu(v);
    return report();
}
