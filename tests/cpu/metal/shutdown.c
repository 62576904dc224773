/* Faults that cannot be delivered, up to shutdown (a triple fault), and others that just can. SDM vol. 3, 6.15, #DF
 *
 * HOW says which; the image ends with "end" where the processor goes on. For 32-bit and for 64-bit code.
 */
#ifdef __x86_64__
#include "metal64.h"
#define IP rip
#define SP rsp
typedef uint64_t word;
#else
#include "metal32.h"
#define IP eip
#define SP esp
typedef uint32_t word;
#endif

enum { NO_IDT, NO_GATES, NO_DF_GATE, NO_STACK, DF_STACK_GONE, BUSY_DF_TASK, IDT_ABSENT,
       IN_DF_HANDLER, UD_ALONE, CONTRIBUTORY };

SNIPPET(undefined, "ud2");
SNIPPET(divide, "xor %ecx, %ecx\n div %ecx");
#ifdef __x86_64__
SNIPPET(bad_stack, "movabs $0x8000000000000000, %rsp\n push %rax");
#else
SNIPPET(bad_stack, "xor %esp, %esp\n mov $0x10, %eax\n ud2");
#endif
SNIPPET(df_handler, "ud2"); /* a fault there is a first one again */

static void no_idt(unsigned limit, word base)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        word base;
    } none = {(uint16_t)limit, base};

    __asm__ volatile("lidt %0" : : "m"(none));
}

static void gate(unsigned vector, const void *code, unsigned access)
{
#ifdef __x86_64__
    gate_put(idt + 2 * vector, KCODE, (word)code, access, 0, 0);
#else
    idt[vector] = gate_to(KCODE, (word)code, access);
#endif
}

static void go(const void *code, unsigned cpl)
{
    struct entry e = at(code, cpl);

    put("before\n");
    run(&e);
    put_char(outcome());
    report("");
    line_end();
}

void tests(void)
{
    switch (HOW) {
    case NO_IDT: no_idt(0, 0); go(undefined, 0); break;
    case NO_GATES: memset(idt, 0, sizeof(idt)); go(undefined, 3); break;
    case NO_DF_GATE: /* #NP for the gate of #UD, then none for #DF */
        gate(6, 0, 0x0e);
        gate(11, 0, 0x0e);
        gate(8, 0, 0x0e);
        go(undefined, 0);
        break;
#ifdef __x86_64__
    case NO_STACK: go(bad_stack, 0); break; /* #SS, whose frame has no place either */
    case DF_STACK_GONE: /* the stack that the IST names for #DF */
        gate_put(idt + 16, KCODE, (word)undefined, 0x8e, 2, 0);
        tss.ist[1] = 1ull << 63;
        go(bad_stack, 0);
        break;
    case IDT_ABSENT: no_idt(0xfff, 1ull << 46); go(undefined, 0); break; /* #PF in reading the gates */
#else
    case BUSY_DF_TASK:
        gdt_put(S_DF, descriptor((word)&tss_df, 0x67, 0x8b));
        idt[8] = gate_to(S_DF, 0, 0x85);
        gate(6, 0, 0x0e);
        gate(11, 0, 0x0e);
        go(undefined, 0);
        break;
#endif
    case IN_DF_HANDLER: /* #UD, whose handler #NP cannot have: #DF; in its handler #UD, now whole */
        gate(13, 0, 0x0e);
        gate(11, 0, 0x0e);
        gate(8, df_handler, 0x8e);
        no_idt(sizeof(idt) - 1, (word)idt);
        gate(0, 0, 0x0e);
        go(divide, 0);
        break;
    case UD_ALONE: /* a benign one, then a contributory one: one after the other */
        gate(6, 0, 0x0e);
        go(undefined, 0);
        break;
    case CONTRIBUTORY: /* #DE, whose gate is absent: #NP is contributory too */
        gate(0, 0, 0x0e);
        go(divide, 3);
        break;
    default: break;
    }
}
