/* Far RET and IRET to the same and outer levels: code and stack segments by access rights and RPL.
 */
#include "metal32.h"

SNIPPET(do_lret, "lret");
SNIPPET(do_lret8, "lret $8");
SNIPPET(do_iret, "iret");
SNIPPET(do_lretw, "lretw");
SNIPPET(do_iretw, "iretw");
SNIPPET(back, "mov %ds, %eax\n mov %es, %ebx\n mov %fs, %ecx\n mov %gs, %edx");

static void push(struct entry *e, uint32_t value, unsigned size)
{
    e->esp -= size;
    if (size == 2)
        *(uint16_t *)e->esp = (uint16_t)value;
    else
        *(uint32_t *)e->esp = value;
}

/* Runs a return at privilege cpl with the given frame. run() clears the stacks: a stack of its own.
 */
static void back_to(const void *code, unsigned cpl, uint32_t cs, uint32_t ss, uint32_t flags,
                    unsigned size)
{
    static uint8_t stack[256] __attribute__((aligned(16)));
    struct entry e = at(code, cpl);

    e.esp = (uint32_t)(stack + 200);
    e.fs = DATA_DPL + 24 + 3;
    e.gs = CODE_DPL + 8 * cpl + cpl;
    push(&e, ss, size);
    push(&e, size == 2 ? 0x1234 : (uint32_t)(user_stack + 1024), size);
    if (code == do_lret8) {
        push(&e, 0, size);
        push(&e, 0, size);
    }
    if (code == do_iret || code == do_iretw)
        push(&e, flags, size);
    push(&e, cs, size);
    push(&e, (uint32_t)back, size);
    run(&e);
    put_char(outcome());
    sum(last.ss & 0xffff);
    sum((last.cs & 3) > cpl ? last.esp : 0);
    sum(last.eax & 0xffff);
    sum(last.ebx & 0xffff);
    sum(last.ecx & 0xffff);
    sum(last.edx & 0xffff);
}

static void code_matrix(const char *name, const void *code, unsigned cpl)
{
    put(name);
    put_hex(cpl, 1);
    put_char('\n');
    for (unsigned rpl = 0; rpl < 4; rpl++) {
        for (unsigned ar = 0; ar < 256; ar++) {
            gdt_put(S_TEST, descriptor(0, 0xfffff, F32 | ar));
            back_to(code, cpl, S_TEST | rpl, (DATA_DPL + 8 * rpl) | rpl, 2, 4);
        }
        line_end();
    }
}

static void stack_matrix(const char *name, const void *code)
{
    put(name);
    put_char('\n');
    for (unsigned rpl = 1; rpl < 4; rpl++) {
        for (unsigned ar = 0; ar < 256; ar++) {
            gdt_put(S_TEST, descriptor(0, 0xfffff, F32 | ar));
            back_to(code, 0, (CODE_DPL + 8 * rpl) | rpl, S_TEST | (ar & 1 ? rpl : ar >> 1 & 3), 2,
                    4);
        }
        line_end();
    }
}

void test_returns(void)
{
    for (unsigned cpl = 0; cpl < 4; cpl++) {
        code_matrix("lret cpl ", do_lret, cpl);
        code_matrix("iret cpl ", do_iret, cpl);
    }
    code_matrix("lret 8 cpl ", do_lret8, 1);
    stack_matrix("lret stack", do_lret);
    stack_matrix("iret stack", do_iret);
    put("returns to null, beyond, 16 bits ");
    back_to(do_lret, 0, 0, 0, 2, 4);
    back_to(do_iret, 0, 3, 0, 2, 4);
    back_to(do_iret, 0, 0x100, 0, 2, 4);
    back_to(do_lret, 0, CODE_DPL + 24 + 3, 0, 2, 4);
    back_to(do_lret, 0, CODE_DPL + 24 + 3, 0x103, 2, 4);
    gdt_put(S_CODE16, descriptor(0, 0xffff, 0x9b));
    gdt_put(S_TEST, descriptor(0, 0xfffff, F32 | 0x9b));
    back_to(do_iret, 0, S_CODE16, 0, 2, 4); /* offset beyond the limit */
    gdt_put(S_CODE16, descriptor(0x10000, 0xffff, F32 | 0xfb));
    back_to(do_lretw, 0, S_CODE16 + 3, DATA_DPL + 24 + 3, 2, 2);
    back_to(do_iretw, 0, S_CODE16 + 3, DATA_DPL + 24 + 3, 2, 2);
    line_end();
    tables_reset();
}
