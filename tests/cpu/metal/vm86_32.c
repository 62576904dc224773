/* Virtual-8086 mode: sensitive instructions by IOPL, VME and the redirection bitmap. */
#include "metal32.h"

#define CODE16(name, code)                                                                         \
    extern const char name[], name##_end[];                                                        \
    __asm__(".text\n.code16\n" #name ":\n" code "\nint $0x3f\n" #name "_end:\n.code32\n")

CODE16(v_int, "int $0x21");
CODE16(v_int3, "int3");
CODE16(v_pushf, "pushfw\n popw %ax");
CODE16(v_pushfd, "pushfl\n popl %eax");
CODE16(v_popf, "pushw %ax\n popfw");
CODE16(v_popfd, "pushl %eax\n popfl");
CODE16(v_iret, "pushw %ax\n pushw %cs\n pushw $0x100\n iretw");
CODE16(v_cli, "cli");
CODE16(v_sti, "sti");
CODE16(v_hlt, "hlt");
CODE16(v_out, "outb %al, $0x80");
CODE16(v_lldt, "lldt %ax");
CODE16(v_segs, "movw %ax, %ds\n movw %ax, %fs\n movl 0x10, %ebx\n movw %ss, %cx");
CODE16(v_limit, "movl 0xfffe, %eax");
CODE16(v_far, "ljmp $0x3000, $0x100");

enum { SEG = 0x3000, LINEAR = SEG << 4 };

static void install(const char *code, const char *end)
{
    memset((void *)LINEAR, 0xcc, 0x200);
    memset((void *)(LINEAR + 0xf00), 0, 0x100);
    memcpy((void *)LINEAR, code, (unsigned)(end - code));
    *(uint16_t *)(LINEAR + 0x100) = 0x3ecd; /* int 0x3e: came here */
    *(uint32_t *)(0x21 * 4) = SEG << 16 | 0x100;
    *(uint32_t *)(0x3e * 4) = SEG << 16 | 0x180;
    *(uint32_t *)(0x3f * 4) = SEG << 16 | 0x180;
}

static void go(const char *name, const char *code, const char *end, uint32_t eax, uint32_t flags)
{
    struct entry e = {.eip = 0,
                      .cs = SEG,
                      .eflags = flags | FL_VM | 2,
                      .esp = 0x1000,
                      .ss = SEG,
                      .ds = 0x3001,
                      .es = 0x3002,
                      .fs = 0x3003,
                      .gs = 0x3004,
                      .eax = eax};
    install(code, end);
    run(&e);
    put(name);
    put_char(' ');
    put_hex(eax, 6);
    put_char(' ');
    put_hex(flags, 6);
    put_char(' ');
    put_hex(last.ves & 0xffff, 4);
    put_hex(last.vds & 0xffff, 4);
    put_hex(last.vfs & 0xffff, 4);
    put_hex(last.vgs & 0xffff, 4);
    put_char(' ');
    put_hex(last.ss & 0xffff, 4);
    put_hex(last.esp, 8);
    put_char(' ');
    put_hex(last.ebx, 8);
    put_hex(last.ecx, 4);
    for (unsigned n = 0; n < 6; n += 2) {
        put_char(' ');
        put_hex(*(uint16_t *)(LINEAR + 0x1000 - 6 + n), 4);
    }
    report("");
    line_end();
}

#define GO(name, eax, flags) go(#name, name, name##_end, eax, flags)

static void all(uint32_t flags)
{
    GO(v_int, 0, flags);
    GO(v_int3, 0, flags);
    GO(v_pushf, 0, flags);
    GO(v_pushfd, 0, flags);
    GO(v_popf, 0x7202, flags);
    GO(v_popf, 0x0002, flags | FL_IF);
    GO(v_popf, 0x0102, flags);
    GO(v_popfd, 0x247202, flags);
    GO(v_iret, 0x7202, flags);
    GO(v_iret, 0x0002, flags);
    GO(v_cli, 0, flags);
    GO(v_sti, 0, flags);
}

void test_vm86(void)
{
    for (unsigned n = 0; n < 16; n++) {
        uint32_t flags = (n & 1 ? FL_IOPL : 0) | (n & 8 ? FL_VIP : FL_VIF);
        put("vm86 ");
        put_hex(n, 2);
        put_char('\n');
        __asm__ volatile("mov %0, %%cr4" : : "r"(n & 2 ? 1 : 0));
        memset(tss.redirect, n & 4 ? 0xff : 0, sizeof(tss.redirect));
        all(flags);
    }
    __asm__ volatile("mov %0, %%cr4" : : "r"(0));
    GO(v_hlt, 0, FL_IOPL);
    GO(v_out, 0, FL_IOPL);
    GO(v_lldt, 0, FL_IOPL);
    GO(v_segs, 0x3010, 0);
    GO(v_limit, 0, 0);
    GO(v_far, 0, 0);
    tables_reset();
}
