/* Control registers: what may be written, and what follows from it. SDM vol. 3, 2.5 and 4.1; AMD
 * APM vol. 2, 3.1 */
#include "cpu/access.h"
#include "cpu/cpuid.h"
#include "cpu/state.h"
#include "cpu/xsave.h"

enum {
    CR0_LOW = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW |
    CR0_CD
};
#define CR0_KNOWN ((uint64_t)CR0_LOW | CR0_PG)
#define CR3_NO_FLUSH (1ull << 63)
#define CR3_PCID 0xfffull
/* Reserved in a PDPTE of PAE paging, besides what is beyond MAXPHYADDR. SDM vol. 3, table 4-8 */
#define PDPTE_RESERVED (0xfff0000000000000ull | 0x1e6)

/* Reads the four PDPTEs at cr3 into `out`; #GP(0) when one is present with reserved bits. SDM vol.
 * 3, 4.4.1 */
static void read_pdptes(struct vcpu *v, uint64_t cr3, uint64_t out[4])
{
    uint64_t table = (uint32_t)cr3 & ~31u;

    for (unsigned n = 0; n < 4; n++) {
        if (!phys_load64(v, table + 8 * n, &out[n]))
            cpu_gp(v, 0);
        if ((out[n] & 1) && (out[n] & (PDPTE_RESERVED | v->phys_reserved)))
            cpu_gp(v, 0);
    }
}

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

static void copy_pdptes(struct vcpu *v, const uint64_t pdpte[4])
{
    for (unsigned n = 0; n < 4; n++)
        v->pdpte[n] = pdpte[n];
}

static void check_cr0(struct vcpu *v, uint64_t value)
{
    bool paging_on = (value & CR0_PG) && !(v->cr0 & CR0_PG);

    if ((value & CR0_PG && !(value & CR0_PE)) || (value & CR0_NW && !(value & CR0_CD)))
        cpu_gp(v, 0);
    if (!(value & CR0_PG) && (v->mode == MODE_LONG || (v->cr4 & CR4_PCIDE)))
        cpu_gp(v, 0);
    if (paging_on && (v->efer & EFER_LME) && (!(v->cr4 & CR4_PAE) || (v->seg[CS].ar & AR_L)))
        cpu_gp(v, 0);
}

void cpu_write_cr0(struct vcpu *v, uint64_t value)
{
    uint64_t efer = v->efer, pdpte[4] = {0}, changed;
    bool load;

    if (value >> 32)
        cpu_gp(v, 0);
    value = (value & CR0_KNOWN) | CR0_ET;
    check_cr0(v, value);
    changed = value ^ v->cr0;
    if (!(value & CR0_PG))
        efer &= ~(uint64_t)EFER_LMA;
    else if (efer & EFER_LME)
        efer |= EFER_LMA;
    load = pae_paging(value, v->cr4, efer) && (changed & ((uint64_t)CR0_PG | CR0_CD | CR0_NW));
    if (load)
        read_pdptes(v, v->cr3, pdpte);

    v->cr0 = value;
    v->efer = efer;
    if (load)
        copy_pdptes(v, pdpte);
    if (changed & ((uint64_t)CR0_PG | CR0_WP | CR0_PE))
        tlb_flush_all(v);
    cpu_update_mode(v);
}

void cpu_write_cr3(struct vcpu *v, uint64_t value)
{
    bool pcide = v->cr4 & CR4_PCIDE, keep;
    uint64_t pdpte[4];

    keep = pcide && (value & CR3_NO_FLUSH);
    if (pcide)
        value &= ~CR3_NO_FLUSH;
    if (value >> v->maxphyaddr)
        cpu_gp(v, 0);
    if (pae_paging(v->cr0, v->cr4, v->efer)) {
        read_pdptes(v, value, pdpte);
        copy_pdptes(v, pdpte);
    }
    /* The TLB knows one address space: a switch forgets, even where the guest would let the
     * processor remember. */
    if (!keep || value != v->cr3)
        tlb_flush_nonglobal(v);
    v->cr3 = value;
}

/* CR4 bits that this guest may set: KVM lets the ones of old be set whatever CPUID says. */
uint64_t cpu_cr4_allowed(const struct vcpu *v)
{
    uint64_t bits = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE |
                    CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    static const struct {
        uint32_t bit;
        enum cpu_feature feature;
    } by_cpuid[] = {
        {CR4_UMIP, FEAT_UMIP},  {CR4_LA57, FEAT_LA57},     {CR4_FSGSBASE, FEAT_FSGSBASE},
        {CR4_PCIDE, FEAT_PCID}, {CR4_OSXSAVE, FEAT_XSAVE}, {CR4_SMEP, FEAT_SMEP},
        {CR4_SMAP, FEAT_SMAP},  {CR4_PKE, FEAT_PKU},       {CR4_PKS, FEAT_PKS},
    };

    for (unsigned n = 0; n < sizeof(by_cpuid) / sizeof(by_cpuid[0]); n++)
        if (cpu_has(v, by_cpuid[n].feature))
            bits |= by_cpuid[n].bit;
    return bits;
}

void cpu_write_cr4(struct vcpu *v, uint64_t value)
{
    uint64_t changed = value ^ v->cr4, pdpte[4] = {0};
    bool load;

    if (value & ~cpu_cr4_allowed(v))
        cpu_gp(v, 0);
    if (cpu_lma(v) && (!(value & CR4_PAE) || (changed & CR4_LA57)))
        cpu_gp(v, 0);
    if ((value & changed & CR4_PCIDE) && (!cpu_lma(v) || (v->cr3 & CR3_PCID)))
        cpu_gp(v, 0);
    load =
        pae_paging(v->cr0, value, v->efer) && (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP));
    if (load)
        read_pdptes(v, v->cr3, pdpte);

    v->cr4 = value;
    if (load)
        copy_pdptes(v, pdpte);
    if (changed &
        (CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE |
         CR4_PKS))
        tlb_flush_all(v);
    cpu_update_mode(v);
}

void cpu_write_xcr0(struct vcpu *v, uint64_t value)
{
    if (!(value & XSAVE_X87) || (value & ~cpuid_xcr0_mask(v)))
        cpu_gp(v, 0);
    if ((value & XSAVE_AVX) && !(value & XSAVE_SSE))
        cpu_gp(v, 0);
    v->xcr0 = value;
}
