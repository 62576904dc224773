/* Loading segment registers, and LAR, LSL, VERR, VERW: every access-rights byte by RPL and CPL. */
#include "metal32.h"

SNIPPET(load_ds, "mov %eax, %ds\n mov %ds, %ecx\n mov %edx, %ds");
SNIPPET(load_ss, "mov %eax, %ss\n mov %edx, %ss");
SNIPPET(load_gs, "mov %eax, %gs");
SNIPPET(query, "lar %eax, %ebx\n setz %dl\n lsl %eax, %ecx\n setz %dh\n verr %ax\n setz %ah\n verw "
               "%ax\n setz %al");
SNIPPET(do_lldt, "lldt %ax");
SNIPPET(do_ltr, "ltr %ax");
SNIPPET(read_down, "mov %eax, %gs\n movb %gs:(%ebx), %cl");
SNIPPET(store_system, "sldt %eax\n str %ebx\n smsw %ecx");

static void matrix(const char *name, const void *code, unsigned cpl)
{
    put(name);
    put_hex(cpl, 1);
    put_char('\n');
    for (unsigned rpl = 0; rpl < 4; rpl++) {
        for (unsigned ar = 0; ar < 256; ar++) {
            struct entry e = at(code, cpl);
            gdt_put(S_TEST, descriptor(0, 0xfffff, F32 | ar));
            e.eax = S_TEST | rpl;
            e.edx = cpl ? e.ss : KDATA;
            run(&e);
            put_char(outcome());
            sum((uint32_t)gdt[S_TEST >> 3] ^ (uint32_t)(gdt[S_TEST >> 3] >> 32));
        }
        line_end();
    }
}

static void queries(unsigned cpl)
{
    put("lar lsl verr verw");
    put_hex(cpl, 1);
    for (unsigned rpl = 0; rpl < 4; rpl++) {
        for (unsigned ar = 0; ar < 256; ar++) {
            struct entry e = at(query, cpl);
            gdt_put(S_TEST, descriptor(0x123456, 0x6789a, 0x8000 | ar));
            e.eax = S_TEST | rpl;
            run(&e);
            outcome();
            sum(last.ebx & 0xfff0ffff); /* LAR leaves bits 19:16 undefined */
            sum(last.ecx);
            sum(last.edx);
            sum(last.eax);
        }
    }
    line_end();
}

static void one(const char *name, const void *code, unsigned cpl, uint32_t eax)
{
    struct entry e = at(code, cpl);
    e.eax = eax;
    e.edx = KDATA;
    run(&e);
    report(name);
    tables_reset();
}

static void expand_down(void)
{
    for (unsigned big = 0; big < 2; big++) {
        static const uint32_t offsets[] = {0, 0xfff, 0x1000, 0x1001, 0xffff, 0x10000, 0x10001};
        put("expand-down ");
        for (unsigned n = 0; n < 7; n++) {
            struct entry e = at(read_down, 3);
            gdt_put(S_DOWN, descriptor(0, 0x1000, (big ? 0x4000 : 0) | 0xf6));
            e.eax = S_DOWN | 3;
            e.ebx = offsets[n];
            run(&e);
            put_char(outcome());
        }
        line_end();
    }
}

void test_loads(void)
{
    matrix("mov ds cpl ", load_ds, 0);
    matrix("mov ds cpl ", load_ds, 3);
    matrix("mov ss cpl ", load_ss, 0);
    matrix("mov ss cpl ", load_ss, 3);
    matrix("mov gs cpl ", load_gs, 1);
    for (unsigned cpl = 0; cpl < 4; cpl += 3)
        queries(cpl);
    expand_down();
    one("null ds", load_ds, 3, 3);
    one("null ss", load_ss, 0, 0);
    one("beyond gdt", load_ds, 0, 0x100);
    one("no ldt", load_ds, 0, 0xc);
    one("lldt", do_lldt, 0, S_LDT);
    one("lldt tss", do_lldt, 0, S_TSS);
    one("lldt cpl 3", do_lldt, 3, S_LDT);
    one("lldt in ldt", do_lldt, 0, S_LDT | 4);
    one("ltr busy", do_ltr, 0, S_TSS);
    one("ltr null", do_ltr, 0, 0);
    one("ltr data", do_ltr, 0, KDATA);
    one("ltr", do_ltr, 0, S_TSS2);
    one("sldt str smsw", store_system, 3, 0xffffffff);
    put_hex(last.ebx, 8);
    put_hex(last.ecx & 0xffff, 8);
    line_end();
}
