/* Every kind of access at every distance from the end of a page, whatever the page behind it is: translated and interpreted,
 * with the TLB empty and warm. State, memory, accessed and dirty bits, fault and error code agree; and an instruction that
 * faults leaves no trace. Also where addresses cease to be canonical, at the end of 4 GiB, and at the end of all. No arguments.
 */
#include "../isa/emu.h"
#include "device.h"

#include <inttypes.h>

enum { /* what an instruction wants of its address */
    AT_RDI, AT_RSP, /* the operand ends where RSP is */ AT_RSP_POP, AT_RBP, AT_GS, AT_EDI,
    PARTS = 16, /* may store some of it before it faults */
    PUSHES = 32 /* 8 bytes, which Intel's processors leave there when the target is not canonical: cpu/sem/flow.h */
};
static const struct kind {
    const char *name;
    uint8_t size, at, len, bytes[12];
} kinds[] = {
#define KIND(name, size, at, ...) {name, size, at, sizeof((uint8_t[]){__VA_ARGS__}), {__VA_ARGS__}}
    KIND("mov al, [rdi]", 1, AT_RDI, 0x8a, 0x07),
    KIND("mov ax, [rdi]", 2, AT_RDI, 0x66, 0x8b, 0x07),
    KIND("mov eax, [rdi]", 4, AT_RDI, 0x8b, 0x07),
    KIND("mov rax, [rdi]", 8, AT_RDI, 0x48, 0x8b, 0x07),
    KIND("mov rdi, [rdi]", 8, AT_RDI, 0x48, 0x8b, 0x3f),
    KIND("movzx eax, word [rdi]", 2, AT_RDI, 0x0f, 0xb7, 0x07),
    KIND("movsxd r9, [rdi]", 4, AT_RDI, 0x4c, 0x63, 0x0f),
    KIND("add r10, [rdi]", 8, AT_RDI, 0x4c, 0x03, 0x17),
    KIND("cmovz eax, [rdi]", 4, AT_RDI, 0x0f, 0x44, 0x07),
    KIND("cmp [rdi], ax", 2, AT_RDI, 0x66, 0x39, 0x07),
    KIND("test dword [rdi], imm32", 4, AT_RDI, 0xf7, 0x07, 0x55, 0x55, 0, 0x80),
    KIND("bt [rdi], imm8", 8, AT_RDI, 0x48, 0x0f, 0xba, 0x27, 9),
    KIND("mul dword [rdi]", 4, AT_RDI, 0xf7, 0x27),
    KIND("div qword [rdi]", 8, AT_RDI, 0x48, 0xf7, 0x37),
    KIND("movbe eax, [rdi]", 4, AT_RDI, 0x0f, 0x38, 0xf0, 0x07),
    KIND("mov rax, gs:[rdi]", 8, AT_GS, 0x65, 0x48, 0x8b, 0x07),
    KIND("mov gs:[rdi], eax", 4, AT_GS, 0x65, 0x89, 0x07),
    KIND("mov eax, [edi+127]", 4, AT_EDI, 0x67, 0x8b, 0x47, 0x7f),
    KIND("mov [edi+127], rax", 8, AT_EDI, 0x67, 0x48, 0x89, 0x47, 0x7f),
    KIND("mov [rdi], al", 1, AT_RDI, 0x88, 0x07),
    KIND("mov [rdi], ax", 2, AT_RDI, 0x66, 0x89, 0x07),
    KIND("mov [rdi], eax", 4, AT_RDI, 0x89, 0x07),
    KIND("mov [rdi], r11", 8, AT_RDI, 0x4c, 0x89, 0x1f),
    KIND("mov qword [rdi], imm32", 8, AT_RDI, 0x48, 0xc7, 0x07, 1, 2, 3, 4),
    KIND("setc [rdi]", 1, AT_RDI, 0x0f, 0x92, 0x07),
    KIND("add [rdi], ax", 2, AT_RDI, 0x66, 0x01, 0x07),
    KIND("adc [rdi], eax", 4, AT_RDI, 0x11, 0x07),
    KIND("sub [rdi], rax", 8, AT_RDI, 0x48, 0x29, 0x07),
    KIND("xor dword [rdi], imm8", 4, AT_RDI, 0x83, 0x37, 0x5a),
    KIND("inc qword [rdi]", 8, AT_RDI, 0x48, 0xff, 0x07),
    KIND("neg dword [rdi]", 4, AT_RDI, 0xf7, 0x1f),
    KIND("not word [rdi]", 2, AT_RDI, 0x66, 0xf7, 0x17),
    KIND("shl qword [rdi], cl", 8, AT_RDI, 0x48, 0xd3, 0x27),
    KIND("ror dword [rdi], 3", 4, AT_RDI, 0xc1, 0x0f, 3),
    KIND("shld [rdi], eax, 5", 4, AT_RDI, 0x0f, 0xa4, 0x07, 5),
    KIND("lock add [rdi], eax", 4, AT_RDI, 0xf0, 0x01, 0x07),
    KIND("lock dec qword [rdi]", 8, AT_RDI, 0xf0, 0x48, 0xff, 0x0f),
    KIND("lock xadd [rdi], rdx", 8, AT_RDI, 0xf0, 0x48, 0x0f, 0xc1, 0x17),
    KIND("xchg [rdi], edx", 4, AT_RDI, 0x87, 0x17),
    KIND("xchg [rdi], r11", 8, AT_RDI, 0x4c, 0x87, 0x1f),
    KIND("cmpxchg [rdi], edx", 4, AT_RDI, 0x0f, 0xb1, 0x17),
    KIND("lock cmpxchg [rdi], rdx", 8, AT_RDI, 0xf0, 0x48, 0x0f, 0xb1, 0x17),
    KIND("cmpxchg8b [rdi]", 8, AT_RDI, 0x0f, 0xc7, 0x0f),
    KIND("lock btc dword [rdi], 7", 4, AT_RDI, 0xf0, 0x0f, 0xba, 0x3f, 7),
    KIND("movups xmm1, [rdi]", 16, AT_RDI, 0x0f, 0x10, 0x0f),
    KIND("movups [rdi], xmm1", 16, AT_RDI, 0x0f, 0x11, 0x0f),
    KIND("movsd xmm1, [rdi]", 8, AT_RDI, 0xf2, 0x0f, 0x10, 0x0f),
    KIND("movss [rdi], xmm1", 4, AT_RDI, 0xf3, 0x0f, 0x11, 0x0f),
    KIND("movd [rdi], xmm1", 4, AT_RDI, 0x66, 0x0f, 0x7e, 0x0f),
    KIND("paddd xmm1, [rdi]", 16, AT_RDI, 0x66, 0x0f, 0xfe, 0x0f),
    KIND("cvtsi2sd xmm1, qword [rdi]", 8, AT_RDI, 0xf2, 0x48, 0x0f, 0x2a, 0x0f),
    KIND("vmovups ymm1, [rdi]", 32, AT_RDI, 0xc5, 0xfc, 0x10, 0x0f),
    KIND("vmovups [rdi], ymm1", 32, AT_RDI, 0xc5, 0xfc, 0x11, 0x0f),
    KIND("fld tword [rdi]", 10, AT_RDI, 0xdb, 0x2f),
    KIND("fst qword [rdi]", 8, AT_RDI, 0xdd, 0x17),
    KIND("push rax", 8, AT_RSP, 0x50),
    KIND("push r11", 8, AT_RSP, 0x41, 0x53),
    KIND("push imm8", 8, AT_RSP, 0x6a, 0xfe),
    KIND("push rsp", 8, AT_RSP, 0x54),
    KIND("pushfq", 8, AT_RSP, 0x9c),
    KIND("push [rdi]", 8, AT_RDI, 0xff, 0x37),
    KIND("push word", 2, AT_RSP, 0x66, 0x50),
    KIND("call over a HLT", 8, AT_RSP, 0xe8, 1, 0, 0, 0, 0xf4),
    KIND("call rbx", 8, AT_RSP, 0xff, 0xd3),
    KIND("pop rax", 8, AT_RSP_POP, 0x58),
    KIND("pop rsp", 8, AT_RSP_POP, 0x5c),
    KIND("pop r11", 8, AT_RSP_POP, 0x41, 0x5b),
    KIND("pop [rdi]", 8, AT_RDI, 0x8f, 0x07),
    KIND("ret", 8, AT_RSP_POP, 0xc3),
    KIND("ret 24", 8, AT_RSP_POP, 0xc2, 24, 0),
    KIND("call [rdi]", 8, AT_RDI | PUSHES, 0xff, 0x17),
    KIND("jmp [rdi]", 8, AT_RDI, 0xff, 0x27),
    KIND("leave", 8, AT_RBP, 0xc9),
    KIND("enter 16, 0", 8, AT_RSP | PARTS, 0xc8, 16, 0, 0),
    KIND("stosq", 8, AT_RDI, 0x48, 0xab),
    KIND("lodsd", 4, AT_RDI, 0x48, 0x89, 0xfe, 0xad), /* mov rsi, rdi before it */
    KIND("movsq", 8, AT_RDI, 0x48, 0xa5),
    KIND("scasd", 4, AT_RDI, 0xaf),
    KIND("rep stosd", 12, AT_RDI | PARTS, 0xf3, 0xab),
    KIND("rep movsb", 3, AT_RDI | PARTS, 0xf3, 0xa4),
    KIND("rep movsq", 24, AT_RDI | PARTS, 0xf3, 0x48, 0xa5),
    KIND("repe scasw", 6, AT_RDI | PARTS, 0x66, 0xf3, 0xaf),
};

/* ---- pages ------------------------------------------------------------------------------------------------------- */

enum { PLAIN = 7, READONLY = 5, SUPERVISOR = 3, ABSENT = 0, DEVICE = 7 | 1 << 9 /* a bit for software */, CLEAN = 7 };
enum { GPA_DEVICE = 0x10000000 };

static const struct pair {
    uint64_t first; /* linear; the second page follows */
    uint16_t rights[2];
} pairs[] = {
    {0x30000000, {PLAIN, PLAIN}},     {0x30004000, {PLAIN, ABSENT}},     {0x30008000, {PLAIN, READONLY}},
    {0x3000c000, {PLAIN, SUPERVISOR}}, {0x30010000, {PLAIN, DEVICE}},    {0x30014000, {ABSENT, PLAIN}},
    {0x30018000, {READONLY, PLAIN}},  {0x3001c000, {DEVICE, PLAIN}},     {0x30020000, {ABSENT, ABSENT}},
    {0x30024000, {READONLY, ABSENT}}, {0x30028000, {SUPERVISOR, ABSENT}}, {0x7ffffffff000, {PLAIN, ABSENT /* no address */}},
    {0xfffffffffffff000, {PLAIN, PLAIN}}, {0xfffff000, {PLAIN, PLAIN}},  {0xffff7ffffffff000, {ABSENT, ABSENT /* neither */}},
};
enum { PAIRS = sizeof(pairs) / sizeof(pairs[0]), KINDS = sizeof(kinds) / sizeof(kinds[0]) };

static uint64_t *leaves[PAIRS][2], leaf_values[PAIRS][2];

static uint64_t *leaf_of(uint64_t linear)
{
    uint64_t table = GPA_TABLES;

    for (int level = 3; level > 0; level--)
        table = ((uint64_t *)(emu_ram + table))[linear >> (12 + 9 * level) & 511] & ~0xfffull;
    return (uint64_t *)(emu_ram + table) + (linear >> 12 & 511);
}

static void make_pages(void)
{
    for (unsigned n = 0; n < PAIRS; n++)
        for (unsigned k = 0; k < 2; k++) {
            uint64_t linear = pairs[n].first + 4096 * k, rights = pairs[n].rights[k];
            bool exists = cpu_canonical(emu, linear);
            if (!exists)
                continue;
            emu_map(linear, rights == DEVICE ? GPA_DEVICE : (uint64_t)GPA_DATA + 4096 * k, rights | PTE_NX);
            leaves[n][k] = leaf_of(linear);
            leaf_values[n][k] = *leaves[n][k];
        }
}

/* ---- a case ------------------------------------------------------------------------------------------------------------ */

enum { DATA = 2 * 4096, BEFORE_LEN = 3, CODE = 64, RSP_AT = 512 };
static uint8_t content[DATA];
static uint64_t begin, stop; /* of the instruction in question */

static struct outcome {
    struct state s;
    uint64_t leaf[2], device;
    uint8_t data[DATA];
} want, got;

/* inc r12; the instruction, between two that share its address when `neighbours`; add r13, r12; int3 */
static void put_code(const struct kind *k, bool neighbours)
{
    static const uint8_t load[] = {0x4c, 0x8b, 0x77, 0xe8 /* mov r14, [rdi-24] */}, store[] = {0x4c, 0x89, 0x77, 0xe0};
    uint8_t code[CODE], *p = code + BEFORE_LEN;

    memset(code, 0xcc, sizeof(code));
    memcpy(code, (const uint8_t[]){0x49, 0xff, 0xc4}, BEFORE_LEN);
    if (neighbours)
        memcpy(p, load, 4), p += 4;
    begin = CODE_ADDR + 64 + (uint64_t)(p - code);
    memcpy(p, k->bytes, k->len);
    p += k->len;
    stop = CODE_ADDR + 64 + (uint64_t)(p - code);
    if (neighbours)
        memcpy(p, store, 4), p += 4;
    memcpy(p, (const uint8_t[]){0x4d, 0x01, 0xe5}, 3);
    emu_code_put(CODE_ADDR + 64, code, sizeof(code));
}

static void set_address(struct state *s, const struct kind *k, uint64_t at)
{
    s->gpr[RSP] = DATA_ADDR + RSP_AT; /* of the data that the pairs map, too */
    s->gpr[RDI] = at;
    switch (k->at & ~(PARTS | PUSHES)) {
    case AT_RSP: s->gpr[RSP] = at + k->size; break;
    case AT_RSP_POP: s->gpr[RSP] = at; break;
    case AT_RBP: s->gpr[RBP] = at; break;
    case AT_GS: s->gpr[RDI] = at - GS_BASE; break;
    case AT_EDI: s->gpr[RDI] = (at - 127) | 0xabcull << 32; break;
    default: break;
    }
}

static void run(const struct engine *engine, const struct icase *c, unsigned pair, bool cold, struct outcome *o)
{
    enum cpu_exit_reason why;

    memcpy(emu_data, content, DATA);
    device = 7;
    for (unsigned k = 0; k < 2 && cold; k++)
        if (leaves[pair][k])
            *leaves[pair][k] = leaf_values[pair][k];
    if (cold)
        tlb_flush_all(emu);
    emu_load(c);
    memset(o, 0, sizeof(*o));
    do
        why = engine->enter(emu, 100);
    while (why == EXIT_POLL);
    emu_store(&o->s);
    o->s.vector = 1000 + (int)why;
    if (why == EXIT_HLT)
        emu_frame(&o->s);
    o->device = device;
    memcpy(o->data, emu_data, DATA);
    for (unsigned k = 0; k < 2; k++)
        o->leaf[k] = leaves[pair][k] ? *leaves[pair][k] : 0;
}

/* A fault of the instruction itself: nothing has changed but what came before it. */
static bool leaves_trace(const struct icase *c, const struct kind *k, const struct outcome *o)
{
    struct state s = c->before;
    uint8_t data[DATA];

    if (o->s.rip != begin || o->s.vector == 3 || k->at & PARTS)
        return false;
    s.gpr[R12]++;
    s.gpr[R14] = o->s.gpr[R14]; /* the neighbour's */
    memcpy(data, o->data, DATA);
    if (k->at & PUSHES && o->s.vector == VEC_GP && !emu->amd)
        memcpy(data + RSP_AT - 8, content + RSP_AT - 8, 8);
    return memcmp(s.gpr, o->s.gpr, sizeof(s.gpr)) || memcmp(data, content, DATA) || memcmp(s.ymm, o->s.ymm, sizeof(s.ymm)) ||
           memcmp(s.fx, o->s.fx, sizeof(s.fx));
}

static unsigned failures, checks;

static void complain(const char *what, const struct kind *k, unsigned pair, uint64_t at, bool cold)
{
    printf("%s: %s at %" PRIx64 " (pair %u, %s): vector %d/%d error %x/%x cr2 %" PRIx64 "/%" PRIx64 " rip %" PRIx64 "/%" PRIx64 "\n",
           what, k->name, at, pair, cold ? "cold" : "warm", want.s.vector, got.s.vector, want.s.error, got.s.error, want.s.cr2,
           got.s.cr2, want.s.rip, got.s.rip);
    for (unsigned n = 0; n < 16; n++)
        if (want.s.gpr[n] != got.s.gpr[n])
            printf("  r%u %" PRIx64 " interpreted, %" PRIx64 " translated\n", n, want.s.gpr[n], got.s.gpr[n]);
    failures++;
}

static void one(const struct kind *k, unsigned pair, uint64_t at)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};
    struct state *s = &c.before;

    memset(s, 0, sizeof(*s));
    for (unsigned n = 0; n < 16; n++)
        s->gpr[n] = 0x0123456789abcdefull * (n + 3);
    s->gpr[RAX] = 0x123456789;
    s->gpr[RCX] = 3;
    s->gpr[RDX] = 1;
    s->gpr[RBX] = stop;
    s->gpr[RSI] = DATA_ADDR + 1024;
    set_address(s, k, at);
    s->rip = CODE_ADDR + 64;
    s->rflags = 1;
    memset(s->ymm, 0x40, sizeof(s->ymm));
    memcpy(s->fx, (const uint8_t[]){0x7f, 3}, 2);
    memcpy(s->fx + 24, (const uint8_t[]){0x80, 0x1f, 0, 0, 0xff, 0xff}, 6);
    s->in_use = 6;
    for (int cold = 1; cold >= 0; cold--) {
        run(&engine_emulate, &c, pair, cold, &want);
        run(&engine_translate, &c, pair, cold, &got);
        checks++;
        if (memcmp(&want, &got, sizeof(want)))
            complain("differs", k, pair, at, cold);
        else if (leaves_trace(&c, k, &got))
            complain("leaves a trace", k, pair, at, cold);
    }
}

int main(void)
{
    static const struct machine_ops ops = {.mmio_read = device_read, .mmio_write = device_write};

    emu_create();
    emu->ops = &ops;
    make_pages();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, true);
    for (unsigned n = 0; n < DATA; n += 8) /* plain numbers, addresses for RET and the like */
        *(uint64_t *)(content + n) = n % 64 ? (uint64_t)n * 0x9e3779b97f4a7c15ull : CODE_ADDR + 64 + CODE - 1;
    for (unsigned n = 0; n < KINDS && failures < 5; n++)
        for (unsigned neighbours = 0; neighbours < 2; neighbours++) {
            put_code(&kinds[n], neighbours);
            for (unsigned pair = 0; pair < PAIRS; pair++)
                for (int from = -(int)kinds[n].size - 1; from <= 1; from++)
                    one(&kinds[n], pair, pairs[pair].first + 4096 + (uint64_t)(int64_t)from);
        }
    printf("%u checks, %u failures\n", checks, failures);
    return failures != 0;
}
