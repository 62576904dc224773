/* The 32-bit image's frame: tables, traps. See metal32.h. */
#include "metal32.h"

struct frame last;
uint32_t last_ss, last_sp;
uint64_t gdt[32], idt[128], ldt[4];
struct tss tss, tss2, tss_df;
uint8_t user_stack[4096] __attribute__((aligned(16))),
    inner_stack[4][4096] __attribute__((aligned(16)));
extern const char entries[];
void enter(struct entry *e);
void resume(void);
int main(void);
void trap(uint32_t ss, struct frame *f);

/* ---- output --------------------------------------------------------------------------------- */

void sum(uint32_t value) { sum32(value); }

void sum_stack(unsigned words)
{
    for (unsigned n = 0; n < words; n++)
        sum(((uint32_t *)last_sp)[n]);
}

char outcome(void)
{
    static const char letters[] = "0DNBO5UM8cTNSGP";

    sum(last.error);
    sum(last.eip);
    sum(last.cs);
    sum(last.eflags &
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
    put_hex(last.eip, 8);
    put(" fl ");
    put_hex(last.eflags & ~0x10000u, 6);
    put(" sp ");
    put_hex(last_ss, 4);
    put_char(':');
    put_hex(last_sp, 8);
    put(" ax ");
    put_hex(last.eax, 8);
    put(" ds ");
    put_hex(last.ds, 4);
    put(" es ");
    put_hex(last.es, 4);
    put(" fs ");
    put_hex(last.fs, 4);
    put(" gs ");
    put_hex(last.gs, 4);
    put_char('\n');
}

/* ---- tables ---------------- */

uint64_t gate_to(uint32_t sel, uint32_t off, uint32_t access)
{
    uint32_t low = (off & 0xffff) | sel << 16,
             high = (access & 8 ? off & 0xffff0000 : 0) | access << 8;
    return (uint64_t)high << 32 | low;
}

void gdt_put(unsigned sel, uint64_t d) { gdt[sel >> 3] = d; }

static void load_tables(void)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        void *base;
    } g = {sizeof(gdt) - 1, gdt}, i = {sizeof(idt) - 1, idt};

    __asm__ volatile("lgdt %0; lidt %1" : : "m"(g), "m"(i));
    __asm__ volatile("ljmp %0, $1f; 1: mov %1, %%ds; mov %1, %%es; mov %1, %%ss"
                     :
                     : "i"(KCODE), "r"(KDATA));
    __asm__ volatile("lldt %w0; ltr %w1" : : "r"(0), "r"(S_TSS));
}

void tables_reset(void)
{
    memset(gdt, 0, sizeof(gdt));
    gdt_put(KCODE, descriptor(0, 0xfffff, F32 | 0x9b));
    gdt_put(KDATA, descriptor(0, 0xfffff, F32 | 0x93));
    for (unsigned n = 0; n < 4; n++) {
        gdt_put(CODE_DPL + 8 * n, descriptor(0, 0xfffff, F32 | 0x9b | n << 5));
        gdt_put(DATA_DPL + 8 * n, descriptor(0, 0xfffff, F32 | 0x93 | n << 5));
    }
    gdt_put(S_TSS, descriptor((uint32_t)&tss, sizeof(tss) - 1, 0x89));
    gdt_put(S_TSS2, descriptor((uint32_t)&tss2, sizeof(tss2) - 1, 0x89));
    gdt_put(S_DF, descriptor((uint32_t)&tss_df, 0x67, 0x89));
    gdt_put(S_LDT, descriptor((uint32_t)ldt, sizeof(ldt) - 1, 0x82));
    for (unsigned n = 0; n < 128; n++)
        idt[n] = gate_to(KCODE, (uint32_t)entries + 16 * n, n >= DONE ? 0xee : 0x8e);
    memset(&tss, 0, sizeof(tss));
    tss.esp0 = (uint32_t)(inner_stack[0] + 2048);
    tss.ss0 = KDATA;
    tss.esp1 = (uint32_t)(inner_stack[1] + 2048);
    tss.ss1 = DATA_DPL + 8 + 1;
    tss.esp2 = (uint32_t)(inner_stack[2] + 2048);
    tss.ss2 = DATA_DPL + 16 + 2;
    tss.trap_iomap = (uint32_t)(tss.iomap - (uint8_t *)&tss) << 16;
    memset(tss.iomap, 0xff, sizeof(tss.iomap));
    load_tables();
}

/* ---- running ---------------- */

struct entry at(const void *code, unsigned cpl)
{
    uint32_t data = (cpl == 3 ? DATA_DPL + 24 : DATA_DPL + 8 * cpl) | cpl;
    return (struct entry){.eip = (uint32_t)code,
                          .cs = (CODE_DPL + 8 * cpl) | cpl,
                          .eflags = 2,
                          .ss = data,
                          .ds = data,
                          .es = data,
                          .esp = (uint32_t)(cpl ? user_stack + 2048 : inner_stack[3] + 2048)};
}

void run(struct entry *e)
{
    memset(&last, 0, sizeof(last));
    memset(user_stack, 0, sizeof(user_stack));
    memset(inner_stack, 0, sizeof(inner_stack));
    enter(e);
}

/* Called by the entries; does not return to the code that trapped. */
void trap(uint32_t ss, struct frame *f)
{
    uint32_t bytes = f->eflags & FL_VM ? sizeof(*f) : sizeof(*f) - 16;

    last_ss = ss & 0xffff;
    if (!(f->eflags & FL_VM) && (f->cs & 3) == (last_ss & 3))
        bytes -= 8; /* same level: no SS:ESP */
    memcpy(&last, f, bytes);
    last.gs &= 0xffff;
    last.fs &= 0xffff;
    last.es &= 0xffff;
    last.ds &= 0xffff;
    last.cs &= 0xffff;
    last_sp = (uint32_t)f + bytes;
}

int main(void)
{
    tables_reset();
    tests();
    put("end\n");
    return 0;
}
