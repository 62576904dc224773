/* Calls that are not returned from, returns that nobody called, and what changes between the two: translated as interpreted. */
#include "../isa/emu.h"

enum { ROUNDS = 40, OTHER = 4096 /* the second page of code */, GPA_REMAPPED = 0x30000 };

static uint8_t code[CODE_BYTES], *out;
static bool supervisor, remaps;
static unsigned failures;

static void put(const char *bytes, unsigned n)
{
    memcpy(out, bytes, n);
    out += n;
}
#define PUT(bytes) put(bytes, sizeof(bytes) - 1)
static void put32(uint32_t value) { put((const char *)&value, 4); }
static void call(unsigned to)
{
    PUT("\xe8");
    put32((uint32_t)(code + to - (out + 4)));
}
static void at(unsigned off) { out = code + off; }
/* mov ebp, ROUNDS; 1: */
static void rounds(void)
{
    PUT("\xbd");
    put32(ROUNDS);
}
/* dec ebp; jnz 1b; int3 */
static void again(unsigned loop)
{
    PUT("\xff\xcd\x0f\x85");
    put32((uint32_t)(code + loop - (out + 4)));
    PUT("\xcc");
}

/* ---- programs -------------------------------------------------------------------------------------------- */

static void deep(void) /* deeper than what is remembered */
{
    rounds();
    PUT("\xbf\x2c\x01\0\0"); /* mov edi, 300 */
    call(OTHER);
    again(5);
    at(OTHER);
    PUT("\xff\xcf\x74\x05"); /* dec edi; jz 1f */
    call(OTHER);
    PUT("\xff\xc0\xc3"); /* 1: inc eax; ret */
}

static void nonlocal(void) /* longjmp(): from three calls deep to the outermost caller */
{
    rounds();
    PUT("\x49\x89\xe4"); /* mov r12, rsp */
    call(0x100);
    PUT("\xff\xc0"); /* inc eax */
    call(0x200);
    again(5);
    at(0x100);
    call(0x180);
    PUT("\xff\xc2\xc3"); /* inc edx: never */
    at(0x180);
    call(OTHER + 8);
    PUT("\xff\xc2\xc3");
    at(0x200);
    PUT("\xff\xc1\xc3"); /* inc ecx; ret */
    at(OTHER + 8);
    PUT("\x49\x8d\x64\x24\xf8\xc3"); /* lea rsp, [r12 - 8]; ret */
}

static void skips(void) /* the callee moves its return address */
{
    rounds();
    call(OTHER);
    PUT("\xff\xc0"); /* inc eax: every second time */
    again(5);
    at(OTHER);
    PUT("\xff\xc3\xf6\xc3\x01\x74\x05\x48\x83\x04\x24\x02\xc3"); /* inc ebx; test bl, 1; jz 1f; add qword [rsp], 2; 1: ret */
}

static void where(void) /* call; pop */
{
    rounds();
    call(0x100);
    again(5);
    at(0x100);
    call(0x105);
    PUT("\x58");
    call(0x10c);
    PUT("\x90\x59\xc3"); /* nop; pop rcx; ret */
}

static void retpoline(void)
{
    rounds();
    PUT("\xb8");
    put32(CODE_ADDR + OTHER + 0x80); /* mov eax */
    call(0x100);
    call(OTHER + 0x100);
    again(5);
    at(0x100);
    call(0x10c);
    PUT("\xf3\x90\x0f\xae\xe8\xeb\xf9"); /* pause; lfence; jmp */
    PUT("\x48\x89\x04\x24\xc3");         /* mov [rsp], rax; ret */
    at(OTHER + 0x80);
    PUT("\xff\xc3"); /* inc ebx; jmp to the thunk */
    PUT("\xeb\x7c");
    at(OTHER + 0x100);
    call(OTHER + 0x110);
    at(OTHER + 0x110);
    PUT("\x48\x8d\x64\x24\x08\xc3"); /* lea rsp, [rsp + 8]; ret */
}

static void counted(void) /* ret imm16, calls through registers and memory */
{
    rounds();
    PUT("\x48\x8d\x05\xf0\x0f\0\0"); /* lea rax, [rip + 0xff0] */
    PUT("\x50\xff\xd0");             /* push rax; call rax */
    PUT("\x50\xff\x14\x24");         /* push rax; call [rsp] */
    again(5);
    at(5 + 7 + 0xff0);
    PUT("\xff\xc3\xc2\x08\0"); /* inc ebx; ret 8 */
}

static void nowhere(void) /* to an address that is not canonical: RET's fault */
{
    rounds();
    call(0x100);
    again(5);
    at(0x100);
    PUT("\x83\xfd\x01\x75\x0d\x48\xb8\0\0\0\0\0\0\0\x80\x50\x90\x90\xc3"); /* cmp ebp, 1; jne 1f; mov rax, 1 << 63; push rax; 1: ret */
}

static void zero(void) /* to 0, where nobody called from */
{
    rounds();
    call(0x100);
    again(5);
    at(0x100);
    PUT("\x83\xfd\x01\x75\x02\x6a\0\xc3"); /* cmp ebp, 1; jne 1f; push 0; 1: ret */
}

static void changed(void) /* the callee changes what stands behind the call */
{
    rounds();
    call(OTHER);
    PUT("\xb8\0\0\0\0"); /* mov eax, imm32, which is written */
    PUT("\x01\xc3");     /* add ebx, eax */
    again(5);
    at(OTHER);
    PUT("\x89\x2c\x25"); /* mov [imm32], ebp */
    put32(CODE_ADDR + 11);
    PUT("\xc3");
}

static void dropped(void) /* the caller's page goes, which is younger than what stands behind the call */
{
    supervisor = true;
    rounds();
    PUT("\xeb\x05"); /* jmp behind the call */
    call(OTHER);
    PUT("\xb8\0\0\0\0\x01\xc3"); /* mov eax, imm32, which cr8_read() writes; add ebx, eax */
    again(7);
    at(OTHER);
    PUT("\x44\x0f\x20\xc1\xc3"); /* mov rcx, cr8; ret */
}

static void across(void) /* what stands behind the call is in the next page, and the callee changes it */
{
    rounds();
    PUT("\xe9"); /* jmp */
    put32(OTHER - 5 - 10);
    at(OTHER - 5);
    call(0x100);
    PUT("\xb8\0\0\0\0\x01\xc3"); /* mov eax, imm32, which is written; add ebx, eax */
    again(5);
    at(0x100);
    PUT("\x89\x2c\x25"); /* mov [imm32], ebp */
    put32(CODE_ADDR + OTHER + 1);
    PUT("\xc3");
}

static void remapped(void) /* somebody else makes us flush the TLB while the callee stores */
{
    remaps = true;
    rounds();
    call(OTHER);
    PUT("\xb8\x11\0\0\0"); /* mov eax, 0x11, elsewhere 0x22 */
    PUT("\x01\xc3");
    again(5);
    at(OTHER);
    PUT("\x83\xfd\x01\x75\x0b"); /* cmp ebp, 1; jne 1f */
    PUT("\x89\x2c\x25");
    put32(DATA_ADDR + 4096);
    PUT("\x8b\x0c\x24\x90\xc3"); /* mov ecx, [rsp]: the TLB knows the stack again; nop; 1: ret */
}

static void rights(void) /* the callee takes away the right to see the user's memory, at last */
{
    supervisor = true;
    rounds();
    PUT("\x0f\x01\xcb\x8b\x03"); /* stac; mov eax, [rbx] */
    call(OTHER);
    PUT("\x8b\x03\xff\xc1"); /* mov eax, [rbx]; inc ecx */
    again(5);
    at(OTHER);
    PUT("\x83\xfd\x01\x75\x05\x0f\x01\xca\x50\x58\xc3"); /* cmp ebp, 1; jne 1f; clac; push rax; pop rax; 1: ret */
}

static void elsewhere(void) /* without that right to another address, of which only one bit is not the caller's */
{
    supervisor = true;
    rounds();
    PUT("\x0f\x01\xcb"); /* stac */
    call(OTHER);
    PUT("\xff\xc1"); /* inc ecx */
    again(5);
    at(OTHER);
    PUT("\x83\xfd\x01\x75\x09\x0f\x01\xca");   /* cmp ebp, 1; jne 1f; clac */
    PUT("\x48\x0f\xba\x3c\x24\x2e\xc3");       /* btc qword [rsp], 46; 1: ret */
}

/* ---- running them ----------------------------------------------------------------------------------------- */

static uint64_t *code_entry(void)
{
    uint64_t table = GPA_TABLES;

    for (int level = 3; level > 0; level--)
        table = ((uint64_t *)(emu_ram + table))[CODE_ADDR >> (12 + 9 * level) & 511] & ~0xfffull;
    return (uint64_t *)(emu_ram + table) + (CODE_ADDR >> 12 & 511);
}

/* As if there were no more room for the page: the callee goes on. Not always, or no call is linked. */
static uint8_t cr8_read(struct vcpu *v)
{
    if (v->gpr[RBP] % 4)
        return 0;
    emu_ram[GPA_CODE + 13]++;
    codecache_written(v, GPA_CODE + 13, 1);
    return 0;
}

static void written(struct vcpu *v, uint64_t gpa, unsigned size, uint8_t holders)
{
    (void)gpa, (void)size, (void)holders;
    *code_entry() = GPA_REMAPPED | 0x67;
    tlb_flush_all(v);
}

static void run(const struct engine *engine, int32_t budget, struct state *after)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};
    enum cpu_exit_reason why;
    uint8_t *flags = &emu->phys->slot[0]->page_flags[(GPA_DATA + 4096) >> 12];

    *code_entry() = GPA_CODE | 0x67;
    emu_code_put(CODE_ADDR, code, sizeof(code));
    memcpy(emu_ram + GPA_REMAPPED, code, 4096);
    emu_ram[GPA_REMAPPED + 11] = 0x22;
    codecache_written(emu, GPA_REMAPPED, 4096);
    memset(&c.before, 0, sizeof(c.before));
    memcpy(c.before.fx, (uint8_t[]){0x7f, 3}, 2);
    c.before.rip = CODE_ADDR;
    c.before.gpr[RSP] = DATA_ADDR + 4096 - 64;
    emu_load(&c);
    emu->cr4 &= ~(uint64_t)CR4_SMAP;
    *flags = (uint8_t)(remaps ? page_code_flag(1) : 0);
    if (supervisor) {
        emu->gpr[RSP] = STACK_ADDR - 1024;
        emu->gpr[RBX] = DATA_ADDR;
        emu_segment(CS, 0x10);
        emu_segment(SS, 0x18);
        emu->cpl = 0;
        emu->cr4 |= CR4_SMAP;
        cpu_update_mode(emu);
    }
    tlb_flush_all(emu);
    do
        why = engine->enter(emu, budget);
    while (why == EXIT_POLL);
    memset(after, 0, sizeof(*after));
    emu_store(after);
    emu_frame(after);
    after->error = why == EXIT_HLT ? after->error : 1000 + (uint32_t)why;
}

static void compare(const char *name, const struct state *want, const struct state *got)
{
    if (!memcmp(want->gpr, got->gpr, sizeof(want->gpr)) && want->rip == got->rip && want->vector == got->vector &&
        want->error == got->error)
        return;
    failures++;
    printf("%s: vector %d/%d, rip %llx/%llx\n", name, want->vector, got->vector, (unsigned long long)want->rip,
           (unsigned long long)got->rip);
    for (unsigned n = 0; n < 16; n++)
        if (want->gpr[n] != got->gpr[n])
            printf("  r%u: %llx/%llx\n", n, (unsigned long long)want->gpr[n], (unsigned long long)got->gpr[n]);
}

int main(void)
{
    static const struct machine_ops ops = {.code_written = written, .cr8_read = cr8_read};
    static const struct {
        const char *name;
        void (*write)(void);
        int vector;
    } programs[] = {{"deep", deep, VEC_BP}, {"nonlocal", nonlocal, VEC_BP}, {"skips", skips, VEC_BP}, {"where", where, VEC_BP},
                    {"retpoline", retpoline, VEC_BP}, {"counted", counted, VEC_BP}, {"nowhere", nowhere, VEC_GP},
                    {"zero", zero, VEC_PF}, {"changed", changed, VEC_BP}, {"dropped", dropped, VEC_BP},
                    {"across", across, VEC_BP}, {"remapped", remapped, VEC_BP}, {"rights", rights, VEC_PF},
                    {"elsewhere", elsewhere, VEC_PF}};
    struct state want, got;

    emu_create();
    emu->ops = &ops;
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    for (unsigned n = 0; n < sizeof(programs) / sizeof(programs[0]); n++) {
        memset(code, 0xcc, sizeof(code));
        supervisor = remaps = false;
        at(0);
        programs[n].write();
        run(&engine_emulate, 100000, &want);
        run(&engine_translate, 100000, &got);
        if (want.vector != programs[n].vector) {
            printf("%s ends with vector %d, at %llx\n", programs[n].name, want.vector, (unsigned long long)want.rip);
            failures++;
        }
        compare(programs[n].name, &want, &got);
        run(&engine_translate, 7, &got); /* it ends between returns, too */
        compare(programs[n].name, &want, &got);
    }
    return failures != 0;
}
