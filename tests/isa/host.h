/* Runs one instruction on the host processor itself, with all registers of our choice.
 *
 * The state is loaded, the instruction is followed by INT3, and whatever signal comes (SIGTRAP, or that of a fault)
 * holds the state afterwards in its frame.
 */
#ifndef TESTS_ISA_HOST_H
#define TESTS_ISA_HOST_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <asm/prctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include "reasons.h"
#include "state.h"

extern uint64_t host_gpr[16], host_flags, host_target, host_stack;
extern uint32_t host_far[2], host_xcr0, host_sel[3];
extern uint16_t host_seg[4]; /* DS ES FS GS afterwards */
extern uint64_t host_base[2], host_home[2]; /* of FS and GS: afterwards; the program's own */
extern uint32_t host_fsgsbase;
extern uint8_t host_xsave[];
void host_run_asm(void);
extern char host_return[];
void host_signal_entry(int sig, siginfo_t *info, void *context);
void host_signal(int sig, siginfo_t *info, void *context);

__asm__(".data\n.balign 64\nhost_xsave: .zero 1024\n"
        "host_gpr: .zero 128\nhost_flags: .quad 0\nhost_target: .quad 0\nhost_stack: .quad 0\n"
        "host_far: .long 0, 0\nhost_xcr0: .long 0\nhost_sel: .long 0, 0, 0\n"
        "host_seg: .word 0, 0, 0, 0\n.balign 8\nhost_base: .quad 0, 0\nhost_home: .quad 0, 0\nhost_fsgsbase: .long 0\n"
        ".text\n.globl host_run_asm\nhost_run_asm:\n"
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, host_stack(%rip)\n"
        "mov host_sel(%rip), %eax\nmov %eax, %ds\nmov host_sel+4(%rip), %eax\nmov %eax, %es\n"
        "mov host_xcr0(%rip), %eax\nxor %edx, %edx\nxrstor64 host_xsave(%rip)\n"
        "mov host_gpr+0(%rip), %rax\nmov host_gpr+8(%rip), %rcx\nmov host_gpr+16(%rip), %rdx\n"
        "mov host_gpr+24(%rip), %rbx\nmov host_gpr+40(%rip), %rbp\n"
        "mov host_gpr+48(%rip), %rsi\nmov host_gpr+56(%rip), %rdi\nmov host_gpr+64(%rip), %r8\n"
        "mov host_gpr+72(%rip), %r9\nmov host_gpr+80(%rip), %r10\nmov host_gpr+88(%rip), %r11\n"
        "mov host_gpr+96(%rip), %r12\nmov host_gpr+104(%rip), %r13\nmov host_gpr+112(%rip), %r14\n"
        "mov host_gpr+120(%rip), %r15\n"
        "cmpl $0, host_far+4(%rip)\njne 1f\n"
        "pushq host_flags(%rip)\npopfq\nmov host_gpr+32(%rip), %rsp\njmp *host_target(%rip)\n"
        "1: pushq host_flags(%rip)\npopfq\n"
        "mov host_sel+8(%rip), %ss\nmov host_gpr+32(%rip), %rsp\nljmp *host_far(%rip)\n"
        ".globl host_signal_entry\nhost_signal_entry:\n" /* alignment checks off before any C */
        "pushfq\nandl $~0x40000, (%rsp)\npopfq\n"
        "movw %ds, host_seg(%rip)\nmovw %es, host_seg+2(%rip)\nmovw %fs, host_seg+4(%rip)\nmovw %gs, host_seg+6(%rip)\n"
        "cmpl $0, host_fsgsbase(%rip)\nje 2f\n"
        "rdfsbase %rax\nmov %rax, host_base(%rip)\nrdgsbase %rax\nmov %rax, host_base+8(%rip)\n"
        "xor %eax, %eax\nmov %eax, %fs\nmov %eax, %gs\n"
        "mov host_home(%rip), %rax\nwrfsbase %rax\nmov host_home+8(%rip), %rax\nwrgsbase %rax\n"
        "2: jmp host_signal\n"
        "host_return:\nmov host_stack(%rip), %rsp\ncld\nfninit\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");

static struct state *host_result;
static uint8_t *host_code;
static const struct icase *host_case; /* being tried */
static volatile sig_atomic_t host_running;

void host_signal(int sig, siginfo_t *info, void *context)
{
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    uint8_t *fp = (uint8_t *)uc->uc_mcontext.fpregs;
    struct state *s = host_result;
    uint64_t bv;

    (void)info;
    if (!host_running) {
        fprintf(stderr, "signal %d outside of a host run, rip %llx; case: ", sig, (unsigned long long)g[REG_RIP]);
        for (int k = 0; host_case && k < host_case->len; k++)
            fprintf(stderr, "%02x ", host_case->bytes[k]);
        _exit(3);
    }
    for (int k = 0; k < 16; k++)
        s->gpr[k] = g[order[k]];
    if ((g[REG_CSGSFS] & 0xffff) != 0x33) /* above bit 31 the kernel's way out to a 16-bit stack leaves its mark */
        s->gpr[4] = (uint32_t)s->gpr[4];
    s->sel[0] = host_seg[1];
    s->sel[1] = g[REG_CSGSFS] & 0xffff;
    s->sel[2] = (uint64_t)g[REG_CSGSFS] >> 48;
    s->sel[3] = host_seg[0];
    s->sel[4] = host_seg[2];
    s->sel[5] = host_seg[3];
    s->fs_base = host_base[0];
    s->gs_base = host_base[1];
    s->rip = g[REG_RIP];
    s->rflags = g[REG_EFL] & (ARITH_FLAGS | DF_FLAG);
    s->vector = g[REG_TRAPNO];
    s->error = g[REG_ERR];
    s->cr2 = s->vector == 14 ? g[REG_CR2] : 0;
    memcpy(s->fx, fp, 160);
    memcpy(&bv, fp + 512, 8);
    s->in_use = bv & 7;
    if (!(bv & 1)) { /* in its initial state */
        memset(s->fx, 0, 24);
        memset(s->fx + 32, 0, 128);
        s->fx[0] = 0x7f;
        s->fx[1] = 3;
    }
    for (int k = 0; k < 16; k++) {
        memset(s->ymm[k], 0, 32);
        if (bv & 2)
            memcpy(s->ymm[k], fp + 160 + 16 * k, 16);
        if (bv & 4)
            memcpy(s->ymm[k] + 16, fp + 576 + 16 * k, 16);
    }
    g[REG_RIP] = (greg_t)host_return;
    g[REG_EFL] = 0x202;
    g[REG_CSGSFS] = (g[REG_CSGSFS] & 0xffffffff0000ll) | 0x33 | 0x2bll << 48;
    uint32_t mxcsr = 0x1f80;
    memcpy(fp + 24, &mxcsr, 4);
    host_running = 0;
}

/* With guards around it. */
static uint8_t *host_map(uint64_t at, uint64_t bytes, int rights)
{
    uint8_t *whole = (uint8_t *)at - GUARD_BYTES;

    if (mmap(whole, bytes + 2 * GUARD_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) !=
            whole ||
        mprotect((void *)at, bytes, rights)) {
        perror("mmap");
        exit(3);
    }
    return (uint8_t *)at;
}

static void host_create(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    size_t stack_bytes = 1 << 16;
    stack_t ss = {.ss_sp = malloc(stack_bytes), .ss_size = stack_bytes};
    struct sigaction sa = {.sa_sigaction = host_signal_entry, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    uint8_t *data = (uint8_t *)(uintptr_t)DATA_ADDR;

    host_fsgsbase = host_has_fsgsbase();
    if (host_fsgsbase)
        __asm__("rdfsbase %0" : "=r"(host_home[0]));
    host_home[1] = GS_BASE;
    uint32_t high;
    __asm__("xgetbv" : "=a"(host_xcr0), "=d"(high) : "c"(0));
    host_xcr0 &= 7;
    sigaltstack(&ss, NULL);
    for (unsigned k = 0; k < sizeof(signals) / sizeof(signals[0]); k++)
        sigaction(signals[k], &sa, NULL);
    host_code = host_map(CODE_ADDR, CODE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC);
    host_map(DATA_ADDR, DATA_BYTES, PROT_READ | PROT_WRITE);
    host_map(TARGET_ADDR, 4096, PROT_NONE);
    if (syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE)) {
        perror("arch_prctl");
        exit(3);
    }
    memset(host_code, 0xcc, CODE_BYTES);
    for (unsigned k = 0; k < DATA_BYTES; k++)
        data[k] = k * 7;
    munmap(data + DATA_HOLE, 4096);
    mprotect(data + DATA_READONLY, 4096, PROT_READ);
}

/* Runs c->bytes at c->before.rip. vector -1 when it went through. */
static void host_run(const struct icase *c, struct state *after)
{
    uint8_t *at = (uint8_t *)(uintptr_t)(c->code_base + c->before.rip);
    uint64_t bv = host_xcr0 & c->before.in_use, room = CODE_ADDR + CODE_BYTES - c->code_base - c->before.rip;
    unsigned len = c->len + c->tail < room ? c->len + c->tail : (unsigned)room;

    host_far[0] = c->before.rip;
    host_far[1] = c->mode != 64 ? c->cs : 0;
    host_sel[0] = c->ds;
    host_sel[1] = c->es;
    host_sel[2] = c->ss;
    memcpy(at, c->bytes, len);
    memset(host_xsave, 0, 576);
    memcpy(host_xsave, c->before.fx, 160);
    memcpy(host_xsave + 512, &bv, 8);
    for (int k = 0; k < 16; k++) {
        memcpy(host_xsave + 160 + 16 * k, c->before.ymm[k], 16);
        memcpy(host_xsave + 576 + 16 * k, c->before.ymm[k] + 16, 16);
    }
    memcpy(host_gpr, c->before.gpr, sizeof(c->before.gpr));
    host_flags = c->before.rflags | 0x202;
    host_target = c->before.rip;
    memset(after, 0, sizeof(*after));
    host_result = after;
    host_running = 1;
    host_run_asm();
    state_normalise(c, after);
    memset(at, 0xcc, len);
}

#endif
