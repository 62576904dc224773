/* The guest's flags, x87 state and segment bases are never the host's while C runs, nor are exceptions of MXCSR unmasked; and
 * behind enter() its rounding is not (cpu/native.h). In every way out of guest code, by both engines, and under a signal at
 * any moment: with EFLAGS.AC set, a signal handler died. No arguments. */
#include "../isa/emu.h"

#include <signal.h>
#include <sys/time.h>

enum { MXCSR_RAISED = 0x3f, MXCSR_MASKS = 0x1f80 };

struct host {
    uint64_t flags, fs_word;
    uint32_t mxcsr;
    struct {
        uint16_t control, r0, status, r1, tags, r2, more[8];
    } x87;
};
static struct host normal;
static const char *now; /* what is being tried */
static volatile unsigned failures, checks, signals;

static struct host host_state(void)
{
    struct host h = {0};

    asm volatile("pushfq; pop %0" : "=r"(h.flags));
    asm volatile("mov %%fs:0, %0" : "=r"(h.fs_word));
    asm volatile("stmxcsr %0" : "=m"(h.mxcsr));
    asm volatile("fnstenv %0; fldenv %0" : "+m"(h.x87));
    return h;
}

static void check(const char *where, uint64_t flags, bool inside)
{
    struct host h = host_state();

    uint32_t of_interest = inside ? MXCSR_MASKS : 0xffff & ~MXCSR_RAISED;

    checks++;
    if (!(flags & (AC_FLAG | DF_FLAG | FL_TF | FL_NT)) && h.fs_word == normal.fs_word &&
        (h.mxcsr & of_interest) == (normal.mxcsr & of_interest) && h.x87.control == normal.x87.control && h.x87.tags == normal.x87.tags)
        return;
    if (failures++ < 10)
        printf("%s, %s: flags %llx, MXCSR %x, x87 %x tags %x, FS %llx\n", now, where, (unsigned long long)flags, h.mxcsr,
               h.x87.control, h.x87.tags, (unsigned long long)h.fs_word);
}

/* ---- ways out ---------------------------------------------------------------------------------------------------------- */

static int device_read(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t *data)
{
    (void)v, (void)gpa, (void)size;
    check("device read", host_state().flags, true);
    *data = 1;
    return 0;
}
static int device_write(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t data)
{
    (void)v, (void)gpa, (void)size, (void)data;
    check("device write", host_state().flags, true);
    return 0;
}
static int port_in(struct vcpu *v, uint16_t port, unsigned size, uint32_t *data)
{
    (void)v, (void)port, (void)size;
    check("port", host_state().flags, true);
    *data = 0;
    return 0;
}
static void pause_loop(struct vcpu *v)
{
    check("pause", host_state().flags, true);
    __atomic_store_n(&v->kick, 1, __ATOMIC_RELAXED);
}

/* No C function of ours has run since the guest was interrupted: the flags are in the context, the rest is still there. */
static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    signals++;
    check("signal", (uint64_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL], false);
    __atomic_store_n(&emu->kick, signals % 3 == 0, __ATOMIC_RELAXED);
}

/* ---- guest code --------------------------------------------------------------------------------------------------------- */

enum { DEVICE_ADDR = 0x30000000, MXCSR_AT = 0, FCW_AT = 8, FLAGS_AT = 16 };

static const uint8_t prepare[] = {
    0x0f, 0xae, 0x13,                         /* ldmxcsr [rbx] */
    0xd9, 0x6b, 8, 0xd9, 0xe8, 0xd9, 0xe8,    /* fldcw [rbx+8]; fld1; fld1 */
    0xf3, 0x48, 0x0f, 0xae, 0xd1,             /* wrfsbase rcx */
    0xf3, 0x48, 0x0f, 0xae, 0xd9,             /* wrgsbase rcx */
    0xff, 0x73, 16, 0x9d,                     /* push [rbx+16]; popfq */
    0x0f, 0x58, 0xc1, 0xc5, 0xf4, 0x58, 0xc8, /* addps xmm0, xmm1; vaddps ymm1, ymm1, ymm0 */
};
static const struct way {
    const char *name;
    uint8_t len, bytes[24];
} ways[] = {
#define WAY(name, ...) {name, sizeof((uint8_t[]){__VA_ARGS__}), {__VA_ARGS__}}
    WAY("load from a device", 0x8b, 0x06, 0x0f, 0x58, 0xc1, 0x8b, 0x06),
    WAY("add to a device", 0x01, 0x06),
    WAY("string to a device", 0x48, 0x89, 0xf7, 0xab),
    WAY("port", 0xe4, 0x80),
    WAY("absent page", 0x8b, 0x81, 0, 0, 0, 0x10),
    WAY("store to an absent page", 0x0f, 0x11, 0x81, 0, 0, 0, 0x10),
    WAY("divide", 0x31, 0xc9, 0xf7, 0xf1),
    WAY("undefined", 0x0f, 0x0b),
    WAY("aligned vector", 0x0f, 0x28, 0x43, 1),
    WAY("breakpoint", 0xcc),
    WAY("changes itself", 0xc7, 0x05, 2, 0, 0, 0, 0x90, 0x90, 0x90, 0x90, 0x0f, 0x58, 0xc1, 0x90),
    WAY("pause", 0xf3, 0x90, 0x0f, 0x58, 0xc1, 0xeb, 0xf9),
    WAY("endless", 0x0f, 0x58, 0xc1, 0xff, 0xc0, 0xeb, 0xf9),
    WAY("endless copies", 0xb9, 0, 1, 0, 0, 0x48, 0x8d, 0x73, 0x40, 0x48, 0x8d, 0xbb, 0, 8, 0, 0, 0xfc, 0xf3, 0xa4, 0xeb, 0xeb),
};

static void run(const struct engine *engine, const struct way *w, uint64_t flags, uint32_t mxcsr)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};
    struct state *s = &c.before;
    uint8_t code[64];
    enum cpu_exit_reason why;

    memset(code, 0xcc, sizeof(code));
    memcpy(code, prepare, sizeof(prepare));
    memcpy(code + sizeof(prepare), w->bytes, w->len);
    emu_code_put(CODE_ADDR, code, sizeof(code));
    memset(emu_data, 0, 4096);
    memcpy(emu_data + MXCSR_AT, &mxcsr, 4);
    memcpy(emu_data + FCW_AT, &(uint16_t){0x0c3f}, 2);
    memcpy(emu_data + FLAGS_AT, &flags, 8);
    memset(s, 0, sizeof(*s));
    memcpy(s->fx, (const uint8_t[]){0x7f, 3}, 2);
    memcpy(s->fx + 24, (const uint8_t[]){0x80, 0x1f, 0, 0, 0xff, 0xff}, 6);
    s->gpr[RBX] = DATA_ADDR;
    s->gpr[RSI] = DEVICE_ADDR;
    s->gpr[RSP] = DATA_ADDR + 4096 - 64;
    s->gpr[RCX] = 0x123450;
    s->rip = CODE_ADDR;
    s->rflags = FL_IOPL;
    now = w->name;
    emu_load(&c);
    for (unsigned n = 0; n < 6; n++) {
        emu->kick = 0;
        why = engine->enter(emu, 60000);
        check("behind it", host_state().flags, false);
        if (why != EXIT_POLL)
            break;
    }
}

/* Tens of thousands of signals' worth of guest time are not needed: a hundred are enough to hit translated code. */
static void with_signals(const struct engine *engine, uint64_t flags)
{
    struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
    unsigned until = signals + 50;

    setitimer(ITIMER_REAL, &often, NULL);
    while (signals < until)
        run(engine, &ways[sizeof(ways) / sizeof(ways[0]) - 2], flags, MXCSR_MASKS);
    setitimer(ITIMER_REAL, &never, NULL);
}

int main(void)
{
    static const struct machine_ops ops = {.mmio_read = device_read, .mmio_write = device_write, .pio_in = port_in,
                                           .pause_loop = pause_loop};
    static const uint64_t flags[] = {0, FL_AC, FL_DF, FL_AC | FL_DF | FL_NT | FL_ARITH};
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};

    emu_create();
    emu->ops = &ops;
    emu_map(DEVICE_ADDR, 0x10000000, 0x67 | PTE_NX);
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    normal = host_state();
    sigaction(SIGALRM, &action, NULL);
    for (unsigned alignment = 0; alignment < 2; alignment++) {
        emu->cr0 = (emu->cr0 & ~(uint64_t)CR0_AM) | (alignment ? CR0_AM : 0);
        for (unsigned f = 0; f < sizeof(flags) / sizeof(flags[0]); f++) {
            for (unsigned n = 0; n < sizeof(ways) / sizeof(ways[0]); n++) {
                uint32_t mxcsr = n % 2 == alignment ? 0x6000 | MXCSR_MASKS : 0xe000; /* towards 0; all unmasked, denormals 0 */
                run(&engine_emulate, &ways[n], flags[f] | FL_IOPL | 2, mxcsr);
                run(&engine_translate, &ways[n], flags[f] | FL_IOPL | 2, mxcsr);
            }
            with_signals(&engine_translate, flags[f] | FL_IOPL | 2);
        }
    }
    printf("%u checks, %u failures, %u signals\n", checks, failures, signals);
    return failures != 0;
}
