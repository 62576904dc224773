/* Control and debug registers: every combination of the bits that depend on one another, against
 * the manual's rules. */
#include "fixture.h"

#include "cpu/debug.h"

enum { GP = VEC_GP, OK = -1 };

static void to_protected(struct vcpu *v, uint64_t cr4, uint64_t efer, uint32_t cs_ar)
{
    cpu_reset(v, false);
    v->cr0 = CR0_PE | CR0_ET;
    v->cr4 = cr4;
    v->efer = efer;
    v->seg[CS].ar = AR_P | AR_S | AR_CODE | AR_READABLE | AR_ACCESSED | cs_ar;
    cpu_update_mode(v);
}

/* SDM vol. 3, 2.5 and 9.8.5: from protected mode without paging, to each value of the bits that
 * matter. */
static void test_cr0_matrix(struct vcpu *v)
{
    static const uint64_t bit[] = {CR0_PE, CR0_PG, CR0_NW, CR0_CD};

    for (unsigned n = 0; n < 16 * 8; n++) {
        uint64_t value = 0;
        bool pae = n >> 4 & 1, lme = n >> 5 & 1, l = n >> 6 & 1, bad;

        for (unsigned k = 0; k < 4; k++)
            value |= n >> k & 1 ? bit[k] : 0;
        to_protected(v, pae ? CR4_PAE : 0, lme ? EFER_LME : 0, l ? AR_L : 0);
        bad = ((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD));
        bad |= (value & CR0_PG) && lme && (!pae || l);
        int got = OUTCOME(v, cpu_write_cr0(v, value));
        CHECK(got == (bad ? GP : OK), "CR0 %" PRIx64 " PAE %d LME %d L %d: %d", value, pae, lme, l,
              got);
        if (bad) {
            CHECK(v->cr0 == (CR0_PE | CR0_ET) && v->mode == MODE_PROT, "changed by a fault");
            continue;
        }
        CHECK(v->cr0 == (value | CR0_ET));
        CHECK(cpu_lma(v) == ((value & CR0_PG) && lme));
        CHECK(v->mode == (!(value & CR0_PE) ? MODE_REAL : cpu_lma(v) ? MODE_COMPAT : MODE_PROT));
    }
    CHECK(OUTCOME(v, cpu_write_cr0(v, 1ull << 32 | CR0_PE)) == GP);
}

static void to_long(struct vcpu *v, bool l)
{
    to_protected(v, CR4_PAE, EFER_LME, 0);
    CHECK(OUTCOME(v, cpu_write_cr0(v, CR0_PE | CR0_PG)) == OK);
    v->seg[CS].ar = AR_P | AR_S | AR_CODE | AR_READABLE | (l ? AR_L : AR_DB);
    cpu_update_mode(v);
    CHECK(v->mode == (l ? MODE_LONG : MODE_COMPAT));
}

static void test_leaving_long_mode(struct vcpu *v)
{
    to_long(v, true);
    CHECK(OUTCOME(v, cpu_write_cr0(v, CR0_PE)) == GP, "PG off in 64-bit mode");
    CHECK(OUTCOME(v, cpu_write_cr4(v, 0)) == GP, "PAE off in long mode");
    CHECK(OUTCOME(v, cpu_write_cr4(v, CR4_PAE | CR4_LA57)) == GP, "LA57 in long mode");
    to_long(v, false);
    CHECK(OUTCOME(v, cpu_write_cr4(v, CR4_PAE | CR4_PCIDE)) == OK);
    CHECK(OUTCOME(v, cpu_write_cr0(v, CR0_PE)) == GP, "PG off with PCIDE");
    CHECK(OUTCOME(v, cpu_write_cr4(v, CR4_PAE)) == OK);
    CHECK(OUTCOME(v, cpu_write_cr0(v, CR0_PE)) == OK && !cpu_lma(v) && v->mode == MODE_PROT);
}

static void test_cr4(struct vcpu *v)
{
    static const uint32_t known[] = {CR4_VME,        CR4_PVI,  CR4_TSD,  CR4_DE,       CR4_PSE,
                                     CR4_PAE,        CR4_MCE,  CR4_PGE,  CR4_PCE,      CR4_OSFXSR,
                                     CR4_OSXMMEXCPT, CR4_UMIP, CR4_LA57, CR4_FSGSBASE, CR4_OSXSAVE,
                                     CR4_SMEP,       CR4_SMAP, CR4_PKE,  CR4_PKS};
    uint64_t all = 0;

    for (unsigned k = 0; k < sizeof(known) / sizeof(known[0]); k++)
        all |= known[k];
    for (unsigned bit = 0; bit < 64; bit++) {
        to_protected(v, 0, 0, 0);
        int got = OUTCOME(v, cpu_write_cr4(v, 1ull << bit));
        CHECK(got == (all >> bit & 1 ? OK : GP), "CR4 bit %u: %d", bit, got);
    }
    to_long(v, true);
    v->cr3 = 0x1001;
    CHECK(OUTCOME(v, cpu_write_cr4(v, CR4_PAE | CR4_PCIDE)) == GP, "PCIDE with a PCID");
    CHECK(cpuid_set(v, NULL, 0) == 0);
    to_protected(v, 0, 0, 0);
    CHECK(OUTCOME(v, cpu_write_cr4(v, CR4_SMEP)) == GP &&
              OUTCOME(v, cpu_write_cr4(v, CR4_PGE)) == OK,
          "by CPUID");
    set_supported_cpuid(v);
}

static void test_cr3(struct vcpu *v)
{
    to_long(v, true);
    CHECK(OUTCOME(v, cpu_write_cr3(v, 1ull << 63 | 0x1000)) == GP, "bit 63 without PCIDE");
    CHECK(OUTCOME(v, cpu_write_cr3(v, 1ull << v->maxphyaddr)) == GP);
    CHECK(OUTCOME(v, cpu_write_cr4(v, CR4_PAE | CR4_PCIDE)) == OK);
    CHECK(OUTCOME(v, cpu_write_cr3(v, 1ull << 63 | 0x1005)) == OK && v->cr3 == 0x1005);
}

/* SDM vol. 3, 4.4.1: the four entries are read when paging goes on and by MOV CR3, and must not
 * have reserved bits. */
static void test_pdptes(struct vcpu *v)
{
    uint64_t *table = (uint64_t *)(ram + 0x5020);

    memcpy(table, (uint64_t[4]){0x6001, 0x7001, 0, 0x1e6},
           32); /* the last one is not present: nothing is checked */
    to_protected(v, CR4_PAE, 0, 0);
    v->cr3 = 0x5020;
    CHECK(OUTCOME(v, cpu_write_cr0(v, CR0_PE | CR0_PG)) == OK && v->pdpte[1] == 0x7001 &&
          v->pdpte[3] == 0x1e6);
    table[1] = 0x8001;
    CHECK(OUTCOME(v, cpu_write_cr3(v, 0x5020)) == OK && v->pdpte[1] == 0x8001);
    for (unsigned bit = 1; bit < 64; bit++) {
        bool reserved = bit <= 2 ? bit != 0 : (bit >= 5 && bit <= 8) || bit >= v->maxphyaddr;
        if (bit == 3 || bit == 4)
            reserved = false;
        table[2] = 1 | 1ull << bit;
        int got = OUTCOME(v, cpu_write_cr3(v, 0x5020));
        CHECK(got == (reserved ? GP : OK), "PDPTE bit %u: %d", bit, got);
    }
    CHECK(OUTCOME(v, cpu_write_cr3(v, 0xfff00000)) == GP, "no memory there");
    memset(table, 0, 32);
}

static void test_xcr0(struct vcpu *v)
{
    uint64_t mask = cpuid_xcr0_mask(v);

    CHECK((mask & 3) == 3);
    for (uint64_t value = 0; value < 1024; value++) {
        bool ok = (value & 1) && !(value & ~mask) && (!(value & 4) || (value & 2));
        CHECK(OUTCOME(v, cpu_write_xcr0(v, value)) == (ok ? OK : GP), "XCR0 %" PRIx64, value);
    }
}

static void test_debug_registers(struct vcpu *v)
{
    uint64_t bits, value = 0;

    cpu_reset(v, false);
    CHECK(v->dr[6] == 0xffff0ff0 && v->dr[7] == 0x400);
    CHECK(OUTCOME(v, cpu_write_dr(v, 6, 0xffffffff)) == OK && v->dr[6] == 0xffffefff, "%" PRIx64,
          v->dr[6]);
    CHECK(OUTCOME(v, cpu_write_dr(v, 4, 0)) == OK && v->dr[6] == 0xffff0ff0, "an alias");
    CHECK(OUTCOME(v, cpu_write_dr(v, 7, 1ull << 32)) == GP);
    v->cr4 |= CR4_DE;
    CHECK(OUTCOME(v, cpu_write_dr(v, 5, 0)) == VEC_UD &&
          OUTCOME(v, value = cpu_read_dr(v, 4)) == VEC_UD);
    v->cpl = 3;
    CHECK(OUTCOME(v, value = cpu_read_dr(v, 0)) == GP);
    v->cpl = 0;
    CHECK(OUTCOME(v, cpu_write_dr(v, 7, 1 << 13)) == OK);
    CHECK(OUTCOME(v, value = cpu_read_dr(v, 0)) == VEC_DB && v->fault.payload == 1 << 13, "GD");
    v->dr[7] = 0x400;
    /* DR0: execution; DR1: 4-byte write; DR2: 8-byte access; DR3: I/O */
    CHECK(OUTCOME(v, cpu_write_dr(v, 0, 0x1000)) == OK &&
          OUTCOME(v, cpu_write_dr(v, 1, 0x2003)) == OK);
    CHECK(OUTCOME(v, cpu_write_dr(v, 2, 0x3000)) == OK &&
          OUTCOME(v, cpu_write_dr(v, 3, 0x60)) == OK);
    CHECK(!v->slow);
    CHECK(OUTCOME(v, cpu_write_dr(v, 7, 0x2bd00055)) == OK && v->slow == SLOW_BREAKPOINT);
    CHECK(debug_insn_breakpoint(v, 0x1000, &bits) && bits == 1 &&
          !debug_insn_breakpoint(v, 0x2000, &bits));
    v->eflags |= FL_RF;
    CHECK(!debug_insn_breakpoint(v, 0x1000, &bits), "RF");
    CHECK(debug_page_watched(v, 0x2fff) && debug_page_watched(v, 0x3008) &&
          !debug_page_watched(v, 0x1000));
    debug_data_access(v, 0x2000, 4, false);
    CHECK(v->db_pending == 0);
    debug_data_access(v, 0x1ffe, 4, true); /* bytes 1ffe to 2001: 2000 to 2003 is watched */
    CHECK(v->db_pending == 2);
    debug_data_access(v, 0x2004, 4, true);
    CHECK(v->db_pending == 2);
    debug_data_access(v, 0x3007, 1, false);
    CHECK(v->db_pending == 6);
    debug_io_access(v, 0x60, 1);
    CHECK(v->db_pending == 14);
    CHECK(value == 0);
}

static void test_reset(struct vcpu *v)
{
    memset(v->gpr, 0xff, sizeof(v->gpr));
    v->lstar = 0x1234;
    v->cr0 = CR0_PE | CR0_CD;
    v->ymm[3][5] = 9;
    cpu_reset(v, true);
    CHECK(v->lstar == 0x1234 && v->ymm[3][5] == 9 && v->cr0 == (CR0_CD | CR0_ET),
          "INIT leaves these");
    CHECK(v->rip == 0xfff0 && v->seg[CS].base == 0xffff0000 && v->seg[CS].sel == 0xf000 &&
          v->mode == MODE_REAL);
    CHECK(v->gpr[RAX] == 0 && (v->gpr[RDX] & 0xf00) != 0 && v->gpr[REG_ZERO] == 0);
    cpu_reset(v, false);
    CHECK(v->lstar == 0 && v->ymm[3][5] == 0 && v->cr0 == 0x60000010 && v->xcr0 == 1);
}

/* All flags in, all flags out. */
static void test_eflags(struct vcpu *v)
{
    cpu_reset(v, false);
    for (unsigned bit = 0; bit < 64; bit++) {
        uint64_t value = 1ull << bit, real = 0x3f7fd5;
        cpu_set_eflags(v, value & ~(uint64_t)FL_VM);
        CHECK(cpu_get_eflags(v) == ((value & real & ~(uint64_t)FL_VM) | FL_FIXED), "bit %u", bit);
        CHECK(!(v->eflags & FL_ARITH));
    }
    cpu_set_eflags(v, FL_TF);
    CHECK(v->slow == SLOW_TF);
    cpu_set_eflags(v, 0);
    CHECK(!v->slow);
}

int main(void)
{
    struct vcpu *v = new_vcpu();

    set_supported_cpuid(v);
    test_cr0_matrix(v);
    test_leaving_long_mode(v);
    test_cr4(v);
    test_cr3(v);
    test_pdptes(v);
    test_xcr0(v);
    test_debug_registers(v);
    test_reset(v);
    test_eflags(v);
    free_vcpu(v);
    return report();
}
