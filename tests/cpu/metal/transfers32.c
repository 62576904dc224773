/* Far JMP and CALL to segments and through call gates: every access-rights byte, privilege and
 * presence. */
#include "metal32.h"

SNIPPET(far_jmp, "ljmp *(%esi)");
SNIPPET(far_call, "lcall *(%esi)");
SNIPPET(landing, "nop");
SNIPPET(far_call16, "lcallw *(%edi)");

static struct __attribute__((packed)) {
    uint32_t off;
    uint16_t sel;
} pointer;
static uint16_t pointer16[2];

static void go(const void *code, unsigned cpl, uint32_t sel)
{
    struct entry e = at(code, cpl);

    pointer.off = (uint32_t)landing;
    pointer.sel = (uint16_t)sel;
    pointer16[0] = (uint16_t)(uint32_t)landing;
    pointer16[1] = (uint16_t)sel;
    e.esi = (uint32_t)&pointer;
    e.edi = (uint32_t)pointer16;
    run(&e);
    put_char(outcome());
    if (last.vector == DONE)
        sum_stack(6);
}

static void direct(const char *name, const void *code, unsigned cpl)
{
    put(name);
    put_hex(cpl, 1);
    put_char('\n');
    for (unsigned rpl = 0; rpl < 4; rpl++) {
        for (unsigned ar = 0; ar < 256; ar++) {
            if ((ar & 0x15) == 1 || (ar & 0x1f) == 5)
                continue; /* TSS, task gate */
            gdt_put(S_TEST, descriptor(0, 0xfffff, F32 | ar));
            go(code, cpl, S_TEST | rpl);
        }
        line_end();
    }
}

/* The gate's own rights, to code of privilege 0. */
static void gates(const char *name, const void *code, unsigned cpl, unsigned target)
{
    put(name);
    put_hex(cpl, 1);
    put_char(' ');
    for (unsigned n = 0; n < 256; n++) {
        unsigned type = n & 8 ? 12 : 4, dpl = n >> 4 & 3, rpl = n >> 6;
        gdt_put(S_TEST, gate_to(target, (uint32_t)landing, (n & 7 ? 0x80 : 0) | dpl << 5 | type) |
                            (uint64_t)(n & 3) << 32);
        go(code, cpl, S_TEST | rpl);
    }
    line_end();
}

/* The rights of the gate's target. */
static void targets(const char *name, const void *code, unsigned cpl)
{
    put(name);
    put_hex(cpl, 1);
    put_char(' ');
    for (unsigned ar = 0; ar < 256; ar++) {
        gdt_put(S_TEST2, descriptor(0, 0xfffff, F32 | ar));
        gdt_put(S_TEST, gate_to(S_TEST2 | (ar & 3), (uint32_t)landing, 0xec) | 3ull << 32);
        go(code, cpl, S_TEST | 3);
    }
    line_end();
}

/* The inner stack: SS of the TSS for privilege 1 (so that the #TS itself finds a good one). */
static void stacks(void)
{
    for (unsigned rpl = 0; rpl < 4; rpl++) {
        put("gate stack ");
        for (unsigned ar = 0; ar < 256; ar++) {
            gdt_put(S_TEST2, descriptor(0, 0xfffff, F32 | ar));
            gdt_put(S_TEST, gate_to(CODE_DPL + 8, (uint32_t)landing, 0xec) | 1ull << 32);
            tss.ss1 = S_TEST2 | rpl;
            go(far_call, 3, S_TEST | 3);
        }
        line_end();
    }
    tables_reset();
    gdt_put(S_TEST, gate_to(CODE_DPL + 8, (uint32_t)landing, 0xec) | 3ull << 32);
    put("gate stack edges ");
    tss.ss1 = 0;
    go(far_call, 3, S_TEST | 3);
    tss.ss1 = 0x101;
    go(far_call, 3, S_TEST | 3);
    tss.ss1 = S_TEST2 | 1;
    for (unsigned n = 0; n < 40; n += 3) {
        gdt_put(S_TEST2, descriptor((uint32_t)user_stack, 0xfff, 0xb2 | (n & 1 ? 0x4000 : 0)));
        tss.esp1 = n;
        go(far_call, 3, S_TEST | 3);
    }
    for (unsigned n = 0; n < 32; n++) { /* room below an expand-down limit */
        gdt_put(S_TEST2, descriptor((uint32_t)inner_stack[1] - 0x8000, 0x8000 + n, 0xb6 | 0x4000));
        tss.esp1 = 0x8020;
        go(far_call, 3, S_TEST | 3);
    }
    line_end();
    tables_reset();
}

void test_transfers(void)
{
    memcpy((void *)((uint32_t)landing & 0xffff), landing, 8); /* what a 16-bit gate reaches */
    for (unsigned cpl = 0; cpl < 4; cpl += 3) {
        direct("far jmp cpl ", far_jmp, cpl);
        direct("far call cpl ", far_call, cpl);
    }
    direct("far call16 cpl ", far_call16, 3);
    for (unsigned cpl = 0; cpl < 4; cpl++) {
        gates("call gate cpl ", far_call, cpl, CODE_DPL);
        gates("jmp gate cpl ", far_jmp, cpl, CODE_DPL + 8 * cpl);
        targets("call gate target cpl ", far_call, cpl);
        targets("jmp gate target cpl ", far_jmp, cpl);
    }
    stacks();
}
