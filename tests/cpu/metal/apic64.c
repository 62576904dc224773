/* Interrupts: where a waiting one gets in (STI, MOV SS, POPF, IRET, HLT), priorities, TPR, NMI and IRET; the local APIC's
 * registers, errors and timer. SDM vol. 3, ch. 6 and 10
 */
#include "metal64.h"

#include <stdbool.h>

enum { ID = 0x20, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SVR = 0xf0, ISR = 0x100, IRR = 0x200,
       ESR = 0x280, ICR = 0x300, ICR_HIGH = 0x310, LVT_TIMER = 0x320, LVT_LINT0 = 0x350, LVT_LINT1 = 0x360,
       LVT_ERROR = 0x370, COUNT = 0x380, CURRENT = 0x390, DIVIDE = 0x3e0 };
enum { IF = 0x200, SELF = 0x40000, NMI = 0x400, MASKED = 0x10000, PERIODIC = 0x20000, VECTOR = 0x31, HIGHER = 0x3f, LAST = 0x3e };

static volatile uint32_t *reg(unsigned offset) { return (volatile uint32_t *)(0xfee00000ull + offset); }

#define SNIPPETS(X)                                                                                \
    X(nops, "nop\n nop")                                                                           \
    X(sti, "sti\n nop\n nop\n nop")                                                                \
    X(sti_twice, "sti\n sti\n nop\n nop")                                                          \
    X(sti_cli, "sti\n cli\n nop\n nop")                                                            \
    X(sti_mov_ss, "mov %ss, %eax\n sti\n mov %eax, %ss\n nop\n nop")                               \
    X(popf, "pushq $0x202\n popfq\n nop\n nop")                                                    \
    X(popf_mov_ss, "mov %ss, %eax\n pushq $0x202\n popfq\n mov %eax, %ss\n nop")                   \
    X(sti_hlt, "sti\n hlt\n nop\n nop")                                                            \
    X(iret, "mov %ss, %eax\n push %rax\n lea 8(%rsp), %rcx\n push %rcx\n pushq $0x202\n"           \
            "mov %cs, %eax\n push %rax\n lea 1f(%rip), %rcx\n push %rcx\n iretq\n1: nop\n nop")    \
    X(sti_ud, "sti\n ud2")                                                                         \
    X(sti_int, "sti\n int $0x41\n nop\n nop")                                                      \
    X(cr8, "mov $3, %eax\n mov %rax, %cr8\n sti\n nop\n nop\n xor %eax, %eax\n mov %rax, %cr8\n nop\n nop")

SNIPPET_TABLE(SNIPPETS);
SNIPPET(just_iret, "iretq");

static const char *base;
static unsigned nmis; /* still to be sent from the handler */
static uint64_t nmi_rip; /* where the first came, soon after it was sent; the others come there too */

static void log_trap(struct frame *f)
{
    put_char(' ');
    put_hex(f->vector, 2);
    put_char('@');
    if (f->vector != 2) {
        put_hex(f->rip - (uint64_t)base, 2);
    } else {
        put(!nmi_rip || f->rip == nmi_rip ? "same" : "other");
        nmi_rip = f->rip;
    }
    sum(f->rflags & 0x3e7700);
    if (f->vector >= 0x20) {
        put_char('/');
        put_hex(*reg(PPR), 2);
        *reg(EOI) = 0;
    }
    if (f->vector == 2 && nmis) {
        nmis--;
        *reg(ICR_HIGH) = *reg(ID);
        *reg(ICR) = NMI;
        put_char('n');
    }
}

static void go(const char *name, const char *code, unsigned cpl, uint64_t flags)
{
    struct entry e = at(code, cpl);

    base = code;
    e.rflags |= flags;
    put(name);
    put_char(' ');
    put_hex(cpl, 1);
    run(&e);
    put(" = ");
    put_hex(last.vector, 2);
    put_char('@');
    put_hex(last.rip - (uint64_t)base, 2);
    put(" waiting ");
    put_hex(*reg(IRR + 0x10), 8);
    line_end();
    __asm__ volatile("mov %0, %%cr8" : : "r"(0ul));
    for (unsigned n = 0; n < 4; n++) { /* what still waits */
        __asm__ volatile("sti; nop; nop; cli");
        if (!*reg(IRR + 0x10))
            break;
    }
    put_char('\n');
}

static void send(unsigned what) { *reg(ICR) = what; }

static void shadows(void)
{
    put("one waits\n");
    for (unsigned n = 0; n < sizeof(snippets) / sizeof(snippets[0]); n++) {
        send(SELF | VECTOR);
        go(snippets[n].name, snippets[n].code, 0, 0);
    }
    put("two wait\n");
    for (unsigned n = 0; n < sizeof(snippets) / sizeof(snippets[0]); n++) {
        send(SELF | VECTOR);
        send(SELF | HIGHER);
        go(snippets[n].name, snippets[n].code, 0, 0);
    }
    put("user\n");
    send(SELF | VECTOR);
    go("nops", s_nops, 3, 0);
    send(SELF | VECTOR);
    go("nops with IF", s_nops, 3, IF);
    put("task priority\n");
    for (unsigned tpr = 0; tpr < 0x50; tpr += 0x8) {
        send(SELF | VECTOR);
        *reg(TPR) = tpr;
        put_hex(*reg(PPR), 2);
        go(" nops with IF", s_nops, 0, IF);
    }
}

static void nmi(void)
{
    put("nmi\n");
    for (unsigned more = 0; more < 3; more++) {
        nmis = more;
        nmi_rip = 0;
        *reg(ICR_HIGH) = *reg(ID);
        send(NMI);
        go("from the handler", s_nops, 0, 0);
    }
}

static void show(const char *name, uint32_t value)
{
    put(name);
    put_char(' ');
    put_hex(value, 8);
    put_char('\n');
}

static void registers(void)
{
    static const uint16_t offsets[] = {TPR, LDR, DFR, SVR, LVT_TIMER, 0x340, LVT_LINT0, LVT_LINT1, LVT_ERROR, DIVIDE, ICR_HIGH};

    put("registers\n");
    for (unsigned n = 0; n < sizeof(offsets) / sizeof(offsets[0]); n++) {
        uint32_t before = *reg(offsets[n]);
        show("before", before);
        *reg(offsets[n]) = offsets[n] >= LVT_TIMER && offsets[n] <= LVT_ERROR ? 0xfffff8ff & ~0xf0u : 0xffffffff;
        show("ones", *reg(offsets[n]));
        *reg(offsets[n]) = before;
    }
    *reg(TPR) = 0;
}

static uint32_t errors(void)
{
    *reg(ESR) = 0;
    return *reg(ESR);
}

static void illegal(void)
{
    put("errors\n");
    errors();
    send(SELF | 5);
    show("vector 5 to itself", errors());
    *reg(LVT_ERROR) = VECTOR;
    send(SELF | 5);
    show("with an error interrupt", errors());
    go("and its interrupt", s_sti, 0, 0);
    *reg(LVT_ERROR) = MASKED;
    *reg(0x70);
    show("an absent register", errors());
    *reg(LVT_TIMER) = 5;
    show("vector 5 in the timer", errors());
    *reg(LVT_TIMER) = MASKED;
    errors();
}

/* Until the count is 0 and, where an interrupt is due, it waits: QEMU raises it a little later. */
static void wait_zero(bool interrupt)
{
    for (unsigned n = 0; n < 10000000 && (*reg(CURRENT) || (interrupt && !*reg(IRR + 0x10))); n++)
        __asm__ volatile("pause");
    for (unsigned n = 0; n < 20000 && !interrupt; n++)
        *reg(CURRENT);
}

static void timer(void)
{
    put("timer\n");
    *reg(DIVIDE) = 0xb; /* by 1 */
    *reg(LVT_TIMER) = VECTOR;
    *reg(COUNT) = 1000;
    wait_zero(true);
    show("one shot, current", *reg(CURRENT));
    go("and its interrupt", s_sti, 0, 0);
    *reg(LVT_TIMER) = MASKED | VECTOR;
    *reg(COUNT) = 1000;
    wait_zero(false);
    go("masked", s_sti, 0, 0);
    *reg(LVT_TIMER) = VECTOR;
    go("unmasked after it expired", s_sti, 0, 0);
    *reg(COUNT) = 0xffffffff;
    show("counts", *reg(CURRENT) > 0x80000000);
    *reg(COUNT) = 0;
    show("stopped", *reg(CURRENT));
    go("and nothing comes", s_sti, 0, 0);
    *reg(LVT_TIMER) = MASKED;
}

void tests(void)
{
    uint64_t *pdpt = (uint64_t *)0x81000, *pd = (uint64_t *)0x85000;

    memset(pd, 0, 4096);
    pd[0x1f7] = 0xfee00087; /* the APIC's page */
    pdpt[3] = 0x85007;
    __asm__ volatile("outb %b0, $0x21; outb %b0, $0xa1" : : "a"(0xff));
    going_on = 1ull << 2 | 0xffffull << 48;
    on_trap = log_trap;
    gate_put(idt + 0x82, KCODE, (uint64_t)just_iret, 0xee, 0, 0);
    *reg(SVR) = 0x100 | LAST;
    *reg(LVT_LINT0) = MASKED;
    *reg(LVT_LINT1) = MASKED;
    *reg(LVT_ERROR) = MASKED;
    shadows();
    nmi();
    registers();
    illegal();
    timer();
}
