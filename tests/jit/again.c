/* Loops whose first instruction looks at the flags that the last has set: their result, and that they give up their slices. */
#include "../isa/emu.h"

#include "jit/translate.h"

enum { ROUNDS = 100000, SLICE = 1000, BODY = 6 /* instructions at least */ };
static const uint32_t factor = 0x9e3779b1, middle = 0x80000000;

struct top {
    const char *name, *bytes;
    unsigned length;
    bool counts_above; /* or below */
};
static const struct top tops[] = {
    {"setb", "\x0f\x92\xc3\x0f\xb6\xdb\x01\xd8", 8, false}, /* setb bl; movzx ebx, bl; add eax, ebx */
    {"adc", "\x83\xd0\x00", 3, false},                      /* adc eax, 0 */
    {"jbe", "\x76\x03\x83\xc0\x01", 5, true},               /* jbe 1f; add eax, 1; 1: */
    {"cmova", "\x0f\x47\xdd\x01\xd8\x31\xdb", 7, true},     /* cmova ebx, ebp; add eax, ebx; xor ebx, ebx */
};

static uint32_t expected(bool above)
{
    uint32_t sum = 0;

    for (uint32_t ecx = ROUNDS; ecx; ecx--)
        sum += above ? ecx * factor > middle : ecx * factor < middle;
    return sum;
}

/* The flags are compared in a register, or in memory: there a probe stands before the branch back. */
static unsigned put_loop(uint8_t *p, const struct top *top, bool memory)
{
    static const uint8_t head[] = {0xeb, 0};
    uint8_t *start = p, *first;

    memcpy(p, head, 2), first = p + 2;
    memcpy(first, top->bytes, top->length), p = first + top->length;
    memcpy(p, "\xff\xc9\x74", 3), p += 3; /* dec ecx; jz out */
    uint8_t *out = p++;
    start[1] = (uint8_t)(p - first);
    memcpy(p, "\x69\xd1", 2), memcpy(p + 2, &factor, 4), p += 6; /* imul edx, ecx, factor */
    if (memory)
        memcpy(p, "\x89\x16\x81\x3e", 4), memcpy(p + 4, &middle, 4), p += 8; /* mov [rsi], edx; cmp dword [rsi], middle */
    else
        memcpy(p, "\x81\xfa", 2), memcpy(p + 2, &middle, 4), p += 6; /* cmp edx, middle */
    *p++ = 0x75, *p = (uint8_t)(first - (p + 1)), p++;               /* jne */
    *out = (uint8_t)(p - (out + 1));
    *p++ = 0xcc;
    return (unsigned)(p - start);
}

static unsigned run(const struct top *top, bool memory)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};
    struct state after = {0};
    uint8_t code[64];
    unsigned slices = 0;
    enum cpu_exit_reason why;

    emu_code_put(CODE_ADDR, code, put_loop(code, top, memory));
    c.before.rip = CODE_ADDR;
    c.before.gpr[RAX] = c.before.gpr[RBX] = 0;
    c.before.gpr[RBP] = 1;
    c.before.gpr[RCX] = ROUNDS;
    c.before.gpr[RSI] = DATA_ADDR;
    emu_load(&c);
    while ((why = engine_translate.enter(emu, SLICE)) == EXIT_POLL)
        slices++;
    emu_store(&after);
    if (after.gpr[RAX] == expected(top->counts_above) && slices > BODY * (ROUNDS / SLICE) / 2)
        return 0;
    printf("%s, %s: %llu instead of %u, %u slices, exit %d\n", top->name, memory ? "memory" : "register",
           (unsigned long long)after.gpr[RAX], expected(top->counts_above), slices, why);
    return 1;
}

int main(void)
{
    unsigned failures = 0;

    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    for (unsigned n = 0; n < sizeof(tops) / sizeof(tops[0]); n++)
        failures += run(&tops[n], false) + run(&tops[n], true);
    return failures != 0;
}
