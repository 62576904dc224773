/* CPUID in the program itself, for those that look for VMX or SVM before they open /dev/kvm (kvmtool): they find what a processor has
 * that can virtualize. Only when asked for: kvmish exec --cpuid.
 *
 * CPUID is no system call. A processor may be told to fault at it (arch_prctl(2), ARCH_SET_CPUID), but AMD's on which this was written
 * cannot. So each CPUID in the program's file, not in libraries, becomes UD2, which is as long, and SIGILL answers it.
 */
#include <cpuid.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "isa/decode.h"
#include "shim/shim.h"

enum { SITES_MAX = 64, INSN_MAX = 15, BEFORE = 96 /* bytes after which any decoding is in step */, PAGE = 4096 };

static const uint8_t cpuid[] = {0x0f, 0xa2}, ud2[] = {0x0f, 0x0b};
static const uint8_t *site[SITES_MAX];
static unsigned sites;

/* Do instructions, decoded from `from` on, come to `at`? */
static bool comes_to(const uint8_t *from, const uint8_t *at)
{
    while (from < at) {
        unsigned length = decode_length(64, from, INSN_MAX);
        from += length ? length : 1;
    }
    return from == at;
}

/* The two bytes may be part of another instruction: they are one themselves if decoding comes to them from wherever it begins. */
static bool is_instruction(const uint8_t *at, const uint8_t *start)
{
    if (at - start < BEFORE)
        return false;
    for (unsigned n = 0; n < INSN_MAX; n++)
        if (!comes_to(at - BEFORE + n, at))
            return false;
    return true;
}

static void replace(uint8_t *at)
{
    void *page = (void *)((uintptr_t)at & ~(uintptr_t)(PAGE - 1));
    size_t bytes = (size_t)(at + sizeof(ud2) - (uint8_t *)page);

    if (sites == SITES_MAX || mprotect(page, bytes, PROT_READ | PROT_WRITE))
        return;
    memcpy(at, ud2, sizeof(ud2));
    mprotect(page, bytes, PROT_READ | PROT_EXEC);
    site[sites++] = at;
}

/* Of the first object, the program. */
static int replace_all(struct dl_phdr_info *o, size_t size, void *unused)
{
    (void)size;
    (void)unused;
    for (unsigned n = 0; n < o->dlpi_phnum; n++) {
        const ElfW(Phdr) *h = &o->dlpi_phdr[n];
        uint8_t *start = (uint8_t *)o->dlpi_addr + h->p_vaddr, *end = start + h->p_filesz;
        if (h->p_type != PT_LOAD || !(h->p_flags & PF_X))
            continue;
        for (uint8_t *at = start; (at = memmem(at, (size_t)(end - at), cpuid, sizeof(cpuid))); at += sizeof(cpuid))
            if (is_instruction(at, start))
                replace(at);
    }
    return 1;
}

__attribute__((constructor)) static void start(void)
{
    if (!getenv("KVMISH_CPUID"))
        return;
    take_faults();
    dl_iterate_phdr(replace_all, NULL);
}

bool cpuid_answer(void *context)
{
    enum { VMX = 1 << 5, SVM = 1 << 2 };
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint32_t leaf = (uint32_t)regs[REG_RAX], a, b, c, d, vendor, ignored;
    unsigned n = 0;

    while (n < sites && site[n] != (uint8_t *)regs[REG_RIP])
        n++;
    if (n == sites)
        return false;
    __cpuid(0, ignored, vendor, ignored, ignored);
    __cpuid_count(leaf, (uint32_t)regs[REG_RCX], a, b, c, d);
    if (leaf == 1 && vendor == signature_INTEL_ebx)
        c |= VMX;
    if (leaf == 0x80000001 && vendor == signature_AMD_ebx)
        c |= SVM;
    regs[REG_RAX] = a;
    regs[REG_RBX] = b;
    regs[REG_RCX] = c;
    regs[REG_RDX] = d;
    regs[REG_RIP] += (greg_t)sizeof(ud2);
    return true;
}
