/* System instructions, called as the interpreter calls them: privilege, features, operands, MSR
 * exits. */
#include "fixture.h"

#include "cpu/msr_index.h"
#include "gen/handlers.h"

enum { GP = VEC_GP, UD = VEC_UD, OK = -1 };

static struct insn insn(unsigned size, bool memory)
{
    return (struct insn){.len = 3,
                         .size = (uint8_t)size,
                         .dst = RAX,
                         .src = RBX,
                         .base = RSI,
                         .index = REG_ZERO,
                         .seg = DS,
                         .am = memory ? AM_FLAT64 : AM_NONE};
}

static int execute(struct vcpu *v, insn_fn *fn, struct insn i)
{
    static struct insn row[2];

    row[0] = i;
    v->cur = row;
    v->rip = 0;
    v->gpr[REG_PAGE] = 0x7000;
    return OUTCOME(v, fn(v, row));
}

/* 64-bit mode with paging off below: the tests' memory is reached through identity pages of 2 MiB.
 */
static void to_long(struct vcpu *v, unsigned cpl)
{
    uint64_t *pml4 = (uint64_t *)(ram + 0x1000), *pdpt = (uint64_t *)(ram + 0x2000),
             *pd = (uint64_t *)(ram + 0x3000);

    pml4[0] = 0x2007;
    pdpt[0] = 0x3007;
    pd[0] = 0x87;
    cpu_reset(v, false);
    v->cr0 = (uint32_t)CR0_PG | CR0_PE | CR0_ET;
    v->cr4 = CR4_PAE | CR4_OSXSAVE | CR4_PKE | CR4_FSGSBASE;
    v->cr3 = 0x1000;
    v->efer = EFER_LME | EFER_LMA;
    v->seg[CS].ar = AR_P | AR_S | AR_CODE | AR_L;
    v->cpl = (uint8_t)cpl;
    v->gpr[RSI] = 0x8000;
    v->gpr[RDX] = v->gpr[RCX] = v->gpr[RAX] = v->gpr[RBX] = 0;
    cpu_update_mode(v);
}

static void test_privilege(struct vcpu *v)
{
    static const struct {
        const char *name;
        insn_fn *fn;
        uint8_t size;
        bool memory;
        int user;
    } rows[] = {
        {"lgdt", op_lgdt, 8, true, GP},
        {"lidt", op_lidt, 8, true, GP},
        {"lmsw", op_lmsw, 2, false, GP},
        {"clts", op_clts, 8, false, GP},
        {"mov cr", op_mov_from_cr, 8, false, GP},
        {"mov dr", op_mov_to_dr, 8, false, GP},
        {"rdmsr", op_rdmsr, 8, false, GP},
        {"wrmsr", op_wrmsr, 8, false, GP},
        {"invd", op_invd, 8, false, GP},
        {"wbinvd", op_wbinvd, 8, false, GP},
        {"invlpg", op_invlpg, 8, true, GP},
        {"invpcid", op_invpcid, 8, true, GP},
        {"hlt", op_hlt, 8, false, GP},
        {"swapgs", op_swapgs, 8, false, GP},
        {"xsetbv", op_xsetbv, 8, false, GP},
        {"monitor", op_monitor, 8, false, UD},
        {"mwait", op_mwait, 8, false, UD},
        {"stac", op_stac, 8, false, UD},
        {"clac", op_clac, 8, false, UD},
        {"rdpmc", op_rdpmc, 8, false, GP},
        {"sgdt", op_sgdt, 8, true, OK},
        {"smsw", op_smsw, 8, false, OK},
        {"cpuid", op_cpuid, 8, false, OK},
        {"rdtsc", op_rdtsc, 8, false, OK},
        {"rdtscp", op_rdtscp, 8, false, OK},
        {"xgetbv", op_xgetbv, 8, false, OK},
        {"rdpkru", op_rdpkru, 8, false, OK},
        {"wrfsbase", op_wrfsbase, 8, false, OK},
        {"clflush", op_clflush, 1, true, OK},
        {"ud2", op_ud, 8, false, UD},
    };
    for (unsigned k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
        struct insn i = insn(rows[k].size, rows[k].memory);
        int got;
        i.src = rows[k].fn == op_mov_from_cr ? 0 : RBX;
        to_long(v, 3);
        got = execute(v, rows[k].fn, i);
        CHECK(got == rows[k].user, "%s at CPL 3: %d", rows[k].name, got);
    }
    to_long(v, 3);
    v->cr4 |= CR4_UMIP | CR4_TSD;
    CHECK(execute(v, op_sgdt, insn(8, true)) == GP && execute(v, op_smsw, insn(8, false)) == GP);
    CHECK(execute(v, op_rdtsc, insn(8, false)) == GP &&
          execute(v, op_rdtscp, insn(8, false)) == GP);
    v->misc_features = 1;
    CHECK(execute(v, op_cpuid, insn(8, false)) == GP, "CPUID faulting");
}

static void test_missing_features(struct vcpu *v)
{
    static insn_fn *const gated[] = {op_rdtscp, op_rdpid,  op_invpcid, op_stac,     op_clflushopt,
                                     op_clwb,   op_rdrand, op_rdseed,  op_serialize};
    CHECK(cpuid_set(v, NULL, 0) == 0);
    for (unsigned k = 0; k < sizeof(gated) / sizeof(gated[0]); k++) {
        to_long(v, 3); /* #UD comes before the privilege check */
        CHECK(execute(v, gated[k], insn(8, true)) == UD, "%u", k);
    }
    set_supported_cpuid(v);
    to_long(v, 0);
    v->cr4 = CR4_PAE;
    CHECK(execute(v, op_xgetbv, insn(8, false)) == UD &&
          execute(v, op_rdpkru, insn(8, false)) == UD);
    CHECK(execute(v, op_rdfsbase, insn(8, false)) == UD);
}

static void test_tables(struct vcpu *v)
{
    to_long(v, 0);
    memcpy(ram + 0x8000, "\xff\x0f\x00\x10\x00\x00\x80\xff\xff\xff", 10);
    CHECK(execute(v, op_lgdt, insn(8, true)) == OK && v->gdt.limit == 0xfff &&
          v->gdt.base == 0xffffff8000001000);
    v->gpr[RSI] = 0x8100;
    CHECK(execute(v, op_sgdt, insn(8, true)) == OK && !memcmp(ram + 0x8000, ram + 0x8100, 10));
    ram[0x8109] = 0x7f;
    CHECK(execute(v, op_lidt, insn(8, true)) == GP && v->idt.limit == 0xffff, "not canonical");
    v->gpr[RSI] = 0x200000 - 4; /* the page behind is not mapped */
    CHECK(execute(v, op_lgdt, insn(8, true)) == VEC_PF && v->fault.payload == 0x200000, "%" PRIx64,
          v->fault.payload);
    CHECK(v->gdt.base == 0xffffff8000001000);
}

static void test_control_registers(struct vcpu *v)
{
    struct insn i = insn(8, false);

    to_long(v, 0);
    i.src = 4;
    CHECK(execute(v, op_mov_from_cr, i) == OK && v->gpr[RAX] == v->cr4);
    i.src = 5;
    CHECK(execute(v, op_mov_from_cr, i) == UD);
    i = insn(8, false);
    i.dst = 8;
    v->gpr[RBX] = 16;
    CHECK(execute(v, op_mov_to_cr, i) == GP);
    v->gpr[RBX] = 9;
    CHECK(execute(v, op_mov_to_cr, i) == OK && v->cr8 == 9 && v->rip == 0x7003);
    v->want_tpr_exit = true;
    CHECK(execute(v, op_mov_to_cr, i) == 0x100 + EXIT_TPR && v->rip == 0x7003);
    v->want_tpr_exit = false;
    v->gpr[RAX] = CR0_TS | CR0_MP; /* PE stays although the operand has it clear */
    CHECK(execute(v, op_lmsw, insn(2, false)) == OK &&
          (v->cr0 & 0xf) == (CR0_PE | CR0_MP | CR0_TS));
    CHECK(execute(v, op_clts, insn(8, false)) == OK && !(v->cr0 & CR0_TS));
    CHECK(execute(v, op_hlt, insn(8, false)) == 0x100 + EXIT_HLT && v->rip == 0x7003);
}

static void test_invpcid(struct vcpu *v)
{
    static const struct {
        uint64_t type, pcid, address;
        bool pcide;
        int result;
    } cases[] = {
        {0, 0, 0x1000, false, OK}, {0, 1, 0x1000, false, GP},     {0, 1, 0x1000, true, OK},
        {0, 0x1000, 0, true, GP},  {0, 0, 1ull << 62, false, GP}, {1, 0, 1ull << 62, false, OK},
        {1, 5, 0, false, GP},      {2, 5, 0, false, OK},          {3, 0, 0, false, OK},
        {2, 0x1000, 0, true, GP},  {4, 0, 0, false, GP},          {1ull << 32, 0, 0, false, GP},
    };
    for (unsigned k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
        to_long(v, 0);
        v->cr4 |= cases[k].pcide ? CR4_PCIDE : 0;
        memcpy(ram + 0x8000, &cases[k].pcid, 16);
        v->gpr[RAX] = cases[k].type;
        CHECK(execute(v, op_invpcid, insn(8, true)) == cases[k].result, "case %u", k);
    }
}

static void test_bases_and_keys(struct vcpu *v)
{
    to_long(v, 0);
    v->seg[GS].base = 1;
    v->kernel_gs_base = 2;
    CHECK(execute(v, op_swapgs, insn(8, false)) == OK && v->seg[GS].base == 2 &&
          v->kernel_gs_base == 1);
    v->gpr[RAX] = 1ull << 60;
    CHECK(execute(v, op_wrgsbase, insn(8, false)) == GP && v->seg[GS].base == 2);
    CHECK(execute(v, op_wrgsbase, insn(4, false)) == OK && v->seg[GS].base == 0, "32 bits of it");
    v->gpr[RAX] = 0x55555554;
    CHECK(execute(v, op_wrpkru, insn(8, false)) == OK && v->pkru == 0x55555554);
    v->gpr[RCX] = 1;
    CHECK(execute(v, op_wrpkru, insn(8, false)) == GP &&
          execute(v, op_rdpkru, insn(8, false)) == GP);
    v->cr4 |= CR4_SMAP;
    cpu_update_mode(v);
    CHECK(v->tlb == v->tlb_sets + TLB_SUPER_SMAP);
    CHECK(execute(v, op_stac, insn(8, false)) == OK && v->tlb == v->tlb_sets + TLB_SUPER &&
          (v->eflags & FL_AC));
    CHECK(execute(v, op_clac, insn(8, false)) == OK && v->tlb == v->tlb_sets + TLB_SUPER_SMAP);
    v->seg[CS].ar = AR_P | AR_S | AR_CODE | AR_DB;
    cpu_update_mode(v);
    CHECK(execute(v, op_swapgs, insn(4, false)) == UD, "not in compatibility mode");
}

static void test_random(struct vcpu *v)
{
    uint64_t first;

    to_long(v, 3);
    v->oszapc = ~0u;
    CHECK(execute(v, op_rdrand, insn(8, false)) == OK && v->oszapc == PF_CF);
    first = v->gpr[RAX];
    CHECK(execute(v, op_rdseed, insn(8, false)) == OK && v->gpr[RAX] != first);
    v->gpr[RAX] = ~0ull;
    CHECK(execute(v, op_rdrand, insn(4, false)) == OK && v->gpr[RAX] >> 32 == 0);
}

/* ---- MSR exits ---------------------------------------------------------------------------------
 */

static int asked, answer;
static bool allowed = true;
static int ask_rdmsr(struct vcpu *v, uint32_t index, uint64_t *value)
{
    (void)index;
    asked = (int)v->exit.msr.reason;
    *value = 0x1122334455667788;
    return answer;
}
static int ask_wrmsr(struct vcpu *v, uint32_t index, uint64_t value)
{
    return ask_rdmsr(v, index, &value);
}
static bool allow(struct vcpu *v, uint32_t index, bool write)
{
    (void)v, (void)index, (void)write;
    return allowed;
}

static void test_msr_exits(struct vcpu *v)
{
    uint64_t data = 0xaabbccdd00112233;

    ops.rdmsr = ask_rdmsr;
    ops.wrmsr = ask_wrmsr;
    ops.msr_allowed = allow;
    to_long(v, 0);
    v->gpr[RCX] = 0x4b564d01;
    answer = 0;
    CHECK(execute(v, op_rdmsr, insn(8, false)) == OK && asked == KVM_MSR_EXIT_REASON_UNKNOWN);
    CHECK(v->gpr[RAX] == 0x55667788 && v->gpr[RDX] == 0x11223344);
    answer = -1;
    CHECK(execute(v, op_rdmsr, insn(8, false)) == GP);
    answer = 1;
    CHECK(execute(v, op_rdmsr, insn(8, false)) == 0x100 + EXIT_RDMSR &&
          v->exit.msr.index == 0x4b564d01);
    cpu_answer(v, &data);
    CHECK(execute(v, op_rdmsr, insn(8, false)) == OK && v->gpr[RAX] == 0x00112233 &&
          v->gpr[RDX] == 0xaabbccdd);
    v->log.count = v->log.next = 0;
    v->log.replay = false;

    v->gpr[RCX] = MSR_EFER; /* refused by the processor itself */
    v->gpr[RAX] = 1 << 1;
    v->gpr[RDX] = 0;
    CHECK(execute(v, op_wrmsr, insn(8, false)) == 0x100 + EXIT_WRMSR &&
          v->exit.msr.reason == KVM_MSR_EXIT_REASON_INVAL);
    CHECK(v->exit.msr.data == 2);
    cpu_answer(v, NULL);
    CHECK(execute(v, op_wrmsr, insn(8, false)) == OK && v->rip == 0x7003);
    v->log.count = v->log.next = 0;
    v->log.replay = false;

    allowed = false;
    answer = -1;
    v->gpr[RCX] = MSR_STAR;
    CHECK(execute(v, op_rdmsr, insn(8, false)) == GP && asked == KVM_MSR_EXIT_REASON_FILTER);
    allowed = true;
    CHECK(execute(v, op_rdmsr, insn(8, false)) == OK && v->gpr[RAX] == v->star);
}

int main(void)
{
    struct vcpu *v = new_vcpu();

    set_supported_cpuid(v);
    test_privilege(v);
    test_missing_features(v);
    test_tables(v);
    test_control_registers(v);
    test_invpcid(v);
    test_bases_and_keys(v);
    test_random(v);
    test_msr_exits(v);
    free_vcpu(v);
    return report();
}
