/* The long-mode image's frame: tables, traps. See metal64.h. */
#include "metal64.h"

struct frame last;
uint64_t last_sp;
uint32_t last_ss;
uint64_t gdt[32], idt[256], ldt[4];
struct tss tss;
uint8_t user_stack[1024] __attribute__((aligned(16))),
    inner_stack[4][1024] __attribute__((aligned(16)));
extern const char entries[];
void enter(struct entry *e);
struct frame *trap(struct frame *f, uint32_t ss);
int main(void);
uint64_t going_on;
void (*on_trap)(struct frame *f);
static unsigned traps;

void sum(uint64_t value)
{
    sum32((uint32_t)value);
    sum32((uint32_t)(value >> 32));
}

char outcome(void)
{
    static const char letters[] = "0DNBO5UM8cTNSGP";

    sum(last.error);
    sum(last.rip);
    sum(last.cs);
    sum(last.ss);
    sum(last.rsp);
    sum(last_sp);
    sum(last_ss);
    sum(last.rflags &
        0x3e7700); /* without the arithmetic flags, and RF, which QEMU TCG never saves */
    if (last.vector == DONE)
        return '.';
    return last.vector <= 14 ? letters[last.vector] : '?';
}

void report(const char *name)
{
    put(name);
    put(" vec ");
    put_hex(last.vector, 2);
    put(" err ");
    put_hex(last.error, 4);
    put(" at ");
    put_hex(last.cs, 4);
    put_char(':');
    put_hex(last.rip, 16);
    put(" fl ");
    put_hex(last.rflags & ~0x10000ul, 6);
    put(" sp ");
    put_hex(last.ss, 4);
    put_char(':');
    put_hex(last.rsp, 16);
    put(" handler ");
    put_hex(last_ss, 4);
    put_char(':');
    put_hex(last_sp, 16);
    put(" ax ");
    put_hex(last.rax, 16);
    put(" cx ");
    put_hex(last.rcx, 16);
    put_char('\n');
}

void gdt_put(unsigned sel, uint64_t d) { gdt[sel >> 3] = d; }

/* `high`: bits of the upper half beyond the offset. */
void gate_put(uint64_t *at, uint32_t sel, uint64_t off, uint32_t access, unsigned ist,
              uint64_t high)
{
    at[0] = (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)ist << 32 | (uint64_t)access << 40 |
            (off >> 16 & 0xffff) << 48;
    at[1] = off >> 32 | high;
}

void write_msr(uint32_t index, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

uint64_t read_msr(uint32_t index)
{
    uint32_t low, high;

    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (uint64_t)high << 32 | low;
}

static void load_tables(void)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        void *base;
    } g = {sizeof(gdt) - 1, gdt}, i = {sizeof(idt) - 1, idt};

    __asm__ volatile("lgdt %0; lidt %1" : : "m"(g), "m"(i));
    __asm__ volatile("pushq %0; pushq $1f; lretq; 1: mov %1, %%ds; mov %1, %%es; mov %1, %%ss; mov "
                     "%1, %%fs; mov %1, %%gs"
                     :
                     : "i"(KCODE), "r"(KDATA));
    __asm__ volatile("lldt %w0; ltr %w1" : : "r"(0), "r"(S_TSS));
}

void tables_reset(void)
{
    memset(gdt, 0, sizeof(gdt));
    memset(&tss, 0, sizeof(tss));
    gdt_put(KCODE, descriptor(0, 0xfffff, AR_L | 0x9b));
    gdt_put(KDATA, descriptor(0, 0xfffff, AR_D | 0x93));
    gdt_put(UCODE32, descriptor(0, 0xfffff, AR_D | 0xfb));
    gdt_put(UDATA, descriptor(0, 0xfffff, AR_D | 0xf3));
    gdt_put(UCODE, descriptor(0, 0xfffff, AR_L | 0xfb));
    gdt_put(KCODE32, descriptor(0, 0xfffff, AR_D | 0x9b));
    gdt_put(DATA1, descriptor(0, 0xfffff, AR_D | 0xb3));
    gdt_put(CODE1, descriptor(0, 0xfffff, AR_L | 0xbb));
    gdt_put(S_TSS, descriptor((uint32_t)(uint64_t)&tss, sizeof(tss) - 1, 0x89));
    for (unsigned n = 0; n < 128; n++)
        gate_put(idt + 2 * n, KCODE, (uint64_t)entries + 16 * n, n >= DONE ? 0xee : 0x8e, 0, 0);
    tss.rsp[0] = (uint64_t)(inner_stack[0] + 512);
    tss.rsp[1] = (uint64_t)(inner_stack[1] + 512);
    tss.rsp[2] = (uint64_t)(inner_stack[2] + 512);
    tss.ist[0] = (uint64_t)(inner_stack[3] + 509);
    tss.iomap = 0xffff;
    load_tables();
}

struct entry at(const void *code, unsigned cpl)
{
    return (struct entry){.rip = (uint64_t)code,
                          .cs = cpl == 3 ? UCODE
                                : cpl    ? CODE1
                                         : KCODE,
                          .rflags = 2,
                          .rsp = (uint64_t)(user_stack + 512),
                          .ss = cpl == 3 ? UDATA
                                : cpl    ? DATA1
                                         : KDATA};
}

void run(struct entry *e)
{
    traps = 0;
    memset(&last, 0, sizeof(last));
    memset(inner_stack, 0, sizeof(inner_stack));
    enter(e);
}

/* Called by the entries; NULL ends the snippet. */
struct frame *trap(struct frame *f, uint32_t ss)
{
    memcpy(&last, f, sizeof(last));
    last_sp = (uint64_t)f;
    last_ss = ss & 0xffff;
    if (!(going_on >> f->vector & 1) || ++traps > 40)
        return 0;
    on_trap(f);
    return f;
}

int main(void)
{
    tables_reset();
    tests();
    put("end\n");
    return 0;
}
