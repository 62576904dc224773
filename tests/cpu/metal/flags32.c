/* POPF, IRET, CLI, STI, PUSHF: which flags change, by CPL, IOPL, operand size; virtual interrupts
 * (PVI). */
#include "metal32.h"

SNIPPET(popf32, "push %eax\n popf\n pushf\n pop %ebx\n push %edx\n popf");
SNIPPET(popf16, "push %ax\n popfw\n pushf\n pop %ebx\n push %edx\n popf");
SNIPPET(do_cli, "cli\n pushf\n pop %ebx");
SNIPPET(do_sti, "sti\n pushf\n pop %ebx");

static const uint32_t images[] = {0,        0x244ed5, 0x200,     0x3000,  0x4000,
                                  0x10000,  0x20000,  0x40000,   0x80000, 0x100000,
                                  0x200000, 0x1a0200, 0xffff802a};

static void flags(const char *name, const void *code, uint32_t eax, uint32_t extra, unsigned cpl,
                  unsigned iopl)
{
    struct entry e = at(code, cpl);

    e.eflags = 2 | iopl << 12 | extra;
    e.eax = eax;
    e.edx = 2 | iopl << 12;
    run(&e);
    put(name);
    put_hex(cpl, 1);
    put_hex(iopl, 1);
    put_char(' ');
    put_hex(eax, 8);
    put_char(' ');
    put_hex(extra, 6);
    put_char(' ');
    put_char(outcome());
    put_hex(last.ebx, 8);
    put_char(' ');
    put_hex(last.eflags & ~0x10000u, 8);
    line_end();
}

static void set_cr4(uint32_t value) { __asm__ volatile("mov %0, %%cr4" : : "r"(value)); }

void test_flags(void)
{
    for (unsigned n = 0; n < 16; n++) {
        unsigned cpl = n & 3, iopl = n >> 2;
        if (cpl == 1 || iopl == 2)
            continue;
        for (unsigned k = 0; k < sizeof(images) / sizeof(images[0]); k++) {
            flags("popfd ", popf32, images[k], 0, cpl, iopl);
            flags("popf ", popf16, images[k], 0x240000, cpl, iopl);
        }
    }
    for (unsigned pvi = 0; pvi < 2; pvi++) {
        set_cr4(pvi ? 2 : 0);
        for (unsigned cpl = 0; cpl < 4; cpl += 3) {
            for (unsigned iopl = 0; iopl < 4; iopl += 3) {
                flags("cli ", do_cli, pvi, FL_VIF, cpl, iopl);
                flags("sti ", do_sti, pvi, 0, cpl, iopl);
                flags("sti ", do_sti, pvi, FL_VIP, cpl, iopl);
            }
        }
    }
    set_cr4(0);
}
