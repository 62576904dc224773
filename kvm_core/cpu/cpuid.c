/* The CPUID instruction: a client's model, the bits that change while the guest runs, and what can
 * be offered. */
#include "cpu/cpuid.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/xsave.h"
#include "cpu/msr.h"
#include "isa/codecache.h"
#include "mmu/tlb.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum { EAX, EBX, ECX, EDX };

struct cpuid_model {
    unsigned count;
    bool intel_ranges; /* a leaf beyond the last one answers as the last basic one */
    uint64_t xcr0;
    bool places_pkru;
    struct kvm_cpuid_entry2 entry[CPUID_MODEL_MAX];
};

static const struct feature {
    uint32_t leaf;
    uint8_t sub, reg, bit, who;
} features[FEAT_COUNT] = {
#define X(name, leaf, sub, reg, bit, who) [FEAT_##name] = {leaf, sub, reg, bit, BY_##who},
    CPU_FEATURES(X)
#undef X
};

/* ---- the host ----------------------------------------------------------------------------------
 */

/* Zeros where there is no such leaf, or no x86. */
static void host_cpuid(uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    memset(out, 0, 4 * sizeof(*out));
#if defined(__x86_64__)
    if (__get_cpuid_max(leaf & 0x80000000, NULL) >= leaf)
        __cpuid_count(leaf, sub, out[EAX], out[EBX], out[ECX], out[EDX]);
#else
    (void)leaf, (void)sub;
#endif
}

/* XCR0 of the host, as far as its own CPUID says that it may be read. */
static uint64_t host_xcr0(void)
{
#if defined(__x86_64__)
    uint32_t out[4], lo, hi;

    host_cpuid(1, 0, out);
    if (out[ECX] >> 27 & 1) {
        __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
        return (uint64_t)hi << 32 | lo;
    }
#endif
    return 0;
}

static bool is_amd(const uint32_t vendor[4])
{
    return (vendor[EBX] == 0x68747541 && vendor[EDX] == 0x69746e65 && vendor[ECX] == 0x444d4163) ||
           (vendor[EBX] == 0x6f677948 && vendor[EDX] == 0x6e65476e && vendor[ECX] == 0x656e6975);
}

/* ---- what can be offered, found out once: CPUID costs an exit where the host itself is virtual
 * ---- */

static pthread_once_t probed = PTHREAD_ONCE_INIT;
static bool amd_host;
static uint64_t offered_bits[4];
static uint64_t xcr0_offered;

static struct component {
    uint32_t mask, size_bytes, offset;
} components[] = {
    {XSAVE_AVX, XSAVE_AVX_BYTES, XSAVE_AVX_OFFSET},
    {XSAVE_PKRU, XSAVE_PKRU_BYTES, XSAVE_PKRU_DEFAULT_OFFSET},
};
enum { COMPONENTS = sizeof(components) / sizeof(components[0]) };

static bool needs_avx(enum cpu_feature f)
{
    return f == FEAT_AVX || f == FEAT_AVX2 || f == FEAT_FMA || f == FEAT_F16C || f == FEAT_VAES ||
           f == FEAT_VPCLMULQDQ;
}

static void probe(void)
{
    uint64_t xcr0 = host_xcr0();
    bool avx = (xcr0 & (XSAVE_SSE | XSAVE_AVX)) == (XSAVE_SSE | XSAVE_AVX), has;
    uint32_t out[4];

    host_cpuid(0, 0, out);
    amd_host = is_amd(out);
    for (unsigned f = 0; f < FEAT_COUNT; f++) {
        const struct feature *row = &features[f];

        if (!f || row->leaf != row[-1].leaf || row->sub != row[-1].sub)
            host_cpuid(row->leaf, row->sub, out);
        has = out[row->reg] >> row->bit & 1;
        if (row->who == BY_OURS || (row->who == BY_OURS_AMD && amd_host) || (row->who == BY_OURS_INTEL && !amd_host) ||
            (row->who == BY_OURS_AS_HOST && has) || (row->who == BY_HOST && has && (avx || !needs_avx(f))))
            offered_bits[f / 64] |= 1ull << (f % 64);
    }
    xcr0_offered = XSAVE_X87 | XSAVE_SSE | (avx ? XSAVE_AVX : 0) | XSAVE_PKRU;
    /* Some clients (QEMU) find components by the host's CPUID instead of KVM's. */
    host_cpuid(0xd, 9, out);
    if (out[EAX] == XSAVE_PKRU_BYTES && out[EBX] >= XSAVE_AVX_OFFSET + XSAVE_AVX_BYTES &&
        out[EBX] <= XSAVE_MAX_BYTES - XSAVE_PKRU_BYTES)
        components[1].offset = out[EBX];
}

static void probe_once(void) { pthread_once(&probed, probe); }

static bool offered(enum cpu_feature f)
{
    probe_once();
    return offered_bits[f / 64] >> (f % 64) & 1;
}

bool cpuid_host_is_amd(void)
{
    probe_once();
    return amd_host;
}

/* ---- XSAVE components --------------------------------------------------------------------------
 */

uint64_t cpuid_xcr0_supported(void)
{
    probe_once();
    return xcr0_offered;
}

uint32_t xsave_pkru_offset(void)
{
    probe_once();
    return components[1].offset;
}

/* Size in bytes of the XSAVE area for these components. SDM vol. 1, 13.4.2, 13.4.3 */
static uint32_t cpuid_xsave_bytes(uint64_t mask, bool compacted)
{
    uint32_t end = XSAVE_MIN_BYTES;

    probe_once();
    for (unsigned n = 0; n < COMPONENTS; n++) {
        const struct component *c = &components[n];

        if (!(mask & c->mask))
            continue;
        if (compacted)
            end += c->size_bytes;
        else if (c->offset + c->size_bytes > end)
            end = c->offset + c->size_bytes;
    }
    return end;
}

/* ---- KVM_GET_SUPPORTED_CPUID -------------------------------------------------------------------
 */

struct list {
    struct kvm_cpuid_entry2 *entry;
    unsigned max, count; /* count goes on beyond max */
};

static void put(struct list *l, uint32_t leaf, uint32_t sub, uint32_t flags, const uint32_t out[4])
{
    if (l->count < l->max)
        l->entry[l->count] = (struct kvm_cpuid_entry2){.function = leaf,
                                                       .index = sub,
                                                       .flags = flags,
                                                       .eax = out[EAX],
                                                       .ebx = out[EBX],
                                                       .ecx = out[ECX],
                                                       .edx = out[EDX]};
    l->count++;
}

/* Sets the feature bits of one leaf that can be offered, over what is in `out`. */
static void add_features(uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    for (unsigned f = 0; f < FEAT_COUNT; f++)
        if (features[f].leaf == leaf && features[f].sub == sub && offered(f))
            out[features[f].reg] |= 1u << features[f].bit;
}

static void put_features(struct list *l, uint32_t leaf, uint32_t sub, uint32_t flags)
{
    uint32_t out[4] = {0};

    add_features(leaf, sub, out);
    put(l, leaf, sub, flags, out);
}

static void put_host(struct list *l, uint32_t leaf)
{
    uint32_t out[4];

    host_cpuid(leaf, 0, out);
    put(l, leaf, 0, 0, out);
}

/* Cache descriptions (leaves 4 and 0x8000001d), without the host's topology: each cache belongs to
 * one processor. */
static void put_caches(struct list *l, uint32_t leaf, bool present)
{
    uint32_t out[4];

    for (uint32_t sub = 0; sub < 8; sub++) {
        host_cpuid(leaf, sub, out);
        if (!present || !(out[EAX] & 0x1f)) /* type 0: no more */
            break;
        out[EAX] &= 0x3fff;
        put(l, leaf, sub, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, out);
    }
    put(l, leaf, 0xff, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, (uint32_t[4]){0});
    if (l->count <= l->max) /* the terminator takes the next index */
        l->entry[l->count - 1].index = l->count > 1 && l->entry[l->count - 2].function == leaf
                                           ? l->entry[l->count - 2].index + 1
                                           : 0;
}

static void put_xsave(struct list *l)
{
    uint32_t flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, out[4] = {0};
    uint64_t xcr0 = cpuid_xcr0_supported();

    if (!offered(FEAT_XSAVE))
        return;
    put(l, 0xd, 0, flags,
        (uint32_t[4]){(uint32_t)xcr0, cpuid_xsave_bytes(1, false), cpuid_xsave_bytes(xcr0, false),
                      (uint32_t)(xcr0 >> 32)});
    add_features(0xd, 1, out);
    if (out[EAX] & 0xa) /* XSAVEC, XSAVES */
        out[EBX] = cpuid_xsave_bytes(xcr0, true);
    put(l, 0xd, 1, flags, out);
    for (unsigned n = 0; n < COMPONENTS; n++)
        if (xcr0 & components[n].mask)
            put(l, 0xd, (uint32_t)__builtin_ctz(components[n].mask), flags,
                (uint32_t[4]){components[n].size_bytes, components[n].offset, 0, 0});
}

static void put_basic(struct list *l)
{
    uint32_t out[4], host[4], flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

    host_cpuid(0, 0, out);
    out[EAX] = out[EAX] > 0x1f ? 0x1f : out[EAX] < 0xd ? 0xd : out[EAX];
    if (!out[EBX])
        memcpy(&out[EBX], (uint32_t[3]){0x756e6547, 0x6c65746e, 0x49656e69}, 12); /* GenuineIntel */
    put(l, 0, 0, 0, out);
    host_cpuid(1, 0, host);
    memset(out, 0, sizeof(out));
    out[EAX] = host[EAX] ? host[EAX] & 0x0fff3fff : 0x000306c1;
    out[EBX] = 64 / 8 << 8; /* CLFLUSH line; the APIC id and count are the client's to fill in */
    add_features(1, 0, out);
    put(l, 1, 0, 0, out);
    if (!cpuid_host_is_amd())
        put_host(l, 2);
    put_caches(l, 4, !cpuid_host_is_amd());
    put_features(l, 6, 0, 0);
    memset(out, 0, sizeof(out));
    out[EAX] = 2; /* last subleaf */
    add_features(7, 0, out);
    put(l, 7, 0, flags, out);
    put(l, 7, 1, flags, (uint32_t[4]){0});
    memcpy(out, (uint32_t[4]){0, 0, 0, 1 << 5}, sizeof(out)); /* MCDT_NO */
    add_features(7, 2, out);
    put(l, 7, 2, flags, out);
    put(l, 0xa, 0, 0, (uint32_t[4]){0});                 /* no PMU */
    put(l, 0xb, 0, flags, (uint32_t[4]){0});             /* no topology */
    put_xsave(l);
}

static void put_kvm(struct list *l)
{
    uint32_t name[3];

    memcpy(name, "KVMKVMKVM\0\0\0", sizeof(name));
    put(l, 0x40000000, 0, 0, (uint32_t[4]){0x40000001, name[0], name[1], name[2]});
    put(l, 0x40000001, 0, 0, (uint32_t[4]){CPUID_KVM_FEATURES, 0, 0, 0});
}

static void put_extended(struct list *l)
{
    uint32_t out[4], host[4], name[12] = {0};

    host_cpuid(0x80000000, 0, out);
    out[EAX] = 0x80000021;
    put(l, 0x80000000, 0, 0, out);
    host_cpuid(0x80000001, 0, host);
    memset(out, 0, sizeof(out));
    if (cpuid_host_is_amd()) { /* the signature again, and the features that AMD repeats from leaf 1
                                */
        uint32_t leaf1[4] = {0};
        out[EAX] = host[EAX];
        add_features(1, 0, leaf1);
        out[EDX] = leaf1[EDX] & 0x0183f3ff;
    }
    add_features(0x80000001, 0, out);
    put(l, 0x80000001, 0, 0, out);
    for (unsigned n = 0; n < 3; n++)
        host_cpuid(0x80000002 + n, 0, &name[4 * n]);
    if (!name[0])
        memcpy(name, "kvmish virtual processor", 25);
    for (unsigned n = 0; n < 3; n++)
        put(l, 0x80000002 + n, 0, 0, &name[4 * n]);
    if (cpuid_host_is_amd())
        put_host(l, 0x80000005);
    put_host(l, 0x80000006);
    put_features(l, 0x80000007, 0, 0);
    host_cpuid(0x80000008, 0, host);
    memset(out, 0, sizeof(out));
    out[EAX] = (host[EAX] & 0xff ? host[EAX] & 0xff : 40) | 57 << 8; /* LA57 is always there */
    add_features(0x80000008, 0, out);
    put(l, 0x80000008, 0, 0, out);
    if (cpuid_host_is_amd()) {
        put_caches(l, 0x8000001d, true);
        put(l, 0x8000001e, 0, 0, (uint32_t[4]){0});
    }
    put_features(l, 0x80000021, 0, 0);
}

int cpuid_supported(struct kvm_cpuid_entry2 *entries, unsigned max)
{
    struct list l = {.entry = entries, .max = max};

    put_basic(&l);
    put_kvm(&l);
    put_extended(&l);
    return l.count > max ? -E2BIG : (int)l.count;
}

/* ---- the guest's model -------------------------------------------------------------------------
 */

int cpuid_create(struct vcpu *v)
{
    v->cpuid = calloc(1, sizeof(*v->cpuid));
    if (!v->cpuid)
        return -ENOMEM;
    for (unsigned f = 0; f < FEAT_COUNT; f++)
        if (offered(f))
            v->features[f / 64] |= 1ull << (f % 64);
    v->cpuid->xcr0 = cpuid_xcr0_supported();
    v->cpuid->places_pkru = true;
    v->maxphyaddr = 36;
    v->phys_reserved = 0x000fffffffffffff & ~((1ull << v->maxphyaddr) - 1);
    return 0;
}

void cpuid_destroy(struct vcpu *v)
{
    free(v->cpuid);
    v->cpuid = NULL;
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid_entry2 *entry, unsigned count,
                                           uint32_t leaf, uint32_t sub)
{
    for (unsigned n = 0; n < count; n++)
        if (entry[n].function == leaf &&
            (!(entry[n].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || entry[n].index == sub))
            return &entry[n];
    return NULL;
}

static void registers(const struct kvm_cpuid_entry2 *e, uint32_t out[4])
{
    out[EAX] = e ? e->eax : 0;
    out[EBX] = e ? e->ebx : 0;
    out[ECX] = e ? e->ecx : 0;
    out[EDX] = e ? e->edx : 0;
}

static void derive(struct vcpu *v)
{
    struct cpuid_model *m = v->cpuid;
    uint32_t out[4];

    memset(v->features, 0, sizeof(v->features));
    for (unsigned f = 0; f < FEAT_COUNT; f++) {
        registers(find(m->entry, m->count, features[f].leaf, features[f].sub), out);
        if (!(out[features[f].reg] >> features[f].bit & 1))
            continue;
        if (features[f].who != BY_HOST || offered(f)) /* else its instructions are #UD, whatever the client says */
            v->features[f / 64] |= 1ull << (f % 64);
    }
    registers(find(m->entry, m->count, 0, 0), out);
    v->amd = is_amd(out);
    m->intel_ranges = out[EBX] && !v->amd;
    registers(find(m->entry, m->count, 0xd, 0), out);
    m->xcr0 = ((uint64_t)out[EDX] << 32 | out[EAX]) & cpuid_xcr0_supported();
    registers(find(m->entry, m->count, 0xd, 9), out);
    m->places_pkru = !(m->xcr0 & XSAVE_PKRU) || out[EBX] == xsave_pkru_offset();
    registers(find(m->entry, m->count, 0x80000000, 0), out);
    v->maxphyaddr = 36;
    if (out[EAX] >= 0x80000008) {
        registers(find(m->entry, m->count, 0x80000008, 0), out);
        if (out[EAX] & 0xff)
            v->maxphyaddr = (out[EAX] & 0xff) > 52 ? 52 : out[EAX] & 0xff;
    }
    v->phys_reserved = 0x000fffffffffffff & ~((1ull << v->maxphyaddr) - 1);
}

int cpuid_set(struct vcpu *v, const struct kvm_cpuid_entry2 *entries, unsigned n)
{
    uint32_t out[4];
    unsigned virt;

    if (n > CPUID_MODEL_MAX)
        return -E2BIG;
    registers(find(entries, n, 0x80000008, 0), out);
    virt = out[EAX] >> 8 & 0xff;
    if (virt && virt != 48 && virt != 57)
        return -EINVAL;
    if (n)
        memcpy(v->cpuid->entry, entries, n * sizeof(*entries));
    v->cpuid->count = n;
    derive(v);
    codecache_flush(v); /* instructions are bound to their handlers by feature */
    tlb_flush_all(v);
    return 0;
}

static void set_bit(uint32_t *reg, unsigned bit, bool on)
{
    *reg = (*reg & ~(1u << bit)) | (uint32_t)on << bit;
}

/* What of leaf 0xD the client does not decide. SDM vol. 2, CPUID */
static void xsave_layout(const struct vcpu *v, uint32_t sub, uint32_t out[4])
{
    if (sub == 0) {
        out[EBX] = cpuid_xsave_bytes(v->xcr0, false);
        out[ECX] = cpuid_xsave_bytes(v->cpuid->xcr0, false);
    } else if (sub == 1) {
        if (out[EAX] & 0xa) /* XSAVEC, XSAVES */
            out[EBX] = cpuid_xsave_bytes(v->xcr0 | v->xss, true);
    } else if (sub < 64 && v->cpuid->xcr0 >> sub & 1) {
        for (unsigned n = 0; n < COMPONENTS; n++)
            if (components[n].mask >> sub == 1) {
                out[EAX] = components[n].size_bytes;
                out[EBX] = components[n].offset;
                out[ECX] = 0;
            }
    }
}

/* The bits that follow the state of the processor, or its construction. SDM vol. 2, CPUID */
static void dynamic(const struct vcpu *v, uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    if (leaf == 1) {
        if (cpu_has(v, FEAT_XSAVE))
            set_bit(&out[ECX], 27, v->cr4 & CR4_OSXSAVE);
        if (v->ops && v->ops->apic_enabled)
            set_bit(&out[EDX], 9, v->ops->apic_enabled((struct vcpu *)v));
    } else if (leaf == 7 && sub == 0) {
        if (cpu_has(v, FEAT_PKU))
            set_bit(&out[ECX], 4, v->cr4 & CR4_PKE);
    } else if (leaf == 0xd) {
        xsave_layout(v, sub, out);
    }
}

/* Beyond the last leaf of its class an Intel processor answers as for the last basic leaf, an AMD
 * one with zeros. */
static const struct kvm_cpuid_entry2 *out_of_range(const struct cpuid_model *m, uint32_t *leaf,
                                                   uint32_t sub)
{
    const struct kvm_cpuid_entry2 *basic = find(m->entry, m->count, 0, 0), *class = basic;

    if (!basic || !m->intel_ranges)
        return NULL;
    if (*leaf >= 0x40000000 && *leaf <= 0x4fffffff)
        class = find(m->entry, m->count, *leaf & 0xffffff00, 0);
    else if (*leaf >= 0xc0000000)
        class = find(m->entry, m->count, 0xc0000000, 0);
    else if (*leaf >= 0x80000000)
        class = find(m->entry, m->count, 0x80000000, 0);
    if (class && *leaf <= class->eax)
        return NULL;
    *leaf = basic->eax;
    return find(m->entry, m->count, *leaf, sub);
}

void cpuid_query(const struct vcpu *v, uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    const struct cpuid_model *m = v->cpuid;
    const struct kvm_cpuid_entry2 *e = find(m->entry, m->count, leaf, sub);

    if (!e)
        e = out_of_range(m, &leaf, sub);
    registers(e, out);
    if (e) {
        dynamic(v, leaf, sub, out);
    } else if (leaf == 0xb ||
               leaf == 0x1f) { /* an invalid level still has the x2APIC id. SDM vol. 2, CPUID */
        e = find(m->entry, m->count, leaf, 1);
        if (e) {
            out[ECX] = sub & 0xff;
            out[EDX] = e->edx;
        }
    }
}

static struct kvm_cpuid_entry2 as_it_is_now(const struct vcpu *v, struct kvm_cpuid_entry2 e)
{
    uint32_t out[4];

    registers(&e, out);
    dynamic(v, e.function, e.index, out);
    e.eax = out[EAX];
    e.ebx = out[EBX];
    e.ecx = out[ECX];
    e.edx = out[EDX];
    return e;
}

int cpuid_get(const struct vcpu *v, struct kvm_cpuid_entry2 *entries, unsigned max)
{
    const struct cpuid_model *m = v->cpuid;

    if (m->count > max)
        return -E2BIG;
    for (unsigned n = 0; n < m->count; n++)
        entries[n] = as_it_is_now(v, m->entry[n]);
    return (int)m->count;
}

bool cpuid_equal(const struct vcpu *v, const struct kvm_cpuid_entry2 *entries, unsigned n)
{
    const struct cpuid_model *m = v->cpuid;

    if (n != m->count)
        return false;
    while (n--) {
        struct kvm_cpuid_entry2 is = as_it_is_now(v, m->entry[n]), shall = as_it_is_now(v, entries[n]);
        if (memcmp(&is, &shall, offsetof(struct kvm_cpuid_entry2, padding)))
            return false;
    }
    return true;
}

bool cpuid_client_places_pkru(const struct vcpu *v) { return v->cpuid->places_pkru; }

uint64_t cpuid_xcr0_mask(const struct vcpu *v)
{
    return cpu_has(v, FEAT_XSAVE) ? v->cpuid->xcr0 | XSAVE_X87 : 0;
}
