/* Lockstep: agreement is found where there is agreement; a wrong instruction, a wrong store and a wrong device access are
 * reported with the instruction and the states; a device is asked once for both engines.
 */
#include "fixture.h"

#include "cpu/lockstep.h"

enum { CODE = 0x7c00, DATA = 0x9000, LOOPS = 40 };

static unsigned ins, outs;

static int pio_in(struct vcpu *v, uint16_t port, unsigned size, uint32_t *data)
{
    (void)v, (void)port, (void)size;
    *data = ++ins; /* never the same twice */
    return 0;
}

static int pio_out(struct vcpu *v, uint16_t port, unsigned size, uint32_t data)
{
    (void)v, (void)port, (void)size, (void)data;
    outs++;
    return 0;
}

/* A loop of arithmetic, stores, strings, port I/O, calls, faults (DIV by 0 goes through the IVT), RDTSC and RDRAND. */
static const uint8_t program[] = {
    0xbd, LOOPS, 0x00,             /*       mov bp, LOOPS */
    0xe4, 0x80,                    /* loop: in al, 0x80 */
    0x6b, 0xc0, 0x07,              /*       imul ax, ax, 7 */
    0xa3, 0x00, 0x90,              /*       mov [DATA], ax */
    0x01, 0x06, 0x02, 0x90,        /*       add [DATA + 2], ax */
    0xbf, 0x10, 0x90,              /*       mov di, DATA + 16 */
    0xb9, 0x30, 0x00,              /*       mov cx, 48 */
    0xf3, 0xab,                    /*       rep stosw */
    0xe8, 0x0e, 0x00,              /*       call sub */
    0x0f, 0x31,                    /*       rdtsc */
    0x01, 0x06, 0x04, 0x90,        /*       add [DATA + 4], ax */
    0xe6, 0x81,                    /*       out 0x81, al */
    0x4d,                          /*       dec bp */
    0x75, 0xda,                    /*       jnz loop */
    0xf4,                          /*       hlt */
    0x90, 0x90,                    /* */
    0x31, 0xc9,                    /* sub:  xor cx, cx */
    0xf7, 0xf1,                    /*       div cx (its handler skips it) */
    0x53, 0x5b,                    /*       push bx; pop bx */
    0xc3,                          /*       ret */
};
/* The handler of #DE adds 2 to the return address: push bp; mov bp, sp; add word [bp + 2], 2; pop bp; iret */
static const uint8_t handler[] = {0x55, 0x89, 0xe5, 0x83, 0x46, 0x02, 0x02, 0x5d, 0xcf};

static struct vcpu *machine(void)
{
    struct vcpu *v = new_vcpu();

    memset(ram, 0, RAM_BYTES);
    memcpy(ram + CODE, program, sizeof(program));
    memcpy(ram + 0x8000, handler, sizeof(handler));
    *(uint32_t *)ram = 0x8000; /* vector 0 */
    ops.pio_in = pio_in;
    ops.pio_out = pio_out;
    ins = outs = 0;
    v->seg[CS].sel = 0;
    v->seg[CS].base = 0;
    v->rip = CODE;
    v->gpr[RSP] = 0x7000;
    cpu_update_mode(v);
    return v;
}

static enum cpu_exit_reason run(struct vcpu *v)
{
    enum cpu_exit_reason reason = EXIT_POLL;

    for (unsigned n = 0; n < 1000 && reason == EXIT_POLL; n++) {
        __atomic_store_n(&v->kick, 0, __ATOMIC_SEQ_CST);
        reason = v->lockstep ? lockstep_enter(v, 1000) : engine_emulate.enter(v, 1000);
    }
    return reason;
}

/* ---- engines with a fault ------------------------------------------------------------------------------------------- */

static uint8_t wrong_opcode[2];
static void (*wrong)(struct vcpu *v);

/* The interpreter, instruction by instruction; behind each `wrong_opcode` something is wrong. */
static enum cpu_exit_reason enter_wrong(struct vcpu *v, int32_t budget)
{
    enum cpu_exit_reason reason = EXIT_POLL;

    do {
        bool hit = !memcmp(ram + v->rip, wrong_opcode, 2) && v->pending.type == EVENT_NONE;
        v->slow |= SLOW_LOCKSTEP;
        reason = engine_emulate.enter(v, 1);
        if (hit && reason == EXIT_POLL)
            wrong(v);
    } while (--budget > 0 && reason == EXIT_POLL && !__atomic_load_n(&v->kick, __ATOMIC_SEQ_CST));
    return reason;
}

static const struct engine engine_wrong = {.name = "wrong", .enter = enter_wrong};

static void wrong_register(struct vcpu *v) { v->gpr[RAX] ^= 1; }
static void wrong_flag(struct vcpu *v) { v->oszapc ^= PF_CF; }
static void wrong_store(struct vcpu *v)
{
    lockstep_page(v, &slot, DATA >> 12, ram + DATA);
    ram[DATA + 1] ^= 0x80;
}
static void wrong_vector(struct vcpu *v) { v->ymm[3][7] = 1; }

static void reported(const char *what, uint8_t first, uint8_t second, void (*how)(struct vcpu *v), const char *bytes,
                     const char *difference)
{
    struct vcpu *v = machine();
    struct lockstep *l = lockstep_create(v, &engine_wrong, 64);
    enum cpu_exit_reason reason;
    const char *report;

    wrong_opcode[0] = first;
    wrong_opcode[1] = second;
    wrong = how;
    reason = run(v);
    report = lockstep_report(l);
    CHECK(reason == EXIT_INTERNAL, "%s: exit %d", what, reason);
    CHECK(strstr(report, "behind this instruction"), "%s: %s", what, report);
    CHECK(strstr(report, bytes), "%s: %s", what, report);
    CHECK(strstr(report, difference), "%s: %s", what, report);
    CHECK(strstr(report, "before: cs:rip") && strstr(report, "tested: cs:rip") && strstr(report, "reference: cs:rip"),
          "%s: %s", what, report);
    lockstep_destroy(l);
    free_vcpu(v);
}

static void agreement(void)
{
    uint64_t compared, skipped;
    struct lockstep *l;
    struct vcpu *v = machine();

    CHECK(run(v) == EXIT_HLT);
    CHECK(ins == LOOPS && outs == LOOPS, "%u in, %u out", ins, outs);
    free_vcpu(v);

    v = machine();
    l = lockstep_create(v, &engine_emulate, 50);
    CHECK(run(v) == EXIT_HLT, "%s", lockstep_report(l));
    lockstep_counts(l, &compared, &skipped);
    CHECK(!*lockstep_report(l), "%s", lockstep_report(l));
    CHECK(compared > LOOPS / 4 && skipped == 0, "%" PRIu64 " stretches, %" PRIu64 " skipped", compared, skipped);
    CHECK(ins == LOOPS && outs == LOOPS, "%u in, %u out: a device is asked once", ins, outs);
    CHECK(ram[DATA] == (uint8_t)(LOOPS * 7), "%u", ram[DATA]);
    lockstep_destroy(l);
    free_vcpu(v);
}

int main(void)
{
    agreement();
    reported("register", 0x6b, 0xc0, wrong_register, "code): 6b c0 07", "differs: rax");
    reported("flag", 0x31, 0xc9, wrong_flag, "code): 31 c9", "differs: eflags (arithmetic)");
    reported("store", 0xa3, 0x00, wrong_store, "code): a3 00 90", "memory at 9001: ");
    reported("vector", 0x4d, 0x75, wrong_vector, "code): 4d", "differs: ymm");
    return report();
}
