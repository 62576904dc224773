/* Guest memory that is gone without a word: a signal handler as kvm/backing.c has it, for a processor without a machine. */
#ifndef TESTS_JIT_GONE_H
#define TESTS_JIT_GONE_H

#include <signal.h>
#include <ucontext.h>

#include "../isa/emu.h"
#include "mmu/reach.h"

static volatile sig_atomic_t stopped; /* by memory that is gone */
static uint8_t *gone_page;

static _Noreturn void gone_leave(void) { cpu_leave(emu, EXIT_UNBACKED); }

static void on_gone(int sig, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    uintptr_t on = reach_recover((uintptr_t)regs[REG_RIP]);

    stopped = 1;
    if ((uintptr_t)info->si_addr - (uintptr_t)gone_page >= 4096) {
        signal(sig, SIG_DFL); /* a fault of our own */
    } else if (on) {
        regs[REG_RIP] = (greg_t)on;
    } else if (emu->translator->fault(emu, regs)) {
        emu->kick = 1;
    } else {
        regs[REG_RSP] = (regs[REG_RSP] - 128) / 16 * 16 - 8;
        regs[REG_RIP] = (greg_t)gone_leave;
    }
}

static void take_away(void) { mprotect(gone_page, 4096, PROT_NONE); }

static void gone_watch(uint8_t *page)
{
    static const struct sigaction sa = {.sa_sigaction = on_gone, .sa_flags = SA_SIGINFO | SA_NODEFER};

    sigaction(SIGSEGV, &sa, NULL);
    stopped = 0;
    gone_page = page;
}

static inline void gone_begin(uint8_t *page)
{
    gone_watch(page);
    take_away();
}

static void gone_end(void)
{
    mprotect(gone_page, 4096, PROT_READ | PROT_WRITE);
    emu->kick = 0;
    tlb_flush_all(emu);
}

#endif
