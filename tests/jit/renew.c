/* A slice that is used up is renewed in translated code: as long as nobody wants the vCPU, and never beyond the budget. */
#include "inside.h"

#include <pthread.h>

enum { BUDGET = 50000, ENDLESS = 1 << 30, OVER_MAX = 64 /* instructions, behind which a block or a strip looks */ };

static const uint8_t strip[] = {
    0x48, 0x89, 0xfa,             /* 1: mov rdx, rdi */
    0xb9, 0x00, 0x01, 0x00, 0x00, /* mov ecx, 256 */
    0x48, 0xff, 0x02,             /* 2: inc qword [rdx] */
    0x48, 0x83, 0xc2, 0x08,       /* add rdx, 8 */
    0xff, 0xc9,                   /* dec ecx */
    0x75, 0xf5,                   /* jne 2b */
    0xeb, 0xeb                    /* jmp 1b */
};
static const uint8_t in_place[] = {
    0x48, 0xff, 0x07,       /* 1: inc qword [rdi] */
    0x31, 0xc0,             /* xor eax, eax */
    0x85, 0xc0,             /* test eax, eax */
    0x74, 0xf7              /* je 1b */
};
static const uint8_t edges[] = {
    0x48, 0xff, 0x07,       /* 1: inc qword [rdi] */
    0xeb, 0x00,             /* jmp 2f */
    0xeb, 0xf9              /* 2: jmp 1b */
};

static void begin(const uint8_t *code, unsigned bytes)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};

    memset(emu_ram + GPA_DATA, 0, 4096);
    emu_code_put(CODE_ADDR, code, bytes);
    c.before.rip = CODE_ADDR;
    c.before.gpr[RDI] = DATA_ADDR;
    c.before.gpr[RSP] = DATA_ADDR + 4096 - 64;
    emu_load(&c);
    emu->kick = 0;
}

/* Kicks when the guest has come far. */
static void *kick(void *unused)
{
    const uint64_t *word = (const uint64_t *)(emu_ram + GPA_DATA);

    while (__atomic_load_n(word, __ATOMIC_RELAXED) < 10000)
        ;
    __atomic_store_n(&emu->kick, 1, __ATOMIC_RELAXED);
    return unused;
}

static void check(const char *name, const uint8_t *code, unsigned bytes)
{
    uint64_t before = emu->instructions;
    pthread_t thread;

    begin(code, bytes);
    expect(name, engine_translate.enter(emu, BUDGET), EXIT_POLL);
    uint64_t done = emu->instructions - before, exits = jit_of(emu)->stat_exits;
    expect(name, done >= BUDGET && done < BUDGET + OVER_MAX, true);
    before = emu->instructions;
    expect(name, engine_translate.enter(emu, 20 * BUDGET), EXIT_POLL);
    done = emu->instructions - before;
    expect(name, done >= 20 * BUDGET && done < 20 * BUDGET + OVER_MAX, true);
    expect("it stays inside", jit_of(emu)->stat_exits - exits < 20, true);
    begin(code, bytes);
    before = emu->instructions;
    expect(name, pthread_create(&thread, NULL, kick, NULL), 0);
    expect(name, engine_translate.enter(emu, ENDLESS), EXIT_POLL);
    pthread_join(thread, NULL);
    expect("it comes out", emu->instructions - before < ENDLESS, true);
}

int main(void)
{
    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    check("strip", strip, sizeof(strip));
    check("in place", in_place, sizeof(in_place));
    check("edges", edges, sizeof(edges));
    return failures != 0;
}
