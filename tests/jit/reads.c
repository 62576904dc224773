/* Code that need not be there. What an instruction only reads does not change: an operand behind it shares the probe of one before it,
 * and a loop that adds such a register to an address is a strip. Flags are not saved before a jump or call to who overwrites them, and
 * the address of what is only loaded is not summed up. */
#include "inside.h"

enum { NEVER = 1 /* times: what no gate writes that then stays long */ };

/* Each leaves RCX, RDX and RBX, the operands' base, as they are. */
static const struct reader {
    const char *name;
    uint8_t bytes[5], count;
} readers[] = {
    {"mov rsi, rbx", {0x48, 0x89, 0xde}, 3},
    {"add rsi, rbx", {0x48, 0x01, 0xde}, 3},
    {"cmp rsi, rbx", {0x48, 0x39, 0xde}, 3},
    {"test rbx, rbx", {0x48, 0x85, 0xdb}, 3},
    {"imul rsi, rbx", {0x48, 0x0f, 0xaf, 0xf3}, 4},
    {"test bl, 1", {0xf6, 0xc3, 0x01}, 3},
};

static void run(const uint8_t *code, unsigned bytes)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};

    emu_code_put(CODE_ADDR, code, bytes);
    c.before.rip = CODE_ADDR;
    c.before.gpr[RAX] = 0;
    c.before.gpr[RBX] = c.before.gpr[RCX] = DATA_ADDR;
    c.before.gpr[RDX] = 8;
    c.before.gpr[R12] = DATA_ADDR + 2048;
    c.before.gpr[RSP] = DATA_ADDR + 4096 - 64;
    emu_load(&c);
    while (engine_translate.enter(emu, SLICE_MAX) == EXIT_POLL)
        ;
}

static uint32_t code_bytes(void) { return jit_of(emu)->region[jit_of(emu)->filling].used; }

/* How many bytes of code a probe, a reader and an operand become. */
static uint32_t translated(const uint8_t *between, unsigned count)
{
    static const uint8_t first[] = {0x48, 0x8b, 0x3b};               /* mov rdi, [rbx] */
    static const uint8_t second[] = {0x48, 0x03, 0x7b, 0x08, 0xcc}; /* add rdi, [rbx + 8]; int3 */
    uint8_t code[16];

    memcpy(code, first, sizeof(first));
    memcpy(code + sizeof(first), between, count);
    memcpy(code + sizeof(first) + count, second, sizeof(second));
    codecache_flush(emu);
    uint32_t before = code_bytes();
    run(code, (unsigned)sizeof(first) + count + (unsigned)sizeof(second));
    return code_bytes() - before;
}

static bool has_strip(const uint8_t *code, unsigned bytes)
{
    memset(emu->short_strips, NEVER, sizeof(emu->short_strips));
    run(code, bytes);
    return memchr(emu->short_strips, 0, sizeof(emu->short_strips));
}

/* How often what the code becomes has these bytes in it. */
static unsigned times(const uint8_t *code, unsigned bytes, const uint8_t *what, unsigned count)
{
    const struct jit *j = jit_of(emu);
    const uint8_t *at = j->rw + CODE_HEAD + j->filling * REGION_BYTES, *end;
    unsigned found = 0;

    codecache_flush(emu);
    at += code_bytes();
    run(code, bytes);
    end = j->rw + CODE_HEAD + j->filling * REGION_BYTES + code_bytes();
    while ((at = memmem(at, (size_t)(end - at), what, count))) {
        at += count;
        found++;
    }
    return found;
}

int main(void)
{
    static const uint8_t strided[] = {
        0xc6, 0x04, 0x01, 0x01,       /* 1: mov byte [rcx + rax], 1 */
        0x48, 0x01, 0xd0,             /* add rax, rdx */
        0x3d, 0xff, 0x07, 0x00, 0x00, /* cmp eax, 2047 */
        0x7e, 0xf2,                   /* jle 1b */
        0xcc
    };
    static const uint8_t by_jump[] = {
        0x4c, 0x39, 0xe1,             /* 1: cmp rcx, r12 */
        0x74, 0x09,                   /* je 2f */
        0x48, 0x8b, 0x39,             /* mov rdi, [rcx] */
        0x48, 0x83, 0xc1, 0x08,       /* add rcx, 8 */
        0xeb, 0xf2,                   /* jmp 1b */
        0xcc                          /* 2: int3 */
    };
    static const uint8_t jump[] = {
        0x48, 0x01, 0xfe,             /* add rsi, rdi */
        0x48, 0x8b, 0x3b,             /* mov rdi, [rbx] */
        0xeb, 0x00,                   /* jmp 1f */
        0x85, 0xc0, 0xcc              /* 1: test eax, eax; int3 */
    };
    static const uint8_t call[] = {
        0x48, 0x01, 0xfe,             /* add rsi, rdi */
        0xe8, 0x01, 0x00, 0x00, 0x00, /* call 1f */
        0xcc,                         /* int3 */
        0x85, 0xc0, 0xcc              /* 1: test eax, eax; int3 */
    };
    static const uint8_t looks[] = {
        0x48, 0x01, 0xfe,             /* add rsi, rdi */
        0x48, 0x8b, 0x3b,             /* mov rdi, [rbx] */
        0xeb, 0x00,                   /* jmp 1f */
        0x0f, 0x92, 0xc0, 0xcc        /* 1: setb al; int3 */
    };
    static const uint8_t load[] = {0x48, 0x8b, 0x3b, 0xcc}; /* mov rdi, [rbx]; int3 */
    static const uint8_t save[] = {0x9f, 0x0f, 0x90, 0xc0}; /* lahf; seto al */
    static const uint8_t sum[] = {0x4f, 0x03, 0x94, 0x19};  /* add r10, [r9 + r11 + disp32] */

    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    uint32_t alone = translated(readers[0].bytes, 0);
    for (const struct reader *r = readers; r < readers + sizeof(readers) / sizeof(readers[0]); r++)
        if (translated(r->bytes, r->count) > alone + 16) {
            printf("%s: the operand behind it has a probe of its own\n", r->name);
            failures++;
        }
    expect("a loop that adds a register has a strip", has_strip(strided, sizeof(strided)), true);
    expect("a loop that ends with JMP has a strip", has_strip(by_jump, sizeof(by_jump)), true);
    /* once, for INT3, which pushes them */
    expect("flags before a jump to who overwrites them", times(jump, sizeof(jump), save, sizeof(save)), 1);
    expect("flags before a call of who overwrites them", times(call, sizeof(call), save, sizeof(save)), 1);
    expect("flags before a jump to who looks at them", times(looks, sizeof(looks), save, sizeof(save)), 1); /* before the jump */
    expect("the address of a load, summed up", times(load, sizeof(load), sum, sizeof(sum)), 0);
    return failures != 0;
}
