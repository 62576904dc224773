/* Hardware tasks: JMP, CALL, INT and IRET between TSSs, what is saved and loaded, and every bad
 * field. */
#include "metal32.h"

SNIPPET(task_jmp, "ljmp *(%esi)");
SNIPPET(task_call, "lcall *(%esi)\n nop");
SNIPPET(task_int, "int $0x41");
SNIPPET(task_ud, "ud2");
SNIPPET(in_task, "mov %cr0, %eax\n str %ebx\n sldt %ecx\n pushf\n pop %edx");
SNIPPET(in_user, "str %ebx");
SNIPPET(go_back, "mov $0x5555, %eax\n iret\n mov $0x6666, %eax");
extern const char entries[];

static struct __attribute__((packed)) {
    uint32_t off;
    uint16_t sel;
} pointer;

static void fill(struct tss *t, const void *code, unsigned cpl)
{
    struct entry e = at(code, cpl);

    *t = tss;
    t->link = 0;
    t->eip = e.eip;
    t->eflags = 2;
    for (unsigned n = 0; n < 8; n++)
        t->reg[n] = 0x1000 * n;
    t->reg[4] = e.esp + 0x100;
    for (unsigned n = 0; n < 6; n++)
        t->seg[n] = n == 1 ? e.cs : e.ds;
    t->ldt = S_LDT;
}

static void dump(const char *name)
{
    put(name);
    put_char(' ');
    put_char(outcome());
    sum(last.eax & 0xffff001f); /* CR0 */
    sum(last.ebx);
    sum(last.ecx);
    sum(last.edx & 0xffff7300);
    sum(last.edi);
    sum(last.ebp);
    sum_stack(1);
    put_hex((uint32_t)(gdt[S_TSS >> 3] >> 40) & 0xff, 2);
    put_hex((uint32_t)(gdt[S_TSS2 >> 3] >> 40) & 0xff, 2);
    put_char(' ');
    put_hex(last.ebx & 0xffff, 4);
    put_char(' ');
    put_hex(tss.eip, 8);
    put_hex(tss.eflags & ~0x108d5u, 8);
    put_hex(tss2.link & 0xffff, 4);
    put_hex(tss2.eip, 8);
    put_hex(tss2.eflags & ~0x108d5u, 8);
    sum(tss.reg[4] | tss.reg[7] << 16);
    sum(tss.seg[1] << 16 | (tss.seg[2] & 0xffff));
    put_char(' ');
    report("");
    line_end();
    tables_reset();
}

static void start(const void *code, unsigned cpl, unsigned sel, unsigned extra_flags)
{
    struct entry e = at(code, cpl);

    pointer.sel = (uint16_t)sel;
    e.esi = (uint32_t)&pointer;
    e.eflags |= extra_flags;
    run(&e);
}

static void good(void)
{
    static const void *const how[] = {task_jmp, task_call, task_int, task_ud};
    static const char *const names[] = {"jmp", "call", "int", "ud"};

    for (unsigned n = 0; n < 4; n++) {
        for (unsigned user = 0; user < 2; user++) {
            put(user ? "task user " : "task ");
            fill(&tss2, user ? in_user : in_task, user ? 3 : 0);
            idt[0x41] = idt[6] = gate_to(S_TSS2, 0, 0xe5);
            start(how[n], 0, S_TSS2, 0);
            dump(names[n]);
        }
    }
    put("task and back ");
    fill(&tss2, go_back, 0);
    start(task_call, 0, S_TSS2, 0x4);
    dump("call");
    put("task from cpl 3 ");
    fill(&tss2, go_back, 0);
    start(task_call, 3, S_TSS2, 0);
    dump("tss");
    put("task gate from cpl 3 ");
    fill(&tss2, go_back, 0);
    gdt_put(S_TEST, gate_to(S_TSS2, 0, 0xe5));
    start(task_call, 3, S_TEST | 3, 0);
    dump("gate");
    put("task with an error code ");
    fill(&tss2, in_task, 0);
    idt[13] = gate_to(S_TSS2, 0, 0x85);
    idt[0x41] = gate_to(0, 0, 0);
    start(task_int, 3, 0, 0);
    dump("gp");
}

/* The TSS descriptor and the task gate themselves. */
static void bad_targets(void)
{
    for (unsigned ar = 0; ar < 256; ar++) {
        fill(&tss2, in_task, 0);
        if ((ar & 0x10) == 0 && (ar & 0xf) != 5 && (ar & 7) != 4 && (ar & 7) != 1)
            gdt_put(S_TEST, descriptor((uint32_t)&tss2, 0x67, ar));
        else if ((ar & 0x1f) == 5)
            gdt_put(S_TEST, gate_to(S_TSS2, 0, ar));
        else if ((ar & 0x1f) == 9)
            gdt_put(S_TEST, descriptor((uint32_t)&tss2, ar & 0x20 ? 0x67 : 0x66, ar));
        else
            continue;
        start(task_jmp, ar & 0x40 ? 3 : 0, S_TEST | (ar >> 5 & 3), 0);
        put_char(outcome());
        tables_reset();
    }
    line_end();
}

/* The new task may have no stack: its faults go to a task of their own, whose frame has no return
 * address. */
static void handlers_as_tasks(void)
{
    static struct tss handler[4];

    for (unsigned n = 0; n < 4; n++) {
        struct tss *t = &handler[n];
        fill(t, entries + 16 * (10 + n), 0);
        t->reg[4] = (uint32_t)(inner_stack[2] + 256 * n + 128);
        gdt_put(S_DF + 8 + 8 * n, descriptor((uint32_t)t, 0x67, 0x89));
        idt[10 + n] = gate_to(S_DF + 8 + 8 * n, 0, 0x85);
    }
}

/* One wrong field in the incoming TSS. */
static void bad_fields(void)
{
    static const struct {
        uint8_t word; /* index of a 32-bit word of the TSS */
        uint32_t value;
    } t[] = {
        {19, 0},
        {19, KDATA},
        {19, 0x100},
        {19, CODE_DPL + 24 + 3},
        {19, CODE_DPL + 8},
        {20, 0},
        {20, KCODE},
        {20, 0x100},
        {20, DATA_DPL + 24 + 3},
        {20, DATA_DPL + 8},
        {18, S_TSS},
        {18, 0x100},
        {18, 0},
        {21, CODE_DPL},
        {22, S_LDT},
        {23, DATA_DPL + 3},
        {24, KDATA},
        {24, 0x100},
        {24, 4},
        {24, 0},
        {9, 0x4002},
        {9, 0x3202},
        {25, 1},
        {18, 0x0c},
    };
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        for (unsigned user = 0; user < 2; user++) {
            fill(&tss2, user ? in_user : in_task, user ? 3 : 0);
            ((uint32_t *)&tss2)[t[n].word] = t[n].value;
            handlers_as_tasks();
            put("task field ");
            put_hex(t[n].word, 2);
            put_char('=');
            put_hex(t[n].value, 8);
            put_char(' ');
            start(task_jmp, 0, S_TSS2, 0);
            dump("jmp");
        }
    }
}

static void bad_links(void)
{
    static const uint32_t links[] = {0, KDATA, S_TSS2, S_LDT | 4, 0x100};

    for (unsigned n = 0; n < sizeof(links) / sizeof(links[0]); n++) {
        fill(&tss2, in_task, 0);
        tss.link = links[n];
        put("task link ");
        put_hex(links[n], 4);
        put_char(' ');
        start(go_back, 0, 0, FL_NT);
        dump("iret");
    }
}

void test_tasks(void)
{
    good();
    bad_targets();
    bad_fields();
    bad_links();
}
