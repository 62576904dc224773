/* Accesses to guest memory that can fail: mmu/reach.h. */
#include "mmu/reach.h"

#ifdef __x86_64__

extern const char reach_begin[], reach_end[], reach_failed[];

__asm__(".pushsection .text\n"
        ".globl reach_begin, reach_end, reach_failed, reach_read, reach_load, reach_write, reach_copy\n"
        ".hidden reach_begin, reach_end, reach_failed, reach_read, reach_load, reach_write, reach_copy\n"
        ".p2align 4\n"
        "reach_begin:\n"
        "reach_read:\n"
        "    movzbl (%rdi), %eax\n"
        "    movl $1, %eax\n"
        "    ret\n"
        "reach_load:\n" /* which returns in RAX and RDX */
        "    movq (%rdi), %rax\n"
        "    movl $1, %edx\n"
        "    ret\n"
        "reach_write:\n"
        "    lock orb $0, (%rdi)\n"
        "    movl $1, %eax\n"
        "    ret\n"
        "reach_copy:\n"
        "    movq %rdx, %rcx\n"
        "    rep movsb\n"
        "    movl $1, %eax\n"
        "    ret\n"
        "reach_end:\n"
        "reach_failed:\n"
        "    xorl %eax, %eax\n"
        "    xorl %edx, %edx\n"
        "    ret\n"
        ".popsection\n");

uintptr_t reach_recover(uintptr_t ip)
{
    return ip >= (uintptr_t)reach_begin && ip < (uintptr_t)reach_end ? (uintptr_t)reach_failed : 0;
}

#else

#include <string.h>

bool reach_read(const void *at)
{
    (void)*(const volatile char *)at;
    return true;
}

struct reached reach_load(const uint64_t *at)
{
    return (struct reached){__atomic_load_n(at, __ATOMIC_RELAXED), true};
}

bool reach_write(void *at)
{
    __atomic_fetch_or((char *)at, 0, __ATOMIC_RELAXED);
    return true;
}

bool reach_copy(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    return true;
}

uintptr_t reach_recover(uintptr_t ip)
{
    (void)ip;
    return 0;
}

#endif
