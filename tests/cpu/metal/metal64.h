/* What the long-mode state-dumping image is made of. See metal32.h, its 32-bit sister. */
#ifndef KVMISH_TESTS_METAL64_H
#define KVMISH_TESTS_METAL64_H

#include "common.h"

enum { /* selectors; SYSCALL wants KCODE, KDATA in a row, SYSRET UCODE32, UDATA, UCODE */
       KCODE = 0x08,
       KDATA = 0x10,
       UCODE32 = 0x18 + 3,
       UDATA = 0x20 + 3,
       UCODE = 0x28 + 3,
       KCODE32 = 0x30,
       S_TSS = 0x38,
       S_TEST = 0x48,
       S_TEST2 = 0x58,
       DATA1 = 0x68 + 1,
       CODE1 = 0x70 + 1
};
enum { AR_L = 0xa000, AR_D = 0xc000, AR_LD = 0xe000, DONE = 0x40 };
enum { STAR = 0xc0000081, LSTAR, CSTAR, FMASK, SYSENTER_CS = 0x174, SYSENTER_ESP, SYSENTER_EIP };

struct entry {
    uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp, r8[8], rip, cs, rflags, rsp, ss;
};
struct frame {
    uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp, vector, error, rip, cs, rflags, rsp, ss;
};
struct __attribute__((packed)) tss {
    uint32_t reserved0;
    uint64_t rsp[3], reserved1, ist[7], reserved2;
    uint16_t reserved3, iomap;
};

extern struct frame last;
extern uint64_t last_sp; /* address of the frame */
extern uint32_t last_ss; /* SS in the handler */
extern uint64_t gdt[32], idt[256], ldt[4];
extern struct tss tss;
extern uint8_t user_stack[1024], inner_stack[4][1024];

/* Vectors whose traps are logged, and the snippet goes on: a bit each. */
extern uint64_t going_on;
/* What trap() calls for those, after logging; it may change the frame. */
extern void (*on_trap)(struct frame *f);

void gdt_put(unsigned sel, uint64_t d);
void gate_put(uint64_t *at, uint32_t sel, uint64_t off, uint32_t access, unsigned ist,
              uint64_t high);
void tables_reset(void);
void write_msr(uint32_t index, uint64_t value);
uint64_t read_msr(uint32_t index);
struct entry at(const void *code, unsigned cpl);
void run(struct entry *e);
char outcome(void);
void sum(uint64_t value);
void report(const char *name);

#endif
