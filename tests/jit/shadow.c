/* The shadow of STI when the instruction behind it is left in its middle: its memory is gone, known to the TLB or not, or is a
 * device of the client's. As interpreted, the client finds the shadow, and it ends with the instruction; so it does with one that
 * translated code is left behind. No arguments. */
#define CODE_BYTES CODE_CACHE_BYTES /* not that of state.h */
#include "jit/jit.h"
#undef CODE_BYTES
#include "gone.h"

enum {
    KERNEL = HANDLER_ADDR + 0x800, PAGE_ADDR = 0x11000000, DEVICE_ADDR = PAGE_ADDR + 4096, GPA_PAGE = 0x90000, GPA_DEVICE = 0x10000000
};

static const uint8_t code[] = {
    0x90,             /* nop */
    0xfb,             /* sti */
    0x8b, 0x06,       /* mov eax, [rsi] */
    0x03, 0x46, 0x08, /* add eax, [rsi + 8]: one probe for both */
    0x89, 0xc3,       /* mov ebx, eax */
    0xf4              /* hlt */
};
enum { BEHIND_STI = KERNEL + 2, TWICE = KERNEL + 4, LEAVING = KERNEL + 0x40 };
static const uint8_t leaving[] = {
    0xfb,                   /* sti */
    0x88, 0x05, 2, 0, 0, 0, /* mov [1f], al: changes the code that it is in */
    0x8b, 0x06,             /* mov eax, [rsi] */
    0x90,                   /* 1: nop */
    0xf4                    /* hlt */
};

static unsigned failures;
static const char *engine_name;

static void expect(const char *what, uint64_t got, uint64_t want)
{
    if (got == want)
        return;
    printf("%s, %s: %llx instead of %llx\n", engine_name, what, (unsigned long long)got, (unsigned long long)want);
    failures++;
}

static int client_reads(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t *data)
{
    (void)v, (void)gpa, (void)size, (void)data;
    return 1;
}

static void load(uint64_t from, uint32_t flags)
{
    emu->pending.type = EVENT_NONE;
    emu_segment(CS, 0x10);
    emu_segment(SS, 0x18);
    emu->cpl = 0;
    cpu_set_eflags(emu, 2 | flags);
    cpu_update_mode(emu);
    emu->rip = KERNEL;
    emu->gpr[RSP] = STACK_ADDR - 64;
    emu->gpr[RSI] = from;
}

static enum cpu_exit_reason go(const struct engine *engine)
{
    enum cpu_exit_reason why;

    do
        why = engine->enter(emu, 1000);
    while (why == EXIT_POLL && !stopped);
    return why;
}

static void ends(const struct engine *engine)
{
    stopped = 0;
    expect("its end", go(engine), EXIT_HLT);
    expect("EBX", emu->gpr[RBX], 12);
    expect("no shadow at the end", emu->shadow, SHADOW_NONE);
}

/* flags: IF or not; where it is set already, STI has no shadow. */
static void memory_is_gone(const struct engine *engine, uint32_t flags, bool known)
{
    uint8_t *page = emu_ram + GPA_PAGE;

    if (known) {
        load(PAGE_ADDR, flags);
        ends(engine);
    } else {
        tlb_flush_all(emu);
    }
    load(PAGE_ADDR, flags);
    gone_begin(page);
    go(engine);
    expect("stopped", stopped, 1);
    expect("rip", emu->rip, BEHIND_STI);
    expect("shadow", emu->shadow, flags & FL_IF ? SHADOW_NONE : SHADOW_STI);
    expect("IF", emu->eflags & FL_IF, FL_IF);
    gone_end();
    ends(engine);
}

static void client_answers(const struct engine *engine, uint32_t flags)
{
    uint64_t answer = 5;

    load(DEVICE_ADDR, flags);
    expect("a device's", go(engine), EXIT_MMIO);
    expect("rip", emu->rip, BEHIND_STI);
    expect("shadow", emu->shadow, flags & FL_IF ? SHADOW_NONE : SHADOW_STI);
    cpu_answer(emu, &answer);
    expect("its second", go(engine), EXIT_MMIO);
    expect("rip", emu->rip, TWICE);
    expect("shadow behind it", emu->shadow, SHADOW_NONE);
    answer = 7;
    cpu_answer(emu, &answer);
    ends(engine);
}

static void block_is_left(const struct engine *engine)
{
    uint64_t answer = 5;

    memcpy(emu_ram + GPA_SYSTEM + LEAVING - SYSTEM_ADDR, leaving, sizeof(leaving));
    codecache_flush(emu);
    load(DEVICE_ADDR, 0);
    emu->rip = LEAVING;
    emu->gpr[RAX] = 0xf4;
    expect("a device's, behind new code", go(engine), EXIT_MMIO);
    expect("rip", emu->rip, LEAVING + 7);
    expect("no shadow behind new code", emu->shadow, SHADOW_NONE);
    cpu_answer(emu, &answer);
    expect("its end", go(engine), EXIT_HLT);
}

int main(void)
{
    static const struct machine_ops ops = {.mmio_read = client_reads};
    static const struct engine *const engines[] = {&engine_emulate, &engine_translate};

    emu_create();
    emu->ops = &ops;
    emu_map(PAGE_ADDR, GPA_PAGE, 0x63);
    emu_map(DEVICE_ADDR, GPA_DEVICE, 0x63);
    memcpy(emu_ram + GPA_SYSTEM + KERNEL - SYSTEM_ADDR, code, sizeof(code));
    *(uint64_t *)(emu_ram + GPA_PAGE) = 5;
    *(uint64_t *)(emu_ram + GPA_PAGE + 8) = 7;
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    for (unsigned n = 0; n < 2; n++)
        for (unsigned set = 0; set < 2; set++) {
            engine_name = engines[n]->name;
            memory_is_gone(engines[n], set * FL_IF, false);
            memory_is_gone(engines[n], set * FL_IF, true);
            client_answers(engines[n], set * FL_IF);
            block_is_left(engines[n]);
        }
    return failures != 0;
}
