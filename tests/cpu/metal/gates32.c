/* INT n through the IDT: the gate's rights, its target's, the inner stack; faults in delivery,
 * double faults. */
#include "metal32.h"

SNIPPET(int41, "int $0x41");
SNIPPET(do_int3, "int3");
SNIPPET(do_into, "addb $0x7f, %al\n into");
SNIPPET(do_int1, ".byte 0xf1");
SNIPPET(do_ud, "ud2");
SNIPPET(do_div, "xor %ecx, %ecx\n div %ecx");
SNIPPET(do_gp, "mov %eax, %cr0\n hlt");
SNIPPET(single, "pushf\n orl $0x100, (%esp)\n popf\n nop\n nop");
SNIPPET(landed, "nop");
extern const char entries[];

static void go(const void *code, unsigned cpl)
{
    struct entry e = at(code, cpl);
    run(&e);
    put_char(outcome());
    sum((last.cs & 3) != (last_ss & 3) ? last.esp : 0);
    if (last.vector == DONE)
        sum_stack(6);
}

static void gate_rights(unsigned cpl)
{
    put("int gate cpl ");
    put_hex(cpl, 1);
    put_char(' ');
    for (unsigned access = 0; access < 256; access++) {
        if ((access & 0x1f) == 5)
            continue;
        idt[0x41] = gate_to(CODE_DPL, (uint32_t)landed, access);
        go(int41, cpl);
    }
    line_end();
}

static void target_rights(unsigned cpl)
{
    put("int target cpl ");
    put_hex(cpl, 1);
    put_char(' ');
    for (unsigned ar = 0; ar < 256; ar++) {
        gdt_put(S_TEST, descriptor(0, 0xfffff, F32 | ar));
        idt[0x41] = gate_to(S_TEST | (ar & 3), (uint32_t)landed, 0xee);
        go(int41, cpl);
    }
    line_end();
}

static void stack_rights(void)
{
    for (unsigned rpl = 0; rpl < 4; rpl++) {
        put("int stack ");
        for (unsigned ar = 0; ar < 256; ar++) {
            gdt_put(S_TEST, descriptor(0, 0xfffff, F32 | ar));
            idt[0x41] = gate_to(CODE_DPL + 8, (uint32_t)landed, 0xee);
            tss.ss1 = S_TEST | rpl;
            go(int41, 3);
        }
        line_end();
    }
    tables_reset();
}

static void one(const char *name, const void *code, unsigned cpl)
{
    struct entry e = at(code, cpl);
    e.eax = 1;
    run(&e);
    report(name);
}

/* A contributory fault while another is delivered. */
static void double_faults(void)
{
    static const unsigned vectors[] = {0, 6, 13};
    static const void *const code[] = {do_div, do_ud, do_gp};

    for (unsigned n = 0; n < 3; n++) {
        for (unsigned kind = 0; kind < 3; kind++) {
            tables_reset();
            idt[vectors[n]] = kind == 0   ? gate_to(KCODE, 0, 0x0e) /* absent */
                              : kind == 1 ? gate_to(0, 0, 0x8e)     /* null */
                                          : gate_to(S_TSS, 0, 0x8e);
            one("nested", code[n], 3);
        }
    }
    tables_reset();
}

void test_gates(void)
{
    memcpy((void *)((uint32_t)landed & 0xffff), landed, 8); /* what a 16-bit gate reaches */
    for (unsigned cpl = 0; cpl < 4; cpl++) {
        gate_rights(cpl);
        target_rights(cpl);
    }
    stack_rights();
    idt[0x41] = gate_to(CODE_DPL, 0, 0x8f);
    one("int dpl", int41, 3);
    for (unsigned cpl = 0; cpl < 4; cpl += 3) {
        one("int3", do_int3, cpl);
        one("into", do_into, cpl);
        one("int1", do_int1, cpl);
        one("ud2", do_ud, cpl);
        one("div", do_div, cpl);
        one("gp", do_gp, cpl ? 3 : 1);
        one("single step", single, cpl);
    }
    idt[3] = idt[4] = idt[1] = gate_to(KCODE, (uint32_t)entries + 16 * 3, 0xee);
    one("int3 open", do_int3, 3);
    one("into open", do_into, 3);
    one("int1 open", do_int1, 3);
    tables_reset();
    double_faults();
}
