/* The rows of the instruction table that cannot be compared with the host processor as a user program, and why. */
#ifndef TESTS_ISA_REASONS_H
#define TESTS_ISA_REASONS_H

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>

/* RDFSBASE and its like for programs: then FS and GS can be taken from the test program and given back. */
static inline bool host_has_fsgsbase(void) { return getauxval(AT_HWCAP2) & 2; }

static inline const char *reason_not_compared(const char *row, int mode)
{
    static const struct {
        const char *row, *reason;
    } list[] = {
        {"CPUID", "answers what the model says (tests/cpu/cpuid.c)"},
        {"XGETBV", "XCR0 is the guest's (tests/cpu/creg.c)"},
        {"INT1", "a hypervisor under the host may take it; tests/cpu/segments.c"},
        {"RDTSC", "the time differs"},
        {"RDTSCP", "the time differs"},
        {"RDPID", "the host's processor number"},
        {"RDPMC", "the host's counters"},
        {"RDRAND", "a random result"},
        {"RDSEED", "a random result"},
        {"SGDT", "the host's kernel answers for the processor (UMIP); tests/cpu/segments.c"},
        {"SIDT", "the host's kernel answers for the processor (UMIP); tests/cpu/segments.c"},
        {"SLDT", "the host's kernel answers for the processor (UMIP); tests/cpu/segments.c"},
        {"STR", "the host's kernel answers for the processor (UMIP); tests/cpu/segments.c"},
        {"SMSW", "the host's kernel answers for the processor (UMIP); tests/cpu/segments.c"},
        {"SYSCALL", "enters the host's kernel; tests/cpu/segments.c"},
        {"SYSENTER", "enters the host's kernel; tests/cpu/segments.c"},
        {"VMCALL", "leaves for the host's hypervisor"},
        {"VMMCALL", "leaves for the host's hypervisor"},
        {"RDPKRU", "protection keys need CR4.PKE; tests/cpu/sysinsn.c"},
        {"WRPKRU", "protection keys need CR4.PKE; tests/cpu/sysinsn.c"},
    };
    static const char *const own[] = {"WRFSBASE", "LFS", "LGS", "WRGSBASE", "RDFSBASE"};

    for (size_t k = 0; !host_has_fsgsbase() && k < sizeof(own) / sizeof(own[0]); k++)
        if (strcmp(own[k], row) == 0 || (mode == 64 && strcmp(row, "POP_sreg") == 0))
            return "FS and GS are the test program's own, and this kernel does not let it give them back";
    for (size_t k = 0; k < sizeof(list) / sizeof(list[0]); k++)
        if (strcmp(list[k].row, row) == 0)
            return list[k].reason;
    return NULL;
}

/* Rows that 64-bit mode does not have. */
static inline bool only_in_legacy(const char *row)
{
    static const char *const list[] = {"AAA",  "AAS",   "AAM",   "AAD",    "DAA",  "DAS",   "SALC", "JCXZ",
                                       "BOUND", "PUSHA", "PUSHAD", "POPA",  "POPAD", "INTO", "LDS",  "LES",
                                       "ARPL", "PUSHFD", "POPFD"};

    for (size_t k = 0; k < sizeof(list) / sizeof(list[0]); k++)
        if (strcmp(list[k], row) == 0)
            return true;
    return false;
}

#endif
