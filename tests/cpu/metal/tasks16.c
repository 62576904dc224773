/* Tasks with a 16-bit TSS: into them and back, what is saved and loaded, the stacks of inner levels, every bad field.
 *
 * Their IP has 16 bits, so that their code lies in a segment of its own base. The upper halves of the general registers
 * and FS, GS are nobody's: SDM vol. 3, 8.6, does not say, and they are not printed.
 */
#include "metal32.h"

struct tss16 { /* SDM vol. 3, figure 8-10 */
    uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, reg[8], es, cs, ss, ds, ldt;
};

enum { S_TSS16 = S_TEST, S_CODE = S_CODE16, S_USER = S_DATA16, S_GATE = S_TEST2 };
enum { BASE = 0x10000, STACK = 0x9000, USER_STACK = 0xa000, BUSY = 2 };

SNIPPET(t_jmp, "ljmp *(%esi)\n mov $0x1111, %ebx");
SNIPPET(t_call, "lcall *(%esi)\n mov $0x2222, %ebx");
SNIPPET(t_int, "int $0x41\n mov $0x3333, %ebx");
SNIPPET(t_iret, "iret\n mov $0x4444, %ebx");
SNIPPET(t_ltr, "ltr %ax\n str %ebx");
SNIPPET(in16, "movzwl %sp, %esp\n mov %cr0, %eax\n str %ebx\n sldt %ecx\n pushf\n pop %edx");
SNIPPET(in16_user, "str %ebx\n mov %esp, %edx");
SNIPPET(in16_jmp_back, "mov $0x5555, %eax\n ljmp *%cs:(back - 0x10000)\n int $0x42\nback: .long 0\n .word 0x58\n");
SNIPPET(in16_iret, "mov $0x6666, %eax\n iretw\n mov $0x7777, %eax\n iretw");
SNIPPET(in16_gate, "lcall $0x70, $0");
SNIPPET(in16_port, "in $0x60, %al");
SNIPPET(in16_popf, "pushw $0x7202\n popfw\n pushf\n pop %edx");

static struct tss16 t16;
static struct __attribute__((packed)) {
    uint32_t off;
    uint16_t sel;
} pointer;

static void fill(const void *code, unsigned cpl)
{
    memset(&t16, 0, sizeof(t16));
    t16.sp0 = STACK;
    t16.ss0 = KDATA;
    t16.sp1 = STACK - 0x400;
    t16.ss1 = DATA_DPL + 8 + 1;
    t16.ip = (uint16_t)((uint32_t)code - BASE);
    t16.flags = 2;
    for (unsigned n = 0; n < 8; n++)
        t16.reg[n] = (uint16_t)(0x1001 * n + 0x8000);
    t16.reg[4] = (uint16_t)(cpl ? USER_STACK : STACK);
    t16.cs = cpl ? S_USER | 3 : S_CODE;
    t16.ss = t16.ds = t16.es = cpl ? DATA_DPL + 24 + 3 : KDATA;
    t16.ldt = S_LDT;
    gdt_put(S_CODE, descriptor(BASE, 0xffff, 0x4000 | 0x9b));
    gdt_put(S_USER, descriptor(BASE, 0xffff, 0x4000 | 0xfb));
    gdt_put(S_TSS16, descriptor((uint32_t)&t16, sizeof(t16) - 1, 0x81));
    idt[0x41] = gate_to(S_TSS16, 0, 0xe5);
    memset((void *)(STACK - 0x800), 0, 0x1800);
}

static void start(const void *code, unsigned cpl, unsigned sel, unsigned flags)
{
    struct entry e = at(code, cpl);

    pointer.sel = (uint16_t)sel;
    e.esi = (uint32_t)&pointer;
    e.eflags |= flags;
    e.eax = sel;
    run(&e);
}

/* Letter; types of the two descriptors; TR, LDTR; what the 16-bit TSS holds, word by word, with the flags' own bits. */
static void dump(const char *name)
{
    const uint16_t *w = (const uint16_t *)&t16;

    put(name);
    put_char(' ');
    put_char(outcome());
    put_char(' ');
    put_hex((uint32_t)(gdt[S_TSS >> 3] >> 40) & 0xff, 2);
    put_hex((uint32_t)(gdt[S_TSS16 >> 3] >> 40) & 0xff, 2);
    put_char(' ');
    put_hex(last.ebx & 0xffff, 4);
    put_hex(last.ecx & 0xffff, 4);
    put_hex(last.edx & 0xff00, 4);
    put_hex(last.eax & 0xffff, 4);
    put_hex(last.ebp & 0xffff, 4);
    put_char(' ');
    for (unsigned n = 0; n < sizeof(t16) / 2; n++)
        put_hex(n == 8 ? w[n] & 0x7700u : w[n], 4);
    put_char(' ');
    put_hex(last.vector, 2);
    put_hex(last.error, 4);
    put_char(' ');
    put_hex(last.cs, 4);
    put_char(':');
    put_hex(last.eip, 8);
    put_char(' ');
    put_hex(last_ss, 4);
    put_char(':');
    put_hex(last_sp, 8);
    put_char('\n');
    tables_reset();
    outcome();
    memset(&last, 0, sizeof(last));
}

static void good(void)
{
    static const void *const how[] = {t_jmp, t_call, t_int};
    static const char *const names[] = {"jmp", "call", "int"};

    for (unsigned n = 0; n < 3; n++) {
        put("to 16 bits\n");
        fill(in16, 0);
        start(how[n], 0, S_TSS16, 0);
        dump(names[n]);
        put("to 16 bits, user\n");
        fill(in16_user, 3);
        start(how[n], 0, S_TSS16, 0);
        dump(names[n]);
        put("there and back\n");
        fill(n ? in16_iret : in16_jmp_back, 0);
        start(how[n], 0, S_TSS16, 0x4 | FL_IOPL);
        dump(names[n]);
    }
    put("from user code\n");
    fill(in16_iret, 0);
    start(t_call, 3, S_TSS16, 0);
    dump("call");
    fill(in16_iret, 0);
    gdt_put(S_TSS16, descriptor((uint32_t)&t16, sizeof(t16) - 1, 0xe1));
    start(t_call, 3, S_TSS16 | 3, 0);
    dump("dpl_3");
    put("with an error code\n");
    fill(in16_iret, 0);
    idt[13] = gate_to(S_TSS16, 0, 0x85);
    idt[0x41] = gate_to(0, 0, 0);
    start(t_int, 0, 0, 0);
    dump("gp");
    put("as the first task\n");
    fill(in16, 0);
    start(t_ltr, 0, S_TSS16, 0);
    dump("ltr");
    fill(in16, 0);
    gdt_put(S_TSS16, descriptor((uint32_t)&t16, sizeof(t16) - 1, 0x83));
    start(t_ltr, 0, S_TSS16, 0);
    dump("busy");
    put("flags\n");
    fill(in16_popf, 3);
    t16.flags = 0x3202;
    start(t_jmp, 0, S_TSS16, 0);
    dump("iopl");
}

/* In a 16-bit task's user code: its TSS has the stacks of the inner levels, and no I/O permission map. */
static void inner(void)
{
    static const uint16_t stacks[] = {KDATA, 0, KCODE, DATA_DPL + 8, DATA_DPL + 24 + 3, 0x100};

    put("inner stacks\n");
    for (unsigned n = 0; n < sizeof(stacks) / sizeof(stacks[0]); n++) {
        fill(in16_gate, 3);
        gdt_put(S_GATE, gate_to(KCODE, (uint32_t)in16, 0xec));
        t16.ss0 = n ? t16.ss0 : stacks[n];
        t16.ss1 = stacks[n];
        if (n) { /* level 1 has the stack in question, level 0 the handlers' */
            gdt_put(S_GATE, gate_to(CODE_DPL + 8, (uint32_t)in16_user, 0xec));
        }
        start(t_jmp, 0, S_TSS16, 0);
        dump("gate");
    }
    fill(in16_port, 3);
    start(t_jmp, 0, S_TSS16, 0);
    dump("port");
}

static void bad_targets(void)
{
    put("descriptors\n");
    for (unsigned limit = sizeof(t16) - 3; limit <= sizeof(t16); limit++) {
        fill(in16, 0);
        gdt_put(S_TSS16, descriptor((uint32_t)&t16, limit, 0x81));
        start(t_jmp, 0, S_TSS16, 0);
        dump("limit");
    }
    for (unsigned ar = 1; ar < 0x84; ar += ar & 0x80 ? 2 : 0x80) {
        fill(in16, 0);
        gdt_put(S_TSS16, descriptor((uint32_t)&t16, sizeof(t16) - 1, ar));
        start(t_jmp, 0, S_TSS16, 0);
        dump("type");
    }
    fill(in16, 0);
    tss.link = S_TSS16;
    start(t_iret, 0, 0, FL_NT);
    dump("iret_idle");
    fill(in16, 0);
    gdt_put(S_TSS16, descriptor((uint32_t)&t16, sizeof(t16) - 1, 0x81 | BUSY));
    tss.link = S_TSS16;
    start(t_iret, 0, 0, FL_NT);
    dump("iret_busy");
}

/* One wrong field. The new task's fault is taken by a task of its own, as its stack may be what is wrong. */
static void bad_fields(void)
{
    static struct tss handler;
    static const struct {
        uint8_t word;
        uint16_t value;
    } t[] = {{18, 0}, {18, KDATA}, {18, 0x100}, {18, CODE_DPL + 24 + 3}, {19, 0}, {19, KCODE}, {19, DATA_DPL + 24 + 3},
             {20, 0}, {20, S_CODE}, {20, DATA_DPL}, {17, S_LDT}, {17, 4}, {21, S_TSS}, {21, 0}, {21, 0x0c}, {8, 0x4002}};
    extern const char entries[];

    put("fields\n");
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        struct entry e = at(entries + 16 * 10, 0);

        fill(in16, 0);
        handler = tss;
        handler.eip = e.eip;
        handler.eflags = 2;
        handler.reg[4] = e.esp - 0x400;
        handler.seg[0] = handler.seg[2] = handler.seg[3] = handler.seg[4] = handler.seg[5] = e.ds;
        handler.seg[1] = e.cs;
        gdt_put(S_DF, descriptor((uint32_t)&handler, 0x67, 0x89));
        for (unsigned vector = 10; vector < 14; vector++)
            idt[vector] = gate_to(S_DF, 0, 0x85);
        ((uint16_t *)&t16)[t[n].word] = t[n].value;
        put("field ");
        put_hex(t[n].word, 2);
        put_char('=');
        put_hex(t[n].value, 4);
        put_char(' ');
        start(t_jmp, 0, S_TSS16, 0);
        dump("jmp");
    }
}

void tests(void)
{
    good();
    inner();
    bad_targets();
    bad_fields();
}
