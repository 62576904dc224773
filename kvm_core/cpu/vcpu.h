/* The architectural state of one virtual processor, and nothing of the machine around it.
 *
 * A vCPU is state, not a thread: any thread may enter it, so nothing here lives in thread-local
 * storage. Exactly one thread is inside at a time. Others write `kick` and the mailbox only
 * (`requests`, `code_drop`), atomically.
 */
#ifndef KVMISH_CPU_VCPU_H
#define KVMISH_CPU_VCPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mmu/tlbset.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* ---- registers ------------------------------------------------------------------------- */

enum gpr { /* ModRM encoding order, SDM vol. 2, table 2-2 */
    RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15,
    REG_ZERO, /* always 0: an absent base or index */
    REG_PAGE, /* rip of offset 0 of the code page being executed: base of RIP-relative operands */
    REG_EDGE, /* always 4096: index of a RIP-relative operand whose distance from the page does not fit 32 bits */
    REG_COUNT
};

enum segreg { ES, CS, SS, DS, FS, GS, LDTR, TR, SEG_COUNT }; /* encoding order, then the system ones */

/* Access rights as in the VMX segment format (SDM vol. 3, 25.4.1): type 3:0, S 4, DPL 6:5, P 7,
 * AVL 12, L 13, D/B 14, G 15, unusable 16. */
enum {
    AR_TYPE = 0xf, AR_ACCESSED = 1, AR_WRITABLE = 2, AR_READABLE = 2, AR_EXPAND_DOWN = 4,
    AR_CONFORMING = 4, AR_CODE = 8, AR_S = 1 << 4, AR_DPL_SHIFT = 5, AR_DPL = 3 << 5, AR_P = 1 << 7,
    AR_AVL = 1 << 12, AR_L = 1 << 13, AR_DB = 1 << 14, AR_G = 1 << 15, AR_UNUSABLE = 1 << 16
};

struct segment {
    uint64_t base;
    uint32_t limit; /* in bytes, the granularity already applied */
    uint32_t ar;    /* AR_* */
    uint16_t sel;
    uint8_t flat;   /* data access needs no check: usable, writable, base 0, limit 4 GiB - 1 */
    int64_t last;   /* legacy modes: offsets up to here may be read and written; -1: rights or an expand-down limit decide */
};

struct desc_table {
    uint64_t base;
    uint16_t limit;
};

/* EFLAGS; SDM vol. 1, 3.4.3 */
enum {
    FL_CF = 1 << 0, FL_FIXED = 1 << 1, FL_PF = 1 << 2, FL_AF = 1 << 4, FL_ZF = 1 << 6, FL_SF = 1 << 7,
    FL_TF = 1 << 8, FL_IF = 1 << 9, FL_DF = 1 << 10, FL_OF = 1 << 11, FL_IOPL = 3 << 12,
    FL_NT = 1 << 14, FL_RF = 1 << 16, FL_VM = 1 << 17, FL_AC = 1 << 18, FL_VIF = 1 << 19,
    FL_VIP = 1 << 20, FL_ID = 1 << 21
};
#define FL_ARITH (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)

/* Arithmetic flags between instructions: AH:AL as `lahf; seto %al` leave them. */
enum {
    PF_OF = 1 << 0, PF_CF = FL_CF << 8, PF_PF = FL_PF << 8, PF_AF = FL_AF << 8, PF_ZF = FL_ZF << 8,
    PF_SF = FL_SF << 8
};

enum { /* CR0, CR4, EFER: SDM vol. 3, 2.5 */
    CR0_PE = 1 << 0, CR0_MP = 1 << 1, CR0_EM = 1 << 2, CR0_TS = 1 << 3, CR0_ET = 1 << 4,
    CR0_NE = 1 << 5, CR0_WP = 1 << 16, CR0_AM = 1 << 18, CR0_NW = 1 << 29, CR0_CD = 1 << 30
};
#define CR0_PG (1u << 31)
enum {
    CR4_VME = 1 << 0, CR4_PVI = 1 << 1, CR4_TSD = 1 << 2, CR4_DE = 1 << 3, CR4_PSE = 1 << 4,
    CR4_PAE = 1 << 5, CR4_MCE = 1 << 6, CR4_PGE = 1 << 7, CR4_PCE = 1 << 8, CR4_OSFXSR = 1 << 9,
    CR4_OSXMMEXCPT = 1 << 10, CR4_UMIP = 1 << 11, CR4_LA57 = 1 << 12, CR4_FSGSBASE = 1 << 16,
    CR4_PCIDE = 1 << 17, CR4_OSXSAVE = 1 << 18, CR4_SMEP = 1 << 20, CR4_SMAP = 1 << 21,
    CR4_PKE = 1 << 22, CR4_PKS = 1 << 24
};
enum { EFER_SCE = 1 << 0, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11 };

enum cpu_mode { MODE_REAL, MODE_VM86, MODE_PROT, MODE_COMPAT, MODE_LONG };

enum code_model { /* what translated code takes for granted of code, data and stack */
    CODE_SEGMENTED, /* nothing: it is interpreted */
    CODE_FLAT32,    /* protected 32-bit code, CS, SS, DS, ES flat, a 32-bit stack pointer */
    CODE_LONG
};

enum vector {
    VEC_DE = 0, VEC_DB = 1, VEC_NMI = 2, VEC_BP = 3, VEC_OF = 4, VEC_BR = 5, VEC_UD = 6, VEC_NM = 7,
    VEC_DF = 8, VEC_TS = 10, VEC_NP = 11, VEC_SS = 12, VEC_GP = 13, VEC_PF = 14, VEC_MF = 16,
    VEC_AC = 17, VEC_MC = 18, VEC_XM = 19
};

/* ---- events and exits ------------------------------------------------------------------- */

enum event_type { /* how an event came about; decides error code, return address, DPL check */
    EVENT_NONE, EVENT_EXTINT, EVENT_NMI, EVENT_FAULT, EVENT_TRAP, EVENT_SOFTINT, /* INT n */
    EVENT_SOFTEXC, /* INT3, INTO */
    EVENT_ICEBP,   /* INT1 */
    EVENT_EXIT     /* none: the block ended with a port access that needs the client; the engine comes back with EXIT_PIO */
};

struct event {
    uint8_t type; /* enum event_type */
    uint8_t vector;
    bool has_error;
    uint8_t insn_len;  /* EVENT_SOFT*: length of the instruction, added to the return address */
    uint32_t error;
    uint64_t payload;  /* #PF: CR2; #DB: bits to merge into DR6 */
};

typedef void *way_out[5]; /* of __builtin_setjmp() */

enum cpu_exit_reason { /* why engine->enter() came back */
    EXIT_POLL,     /* the budget ran out or `kick` was set */
    EXIT_HLT,      /* after HLT (rip is behind it) */
    EXIT_PIO,      /* exit.io: restarted on entry with the answer in the access log, but for an OUT that is done */
    EXIT_MMIO,     /* exit.mmio: likewise */
    EXIT_RDMSR,    /* exit.msr: user-space MSR; likewise */
    EXIT_WRMSR,
    EXIT_WINDOW,   /* interrupts became deliverable and want_window was set */
    EXIT_TPR,      /* CR8 was written while want_tpr_exit was set (rip is behind it) */
    EXIT_SHUTDOWN, /* triple fault */
    EXIT_DEBUG,    /* guest debug: exit.debug */
    EXIT_HYPERCALL, /* VMCALL that the machine hands to the client (rip is behind it) */
    EXIT_MWAIT,    /* MWAIT: treated as HLT that also wakes at once when in doubt */
    EXIT_INTERNAL, /* an instruction that cannot be executed here: exit.internal */
    EXIT_UNBACKED  /* in a slot, but not in the client's memory: vcpu.unbacked; begins anew on entry */
};

enum { UNBACKED_READ = 1, UNBACKED_WRITE = 2 }; /* how the guest wanted it */

enum { ACCESS_MAX = 64 }; /* fragments an instruction may need from devices (XSAVE to MMIO is refused) */

struct access_fragment { /* one device access of the instruction being executed */
    uint64_t addr; /* gpa, or port, or MSR index */
    uint64_t data;
    uint8_t size; /* 1, 2, 4, 8 */
    bool write;
    uint8_t kind; /* EXIT_PIO, EXIT_MMIO, EXIT_RDMSR, EXIT_WRMSR */
};

struct cpu_exit {
    uint32_t reason; /* enum cpu_exit_reason */
    union {
        struct { uint64_t gpa; uint64_t data; uint8_t size; bool write; } mmio;
        /* OUT, OUTS: vcpu.pio_data holds count * size bytes. IN, INS: as many are wanted. `string`: INS, OUTS */
        struct {
            uint16_t port;
            uint8_t size;
            bool write, string;
            bool done; /* the OUT is complete, rip behind it */
            uint8_t insn_len;
            uint32_t count;
            uint64_t linear; /* of the instruction */
        } io;
        struct { uint32_t index; uint64_t data; uint32_t reason; } msr; /* KVM_MSR_EXIT_REASON_* */
        struct { uint32_t vector; bool halted; uint64_t pc, dr6, dr7; } debug; /* halted: by the step itself, HLT */
        struct { uint8_t bytes[15]; uint8_t size; uint64_t rip; } internal;
    };
};

enum { PIO_DATA_BYTES = 4096, CODE_DROP_MAX = 16 };

/* ---- the outside world ------------------------------------------------------------------ */

struct vcpu;
struct memslot;

/* What a processor needs of the machine around it. Filled by the KVM layer; the CPU knows no more.
 * Return of the accessors: 0 answered here, 1 needs an exit to the client, < 0 never. */
struct machine_ops {
    int (*mmio_read)(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t *data);
    int (*mmio_write)(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t data);
    int (*pio_in)(struct vcpu *v, uint16_t port, unsigned size, uint32_t *data);
    int (*pio_out)(struct vcpu *v, uint16_t port, unsigned size, uint32_t data);
    /* MSRs outside of the processor proper (APIC, kvmclock, x2APIC ...): 0 done, 1 needs an exit,
     * -1 raise #GP. Called for every index that cpu/msr.c does not own (exit.msr.reason is
     * KVM_MSR_EXIT_REASON_UNKNOWN), and where an access is refused already (INVAL, FILTER): then only to choose 1 or -1. */
    int (*rdmsr)(struct vcpu *v, uint32_t index, uint64_t *value);
    int (*wrmsr)(struct vcpu *v, uint32_t index, uint64_t value);
    /* KVM_X86_SET_MSR_FILTER: true when the access is allowed; asked before any other step */
    bool (*msr_allowed)(struct vcpu *v, uint32_t index, bool write);
    uint8_t (*cr8_read)(struct vcpu *v);
    void (*cr8_write)(struct vcpu *v, uint8_t tpr);
    bool (*hypercall)(struct vcpu *v); /* VMCALL/VMMCALL, rip behind it; false: #UD; may leave with EXIT_HYPERCALL */
    bool (*replaces_hypercall)(struct vcpu *v); /* of the other vendor's by this one's; false: #UD */
    /* The guest has moved its TSC (IA32_TSC, IA32_TSC_ADJUST): timers and clocks that count by it follow. May be NULL. */
    void (*tsc_moved)(struct vcpu *v);
    /* MSR_IA32_APICBASE bit 11, for CPUID leaf 1 */
    bool (*apic_enabled)(struct vcpu *v);
    /* This vCPU is about to decode from a page that it has not flagged yet (mmu/phys.h: page_flags): the
     * flag is set; returns once every other vCPU has given up its direct right to write the page (REQ_WRITE_PROTECT).
     * NULL: there is no other vCPU. */
    void (*code_page)(struct vcpu *v, struct memslot *slot, uint64_t page);
    /* This vCPU has written [gpa, gpa + size), in a page that others (whose page_code_flag() is in `holders`) hold decoded:
     * cpu_code_drop() and REQ_CODE_DROP to each of them; returns once they have acknowledged. NULL: no other vCPU. */
    void (*code_written)(struct vcpu *v, uint64_t gpa, unsigned size, uint8_t holders);
    /* Called once in a number of PAUSEs (SDM vol. 3, 26.1.3, "PAUSE-loop exiting"): whom the guest waits for may lack a
     * host processor. NULL: no other vCPU. */
    void (*pause_loop)(struct vcpu *v);
    /* Between the two no other vCPU executes anything: for what the host cannot do atomically. NULL: no other vCPU. */
    void (*exclusive_begin)(struct vcpu *v);
    void (*exclusive_end)(struct vcpu *v);
};

struct insn;
struct itlb_entry;
struct large_pages;
struct codecache;
struct phys_map;
struct cpuid_model;
struct native_cache;
struct lockstep;
struct codepage;

/* The translator's state in a vCPU begins with what the decoded-instruction cache tells it. */
struct translator {
    void (*page_retired)(struct vcpu *v, struct codepage *p); /* its instructions are no longer what is executed */
    void (*destroy)(struct vcpu *v);
    /* Guest memory is gone that the host code at regs[REG_RIP] (ucontext.h) has just touched. If that is translated: it is left when
     * the host goes on, with the guest before the instruction. Async-signal-safe. */
    bool (*fault)(struct vcpu *v, long long *regs);
};

/* ---- the processor ---------------------------------------------------------------------- */

struct vcpu {
    /* hot: what nearly every guest instruction touches */
    uint64_t gpr[REG_COUNT];
    uint64_t rip;       /* exact between blocks, at faults and at exits; see cpu_this_rip() */
    uint32_t oszapc;    /* PF_*: the arithmetic flags */
    uint32_t eflags;    /* all other flags (FL_ARITH bits are always 0 here); bit 1 set */
    int32_t budget;     /* instructions left until the next poll */
    uint32_t kick;      /* set (atomically, by anyone) to make the vCPU poll; futex word of HLT */
    const struct insn *cur;       /* instruction being executed */
    const struct insn *blk_start; /* first instruction of the stretch not yet counted */
    struct tlb_set *tlb;          /* set for the current privilege; see mmu/tlb.h */
    uint64_t ip_mask;             /* 64-bit code: ~0; 32: 0xffffffff; 16: 0xffff */
    uint8_t cpl;
    uint8_t mode;       /* enum cpu_mode, derived: cpu_update_mode() */
    uint8_t code_bits;  /* 16, 32, 64: default operand size class of CS */
    uint8_t stack_size; /* bytes of the stack pointer: 2, 4, 8 */
    uint8_t code_model; /* enum code_model, derived too */
    uint8_t shadow;     /* SHADOW_*: interrupts held for the next instruction */
    uint8_t slow;       /* not 0: run instruction by instruction (SLOW_*) */
    struct {            /* while translated code runs: kvm_core/jit */
        int32_t left;       /* of the budget: what it may use before it looks at `kick` */
        int32_t hidden;     /* of the budget: what it may use after that */
        uint32_t patch;     /* left by an edge that has no target yet: where its jump is */
        uint64_t calls_end; /* the host's stack pointer at which no further call is remembered */
        uint64_t target[2]; /* of an indirect call: address, code */
        uint8_t lack;       /* VECTOR_*: what does not hold; 0xff: the vector registers are in `ymm` */
        uint64_t calls;     /* the host's stack pointer when no call is remembered */
        int32_t rest;       /* in a strip (jit/strip.c): what the slice has beyond it */
        int32_t mark;       /* and what is left of the strip behind its first iterations */
        uint8_t x87_seg;    /* of the last x87 instruction with an operand in memory since the registers were loaded, or 0xff */
        uint32_t x87_fop;   /* of the last one that is not control, or 0xffff */
        uint64_t x87_page;  /* REG_PAGE at it */
        uint32_t x87_off;   /* and where in the page it is */
        uint64_t x87_offset; /* of the operand */
        uint64_t stale;     /* where the call stands of a block whose page is not where it was come to, or 0 */
        uint64_t window[STRIP_STREAMS]; /* jit/nest.c: the page in which a stream is */
        uint64_t kept[KEPT_PLACES];     /* jit/operand.c: host addresses that a block has found */
    } run;

    struct segment seg[SEG_COUNT];
    struct desc_table gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
    uint64_t cr8;       /* only where machine_ops has no cr8_read (no APIC in the core) */
    uint64_t pdpte[4];  /* PAE: loaded by MOV CR3; SDM vol. 3, 4.4.1 */
    uint64_t dr[8];
    uint32_t pkru;

    /* MSRs that the processor itself acts on; the others are in `msr` of cpu/msr.h */
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, misc_enable, spec_ctrl, xss, debugctl;
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_var[16];
    uint64_t mcg_cap, mcg_status, mcg_ctl, mc_bank[32 * 4], mc_ctl2[32];
    uint64_t smi_count, feature_control, tsc_adjust, pkrs, u_cet, s_cet;
    uint64_t amd_syscfg, amd_hwcr, amd_de_cfg, amd_ls_cfg, ucode_rev, virt_ssbd;
    uint64_t arch_capabilities, platform_info, misc_features, power_ctl, osvw_length, osvw_status;
    struct lockstep *lockstep; /* cpu/lockstep.h; NULL: one engine */
    uint64_t frozen_tsc;       /* lockstep: the guest's TSC during a stretch; 0: it runs */
    uint64_t tsc_offset;      /* guest TSC = host TSC + offset (the same rate) */
    uint32_t tsc_khz;

    /* SSE/AVX registers, whole; x87 and MXCSR in the FXSAVE image (its XMM part is not used) */
    uint8_t ymm[16][32] __attribute__((aligned(32)));
    uint8_t fx[512] __attribute__((aligned(64)));
    uint64_t fx_header[8];    /* makes it an XSAVE area, for who keeps the x87 registers in the host's */
    uint16_t fcs, fds;        /* selectors of the x87 pointers: 0 with CPUID.(7,0).EBX[13], and from 64-bit images */
    uint64_t xinuse;          /* XSAVE components not in their initial state */

    /* events */
    struct event pending;     /* to be delivered at the next entry, before any instruction */
    uint8_t delivering;       /* enum event_type of the event in delivery, for #DF; EVENT_NONE */
    uint8_t delivering_vector;
    bool nmi_masked;          /* until IRET */
    bool want_window;         /* exit with EXIT_WINDOW when an interrupt could be taken */
    bool want_tpr_exit;
    bool in_smm;
    uint32_t guest_debug;     /* KVM_GUESTDBG_* */
    uint64_t guest_debug_dr[8]; /* hardware breakpoints set by the client */
    uint32_t rf_saved;        /* EFLAGS.RF before the instruction in execution: it faults with it */
    uint64_t db_pending;      /* DR6 bits of a trap (#DB) that is due after this instruction, or the one behind MOV SS */

    /* leaving an instruction in its middle */
    way_out out;              /* set by the engine: cpu_fault*() and cpu_leave() jump there */
    uint8_t left;             /* and say which of both: LEFT_FAULT, LEFT_EXIT */
    struct event fault;       /* what cpu_fault() raised */
    struct cpu_exit exit;
    uint64_t unbacked;        /* a guest page that the client's memory does not have, | UNBACKED_*; else 0 */
    struct {                  /* device accesses of the current instruction, in order */
        uint8_t count, next;  /* recorded; consumed by this execution */
        bool replay;          /* the instruction at rip is to be executed again, using the log */
        const struct insn *cur; /* owner */
        int32_t budget;
        struct access_fragment f[ACCESS_MAX];
    } log;
    uint8_t pio_data[PIO_DATA_BYTES]; /* INS/OUTS batches: the exchange with the client */
    uint32_t pio_count;       /* INS, OUTS: units of pio_data that the client has dealt with; 0 none */

    /* memory and code */
    const struct phys_map *phys;
    struct memslot *slot_near; /* of the last page that a walk came to, or NULL: set with phys */
    struct itlb_entry *itlb;
    bool code_doubtful; /* set at KVM_RUN: the client has had the time to write code */
    struct codecache *code;
    struct native_cache *native;
    struct large_pages *large; /* fragments of large pages in the TLB */
    struct translator *translator; /* NULL: interpreter only */
    uint8_t maxphyaddr;
    uint64_t phys_reserved;   /* bits of a page-table entry that must be 0, from maxphyaddr */

    /* mailbox: others set bits (atomically) and kick; drained by the thread inside (cpu/sync.h) */
    uint32_t requests;        /* REQ_* */
    struct {                  /* code pages that others have written: cpu_code_drop() */
        uint32_t lock, count; /* count > CODE_DROP_MAX: everything */
        uint64_t gpa[CODE_DROP_MAX];
    } code_drop;
    uint32_t pauses;          /* PAUSEs executed */
    uint32_t in_guest;        /* 1 while a thread is inside engine->enter() */

    /* identity */
    uint16_t index;           /* among the machine's vCPUs, set by the KVM layer before cpu_create() */
    bool amd;                 /* vendor by CPUID: AMD (or Hygon) behaviour where it differs */
    uint64_t features[4];     /* bitmap of enum cpu_feature (cpu/cpuid.h), from SET_CPUID2 */
    struct cpuid_model *cpuid;
    const struct machine_ops *ops;
    void *machine;            /* struct kvm_vcpu of the KVM layer */

    /* statistics */
    uint64_t instructions;    /* retired */
    uint64_t stat_faults, stat_interrupts, stat_tlb_miss, stat_decoded, stat_tlb_flush;

    /* derived and large; last, so that copies of the state end here */
    uint64_t directory_generation;
    uint64_t tlb_drops; /* grows whenever the TLB drops an entry, or has another page for an address; not when there is no room */
    struct fills itlb_fills, itlb_nonglobal; /* as those of a tlb_set */
    struct directory directories[DIRECTORIES]; /* mmu/walk.c */
    struct tlb_set tlb_sets[TLB_SET_COUNT];
    struct jump_cache jumps[JUMP_CACHES];
    uint64_t code_at[2][CODE_PAGES];
    uint8_t short_strips[STRIP_COUNTERS]; /* jit/gate.c: how many times in a row a loop has left early */
};

enum { LEFT_FAULT = 1, LEFT_EXIT = 2 };
enum { SHADOW_NONE = 0, SHADOW_STI = 1, SHADOW_MOV_SS = 2 };
enum { /* reasons for the instruction-by-instruction path */
    SLOW_TF = 1, SLOW_BREAKPOINT = 2, SLOW_GUEST_DEBUG = 4,
    SLOW_SINGLE = 8, /* the next instruction alone, by the careful path; then as before */
    SLOW_LOCKSTEP = 32, /* lockstep: one instruction of the engine's own kind */
    SLOW_DB_DUE = 16 /* db_pending traps before the next instruction: a task switch with the T bit */
};

#endif
