/* A host address that a block keeps for later operands: at the ends of pages, without rights, and when what it stands for changes
 * while another of the block's operands is the interpreter's. No arguments. */
#include "gone.h"
#include "inside.h"

#include "cpu/sync.h"

enum { DEVICE_ADDR = 0x14000000, GPA_DEVICE = 0x40000000, FEW = 3, MANY = 40 /* turns: more than before it is translated anew */ };
enum { LOW = 48 /* bytes of an operand's neighbours */ };

static struct outcome {
    struct state s;
    uint8_t data[DATA_BYTES];
} want, got;

static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};

static void fill(void)
{
    for (unsigned n = 0; n < DATA_BYTES; n += 8)
        *(uint64_t *)(emu_data + n) = n == 64 + 16 ? 0x37f : (n + 1) * 0x9e3779b97f4a7c15ull;
}

static void go(const struct engine *engine, struct outcome *o)
{
    emu_engine = engine;
    fill();
    memset(o, 0, sizeof(*o));
    emu_go(&c, &o->s, 1000, false);
    memcpy(o->data, emu_data, DATA_BYTES);
}

static bool same(void)
{
    go(&engine_emulate, &want);
    go(&engine_translate, &got);
    if (!memcmp(&want, &got, sizeof(want)))
        return true;
    printf("rbx %llx, rsp %llx: vector %d at %llx instead of %d at %llx%s\n", (unsigned long long)c.before.gpr[RBX],
           (unsigned long long)c.before.gpr[RSP], got.s.vector, (unsigned long long)got.s.rip, want.s.vector,
           (unsigned long long)want.s.rip, memcmp(got.data, want.data, DATA_BYTES) ? ", other data" : "");
    return false;
}

/* ---- two that are kept at once, everywhere -------------------------------------------------------------------------- */

static const uint8_t loop[] = {
    0x48, 0x8b, 0x03,                         /* 1: mov rax, [rbx] */
    0x48, 0x03, 0x44, 0x24, 0xf8,             /* add rax, [rsp - 8] */
    0x48, 0x8b, 0x4b, 0x08,                   /* mov rcx, [rbx + 8] */
    0x48, 0x3b, 0x4c, 0x24, 0xf0,             /* cmp rcx, [rsp - 16] */
    0x48, 0x8b, 0x53, 0x10,                   /* mov rdx, [rbx + 16]: flags stay */
    0x48, 0x11, 0x54, 0x24, 0xe8,             /* adc [rsp - 24], rdx */
    0xf3, 0x0f, 0x6f, 0x43, 0x18,             /* movdqu xmm0, [rbx + 24] */
    0xf3, 0x0f, 0x7f, 0x44, 0x24, 0xd8,       /* movdqu [rsp - 40], xmm0 */
    0x48, 0x13, 0x43, 0x20,                   /* adc rax, [rbx + 32] */
    0x48, 0x89, 0x43, 0x28,                   /* mov [rbx + 40], rax */
    0x51, 0x5e,                               /* push rcx; pop rsi */
    0x41, 0xff, 0xcc, 0x75, 0xcc, 0xcc        /* dec r12d; jne 1b; int3 */
};

static bool try_loop(unsigned rbx, unsigned rsp, unsigned turns, bool anew)
{
    memset(&c.before, 0, sizeof(c.before));
    c.before.rip = CODE_ADDR;
    c.before.gpr[RBX] = DATA_ADDR + rbx;
    c.before.gpr[RSP] = DATA_ADDR + rsp;
    c.before.gpr[R12] = turns;
    c.before.in_use = 3;
    memcpy(c.before.fx + 24, &(uint32_t){0x1f80}, 4);
    if (anew)
        codecache_flush(emu);
    return same();
}

static bool try_ends(unsigned turns, bool anew)
{
    static const unsigned ends[] = {4096, 2 * 4096, DATA_READONLY, DATA_BYTES};
    bool well = true;

    for (unsigned k = 0; k < 4 && well; k++)
        for (unsigned m = 0; m < 2 && well; m++)
            for (unsigned from = 0; from <= LOW && well; from += 4)
                for (unsigned to = 0; to <= LOW && well; to += 8)
                    well = try_loop(ends[k] - from, ends[m] + to, turns, anew);
    return well;
}

/* ---- what it stands for changes ------------------------------------------------------------------------------------------ */

static const uint8_t across[] = {
    0x48, 0x8b, 0x03,       /* mov rax, [rbx] */
    0x48, 0x8b, 0x0f,       /* mov rcx, [rdi]: a device */
    0x48, 0x8b, 0x53, 0x08, /* mov rdx, [rbx + 8] */
    0x48, 0x89, 0x4b, 0x10, /* mov [rbx + 16], rcx */
    0xcc
};

static void (*event)(void);
static unsigned told;

static int on_read(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t *data)
{
    (void)v, (void)gpa, (void)size;
    *data = 0x1234;
    if (event)
        event();
    return 0;
}

static void on_code_written(struct vcpu *v, uint64_t gpa, unsigned size, uint8_t holders)
{
    (void)v, (void)gpa, (void)size, (void)holders;
    told++;
}

static void remap(uint64_t gpa, uint64_t rights)
{
    emu_map(DATA_ADDR, gpa, rights | PTE_NX);
    tlb_flush_page(emu, DATA_ADDR);
}

static void move_page(void) { remap(GPA_DATA + 4096, 0x67); }
static void forbid_writing(void) { remap(GPA_DATA, 0x65); }
static void drop_all(void)
{
    emu_map(DATA_ADDR, GPA_DATA + 4096, 0x67 | PTE_NX);
    cpu_serve(emu, REQ_TLB_FLUSH);
}
static void another_decodes(void) /* as machine_ops.code_page() of another vCPU has it */
{
    emu->phys->slot[0]->page_flags[GPA_DATA >> 12] = page_code_flag(1);
    cpu_serve(emu, REQ_WRITE_PROTECT);
}

static void back(void)
{
    emu->phys->slot[0]->page_flags[GPA_DATA >> 12] = 0;
    remap(GPA_DATA, 0x67);
}

static bool try_event(void (*what)(void))
{
    unsigned by_interpreter;

    event = NULL;
    go(&engine_translate, &got); /* which knows of all pages then */
    back();
    event = what;
    told = 0;
    go(&engine_emulate, &want);
    by_interpreter = told;
    back();
    event = NULL;
    go(&engine_translate, &got);
    event = what;
    told = 0;
    go(&engine_translate, &got);
    back();
    expect("stores that were told of", told, by_interpreter);
    expect("vector", (uint64_t)got.s.vector, (uint64_t)want.s.vector);
    expect("rip", got.s.rip, want.s.rip);
    expect("rdx", got.s.gpr[RDX], want.s.gpr[RDX]);
    return !memcmp(&want, &got, sizeof(want));
}

/* ---- the memory goes -------------------------------------------------------------------------------------------------------- */

static void try_gone(void)
{
    event = NULL;
    go(&engine_translate, &got);
    gone_watch(emu_data);
    event = take_away;
    fill();
    emu_load(&c);
    engine_translate.enter(emu, 1000);
    gone_end();
    expect("stopped", (uint64_t)stopped, 1);
    expect("rip where it stops", emu->rip, CODE_ADDR + 6);
    expect("rcx where it stops", emu->gpr[RCX], 0x1234);
    expect("rdx where it stops", emu->gpr[RDX], 0);
}

/* ---- flags that are in the host when the operand has been found ------------------------------------------------------- */

static void try_flags(void)
{
    static const uint8_t code[] = {
        0xd9, 0x6b, 0x10,       /* fldcw [rbx + 16]: x87 is in the host from here on */
        0x48, 0x8b, 0x03,       /* mov rax, [rbx] */
        0x48, 0x39, 0x4b, 0x18, /* cmp [rbx + 24], rcx */
        0xd9, 0x6b, 0x10,       /* fldcw [rbx + 16], which looks at it */
        0x0f, 0x92, 0xc2,       /* setb dl */
        0x0f, 0x94, 0xc6,       /* sete dh */
        0xcc
    };

    event = NULL;
    c.before.in_use = 3;
    memcpy(c.before.fx, &(uint16_t){0x37f}, 2);
    memcpy(c.before.fx + 24, &(uint32_t){0x1f80}, 4);
    emu_code_put(CODE_ADDR, code, sizeof(code));
    for (unsigned k = 0; k < 3; k++) {
        c.before.gpr[RCX] = k == 0 ? 0 : k == 1 ? *(uint64_t *)(emu_data + 64 + 24) : UINT64_MAX;
        expect("as interpreted, with FLDCW", same(), true);
    }
}

/* ---- rights that end within the block ---------------------------------------------------------------------------------------- */

static const uint8_t rights[] = {
    0x0f, 0x01, 0xcb,                               /* stac */
    0x48, 0x8b, 0x04, 0x25, 0x40, 0x00, 0x00, 0x10, /* mov rax, [DATA_ADDR + 64] */
    0x49, 0x8b, 0x0e,                               /* mov rcx, [r14] */
    0x48, 0x8b, 0x14, 0x25, 0x48, 0x00, 0x00, 0x10, /* mov rdx, [DATA_ADDR + 72] */
    0x48, 0x8b, 0x3c, 0x25, 0x40, 0x00, 0x00, 0x10, /* mov rdi, [DATA_ADDR + 64] */
    0x0f, 0x01, 0xca,                               /* clac */
    0x48, 0x8b, 0x34, 0x25, 0x48, 0x00, 0x00, 0x10, /* mov rsi, [DATA_ADDR + 72] */
    0xf4
};

static void go_supervisor(const struct engine *engine)
{
    fill();
    emu_load(&c);
    emu_segment(CS, 0x10);
    emu_segment(SS, 0x18);
    emu->cpl = 0;
    cpu_update_mode(emu);
    while (engine->enter(emu, 1000) == EXIT_POLL)
        ;
}

static void try_rights(void)
{
    emu->cr4 |= CR4_SMAP;
    cpu_update_mode(emu);
    tlb_flush_all(emu);
    c.before.gpr[RSP] = STACK_ADDR - 256;
    c.before.gpr[R14] = STACK_ADDR - 512;
    emu_code_put(CODE_ADDR, rights, sizeof(rights));
    for (unsigned k = 0; k < 2; k++) {
        go_supervisor(&engine_translate);
        expect("rip behind the page fault's HLT", emu->rip, HANDLER_ADDR + 8 * VEC_PF + 1);
        expect("cr2", emu->cr2, DATA_ADDR + 72);
        expect("rdx", emu->gpr[RDX], *(uint64_t *)(emu_data + 72));
        expect("rsi", emu->gpr[RSI], 0);
    }
}

int main(void)
{
    static void (*const events[])(void) = {move_page, forbid_writing, drop_all, another_decodes};
    struct machine_ops ops = {.mmio_read = on_read, .code_written = on_code_written};

    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, true);
    emu_code_put(CODE_ADDR, loop, sizeof(loop));
    expect("ends of pages", try_ends(FEW, true), true);
    expect("ends of pages, in copies", try_ends(MANY, false), true);
    translate_at_once(emu, false);
    emu->ops = &ops;
    emu_map(DEVICE_ADDR, GPA_DEVICE, 0x67);
    memset(&c.before, 0, sizeof(c.before));
    c.before.rip = CODE_ADDR;
    c.before.gpr[RBX] = DATA_ADDR + 64;
    c.before.gpr[RDI] = DEVICE_ADDR;
    c.before.gpr[RSP] = DATA_ADDR + 4096 + 64;
    emu_code_put(CODE_ADDR, across, sizeof(across));
    for (unsigned k = 0; k < sizeof(events) / sizeof(events[0]); k++)
        expect("as interpreted", try_event(events[k]), true);
    try_gone();
    try_flags();
    try_rights();
    return failures != 0;
}
