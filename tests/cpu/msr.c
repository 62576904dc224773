/* MSRs: the lists agree with what can be read and written; what guests may not write is refused. */
#include "fixture.h"

#include <errno.h>
#include <time.h>

#include "cpu/msr_index.h"
#include "cpu/tsc.h"

static void test_lists_agree(void)
{
    struct vcpu *v = new_vcpu();
    uint32_t index[256];
    uint64_t value, again;
    unsigned n = msr_index_list(index, 256);

    set_supported_cpuid(v);
    CHECK(n > 30 && n < 256);
    CHECK(msr_index_list(NULL, 0) == n);
    for (unsigned k = 0; k < n; k++) {
        CHECK(msr_read(v, index[k], &value, true) == 0, "read %x", index[k]);
        CHECK(msr_write(v, index[k], value, true) == 0, "write %x", index[k]);
        CHECK(msr_read(v, index[k], &again, true) == 0 &&
                  (again == value || index[k] == MSR_IA32_TSC),
              "%x", index[k]);
        CHECK(msr_write(v, index[k], 0, true) == 0, "0 to %x", index[k]);
        for (unsigned other = 0; other < k; other++)
            CHECK(index[other] != index[k], "%x twice", index[k]);
    }
    n = msr_feature_list(index, 256);
    for (unsigned k = 0; k < n; k++) {
        CHECK(msr_feature(index[k], &value) == 0);
        CHECK(msr_write(v, index[k], value, true) == 0, "feature %x", index[k]);
    }
    CHECK(msr_feature(MSR_IA32_TSC, &value) == -1);
    free_vcpu(v);
}

/* What QEMU 7.2 writes at reset, beyond the list: each refusal would be an abort. */
static void test_what_qemu_writes(void)
{
    static const struct {
        uint32_t index;
        uint64_t value;
    } writes[] = {
        {0x174, 0},         {0x175, 0},         {0x176, 0},      {0x277, 0x0007040600070406},
        {0xc0000081, 0},    {0xc0000083, 0},    {0xc0000102, 0}, {0xc0000084, 0},
        {0xc0000082, 0},    {0x3b, 0},          {0x1a0, 1},      {0x10, 0},
        {0xc0000103, 0},    {0x2ff, 0},         {0x250, 0},      {0x26f, 0},
        {0x200, 0},         {0x20f, 0},         {0x17a, 0},      {0x17b, 0},
        {0x400, ~0ull},     {0x401, 0},         {0x3a, 0},       {0x3a, 5},
        {0x8b, 0x01000065}, {0x10a, 0xc000000}, {0x48, 0},       {0xda0, 0},
        {0x1a0, 0x1801},    {0x34, 3},          {0xc0010117, 0},
    };
    struct vcpu *v = new_vcpu();

    set_supported_cpuid(v);
    CHECK(msr_setup_mce(v, 1 << 8 | 1 << 24 | 10) == 0);
    for (unsigned k = 0; k < sizeof(writes) / sizeof(writes[0]); k++)
        CHECK(msr_write(v, writes[k].index, writes[k].value, true) == 0, "%x", writes[k].index);
    free_vcpu(v);
}

static void test_guest_writes(void)
{
    static const struct {
        uint32_t index;
        uint64_t value;
        int result;
    } cases[] = {
        {MSR_LSTAR, 0x0000800000000000, 0}, /* canonical: the processor has 57 bits */
        {MSR_LSTAR, 0x0100000000000000, -1},
        {MSR_FS_BASE, 0xff00000000000000, 0},
        {MSR_GS_BASE, 1ull << 63, -1},
        {MSR_KERNEL_GS_BASE, 0xffff800000000000, 0},
        {MSR_CSTAR, 1ull << 60, -1},
        {MSR_STAR, ~0ull, 0},
        {MSR_IA32_PAT, 0x0606060606060606, 0},
        {MSR_IA32_PAT, 0x02, -1},
        {MSR_IA32_PAT, 0x0800000000000000, -1},
        {MSR_IA32_PAT, 0x0307060504010000, -1},
        {MSR_MTRR_DEF_TYPE, 0xc06, 0},
        {MSR_MTRR_DEF_TYPE, 0x1006, -1},
        {MSR_MTRR_DEF_TYPE, 0xc02, -1},
        {0x250, 0x0606060606060606, 0},
        {0x250, 0x0607060606060606, -1},
        {0x200, 0x80000006, 0},
        {0x200, 0x80000106, -1},
        {0x200, 0x80000007, -1},
        {0x200, 1ull << 52, -1},
        {0x201, 0x80000800, 0},
        {0x201, 0x80000400, -1},
        {0x210, 0, -1},
        {MSR_IA32_MTRR_CAP, 0, -1},
        {MSR_EFER, EFER_SCE | EFER_LME | EFER_NXE, 0},
        {MSR_EFER, 1 << 12, -1},
        {MSR_EFER, 1 << 1, -1},
        {MSR_TSC_AUX, 5, 0},
        {MSR_IA32_SMI_COUNT, 1, -1},
        {MSR_IA32_ARCH_CAPABILITIES, 0, -1},
        {MSR_IA32_PLATFORM_INFO, 0, -1},
        {MSR_IA32_SPEC_CTRL, 7, 0},
        {MSR_IA32_SPEC_CTRL, 8, -1},
        {MSR_IA32_PRED_CMD, 1, 0},
        {MSR_IA32_PRED_CMD, 2, -1},
        {MSR_IA32_FLUSH_CMD, 1, 0},
        {MSR_IA32_FLUSH_CMD, 2, -1},
        {MSR_IA32_MCG_CAP, 0, -1},
        {0x400, 0, 0},
        {0x400, ~0ull, 0},
        {0x400, 1 << 5, -1},
        {0x401, 0, 0},
        {0x401, 1, -1},
        {MSR_IA32_XSS, 0, 0},
        {MSR_IA32_XSS, 1, -1},
        {MSR_AMD_HWCR, 1 << 3 | 1 << 6, 0},
        {MSR_AMD_HWCR, 1 << 24, 0},
        {MSR_AMD_HWCR, 1, -1},
        {MSR_IA32_DEBUGCTL, 1 << 6, -1},
        {MSR_IA32_DEBUGCTL, 2, 0},
        {MSR_IA32_MISC_FEATURES, 1, 0},
        {MSR_IA32_MISC_FEATURES, 2, -1},
        {MSR_AMD_HWCR, 1 << 18, 0},
        {MSR_IA32_MISC_ENABLE, 0x1801, 0},
        {MSR_IA32_MISC_ENABLE, 0x801, -1},
        {MSR_IA32_MISC_ENABLE, 1, -1},
        {0x186, 0x4300c0, 0},
        {0x199, 0, -1},
        {0x1b, 0, 1},
        {0x800, 0, 1},
        {0x4b564d01, 0, 1},
        {0xdeadbeef, 0, 1},
        {0x480, 0, 1},
        {0x38f, 0, 1},
    };
    struct vcpu *v = new_vcpu();
    uint64_t value;

    set_supported_cpuid(v);
    for (unsigned k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
        int result = msr_write(v, cases[k].index, cases[k].value, false);
        CHECK(result == cases[k].result, "%x <- %" PRIx64 ": %d", cases[k].index, cases[k].value,
              result);
    }
    CHECK(msr_read(v, MSR_IA32_PRED_CMD, &value, false) == 1, "write-only");
    CHECK(msr_read(v, MSR_IA32_ARCH_CAPABILITIES, &value, false) == 0 && (value & 0x123) == 0x123,
          "%" PRIx64, value);
    free_vcpu(v);
}

/* A new processor's are 0 but for what says that there is no PMU; firmware sets the rest. */
static void test_reset(void)
{
    struct vcpu *v = new_vcpu();
    uint64_t value;

    set_supported_cpuid(v);
    CHECK(msr_read(v, MSR_IA32_MISC_ENABLE, &value, false) == 0 && value == 0x1800, "%" PRIx64, value);
    CHECK(msr_read(v, MSR_AMD_HWCR, &value, true) == 0 && value == 0, "%" PRIx64, value);
    CHECK(msr_read(v, MSR_AMD_DE_CFG, &value, true) == 0 && value == 0, "%" PRIx64, value);
    free_vcpu(v);
}

/* AMD's have 32 bits, Intel's an address. */
static void test_sysenter(void)
{
    struct vcpu *v = new_vcpu();
    uint64_t value;

    set_supported_cpuid(v);
    v->amd = true;
    CHECK(msr_write(v, MSR_IA32_SYSENTER_ESP, 0x123456789abcdef0, false) == 0);
    CHECK(msr_read(v, MSR_IA32_SYSENTER_ESP, &value, false) == 0 && value == 0x9abcdef0, "%" PRIx64, value);
    v->amd = false;
    CHECK(msr_write(v, MSR_IA32_SYSENTER_ESP, 0x123456789abcdef0, false) == -1);
    CHECK(msr_write(v, MSR_IA32_SYSENTER_ESP, 0x123456789abc, false) == 0);
    CHECK(msr_read(v, MSR_IA32_SYSENTER_ESP, &value, false) == 0 && value == 0x123456789abc, "%" PRIx64, value);
    free_vcpu(v);
}

/* Without the CPUID bit the register is not there for the guest, but is for the client. */
static void test_registers_by_cpuid(void)
{
    static const uint32_t index[] = {MSR_TSC_AUX, MSR_IA32_SPEC_CTRL, MSR_IA32_ARCH_CAPABILITIES,
                                     MSR_IA32_XSS};
    struct vcpu *v = new_vcpu();
    uint64_t value;

    CHECK(cpuid_set(v, NULL, 0) == 0);
    for (unsigned k = 0; k < sizeof(index) / sizeof(index[0]); k++) {
        CHECK(msr_read(v, index[k], &value, false) == -1, "%x", index[k]);
        CHECK(msr_write(v, index[k], 0, false) == -1, "%x", index[k]);
        CHECK(msr_read(v, index[k], &value, true) == 0 && msr_write(v, index[k], 0, true) == 0,
              "%x", index[k]);
    }
    for (unsigned has = 0; has < 2; has++) { /* BHI_DIS_S by BHI_CTRL */
        struct kvm_cpuid_entry2 e[] = {
            {.function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .edx = 1 << 26},
            {.function = 7, .index = 2, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .edx = has << 4},
        };
        CHECK(cpuid_set(v, e, 2) == 0);
        CHECK(msr_write(v, MSR_IA32_SPEC_CTRL, 1 << 10 | 1, false) == (has ? 0 : -1));
        CHECK(msr_read(v, MSR_IA32_SPEC_CTRL, &value, false) == 0 && value == (has ? 1 << 10 | 1 : 0));
        CHECK(msr_write(v, MSR_IA32_SPEC_CTRL, 1 << 11, false) == -1);
    }
    CHECK(msr_write(v, MSR_IA32_SPEC_CTRL, 1 << 10, true) == 0);
    CHECK(cpuid_set(v, NULL, 0) == 0);
    CHECK(msr_write(v, MSR_EFER, EFER_LME, false) == -1 &&
          msr_write(v, MSR_EFER, EFER_LME, true) == 0);
    CHECK(msr_write(v, MSR_EFER, EFER_SCE, false) == 0, "Linux boots with -cpu host,-syscall");
    free_vcpu(v);
}

static void test_efer(void)
{
    struct vcpu *v = new_vcpu();
    uint64_t value;

    set_supported_cpuid(v);
    CHECK(msr_write(v, MSR_EFER, EFER_LMA, false) == 0 && !(v->efer & EFER_LMA),
          "LMA is not written");
    v->cr0 |= CR0_PG | CR0_PE;
    v->efer = EFER_LME | EFER_LMA;
    CHECK(msr_write(v, MSR_EFER, 0, false) == -1, "LME while paging");
    CHECK(msr_write(v, MSR_EFER, EFER_LME | EFER_SCE, false) == 0);
    CHECK(msr_read(v, MSR_EFER, &value, false) == 0 && value == (EFER_LME | EFER_LMA | EFER_SCE));
    free_vcpu(v);
}

static void test_tsc(void)
{
    struct vcpu *v = new_vcpu();
    uint64_t before, after, adjust;

    set_supported_cpuid(v);
    CHECK(msr_write(v, MSR_IA32_TSC, 1ull << 40, false) == 0);
    before = cpu_rdtsc(v);
    CHECK(before >= 1ull << 40 && before < (1ull << 40) + 1000ull * host_tsc_khz());
    CHECK(msr_read(v, MSR_IA32_TSC_ADJUST, &adjust, false) == 0);
    CHECK(msr_write(v, MSR_IA32_TSC_ADJUST, adjust + (1ull << 50), false) == 0);
    after = cpu_rdtsc(v);
    CHECK(after - before >= 1ull << 50 && after - before < (1ull << 50) + 1000ull * host_tsc_khz());
    CHECK(msr_write(v, MSR_IA32_TSC_ADJUST, 0, true) == 0 && cpu_rdtsc(v) >= after,
          "the client's does not move it");
    free_vcpu(v);
}

/* 100 ms of busy waiting against the monotonic clock: the rate is within 50 ppm and a clock
 * reading. */
static void test_tsc_rate(void)
{
    struct timespec a, b;
    uint64_t ta, tb, ns;
    double ppm;

    (void)host_tsc_khz();
    clock_gettime(CLOCK_MONOTONIC_RAW, &a);
    ta = host_tsc();
    do {
        clock_gettime(CLOCK_MONOTONIC_RAW, &b);
        tb = host_tsc();
        ns = (uint64_t)(b.tv_sec - a.tv_sec) * 1000000000 + (uint64_t)(b.tv_nsec - a.tv_nsec);
    } while (ns < 100000000);
    ppm = ((double)(tb - ta) / ((double)ns * host_tsc_khz() / 1e6) - 1) * 1e6;
    CHECK(ppm > -50 && ppm < 50, "%u kHz is wrong by %.1f ppm", host_tsc_khz(), ppm);
}

static void test_machine_check(void)
{
    struct vcpu *v = new_vcpu();
    uint64_t value;

    set_supported_cpuid(v);
    CHECK(msr_setup_mce(v, 0) == -EINVAL && msr_setup_mce(v, 33) == -EINVAL &&
          msr_setup_mce(v, 1ull << 40 | 4) == -EINVAL);
    CHECK(msr_write(v, MSR_IA32_MCG_CTL, ~0ull, false) == -1, "no MCG_CTL yet");
    CHECK(msr_setup_mce(v, 1 << 8 | 4) == 0);
    CHECK(msr_write(v, MSR_IA32_MCG_CTL, ~0ull, false) == 0 &&
          msr_write(v, MSR_IA32_MCG_CTL, 1, false) == -1);
    CHECK(msr_read(v, 0x400 + 15, &value, false) == 0 &&
              msr_read(v, 0x400 + 16, &value, false) == 1,
          "4 banks");
    CHECK(msr_read(v, 0x280, &value, false) == -1, "no CMCI");
    free_vcpu(v);
}

int main(void)
{
    test_lists_agree();
    test_what_qemu_writes();
    test_guest_writes();
    test_reset();
    test_sysenter();
    test_registers_by_cpuid();
    test_efer();
    test_tsc();
    test_tsc_rate();
    test_machine_check();
    return report();
}
