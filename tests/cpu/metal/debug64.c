/* Debugging: single step, breakpoints by length and kind, RF, general detect, what MOV SS holds back. SDM vol. 3, ch. 18 */
#include "metal64.h"

enum { TF = 0x100, IF = 0x200, RF = 0x10000, DEBUGCTL = 0x1d9, BTF = 2 };

/* X(name, code): the snippets, by name in the output. */
#define SNIPPETS(X)                                                                                \
    X(nops, "nop\n nop")                                                                           \
    X(popf, "pushq $0x102\n popfq\n nop\n nop\n pushq $2\n popfq\n nop")                           \
    X(popf_popf, "pushq $0x102\n popfq\n pushq $0x102\n popfq\n nop")                              \
    X(rep, "mov $3, %ecx\n rep stosb\n nop")                                                       \
    X(rep_none, "xor %ecx, %ecx\n rep stosb\n nop")                                                \
    X(repne, "mov $5, %ecx\n xor %eax, %eax\n repne scasb\n nop")                                  \
    X(mov_ss, "mov %ss, %eax\n mov %eax, %ss\n nop\n nop")                                         \
    X(mov_ss_twice, "mov %ss, %eax\n mov %eax, %ss\n mov %eax, %ss\n nop\n nop")                   \
    X(lss, "pushq $0\n mov %ss, (%rsp)\n mov %ss, %eax\n mov %eax, %fs\n nop")                     \
    X(int_n, "int $0x41\n nop\n nop")                                                              \
    X(int_3, "int3\n nop\n nop")                                                                   \
    X(mov_ss_int, "mov %ss, %eax\n mov %eax, %ss\n int $0x41\n nop")                               \
    X(ud, "nop\n ud2")                                                                             \
    X(fault, "nop\n mov (%rbx), %eax")                                                             \
    X(branch, "jmp 1f\n nop\n 1: call 2f\n nop\n 2: pop %rax\n xor %ecx, %ecx\n jz 3f\n 3: nop")   \
    X(branch_on, "xor %ecx, %ecx\n jz 1f\n 1: jnz 2f\n 2: loop 3f\n 3: jrcxz 4f\n 4: jmp 5f\n"          \
                 "5: call 6f\n 6: lea 7f(%rip), %rax\n mov %rax, (%rsp)\n rep ret\n 7: nop")           \
    X(sys_call, "syscall\n nop")                                                                   \
    X(cr0, "mov %cr0, %rax\n mov %rax, %cr0\n nop")                                                \
    X(cpu_id, "xor %eax, %eax\n xor %ecx, %ecx\n cpuid\n nop")                                     \
    X(sti, "sti\n nop\n cli\n nop")                                                                \
    X(in_out, "inb $0x80, %al\n outb %al, $0x80\n nop")                                            \
    X(iret, "mov %ss, %eax\n push %rax\n lea 8(%rsp), %rcx\n push %rcx\n pushq $0x102\n"           \
            "mov %cs, %eax\n push %rax\n lea 1f(%rip), %rcx\n push %rcx\n iretq\n"                 \
            "1: nop\n nop\n pushq $2\n popfq")                                                     \
    X(load, "mov (%rdi), %eax\n nop")                                                              \
    X(store, "mov %eax, (%rdi)\n nop")                                                             \
    X(rmw, "addl $1, (%rdi)\n nop")                                                                \
    X(cmpxchg, "lock cmpxchg %ecx, (%rdi)\n nop")                                                  \
    X(xchg, "xchg %eax, (%rdi)\n nop")                                                             \
    X(push_pop, "mov %rdi, %rsp\n add $8, %rsp\n push %rax\n pop %rax\n nop")                      \
    X(push_mem, "lea 64(%rdi), %rsp\n pushq (%rdi)\n popq (%rdi)\n nop")                           \
    X(call_ret, "lea 8(%rdi), %rsp\n call 1f\n nop\n 1: nop")                                      \
    X(movsb, "mov %rdi, %rsi\n movsb\n nop")                                                       \
    X(rep_movsb, "mov $4, %ecx\n lea -2(%rdi), %rsi\n lea 64(%rdi), %rdi\n rep movsb\n nop")       \
    X(sse, "movups (%rdi), %xmm0\n nop\n movups %xmm0, (%rdi)\n nop")                              \
    X(ss_load, "mov %ss, (%rdi)\n mov (%rdi), %ss\n nop\n nop")                                    \
    X(ss_load_int, "mov %ss, (%rdi)\n mov (%rdi), %ss\n int $0x41\n nop")                          \
    X(ss_load_ud, "mov %ss, (%rdi)\n mov (%rdi), %ss\n ud2")                                       \
    X(prefetch, "prefetcht0 (%rdi)\n lea (%rdi), %rax\n clflush (%rdi)\n nop")                     \
    X(bts, "mov $33, %eax\n bts %eax, -4(%rdi)\n nop")                                             \
    X(read_dr, "mov %dr0, %rax\n mov %dr7, %rcx\n nop")                                            \
    X(write_dr, "mov %rax, %dr3\n nop")                                                            \
    X(read_dr4, "mov %dr4, %rax\n mov %dr5, %rcx\n nop")

SNIPPET_TABLE(SNIPPETS);
enum { FIRST_MEMORY = 22 }; /* `load` */

SNIPPET(just_iret, "iretq");
SNIPPET(landing, "nop\n nop");
#define SIZED(name, insn, reg)                                                                     \
    SNIPPET(load_##name, insn " (%rdi), " reg "\n nop");                                           \
    SNIPPET(store_##name, insn " " reg ", (%rdi)\n nop");
SIZED(1, "mov", "%al")
SIZED(2, "mov", "%ax")
SIZED(4, "mov", "%eax")
SIZED(8, "mov", "%rax")
SNIPPET(in1, "in %dx, %al\n nop");
SNIPPET(out2, "out %ax, %dx\n nop");
SNIPPET(out4, "out %eax, %dx\n nop");
SNIPPET(outs, "mov $2, %ecx\n rep outsb\n nop");

static uint8_t cell[8192] __attribute__((aligned(4096)));
static const char *base;
static unsigned branches; /* trap on these only */

#define WRITE_DR(n, value) __asm__ volatile("mov %0, %%dr" #n : : "r"((uint64_t)(value)))
static uint64_t read_dr6(void)
{
    uint64_t value;

    __asm__ volatile("mov %%dr6, %0" : "=r"(value));
    WRITE_DR(6, 0xffff0ff0);
    return value;
}

/* " vector@offset:DR6/RF" of each trap. */
static void log_trap(struct frame *f)
{
    uint64_t dr6 = read_dr6();

    put_char(' ');
    put_hex(f->vector, 2);
    put_char('@');
    put_hex(f->rip - (uint64_t)base, 2);
    put_char(':');
    put_hex(dr6, 8);
    if (f->rflags & TF)
        put_char('t');
    sum(f->rflags & 0x3e7700);
    if (branches) /* the trap has cleared it */
        write_msr(DEBUGCTL, BTF);
    if (f->vector == 1 && dr6 & 0xf)
        f->rflags |= RF; /* past an instruction breakpoint */
}

static void go(const char *name, const char *code, unsigned cpl, uint64_t flags)
{
    struct entry e = at(code, cpl);

    base = code;
    e.rflags |= flags;
    e.rdi = (uint64_t)(cell + 64);
    e.rbx = 1ull << 63;
    put(name);
    put_char(' ');
    put_hex(cpl, 1);
    run(&e);
    WRITE_DR(7, 0x400);
    put(" = ");
    put_hex(last.vector, 2);
    put_char('@');
    put_hex(last.rip - (uint64_t)base, 2);
    put_char(':');
    put_hex(read_dr6(), 8);
    line_end();
    write_msr(DEBUGCTL, 0);
    memset(cell, 0, 256);
}

static void every(const char *title, uint64_t flags, uint64_t dr7, uint64_t dr0, unsigned first)
{
    for (unsigned cpl = 0; cpl < 4; cpl += 3) {
        put(title);
        put_char('\n');
        for (unsigned n = first; n < sizeof(snippets) / sizeof(snippets[0]); n++) {
            WRITE_DR(0, dr0 < 256 ? (uint64_t)snippets[n].code + dr0 : dr0);
            WRITE_DR(7, dr7);
            go(snippets[n].name, snippets[n].code, cpl, flags);
        }
    }
}

/* Which accesses of 1, 2, 4 and 8 bytes near a breakpoint of each length hit it. */
static void lengths(unsigned kind)
{
    static const void *const code[] = {load_1, load_2, load_4, load_8, store_1, store_2, store_4, store_8};

    for (unsigned n = 0; n < 16; n++) {
        unsigned len = n & 3, skew = n >> 2;
        put("length ");
        put_hex(kind << 8 | len << 4 | skew, 3);
        put_char(' ');
        for (unsigned k = 0; k < 8; k++) {
            for (unsigned off = 0; off < 18; off++) {
                struct entry e = at(code[k], 3);
                WRITE_DR(1, cell + 4096 + skew); /* some accesses cross the page */
                WRITE_DR(7, 0x408 | (uint64_t)(len << 2 | kind) << 20);
                e.rdi = (uint64_t)(cell + 4096 - 9 + off);
                going_on = 0;
                run(&e);
                put_char(last.vector == 1 ? 'x' : '.');
                WRITE_DR(7, 0x400);
                sum(read_dr6());
            }
        }
        line_end();
    }
    going_on = 0xa;
}

static void ports(void)
{
    static const void *const code[] = {in1, out2, out4, outs};

    for (unsigned n = 0; n < 8; n++) {
        __asm__ volatile("mov %0, %%cr4" : : "r"(0x620ul | (n & 4 ? 8 : 0)));
        put("port ");
        put_hex(n, 1);
        put_char(' ');
        for (unsigned k = 0; k < 4; k++) {
            for (uint64_t port = 0x7c; port < 0x88; port++) {
                struct entry e = at(code[k], 0);
                WRITE_DR(2, 0x82);
                WRITE_DR(7, 0x420 | (uint64_t)((n & 3) << 2 | 2) << 24);
                e.rdx = port;
                e.rsi = (uint64_t)cell;
                going_on = 0;
                run(&e);
                put_char(last.vector == 1 ? 'x' : '.');
                WRITE_DR(7, 0x400);
                sum(read_dr6());
            }
        }
        line_end();
    }
    going_on = 0xa;
}

static void registers(void)
{
    uint64_t value;

    WRITE_DR(6, 0xffffffff);
    __asm__ volatile("mov %%dr6, %0" : "=r"(value));
    put("dr6 ");
    put_hex(value, 16);
    WRITE_DR(6, 0);
    __asm__ volatile("mov %%dr6, %0" : "=r"(value));
    put_char(' ');
    put_hex(value, 16);
    WRITE_DR(7, 0xffff0000 & ~0x2000);
    __asm__ volatile("mov %%dr7, %0" : "=r"(value));
    put_char(' ');
    put_hex(value, 16);
    WRITE_DR(7, 0);
    __asm__ volatile("mov %%dr7, %0" : "=r"(value));
    put_char(' ');
    put_hex(value, 16);
    line_end();
}

void tests(void)
{
    going_on = 0xa; /* #DB, #BP */
    on_trap = log_trap;
    tables_reset();
    gate_put(idt + 0x82, KCODE, (uint64_t)just_iret, 0xee, 0, 0);
    memset(cell, 0, sizeof(cell));
    write_msr(STAR, (uint64_t)(UCODE32) << 48 | (uint64_t)KCODE << 32);
    write_msr(LSTAR, (uint64_t)landing);
    write_msr(FMASK, 0x100);
    registers();
    every("single step", TF, 0x400, 0, 0);
    write_msr(FMASK, 0);
    go("sys_call unmasked", s_sys_call, 3, TF);
    for (unsigned off = 0; off < 6; off++)
        every("breakpoint at", 0, 0x402, off, 0);
    every("breakpoint and step", TF, 0x402, 2, 0);
    every("breakpoint with RF", RF, 0x402, 0, 0);
    every("write breakpoint", 0, 0xd0402, (uint64_t)(cell + 64), FIRST_MEMORY);
    every("access breakpoint", 0, 0xf0402, (uint64_t)(cell + 64), FIRST_MEMORY);
    every("disabled", 0, 0xf0400, (uint64_t)(cell + 64), FIRST_MEMORY);
    every("general detect", 0, 0x2400, 0, FIRST_MEMORY);
    __asm__ volatile("mov %0, %%cr4" : : "r"(0x628ul));
    every("debug extensions", 0, 0x2400, 0, FIRST_MEMORY);
    lengths(1);
    lengths(3);
    ports();
    put("branches only\n");
    for (unsigned n = 0; n < sizeof(snippets) / sizeof(snippets[0]); n++) {
        branches = 1;
        write_msr(DEBUGCTL, BTF);
        go(snippets[n].name, snippets[n].code, 0, TF);
    }
}
