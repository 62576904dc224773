/* The guest of pages.c: its address space, and a kernel of a hundred instructions that follows a script.
 *
 * Three address spaces. Each has a GiB of its own, and all share one in the upper half; in both, two regions of 2 MiB have
 * 16 pages each that are of interest. A region is mapped by one of two page tables, or by a large page, or its whole GiB is
 * one page; page n of a region has the same content in the last two cases.
 */
#ifndef TESTS_JIT_PAGES_GUEST_H
#define TESTS_JIT_PAGES_GUEST_H

#define EMU_RAM_BYTES (7 << 20)
#include "../isa/emu.h"

enum {
    SPACES = 3, SHARED = SPACES, INSTANCES = SPACES + 1, SLOTS = 2, PAGES = 16, STACK_PAGE = 13, /* those and above hold stacks */
    /* an instance of a mutable GiB: its page directory, and two page tables for each slot */
    GPA_INSTANCES = 0xa0000, INSTANCE_BYTES = (1 + 2 * SLOTS) * 4096,
    GPA_ROOTS = GPA_INSTANCES + INSTANCES * INSTANCE_BYTES, GPA_LOW = GPA_ROOTS + SPACES * 4096, /* PML4s, PDPTs */
    GPA_HIGH = GPA_LOW + SPACES * 4096, TABLES_BYTES = GPA_HIGH + 4096 - GPA_INSTANCES,
    GPA_TEXT = 0xd0000, GPA_VARIABLES = GPA_TEXT + 0x1000, GPA_STACK = GPA_TEXT + 0x2000, /* the kernel, a page each */
    GPA_IST = GPA_TEXT + 0x3000, GPA_USER = GPA_TEXT + 0x4000, GPA_POINTERS = GPA_TEXT + 0x5000,
    GPA_SCRIPT = GPA_TEXT + 0x6000, SCRIPT_BYTES = 0x2000, GPA_ROUTINES = GPA_TEXT + 0x8000, ROUTINES_BYTES = 0x4000,
    GPA_LOG = GPA_TEXT + 0xc000, LOG_BYTES = 0x8000, GPA_POOL = 2 << 20, /* one of 2 MiB for each slot */
    GPA_DEVICE = 0x10000000,
    KERNEL_ADDR = 0x38100000, /* of GPA_TEXT */
    VARIABLES_ADDR = KERNEL_ADDR + 0x1000, USER_ADDR = KERNEL_ADDR + 0x4000, POINTERS_ADDR = KERNEL_ADDR + 0x5000,
    SCRIPT_ADDR = KERNEL_ADDR + 0x6000, ROUTINES_ADDR = KERNEL_ADDR + 0x8000, LOG_ADDR = KERNEL_ADDR + 0xc000,
    TABLES_ADDR = KERNEL_ADDR + 0x20000, /* of GPA_INSTANCES */
    POOL_ADDR = KERNEL_ADDR + 0x60000    /* of the pool, 16 pages of each slot */
};
#define PRIVATE_ADDR 0x40000000ull
#define SHARED_ADDR 0xffffffff80000000ull

enum { /* bits of page-table entries: SDM vol. 3, table 4-20 */
    E_P = 1, E_W = 2, E_U = 4, E_A = 0x20, E_D = 0x40, E_PS = 0x80, E_G = 0x100
};
#define E_RESERVED (1ull << 51)
#define CR3_NO_FLUSH (1ull << 63)

enum { STEP_END, STEP_SUPER, STEP_USER, STEP_ROUTINE };
struct script {
    uint64_t what, where, rsp, fuel, repairs, rflags;
};
struct log {
    uint64_t vector, error, rip, rsp, rbx, cr2, cr3, fuel;
};
struct variables {
    uint64_t script, log, repairs;
};
enum { /* where the parts of the kernel are copied to */
    PART_BYTES = 0x200, STEP_ADDR = KERNEL_ADDR, FAULT_ADDR = STEP_ADDR + PART_BYTES, REPAIR_ADDR = FAULT_ADDR + PART_BYTES
};
extern const uint8_t guest_fault_with_error[];

/* The next step of the script. A visit of code that may fault ends at an exception, whose handler comes back here. */
__attribute__((naked, used)) static void guest_step(void)
{
    asm volatile(
        "1: mov $%c[stack], %%esp\n"
        "   mov %c[script], %%rbp\n"
        "   addq $48, %c[script]\n"
        "   mov (%%rbp), %%eax\n"
        "   mov 8(%%rbp), %%rdi\n"
        "   mov 24(%%rbp), %%r14\n"
        "   mov 32(%%rbp), %%rdx\n"
        "   mov %%rdx, %c[repairs]\n"
        "   cmp $%c[is_super], %%eax\n"
        "   jb 4f\n"
        "   je 2f\n"
        "   cmp $%c[is_user], %%eax\n"
        "   je 3f\n"
        "   call *%%rdi\n"
        "   jmp 1b\n"
        "2: pushq 40(%%rbp)\n"
        "   popfq\n"
        "   mov 16(%%rbp), %%rsp\n"
        "   jmp *%%rdi\n"
        "3: pushq $0x2b\n"
        "   pushq 16(%%rbp)\n"
        "   pushq 40(%%rbp)\n"
        "   pushq $0x33\n"
        "   push %%rdi\n"
        "   iretq\n"
        "4: hlt\n"
        :
        : [stack] "i"(KERNEL_ADDR + GPA_STACK - GPA_TEXT + 4096), [script] "i"(VARIABLES_ADDR),
          [repairs] "i"(VARIABLES_ADDR + 16), [is_super] "i"(STEP_SUPER), [is_user] "i"(STEP_USER));
}

/* Every exception, the vector on the stack: notes it. A #PF may be repaired a few times, and the instruction tried again. */
__attribute__((naked, used)) static void guest_fault(void)
{
    asm volatile(
        "   pushq (%%rsp)\n" /* there is no error code below the vector */
        "   movq $0, 8(%%rsp)\n"
        "guest_fault_with_error:\n"
        "   push %%rax\n"
        "   push %%rcx\n"
        "   push %%rdx\n"
        "   push %%rdi\n"
        "   mov %c[log], %%rdi\n"
        "   mov 32(%%rsp), %%rax\n"
        "   mov %%rax, (%%rdi)\n"
        "   mov 40(%%rsp), %%rax\n"
        "   mov %%rax, 8(%%rdi)\n"
        "   mov 48(%%rsp), %%rax\n"
        "   mov %%rax, 16(%%rdi)\n"
        "   mov 72(%%rsp), %%rax\n"
        "   mov %%rax, 24(%%rdi)\n"
        "   mov %%rbx, 32(%%rdi)\n"
        "   xor %%eax, %%eax\n"
        "   cmpl $14, 32(%%rsp)\n"
        "   jne 1f\n"
        "   mov %%cr2, %%rax\n"
        "1: mov %%rax, 40(%%rdi)\n"
        "   mov %%cr3, %%rax\n"
        "   mov %%rax, 48(%%rdi)\n"
        "   mov %%r14, 56(%%rdi)\n"
        "   addq $64, %c[log]\n"
        "   andl $~0x8d5, 64(%%rsp)\n" /* nobody says what the arithmetic flags are here */
        "   cmpl $14, 32(%%rsp)\n"
        "   jne 2f\n"
        "   decl %c[repairs]\n"
        "   js 2f\n"
        "   mov $%c[repair], %%eax\n"
        "   call *%%rax\n"
        "   pop %%rdi\n"
        "   pop %%rdx\n"
        "   pop %%rcx\n"
        "   pop %%rax\n"
        "   add $16, %%rsp\n"
        "   iretq\n"
        "2: mov $%c[step], %%eax\n"
        "   jmp *%%rax\n"
        :
        : [log] "i"(VARIABLES_ADDR + 8), [repairs] "i"(VARIABLES_ADDR + 16), [repair] "i"(REPAIR_ADDR), [step] "i"(STEP_ADDR));
}

/* Maps the page at CR2 with all rights, in both page tables of its region, which the first maps unless it is well mapped already. */
__attribute__((naked, used)) static void guest_repair(void)
{
    asm volatile(
        "   mov %%cr2, %%rax\n"
        "   mov %%rax, %%rcx\n"
        "   shr $12, %%rcx\n"
        "   and $511, %%ecx\n" /* page */
        "   cmp $%c[pages], %%ecx\n"
        "   jae 4f\n"
        "   mov %%rax, %%rdx\n"
        "   shr $21, %%rdx\n"
        "   and $511, %%edx\n"
        "   dec %%edx\n" /* slot */
        "   cmp $1, %%edx\n"
        "   ja 4f\n"
        "   test %%rax, %%rax\n"
        "   js 2f\n"
        "   shr $30, %%rax\n"
        "   cmp $1, %%rax\n"
        "   jne 4f\n"
        "   mov %%cr3, %%rax\n"
        "   shr $12, %%rax\n"
        "   sub $%c[roots], %%eax\n"
        "   jmp 3f\n"
        "2: mov $%c[shared], %%eax\n"
        "3: imul $%c[instance], %%eax, %%eax\n"
        "   lea %c[directory](%%rax, %%rdx, 8), %%rdi\n"
        "   shl $13, %%edx\n"
        "   push %%rsi\n"
        "   mov (%%rdi), %%esi\n"
        "   and $0x87, %%esi\n"
        "   cmp $7, %%esi\n" /* a page table, with all rights? */
        "   je 5f\n"
        "   lea %c[table](%%rax, %%rdx), %%esi\n"
        "   mov %%rsi, (%%rdi)\n"
        "   mov %%cr4, %%rsi\n"
        "   xor $%c[pge], %%esi\n"
        "   mov %%rsi, %%cr4\n"
        "   xor $%c[pge], %%esi\n"
        "   mov %%rsi, %%cr4\n"
        "5: pop %%rsi\n"
        "   lea %c[tables](%%rax, %%rdx), %%rdi\n" /* page tables of the slot */
        "   lea (%%rdi, %%rcx, 8), %%rdi\n"
        "   add $0x2000, %%edx\n"
        "   shl $8, %%edx\n" /* (slot + 1) << 21 */
        "   mov %%ecx, %%eax\n"
        "   shl $12, %%eax\n"
        "   lea 7(%%rax, %%rdx), %%rax\n"
        "   mov %%cr2, %%rdx\n"
        "   test %%rdx, %%rdx\n"
        "   js 2f\n"
        "   mov %%rax, (%%rdi)\n"
        "   mov %%rax, 4096(%%rdi)\n"
        "   invlpg (%%rdx)\n"
        "   ret\n"
        "2: test $1, %%cl\n" /* of the shared pages every other one is global */
        "   jnz 3f\n"
        "   or $0x100, %%eax\n"
        "3: mov %%rax, (%%rdi)\n"
        "   mov %%rax, 4096(%%rdi)\n"
        "   mov %%cr4, %%rax\n"
        "   xor $%c[pge], %%eax\n"
        "   mov %%rax, %%cr4\n"
        "   xor $%c[pge], %%eax\n"
        "   mov %%rax, %%cr4\n"
        "4: ret\n"
        :
        : [pages] "i"(PAGES), [roots] "i"(GPA_ROOTS >> 12), [shared] "i"(SHARED), [instance] "i"(INSTANCE_BYTES),
          [tables] "i"(TABLES_ADDR + 4096), [directory] "i"(TABLES_ADDR + 8), [table] "i"(GPA_INSTANCES + 4096 + 7),
          [pge] "i"(CR4_PGE));
}

#endif
