/* Alignment checks (#AC): which accesses, at which addresses; only at CPL 3, with CR0.AM and EFLAGS.AC.
 *
 * A line for each kind of access: what came at each of eight addresses ('.' done, 'A' #AC with error code 0), for user code
 * with checks on. Then the same accesses where no check is due, and what the processor reads for itself.
 * SDM vol. 3, table 6-7
 */
#include "metal32.h"

enum { CR0_AM = 1 << 18, AREA = 0x80000, VECTOR_AC = 17 };

#define ACCESSES(X)                                                                                                    \
    X(byte, "mov (%edi), %al")                                                                                         \
    X(word_read, "mov (%edi), %ax")                                                                                    \
    X(word_write, "mov %ax, (%edi)")                                                                                   \
    X(dword_read, "mov (%edi), %eax")                                                                                  \
    X(dword_write, "mov %eax, (%edi)")                                                                                 \
    X(dword_add, "add %eax, (%edi)")                                                                                   \
    X(dword_locked, "lock incl (%edi)")                                                                                \
    X(dword_xchg, "xchg %eax, (%edi)")                                                                                 \
    X(dword_bit, "bts %eax, (%edi)")                                                                                   \
    X(word_bit, "bts %ax, (%edi)")                                                                                     \
    X(quad_cmpxchg, "cmpxchg8b (%edi)")                                                                                \
    X(dword_stos, "stosl")                                                                                             \
    X(dword_movs, "mov $0x80100, %esi\n movsl")                                                                        \
    X(word_push, "mov %edi, %esp\n pushw %ax")                                                                         \
    X(dword_push, "mov %edi, %esp\n push %eax")                                                                        \
    X(dword_pop, "mov %edi, %esp\n pop %eax")                                                                          \
    X(near_call, "mov %edi, %esp\n call 1f\n1: nop")                                                                   \
    X(far_48, "lds (%edi), %eax")                                                                                      \
    X(selector_read, "mov (%edi), %es")                                                                                \
    X(selector_write, "mov %ds, (%edi)")                                                                               \
    X(single_read, "flds (%edi)\n fninit")                                                                             \
    X(double_read, "fldl (%edi)\n fninit")                                                                             \
    X(extended_read, "fldt (%edi)\n fninit")                                                                           \
    X(integer_64, "fildll (%edi)\n fninit")                                                                            \
    X(environment, "fnstenv (%edi)")                                                                                   \
    X(environment_16, "data16 fnstenv (%edi)")                                                                         \
    X(control_word, "fldcw (%edi)\n fninit")
SNIPPET_TABLE(ACCESSES);

SNIPPET(trap_in, "int $0x40");
SNIPPET(load_selector, "mov %eax, %es");
SNIPPET(call_gate, "lcall $0x68, $0");
SNIPPET(behind_gate, "mov 1(%edi), %eax");
SNIPPET(set_by_popf, "push $0x40002\n popf\n mov 1(%edi), %eax");

static void set_am(unsigned on)
{
    uint32_t cr0;

    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    cr0 = on ? cr0 | CR0_AM : cr0 & ~(uint32_t)CR0_AM;
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0));
}

static char go(const char *code, unsigned cpl, uint32_t flags, uint32_t address)
{
    struct entry e = at(code, cpl);

    e.eflags |= flags;
    e.edi = address;
    __asm__ volatile("fninit");
    run(&e);
    if (last.vector == VECTOR_AC)
        return last.error ? '!' : last.eip >= e.eip && last.eip < e.eip + 16 ? 'A' : '?';
    return outcome();
}

static void area(unsigned offset)
{
    memset((void *)(AREA - 64), 0, 256);
    *(uint32_t *)(AREA + offset + 4) = 0; /* a null selector behind a far pointer */
    *(uint16_t *)(AREA + offset) = 0;
}

static void accesses(unsigned cpl, uint32_t flags)
{
    for (unsigned n = 0; n < sizeof(snippets) / sizeof(snippets[0]); n++) {
        put(snippets[n].name);
        put_char(' ');
        for (unsigned offset = 0; offset < 8; offset++) {
            area(offset);
            put_char(go(snippets[n].code, cpl, flags, AREA + offset));
        }
        put_char('\n');
    }
}

static void one(const char *name, const char *code, unsigned cpl, uint32_t flags, uint32_t address)
{
    put(name);
    put_char(' ');
    put_char(go(code, cpl, flags, address));
    put_char(' ');
    put_hex(last.eflags & FL_AC, 8);
    put_char('\n');
}

void tests(void)
{
    put("user code with checks\n");
    set_am(1);
    accesses(3, FL_AC);
    put("the kernel with checks\n");
    accesses(0, FL_AC);
    put("user code without the flag\n");
    accesses(3, 0);
    put("user code without the mask\n");
    set_am(0);
    accesses(3, FL_AC);
    set_am(1);
    put("what else\n");
    tss.esp0 -= 3; /* frames are the processor's own writes */
    one("frame at odd address", trap_in, 3, FL_AC, 0);
    tss.esp0 += 3;
    gdt_put(S_TEST, gate_to(KCODE, (uint32_t)behind_gate, 0xec));
    tss.esp0 -= 3;
    one("gate and inner code", call_gate, 3, FL_AC, AREA);
    tss.esp0 += 3;
    {
        struct __attribute__((packed)) {
            uint16_t limit;
            void *base;
        } g = {sizeof(gdt) - 1, 0};
        uint8_t *odd = (uint8_t *)(AREA + 0x1001); /* descriptors at odd addresses */

        memcpy(odd, gdt, sizeof(gdt));
        g.base = odd; /* GDTR itself is loaded by the kernel */
        __asm__ volatile("lgdt %0" : : "m"(g));
        one("odd descriptor table", load_selector, 3, FL_AC, 0);
        tables_reset();
    }
    one("popf sets it", set_by_popf, 3, 0, AREA);
}
