/* Named processor models: the psABI's levels and QEMU's baseline, so that a guest need not depend
 * on its host. */
#include "cpu/cpuid_models.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "cpu/cpuid.h"
#include "cpu/xsave.h"

#define END FEAT_COUNT

/* Beyond level 1 (x86-64 psABI, table 3.1); each level includes the one before it. */
static const uint8_t level2[] = {FEAT_SSE3,   FEAT_SSSE3, FEAT_SSE4_1,  FEAT_SSE4_2,
                                 FEAT_POPCNT, FEAT_CX16,  FEAT_LAHF_LM, END};
static const uint8_t level3[] = {FEAT_AVX, FEAT_AVX2,  FEAT_BMI1,  FEAT_BMI2,  FEAT_F16C,
                                 FEAT_FMA, FEAT_LZCNT, FEAT_MOVBE, FEAT_XSAVE, END};
/* Go with XSAVE; what only the host's own model has. */
static const uint8_t with_level3[] = {FEAT_XSAVEOPT, FEAT_XSAVEC, FEAT_XGETBV1, FEAT_XSAVES, END};
static const uint8_t host_only[] = {FEAT_AES,    FEAT_PCLMUL, FEAT_VAES,  FEAT_VPCLMULQDQ, FEAT_SHA, FEAT_ADX,
                                    FEAT_MMXEXT, FEAT_SSE4A,  FEAT_PKU,   FEAT_PKS,        FEAT_FDP_EXCPTN_ONLY,
                                    FEAT_ZERO_FCS_FDS, END};
/* QEMU's qemu64 has level 1, these, and nothing newer that is the interpreter's own. */
static const uint8_t qemu64_has[] = {FEAT_SSE3, FEAT_CX16, FEAT_LAHF_LM, END};
static const uint8_t qemu64_not[] = {
    FEAT_PCID,    FEAT_RDRAND, FEAT_FSGSBASE, FEAT_SMEP,          FEAT_ERMS,
    FEAT_INVPCID, FEAT_RDSEED, FEAT_SMAP,     FEAT_CLFLUSHOPT,    FEAT_CLWB,
    FEAT_UMIP,    FEAT_LA57,   FEAT_RDPID,    FEAT_FSRM,          FEAT_SERIALIZE,
    FEAT_PDPE1GB, FEAT_RDTSCP, FEAT_WBNOINVD, FEAT_INVARIANT_TSC, FEAT_TOPOEXT,
    END};

static const struct model {
    const char *name;
    const uint8_t *requires[2];
    const uint8_t *without[5];
    bool host; /* nothing is taken away */
} models[] = {
    {.name = "host", .host = true},
    {.name = "x86-64-v2", .requires = {level2}, .without = {level3, with_level3, host_only}},
    {.name = "x86-64-v3", .requires = {level2, level3}, .without = {host_only}},
    {.name = "qemu64",
     .requires = {qemu64_has},
     .without = {level2, level3, with_level3, host_only, qemu64_not}},
};
enum { MODELS = sizeof(models) / sizeof(models[0]) };
enum { SIGNATURE = 0x00060fb1 }; /* family 15, model 107, stepping 1: QEMU's baseline */
enum { XCR0_AVX_BYTES = 832 };   /* XSAVE area of x87, SSE and AVX */

const char *cpuid_model_name(unsigned n) { return n < MODELS ? models[n].name : NULL; }

/* ---- entries -----------------------------------------------------------------------------------
 */

static struct kvm_cpuid_entry2 *find(struct kvm_cpuid_entry2 *entries, unsigned n, uint32_t leaf,
                                     uint32_t sub)
{
    for (unsigned k = 0; k < n; k++)
        if (entries[k].function == leaf &&
            (!(entries[k].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || entries[k].index == sub))
            return &entries[k];
    return NULL;
}

static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, unsigned reg)
{
    uint32_t *regs[] = {&e->eax, &e->ebx, &e->ecx, &e->edx};

    return regs[reg];
}

static bool contains(const uint8_t *list, unsigned f)
{
    for (; list && *list != END; list++)
        if (*list == f)
            return true;
    return false;
}

static const struct {
    uint32_t leaf;
    uint8_t sub, reg, bit;
} where[FEAT_COUNT] = {
#define X(name, leaf, sub, reg, bit, who) [FEAT_##name] = {leaf, sub, reg, bit},
    CPU_FEATURES(X)
#undef X
};

static uint32_t *feature_word(struct kvm_cpuid_entry2 *entries, unsigned n, unsigned f,
                              uint32_t *bit)
{
    struct kvm_cpuid_entry2 *e = find(entries, n, where[f].leaf, where[f].sub);

    *bit = 1u << where[f].bit;
    return e ? reg_of(e, where[f].reg) : NULL;
}

static bool has(struct kvm_cpuid_entry2 *entries, unsigned n, unsigned f)
{
    uint32_t bit, *word = feature_word(entries, n, f, &bit);

    return word && (*word & bit);
}

static unsigned drop_leaf(struct kvm_cpuid_entry2 *entries, unsigned n, uint32_t leaf)
{
    unsigned kept = 0;

    for (unsigned k = 0; k < n; k++)
        if (entries[k].function != leaf)
            entries[kept++] = entries[k];
    return kept;
}

/* ---- a model -----------------------------------------------------------------------------------
 */

static const struct model *by_name(const char *name)
{
    for (unsigned n = 0; n < MODELS; n++)
        if (!strcmp(models[n].name, name))
            return &models[n];
    return NULL;
}

static bool keeps(const struct model *m, unsigned f)
{
    for (unsigned k = 0; k < 2; k++)
        if (contains(m->requires[k], f))
            return true;
    for (unsigned k = 0; k < 5; k++)
        if (contains(m->without[k], f))
            return false;
    return true;
}

/* Takes away what another KVM offers and no model of ours knows: AVX-512 and the like. */
static void drop_unknown(struct kvm_cpuid_entry2 *entries, unsigned n)
{
    static const struct {
        uint32_t leaf;
        uint8_t sub, reg;
    } words[] = {{1, 0, 2}, {1, 0, 3}, {7, 0, 1}, {7, 0, 2}, {7, 1, 0}, {0xd, 1, 0}, {0x80000001, 0, 2}};

    for (unsigned w = 0; w < sizeof(words) / sizeof(words[0]); w++) {
        struct kvm_cpuid_entry2 *e = find(entries, n, words[w].leaf, words[w].sub);
        uint32_t known = 0;

        for (unsigned f = 0; f < FEAT_COUNT; f++)
            if (where[f].leaf == words[w].leaf && where[f].sub == words[w].sub &&
                where[f].reg == words[w].reg)
                known |= 1u << where[f].bit;
        if (e)
            *reg_of(e, words[w].reg) &= known;
    }
}

static void set_brand(struct kvm_cpuid_entry2 *entries, unsigned n, const char *name)
{
    char brand[48] = "kvmish ";

    strncat(brand, name, sizeof(brand) - strlen(brand) - 1);
    for (unsigned k = 0; k < 3; k++) {
        struct kvm_cpuid_entry2 *e = find(entries, n, 0x80000002 + k, 0);

        for (unsigned reg = 0; e && reg < 4; reg++)
            memcpy(reg_of(e, reg), brand + 16 * k + 4 * reg, 4);
    }
}

/* Leaf 0xD without PKRU, whose place depends on the host; or none. */
static unsigned limit_xsave(struct kvm_cpuid_entry2 *entries, unsigned n)
{
    struct kvm_cpuid_entry2 *e = find(entries, n, 0xd, 0);
    unsigned kept = 0;

    if (!has(entries, n, FEAT_XSAVE))
        return drop_leaf(entries, n, 0xd);
    if (e) {
        e->eax &= 7;
        e->ecx = e->eax & 4 ? XCR0_AVX_BYTES : e->ecx;
        e->edx = 0;
    }
    e = find(entries, n, 0xd, 1);
    if (e && e->ebx > XCR0_AVX_BYTES)
        e->ebx = XCR0_AVX_BYTES;
    for (unsigned k = 0; k < n; k++)
        if (entries[k].function != 0xd || entries[k].index <= 2)
            entries[kept++] = entries[k];
    return kept;
}

int cpuid_model_apply(const char *name, struct kvm_cpuid_entry2 *entries, unsigned n)
{
    static const uint32_t host_leaves[] = {2, 4, 0x80000005, 0x80000006, 0x8000001d};
    const struct model *m = by_name(name);
    struct kvm_cpuid_entry2 *e;

    if (!m)
        return -ENOENT;
    if (m->host)
        return (int)n;
    for (unsigned f = 0; f < FEAT_COUNT; f++) {
        uint32_t bit, *word = feature_word(entries, n, f, &bit);

        if ((contains(m->requires[0], f) || contains(m->requires[1], f)) && !has(entries, n, f))
            return -ENOTSUP;
        if (word && !keeps(m, f))
            *word &= ~bit;
    }
    drop_unknown(entries, n);
    e = find(entries, n, 1, 0);
    if (e)
        e->eax = SIGNATURE;
    e = find(entries, n, 0x80000001, 0);
    if (e && e->eax)
        e->eax = SIGNATURE;
    set_brand(entries, n, name);
    for (unsigned k = 0; k < sizeof(host_leaves) / sizeof(host_leaves[0]); k++)
        n = drop_leaf(entries, n, host_leaves[k]);
    return (int)limit_xsave(entries, n);
}
