/* The functions that the parts of the processor offer one another; one section per file.
 *
 * Conventions. A function marked `_Noreturn` leaves the instruction by a jump to v->out, with the
 * architectural state as it was before the instruction. Therefore: an instruction commits nothing
 * (registers, flags, segment caches) before its last access that can fault or exit.
 */
#ifndef KVMISH_CPU_CPU_H
#define KVMISH_CPU_CPU_H

#include "cpu/vcpu.h"
#include "isa/insn.h"

/* ---- fault.c: leaving an instruction ---------------------------------------------------- */

_Noreturn void cpu_fault(struct vcpu *v, unsigned vector);                   /* no error code */
_Noreturn void cpu_fault_error(struct vcpu *v, unsigned vector, uint32_t error);
_Noreturn void cpu_page_fault(struct vcpu *v, uint64_t linear, uint32_t error);
_Noreturn void cpu_debug_fault(struct vcpu *v, uint64_t dr6_bits);           /* fault-like #DB */
_Noreturn void cpu_leave(struct vcpu *v, enum cpu_exit_reason reason);       /* v->exit is filled */
_Noreturn void cpu_jump_out(struct vcpu *v, uint8_t left);                   /* LEFT_*: all is noted */
_Noreturn void cpu_unbacked(struct vcpu *v, uint64_t gpa, bool write);        /* leaves with EXIT_UNBACKED */
#define cpu_ud(v) cpu_fault((v), VEC_UD)
#define cpu_gp(v, err) cpu_fault_error((v), VEC_GP, (err))

/* ---- state.c: derived state, flags ------------------------------------------------------ */

/* Call after any change of CR0, CR4, EFER, CS, SS, EFLAGS.VM, CPL: recomputes mode, code_bits, ip_mask,
 * stack_size, the TLB set, `flat` and `last` of the segments, the code model and `slow`. The caller's handler must end the
 * block (return insn_end(v, i) or set v->rip and return NULL). */
void cpu_update_mode(struct vcpu *v);
void cpu_update_flat(struct vcpu *v, enum segreg s); /* after loading one data segment */
void cpu_reset(struct vcpu *v, bool init);           /* SDM vol. 3, table 9-1; init: INIT# */
static inline uint64_t cpu_get_eflags(const struct vcpu *v)
{
    return v->eflags | FL_FIXED | ((v->oszapc >> 8) & (FL_ARITH & 0xff)) | (v->oszapc & PF_OF ? FL_OF : 0);
}
/* Raw write of all flags; recomputes what depends on them (mode when VM changed, TLB set when AC
 * changed, slow when TF changed). No privilege rules: those are the instruction's. */
void cpu_set_eflags(struct vcpu *v, uint64_t value);
static inline uint64_t cpu_next_rip(const struct vcpu *v, const struct insn *i)
{
    return (v->gpr[REG_PAGE] + i->off + i->len) & v->ip_mask;
}
static inline uint64_t cpu_this_rip(const struct vcpu *v, const struct insn *i)
{
    return (v->gpr[REG_PAGE] + i->off) & v->ip_mask;
}
static inline bool cpu_is_long(const struct vcpu *v) { return v->mode == MODE_LONG; }
static inline bool cpu_lma(const struct vcpu *v) { return v->efer & EFER_LMA; }
static inline bool cpu_protected(const struct vcpu *v) { return v->mode >= MODE_PROT; }
static inline unsigned cpu_iopl(const struct vcpu *v) { return (v->eflags >> 12) & 3; }
static inline bool cpu_canonical(const struct vcpu *v, uint64_t linear) /* 48 bits, 57 with CR4.LA57 */
{
    unsigned shift = v->cr4 & CR4_LA57 ? 64 - 57 : 64 - 48;

    return (uint64_t)((int64_t)(linear << shift) >> shift) == linear;
}

/* ---- exception.c: delivery through IVT, IDT; IRET --------------------------------------- */

/* Delivers v->pending (rip, cs, flags as they are in *v: for faults rip is the faulting
 * instruction's; for EVENT_SOFT* rip is that of the INT and insn_len is added). On return the state is
 * at the handler's first instruction and v->pending.type is EVENT_NONE. A fault inside it
 * leaves by cpu_fault* with v->delivering still set; the engine then calls exception_merge(). */
void exception_deliver(struct vcpu *v);
/* Folds v->fault, raised while v->delivering, into v->pending: a serial event, #DF, or (returns true)
 * a triple fault. SDM vol. 3, table 6-5. Also handles no delivery in progress: just makes it pending. */
bool exception_merge(struct vcpu *v);
void insn_int(struct vcpu *v, const struct insn *i, unsigned vector, enum event_type type);
void insn_iret(struct vcpu *v, const struct insn *i, unsigned opsize); /* 2, 4, 8 */

/* ---- segment.c: loading segment registers, descriptor checks ----------------------------- */

void segment_load(struct vcpu *v, enum segreg s, uint16_t sel); /* MOV/POP sreg, LDS...: all modes */
void segment_load_real(struct vcpu *v, enum segreg s, uint16_t sel); /* base = sel << 4 */
void segment_load_ldt(struct vcpu *v, uint16_t sel);            /* LLDT */
void segment_load_tr(struct vcpu *v, uint16_t sel);             /* LTR */
/* LAR/LSL/VERR/VERW: false = ZF clear, nothing written */
bool segment_lar(struct vcpu *v, uint16_t sel, uint32_t *rights);
bool segment_lsl(struct vcpu *v, uint16_t sel, uint32_t *limit);
bool segment_verify(struct vcpu *v, uint16_t sel, bool write);
/* Reads an 8-byte descriptor at the selector (GDT or LDT); false when beyond the limit. */
bool segment_read_desc(struct vcpu *v, uint16_t sel, uint64_t *desc);

/* ---- far.c, task.c: control transfers between segments ------------------------------------ */

void insn_call_far(struct vcpu *v, const struct insn *i, uint16_t sel, uint64_t off, unsigned opsize);
void insn_jmp_far(struct vcpu *v, const struct insn *i, uint16_t sel, uint64_t off, unsigned opsize);
void insn_ret_far(struct vcpu *v, const struct insn *i, unsigned opsize, unsigned pop_bytes);
enum task_switch { TASK_JMP, TASK_CALL, TASK_IRET, TASK_INT };
void task_switch(struct vcpu *v, uint16_t tss_sel, enum task_switch how, uint64_t next_rip,
                 bool has_error, uint32_t error);
void insn_syscall(struct vcpu *v, const struct insn *i);
void insn_sysret(struct vcpu *v, const struct insn *i, unsigned opsize);
void insn_sysenter(struct vcpu *v, const struct insn *i);
void insn_sysexit(struct vcpu *v, const struct insn *i, unsigned opsize);

/* After each of insn_* and task_switch above v->rip is the next instruction's and the handler
 * returns NULL (end of block). */

/* answer.c: the client's answer to v->exit (PIO, MMIO, RDMSR, WRMSR) is recorded, so that the instruction, executed again,
 * finds it. `data`: little-endian; reads: what the device said (for string I/O count * size bytes); writes: NULL. */
void cpu_answer(struct vcpu *v, const void *data);

/* ---- creg.c, msr.c, cpuid.c, debug.c ------------------------------------------------------ */

void cpu_write_cr0(struct vcpu *v, uint64_t value); /* checks, #GP; flushes; cpu_update_mode() */
void cpu_write_cr3(struct vcpu *v, uint64_t value);
uint64_t cpu_cr4_allowed(const struct vcpu *v); /* CR4 bits that this guest may set */
void cpu_write_cr4(struct vcpu *v, uint64_t value);
void cpu_write_dr(struct vcpu *v, unsigned n, uint64_t value);
uint64_t cpu_read_dr(struct vcpu *v, unsigned n);
void cpu_write_xcr0(struct vcpu *v, uint64_t value);
/* host_initiated: KVM_GET/SET_MSRS rather than RDMSR/WRMSR. 0 done; -1 #GP / refused; 1 not a processor MSR
 * (ask machine_ops). */
int msr_read(struct vcpu *v, uint32_t index, uint64_t *value, bool host_initiated);
int msr_write(struct vcpu *v, uint32_t index, uint64_t value, bool host_initiated);
void cpuid_query(const struct vcpu *v, uint32_t leaf, uint32_t sub, uint32_t out[4]);
uint64_t cpu_rdtsc(const struct vcpu *v); /* guest TSC now */
/* Debug registers: called by the slow path. */
bool debug_insn_breakpoint(struct vcpu *v, uint64_t linear, uint64_t *dr6_bits);
void debug_data_access(struct vcpu *v, uint64_t linear, unsigned size, bool write); /* sets db_pending */
bool debug_page_watched(const struct vcpu *v, uint64_t linear); /* a data/IO breakpoint in this page */

/* ---- io.c --------------------------------------------------------------------------------- */

void io_check(struct vcpu *v, uint16_t port, unsigned size); /* IOPL, TSS bitmap; #GP(0) */
/* Nothing hangs on the end of the port instruction: no trap, no earlier fragment. An OUT is then complete at its
 * exit, with rip behind it (as under KVM's instruction emulator), an IN as soon as the answer is there. */
bool io_ends_plainly(const struct vcpu *v);
void io_in_done(struct vcpu *v, unsigned size, uint32_t data); /* IN: into AL, AX, EAX */

/* ---- xsave.c: FXSAVE/XSAVE images ---------------------------------------------------------- */

/* Standard-format XSAVE image (SDM vol. 1, 13.4): components of `mask`; size_bytes of the buffer. */
void xsave_export(const struct vcpu *v, uint8_t *image, size_t size_bytes, uint64_t mask);
int xsave_import(struct vcpu *v, const uint8_t *image, size_t size_bytes, uint64_t mask); /* -EINVAL */
size_t xsave_size_bytes(uint64_t xcr0); /* standard format */

/* ---- the engine ----------------------------------------------------------------------------- */

struct engine {
    const char *name; /* "emulate", "translate" ... */
    /* Runs the vCPU until something outside of it must happen; fills v->exit.reason. At most `budget`
     * instructions, then EXIT_POLL. All guest state is in *v on return, at an instruction boundary
     * (or, with v->log.replay, at the start of the instruction that waits for a device). A handler that ends its block with
     * v->pending EVENT_EXIT has filled v->exit: the event is taken back, what ran is counted, EXIT_PIO returned. */
    enum cpu_exit_reason (*enter)(struct vcpu *v, int32_t budget);
};
extern const struct engine engine_emulate;
extern const struct engine engine_translate; /* jit/translate.c */

/* Creation and destruction of what a vCPU owns (TLB, code cache, native stubs): vcpu.c */
int cpu_create(struct vcpu *v); /* zeroed memory, aligned to 4096; -ENOMEM */
void cpu_destroy(struct vcpu *v);

#endif
