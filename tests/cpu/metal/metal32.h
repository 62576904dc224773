/* What the 32-bit state-dumping image is made of: descriptor tables, running a snippet until it
 * traps, printing.
 *
 * Everything runs with flat segments and no paging. Results go to port 0xe9 as text (common.h).
 */
#ifndef KVMISH_TESTS_METAL32_H
#define KVMISH_TESTS_METAL32_H

#include "common.h"

enum { /* selectors; *_DPL + 8 * n: privilege n */
       KCODE = 0x08,
       KDATA = 0x10,
       CODE_DPL = 0x18,
       DATA_DPL = 0x38,
       S_TSS = 0x58,
       S_TSS2 = 0x60,
       S_TEST = 0x68,
       S_TEST2 = 0x70,
       S_LDT = 0x78,
       S_CODE16 = 0x80,
       S_DOWN = 0x88,
       S_DATA16 = 0x90,
       S_DF = 0x98
};
enum { F32 = 0xc000, DONE = 0x40 }; /* G and B of an access-rights word; INT that ends a snippet */
enum {
    FL_CF = 1,
    FL_TF = 0x100,
    FL_IF = 0x200,
    FL_IOPL = 0x3000,
    FL_NT = 0x4000,
    FL_VM = 0x20000,
    FL_AC = 1 << 18,
    FL_VIF = 1 << 19,
    FL_VIP = 1 << 20
};

struct entry {
    uint32_t edi, esi, ebp, unused, ebx, edx, ecx, eax, ds, es, fs, gs, eip, cs, eflags, esp, ss;
};
struct frame { /* as entries push it */
    uint32_t gs, fs, es, ds, edi, esi, ebp, unused, ebx, edx, ecx, eax, vector, error, eip, cs,
        eflags, esp, ss;
    uint32_t ves, vds, vfs, vgs;
};
struct tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, reg[8], seg[6], ldt,
        trap_iomap;
    uint8_t redirect[32], iomap[16];
};

extern struct frame last;         /* of the last trap */
extern uint32_t last_ss, last_sp; /* the stack behind its frame */
extern uint64_t gdt[32], idt[128], ldt[4];
extern struct tss tss, tss2, tss_df;
extern uint8_t user_stack[4096], inner_stack[4][4096];

uint64_t gate_to(uint32_t sel, uint32_t off, uint32_t access);
void gdt_put(unsigned sel, uint64_t d);
void tables_reset(void); /* GDT, IDT, TSS as at the start; TR loaded, LDTR null */
/* An entry at `code` with privilege cpl: flat segments, user_stack (inner_stack[0] for CPL 0). */
struct entry at(const void *code, unsigned cpl);
void run(struct entry *e); /* until a trap; then `last` */
char outcome(void); /* '.' for DONE, else a letter for the exception; its details go into the sum */
void sum(uint32_t value);
void sum_stack(unsigned words);
void report(const char *name); /* a line with the whole of `last` */

void test_loads(void);
void test_transfers(void);
void test_returns(void);
void test_gates(void);
void test_flags(void);
void test_tasks(void);
void test_vm86(void);

#endif
