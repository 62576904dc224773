/* Long mode: segment loads, far transfers, call gates, IRET, interrupts with IST, system calls. */
#include "metal64.h"

SNIPPET(load_ss, "mov %eax, %ss");
SNIPPET(load_fs, "mov %eax, %fs\n xor %eax, %eax");
SNIPPET(do_lldt, "lldt %ax\n sldt %eax");
SNIPPET(do_ltr, "ltr %ax\n str %eax");
SNIPPET(far_jmp, "ljmp *(%rsi)");
SNIPPET(far_call, "lcall *(%rsi)");
SNIPPET(landing, "nop");
SNIPPET(do_iretq, "iretq");
SNIPPET(do_iretd, "iretl");
SNIPPET(do_lretq, "lretq");
SNIPPET(do_lret, "lretl");
SNIPPET(int41, "int $0x41");
SNIPPET(do_syscall, "syscall");
SNIPPET(do_sysret64, "sysretq");
SNIPPET(do_sysret32, "sysretl");
SNIPPET(do_sysenter, "sysenter");
SNIPPET(do_sysexit64, "sysexitq");
SNIPPET(do_sysexit32, "sysexitl");
SNIPPET(push_all, "push %fs\n pushw %gs\n popw %cx");
SNIPPET(bad_load, "mov (%rax), %ecx");
SNIPPET(bad_push, "mov %rax, %rsp\n push %rax");
SNIPPET(bad_jump, "jmp *%rax");
SNIPPET(do_popfq, "push %rax\n popfq\n pushfq\n pop %rcx\n push $2\n popfq");
#undef SNIPPET

static struct __attribute__((packed)) {
    uint32_t off;
    uint16_t sel;
} pointer;

static void matrix(const char *name, const void *code, unsigned cpl)
{
    put(name);
    put_hex(cpl, 1);
    put_char('\n');
    for (unsigned rpl = 0; rpl < 4; rpl++) {
        for (unsigned ar = 0; ar < 256; ar++) {
            struct entry e = at(code, cpl);
            gdt_put(S_TEST, descriptor(0, 0xfffff, AR_D | ar));
            e.rax = S_TEST | rpl;
            run(&e);
            put_char(outcome());
            sum(gdt[S_TEST >> 3]);
        }
        line_end();
    }
}

static void one(const char *name, const void *code, unsigned cpl, uint64_t rax)
{
    struct entry e = at(code, cpl);
    e.rax = rax;
    run(&e);
    report(name);
    tables_reset();
}

static void test_loads(void)
{
    for (unsigned cpl = 0; cpl < 4; cpl += 3) {
        matrix("mov ss cpl ", load_ss, cpl);
        matrix("mov fs cpl ", load_fs, cpl);
    }
    for (unsigned n = 0; n < 12; n++) {
        static const unsigned cpl[] = {0, 1, 3};
        put_hex(n, 1);
        one(" null ss", load_ss, cpl[n / 4], n & 3);
    }
    for (unsigned type = 0; type < 16; type++) {
        for (unsigned high = 0; high < 3; high++) {
            static const uint64_t upper[] = {0xffff8000, 0x00010000, 0x0000010000007fff};
            gdt_put(S_TEST, descriptor(0x20000, 0xff, 0x80 | type));
            gdt_put(S_TEST + 8, upper[high]);
            one("lldt", do_lldt, 0, S_TEST);
            gdt_put(S_TEST, descriptor(0x20000, 0xff, 0x80 | type));
            gdt_put(S_TEST + 8, upper[high]);
            one("ltr", do_ltr, 0, S_TEST);
        }
    }
    one("lldt null", do_lldt, 0, 3);
    one("ltr at the end", do_ltr, 0, 0xf8);
}

static void go(const void *code, unsigned cpl, uint32_t sel)
{
    struct entry e = at(code, cpl);

    pointer.off = (uint32_t)(uint64_t)landing;
    pointer.sel = (uint16_t)sel;
    e.rsi = (uint64_t)&pointer;
    memset(user_stack, 0, sizeof(user_stack));
    run(&e);
    put_char(outcome());
    for (unsigned n = 0; n < 8; n++)
        sum(((uint64_t *)last_sp)[n + 14]);
}

static const uint32_t sizes[] = {AR_L, AR_D, AR_LD, 0x8000};

static void direct(const char *name, const void *code, unsigned cpl)
{
    for (unsigned size = 0; size < 3; size++) {
        put(name);
        put_hex(cpl << 4 | size, 2);
        put_char(' ');
        for (unsigned n = 0; n < 256; n++) {
            gdt_put(S_TEST, descriptor(0, 0xfffff, sizes[size] | n));
            go(code, cpl, S_TEST | (n & 1 ? cpl : n >> 1 & 3));
        }
        line_end();
    }
}

static void call_gates(const char *name, const void *code, unsigned cpl)
{
    put(name);
    put_hex(cpl, 1);
    put_char('\n');
    for (unsigned access = 0; access < 256; access++) {
        if (access & 0x10)
            continue;
        gate_put(gdt + (S_TEST >> 3), KCODE, (uint64_t)landing | 0xffff800000000000, access, 3, 0);
        go(code, cpl, S_TEST | cpl);
    }
    line_end();
    for (unsigned size = 0; size < 4; size++) {
        for (unsigned ar = 0; ar < 256; ar++) {
            gdt_put(S_TEST2, descriptor(0, 0xfffff, sizes[size] | ar));
            gate_put(gdt + (S_TEST >> 3), S_TEST2 | (ar & 3), (uint64_t)landing, 0xec, 0, 0);
            go(code, cpl, S_TEST | 3);
        }
        line_end();
    }
    gate_put(gdt + (S_TEST >> 3), KCODE, (uint64_t)landing, 0xec, 0, 1ull << 40);
    go(code, cpl, S_TEST | 3);
    gate_put(gdt + (S_TEST >> 3), KCODE, (uint64_t)landing | 1ull << 47, 0xec, 0, 0);
    go(code, cpl, S_TEST | 3);
    gate_put(gdt + (S_TEST >> 3), KCODE, (uint64_t)landing, 0xec, 0, 0);
    tss.rsp[0] = 0x800000000000;
    if (cpl)
        go(code, 0, S_TEST);
    line_end();
    tables_reset();
}

static void test_transfers(void)
{
    for (unsigned cpl = 0; cpl < 4; cpl += 3) {
        direct("far jmp ", far_jmp, cpl);
        direct("far call ", far_call, cpl);
        call_gates("call gate ", far_call, cpl);
        call_gates("jmp gate ", far_jmp, cpl);
    }
}

static void back(const void *code, unsigned cpl, uint64_t rip, uint64_t cs, uint64_t ss)
{
    struct entry e = at(code, cpl);
    uint64_t *p = (uint64_t *)(user_stack + 256);
    uint32_t *q = (uint32_t *)p;
    unsigned n = 0;

    e.rsp = (uint64_t)p;
    if (code == do_iretq || code == do_lretq) {
        p[n++] = rip;
        p[n++] = cs;
        if (code == do_iretq)
            p[n++] = 0x3302 & ~0x3100;
        p[n++] = (uint64_t)(user_stack + 768);
        p[n++] = ss;
    } else {
        q[n++] = (uint32_t)rip;
        q[n++] = (uint32_t)cs;
        if (code == do_iretd)
            q[n++] = 2;
        q[n++] = (uint32_t)(uint64_t)(user_stack + 768);
        q[n++] = (uint32_t)ss;
    }
    run(&e);
    put_char(outcome());
}

static void test_returns(void)
{
    static const void *const how[] = {do_iretq, do_lretq, do_iretd, do_lret};
    static const char *const names[] = {"iretq ", "lretq ", "iretd ", "lretd "};

    for (unsigned k = 0; k < 4; k++) {
        for (unsigned rpl = 0; rpl < 4; rpl++) {
            uint64_t ss = rpl == 3 ? UDATA : rpl == 1 ? DATA1 : rpl ? 0 : KDATA;
            for (unsigned size = 0; size < 3; size++) {
                put(names[k]);
                put_hex(rpl << 4 | size, 2);
                put_char(' ');
                for (unsigned ar = 0; ar < 256; ar++) {
                    gdt_put(S_TEST, descriptor(0, 0xfffff, sizes[size] | ar));
                    back(how[k], 0, (uint64_t)landing, S_TEST | rpl, ss);
                }
                line_end();
            }
        }
        put(names[k]);
        for (unsigned ss = 0; ss < 4; ss++) { /* null SS */
            back(how[k], 0, (uint64_t)landing, KCODE, ss);
            back(how[k], 0, (uint64_t)landing, UCODE, ss);
            back(how[k], 0, (uint64_t)landing, CODE1, ss);
            back(how[k], 3, (uint64_t)landing, UCODE, ss);
            back(how[k], 0, (uint64_t)landing, UCODE32, ss);
        }
        for (unsigned ar = 0; ar < 256; ar++) {
            gdt_put(S_TEST, descriptor(0, 0xfffff, AR_D | ar));
            back(how[k], 0, (uint64_t)landing, UCODE, S_TEST | (ar & 1 ? 3 : ar >> 1 & 3));
        }
        if (k < 2) {
            back(how[k], 0, 1ull << 47, UCODE, UDATA);
            back(how[k], 0, 1ull << 47, KCODE, KDATA);
        }
        back(how[k], 3, (uint64_t)landing, UCODE, UDATA);
        line_end();
    }
}

static void test_gates(void)
{
    for (unsigned cpl = 0; cpl < 4; cpl += 3) {
        for (unsigned ist = 0; ist < 2; ist++) {
            put("int gate ");
            put_hex(cpl << 4 | ist, 2);
            put_char(' ');
            for (unsigned access = 0; access < 256; access++) {
                gate_put(idt + 0x82, KCODE, (uint64_t)landing, access, ist, 0);
                go(int41, cpl, 0);
            }
            line_end();
        }
        for (unsigned size = 0; size < 4; size++) {
            put("int target ");
            put_hex(cpl << 4 | size, 2);
            put_char(' ');
            for (unsigned ar = 0; ar < 256; ar++) {
                gdt_put(S_TEST, descriptor(0, 0xfffff, sizes[size] | ar));
                gate_put(idt + 0x82, S_TEST | (ar & 3), (uint64_t)landing, 0xee, 0, 0);
                go(int41, cpl, 0);
            }
            line_end();
        }
        tables_reset();
        gate_put(idt + 0x82, KCODE, (uint64_t)landing | 1ull << 47, 0xee, 0, 0);
        one("int to nowhere", int41, cpl, 0);
        one("load", bad_load, cpl, 1ull << 47);
        one("push", bad_push, cpl ? 3 : 1, 1ull << 63);
        one("jump", bad_jump, cpl, 1ull << 47);
        one("popfq", do_popfq, cpl, 0x247ed7 & ~0x100ul);
        one("push sreg", push_all, cpl, 0);
    }
}

static void call(const char *name, const void *code, uint64_t cs, uint64_t rcx, uint64_t rdx,
                 uint64_t r11)
{
    unsigned cpl = cs & 3;
    struct entry e = at(code, cpl ? 3 : 0);

    e.cs = cs;
    e.rcx = rcx;
    e.rdx = rdx;
    e.rflags |= r11 & 0x200;
    run(&e);
    report(name);
}

static void test_syscalls(void)
{
    write_msr(STAR, (uint64_t)(UCODE32) << 48 | (uint64_t)KCODE << 32 | 0x1234);
    write_msr(LSTAR, (uint64_t)landing | 0xffff800000000000);
    write_msr(CSTAR, (uint64_t)landing);
    write_msr(FMASK, 0x200);
    call("syscall", do_syscall, UCODE, 0, 0, 0x200);
    call("syscall cpl 0", do_syscall, KCODE, 0, 0, 0);
    call("syscall compat", do_syscall, UCODE32, 0, 0, 0);
    call("sysret 64", do_sysret64, KCODE, (uint64_t)landing, 0, 0);
    call("sysret 32", do_sysret32, KCODE, (uint64_t)landing, 0, 0);
    call("sysret cpl 3", do_sysret64, UCODE, (uint64_t)landing, 0, 0);
    call("sysret nowhere", do_sysret64, KCODE, 1ull << 47, 0, 0);
    write_msr(SYSENTER_CS, KCODE);
    write_msr(SYSENTER_ESP, (uint64_t)(inner_stack[1] + 512));
    write_msr(SYSENTER_EIP, (uint64_t)landing);
    call("sysenter", do_sysenter, UCODE, 0, 0, 0x200);
    call("sysenter compat", do_sysenter, UCODE32, 0, 0, 0);
    call("sysexit 64", do_sysexit64, KCODE, (uint64_t)(user_stack + 512), (uint64_t)landing, 0);
    call("sysexit 32", do_sysexit32, KCODE, (uint64_t)(user_stack + 512), (uint64_t)landing, 0);
    call("sysexit nowhere", do_sysexit64, KCODE, 0, 1ull << 47, 0);
    call("sysexit cpl 3", do_sysexit64, UCODE, 0, 0, 0);
    write_msr(SYSENTER_CS, 0);
    call("sysenter null", do_sysenter, UCODE, 0, 0, 0);
    call("sysexit null", do_sysexit64, KCODE, 0, 0, 0);
}

void tests(void)
{
    test_loads();
    test_transfers();
    test_returns();
    test_gates();
    test_syscalls();
}
