/* CPUID: what is offered is what the host or the interpreter has; models; dynamic bits; leaves out
 * of range. */
#include "fixture.h"

#include <cpuid.h>
#include <errno.h>

#include "cpu/cpuid_models.h"

static struct kvm_cpuid_entry2 entries[CPUID_MODEL_MAX];

static struct kvm_cpuid_entry2 *entry(unsigned n, uint32_t leaf, uint32_t sub)
{
    for (unsigned k = 0; k < n; k++)
        if (entries[k].function == leaf && entries[k].index == sub)
            return &entries[k];
    return NULL;
}

/* Data instructions execute on the host: their bits are the host's own, from its CPUID read here
 * independently. */
static void test_data_features_are_the_hosts(void)
{
    int n = cpuid_supported(entries, CPUID_MODEL_MAX);
    uint32_t a, b, c, d, xlo = 0, xhi;

    CHECK(n > 10);
    __cpuid(1, a, b, c, d);
    if (c >> 27 & 1)
        __asm__("xgetbv" : "=a"(xlo), "=d"(xhi) : "c"(0));
    uint32_t avx = (xlo & 6) == 6 ? 1u << 28 | 1u << 12 | 1u << 29 : 0;
    uint32_t mask = 1u << 0 | 1u << 1 | 1u << 9 | 1u << 19 | 1u << 20 | 1u << 23 | 1u << 25;
    CHECK((entry(n, 1, 0)->ecx & mask) == (c & mask));
    CHECK((entry(n, 1, 0)->ecx & (1u << 28 | 1u << 12 | 1u << 29)) == (c & avx));
    CHECK((entry(n, 1, 0)->edx & 7u << 24) >> 25 == (d >> 25 & 3));
    __cpuid_count(7, 0, a, b, c, d);
    mask = 1u << 3 | 1u << 8 | 1u << 19 | 1u << 29 | (avx ? 1u << 5 : 0);
    CHECK((entry(n, 7, 0)->ebx & mask) == (b & mask), "%08x host %08x", entry(n, 7, 0)->ebx, b);
    __cpuid(0x80000001, a, b, c, d);
    CHECK((entry(n, 0x80000001, 0)->ecx >> 5 & 1) == (c >> 5 & 1));
}

static void test_never_offered(void)
{
    int n = cpuid_supported(entries, CPUID_MODEL_MAX);
    struct kvm_cpuid_entry2 *e = entry(n, 7, 0);

    CHECK(!(e->ebx & (1u << 4 | 1u << 11 | 1u << 14 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31)),
          "%08x", e->ebx);
    CHECK(!(e->ecx & (1u << 5 | 1u << 7)));
    CHECK(!(e->edx & (1u << 20 | 7u << 22)), "CET-IBT, AMX: %08x", e->edx);
    CHECK(!(entry(n, 1, 0)->ecx & 1u << 5) && !(entry(n, 0x80000001, 0)->ecx & 1u << 2),
          "VMX, SVM");
    CHECK(!(entry(n, 1, 0)->ecx & 1u << 24), "TSC deadline: without an irqchip there is no such timer");
    e = entry(n, 0xa, 0);
    CHECK(e && !(e->eax | e->ebx | e->ecx | e->edx), "a PMU");
    CHECK(!(entry(n, 0xd, 0)->eax & ~0x207u), "XCR0 %x", entry(n, 0xd, 0)->eax);
}

static void test_always_offered(void)
{
    int n = cpuid_supported(entries, CPUID_MODEL_MAX);

    CHECK((entry(n, 1, 0)->ecx & (1u << 17 | 1u << 21 | 1u << 31)) ==
          (1u << 17 | 1u << 21 | 1u << 31));
    CHECK((entry(n, 7, 0)->ebx & (1u | 1u << 7 | 1u << 10 | 1u << 20)) ==
          (1u | 1u << 7 | 1u << 10 | 1u << 20));
    CHECK((entry(n, 7, 0)->ecx & (1u << 2 | 1u << 3 | 1u << 16)) == (1u << 2 | 1u << 3 | 1u << 16));
    CHECK(entry(n, 7, 0)->edx >> 29 & 1, "ARCH_CAPABILITIES");
    CHECK((entry(n, 7, 2)->edx >> 4 & 1) == !cpuid_host_is_amd(), "BHI_CTRL, which is Intel's");
    CHECK(entry(n, 0x40000000, 0)->eax == 0x40000001);
}

static void test_too_small_a_buffer(void)
{
    int n = cpuid_supported(entries, CPUID_MODEL_MAX);

    entries[3].padding[0] = 0xdead;
    CHECK(cpuid_supported(entries, 3) == -E2BIG);
    CHECK(entries[3].padding[0] == 0xdead, "wrote beyond the buffer");
    CHECK(cpuid_supported(entries, (unsigned)n) == n);
    CHECK(cpuid_supported(NULL, 0) == -E2BIG);
}

static void test_model_comes_back(void)
{
    struct vcpu *v = new_vcpu();
    struct kvm_cpuid_entry2 back[CPUID_MODEL_MAX];
    int n = cpuid_supported(entries, CPUID_MODEL_MAX);
    uint32_t out[4];

    set_supported_cpuid(v);
    CHECK(cpuid_get(v, back, (unsigned)n - 1) == -E2BIG);
    CHECK(cpuid_get(v, back, CPUID_MODEL_MAX) == n);
    for (int k = 0; k < n; k++) {
        cpuid_query(v, entries[k].function, entries[k].index, out);
        CHECK(out[0] == entries[k].eax && out[2] == back[k].ecx && out[3] == entries[k].edx,
              "leaf %x.%x", entries[k].function, entries[k].index);
    }
    CHECK(cpu_has(v, FEAT_LA57) && cpu_has(v, FEAT_SSE2) && !cpu_has(v, FEAT_RTM));
    CHECK(v->amd == cpuid_host_is_amd());
    CHECK(v->maxphyaddr == (entry(n, 0x80000008, 0)->eax & 0xff));
    CHECK(v->phys_reserved >> v->maxphyaddr << v->maxphyaddr == v->phys_reserved &&
          !(v->phys_reserved >> 52));
    free_vcpu(v);
}

static void test_bad_models(void)
{
    struct vcpu *v = new_vcpu();
    struct kvm_cpuid_entry2 bad = {.function = 0x80000008, .eax = 40 | 47 << 8};

    CHECK(cpuid_set(v, &bad, 1) == -EINVAL);
    CHECK(cpuid_set(v, entries, CPUID_MODEL_MAX + 1) == -E2BIG);
    bad.eax = 255;
    CHECK(cpuid_set(v, &bad, 1) == 0 && v->maxphyaddr <= 52);
    CHECK(cpuid_set(v, NULL, 0) == 0 && v->maxphyaddr == 36);
    free_vcpu(v);
}

static bool apic_on;
static bool apic_enabled(struct vcpu *v)
{
    (void)v;
    return apic_on;
}

static void test_dynamic_bits(void)
{
    struct vcpu *v = new_vcpu();
    uint32_t out[4];

    set_supported_cpuid(v);
    ops.apic_enabled = apic_enabled;
    for (unsigned on = 0; on < 2; on++) {
        v->cr4 = on ? CR4_OSXSAVE | CR4_PKE : 0;
        apic_on = on;
        cpuid_query(v, 1, 0, out);
        CHECK((out[2] >> 27 & 1) == on && (out[3] >> 9 & 1) == on);
        cpuid_query(v, 7, 0, out);
        CHECK((out[2] >> 4 & 1) == on);
    }
    ops.apic_enabled = NULL;
    v->xcr0 = 1;
    cpuid_query(v, 0xd, 0, out);
    CHECK(out[1] == 576);
    v->xcr0 = 7;
    cpuid_query(v, 0xd, 0, out);
    CHECK(out[1] == 832);
    cpuid_query(v, 0xd, 1, out);
    CHECK(out[1] == 832);
    free_vcpu(v);
}

/* SDM vol. 2, CPUID: beyond the last leaf an Intel processor gives the last basic leaf; AMD's gives
 * zeros. */
static void test_out_of_range(void)
{
    struct vcpu *v = new_vcpu();
    struct kvm_cpuid_entry2 intel[] = {
        {.function = 0, .eax = 7, .ebx = 0x756e6547, .edx = 0x49656e69, .ecx = 0x6c65746e},
        {.function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ebx = 0x1234},
        {.function = 0x80000000, .eax = 0x80000001}};
    uint32_t out[4];

    CHECK(cpuid_set(v, intel, 3) == 0 && !v->amd);
    cpuid_query(v, 0x20, 0, out);
    CHECK(out[1] == 0x1234);
    cpuid_query(v, 0x80000002, 0, out);
    CHECK(out[1] == 0x1234);
    cpuid_query(v, 0x40000000, 0, out);
    CHECK(out[1] == 0x1234);
    cpuid_query(v, 5, 0, out);
    CHECK(out[1] == 0, "within the range");
    intel[0].ebx = 0x68747541;
    intel[0].edx = 0x69746e65;
    intel[0].ecx = 0x444d4163;
    CHECK(cpuid_set(v, intel, 3) == 0 && v->amd);
    cpuid_query(v, 0x20, 0, out);
    CHECK(out[1] == 0);
    free_vcpu(v);
}

/* What the host executes, or has the like of, and a level does not name would make the guest depend on its host (VAES did). */
static void check_levels(const struct vcpu *v, const char *name)
{
    static const struct {
        const char *name;
        uint8_t feature, who;
    } all[] = {
#define X(name, leaf, sub, reg, bit, who) {#name, FEAT_##name, BY_##who},
        CPU_FEATURES(X)
#undef X
    };
    static const uint8_t level[] = {FEAT_MMX,    FEAT_SSE,  FEAT_SSE2, FEAT_SSE3, FEAT_SSSE3, FEAT_SSE4_1,         FEAT_SSE4_2,
                                    FEAT_POPCNT, FEAT_AVX,  FEAT_AVX2, FEAT_BMI1, FEAT_BMI2,  FEAT_F16C,
                                    FEAT_FMA,    FEAT_LZCNT};

    for (unsigned n = 0; n < sizeof(all) / sizeof(all[0]); n++)
        if ((all[n].who == BY_HOST || all[n].who == BY_OURS_AS_HOST) && !memchr(level, all[n].feature, sizeof(level)))
            CHECK(!cpu_has(v, all[n].feature), "%s has %s", name, all[n].name);
}

static void test_named_models(void)
{
    struct vcpu *v = new_vcpu();
    const char *name;
    int n;

    CHECK(cpuid_model_apply("8086", entries, 0) == -ENOENT);
    CHECK(cpuid_model_apply("x86-64-v2", entries, 0) == -ENOTSUP);
    for (unsigned m = 0; (name = cpuid_model_name(m)); m++) {
        n = cpuid_supported(entries, CPUID_MODEL_MAX);
        bool avx2 = entry(n, 7, 0)->ebx >> 5 & 1;
        n = cpuid_model_apply(name, entries, (unsigned)n);
        if (n == -ENOTSUP && !avx2 && !strcmp(name, "x86-64-v3"))
            continue;
        CHECK(n > 0, "%s: %d", name, n);
        CHECK(cpuid_set(v, entries, (unsigned)n) == 0);
        CHECK(cpu_has(v, FEAT_SSE2) && cpu_has(v, FEAT_LM) && cpu_has(v, FEAT_NX) &&
              cpu_has(v, FEAT_HYPERVISOR));
        if (!strcmp(name, "host")) { /* protection keys, and XSAVE keeps PKRU, whatever the host's does */
            CHECK(cpu_has(v, FEAT_PKU) && entry(n, 0xd, 0)->eax >> 9 & 1 && entry(n, 0xd, 9)->eax == 8);
            continue;
        }
        bool v3 = !strcmp(name, "x86-64-v3"), v2 = v3 || !strcmp(name, "x86-64-v2");
        CHECK(cpu_has(v, FEAT_SSE4_2) == v2 && cpu_has(v, FEAT_POPCNT) == v2, "%s", name);
        CHECK(cpu_has(v, FEAT_AVX2) == v3 && cpu_has(v, FEAT_XSAVE) == v3 &&
                  cpu_has(v, FEAT_LZCNT) == v3,
              "%s", name);
        check_levels(v, name);
        CHECK((entry(n, 0xd, 0) != NULL) == v3 && !entry(n, 0xd, 9));
    }
    free_vcpu(v);
}

int main(void)
{
    test_data_features_are_the_hosts();
    test_never_offered();
    test_always_offered();
    test_too_small_a_buffer();
    test_model_comes_back();
    test_bad_models();
    test_dynamic_bits();
    test_out_of_range();
    test_named_models();
    return report();
}
