/* Programs lie where Linux loads them, in the upper half of what is canonical for users: translated there too. At the very
 * end a branch leads to where no address is canonical, which is the branch's fault and not its target's. */
#include "inside.h"

enum { ROUNDS = 3 };

static void run(uint64_t page, unsigned off, const uint8_t *bytes, unsigned count, struct state *after)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};
    enum cpu_exit_reason why;

    emu_code_put(CODE_ADDR + off, bytes, count);
    c.before.rip = page + off;
    c.before.gpr[RSP] = DATA_ADDR + 512;
    emu_load(&c);
    do
        why = engine_translate.enter(emu, 1000);
    while (why == EXIT_POLL);
    memset(after, 0, sizeof(*after));
    emu_store(after);
    emu_frame(after);
}

int main(void)
{
    static const uint8_t loop[] = {0xb9, 0x64, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xcc}; /* mov ecx, 100; 1: dec ecx; jnz 1b; int3 */
    static const uint8_t branches[][10] = {
        {0xe9, 0xfb, 0x0f, 0, 0},             /* jmp . + 4096 */
        {0xe8, 0xfb, 0x0f, 0, 0},             /* call */
        {0x31, 0xc0, 0x0f, 0x84, 0xf8, 0x0f}, /* xor eax, eax; jz */
    };
    uint64_t program = 0x7ffff7fde000, last = 0x7ffffffff000;
    struct state after;

    emu_create();
    emu_map(program, GPA_CODE, 0x65);
    emu_map(last, GPA_CODE, 0x65);
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    run(program, 64, loop, sizeof(loop), &after);
    expect("vector", (unsigned)after.vector, VEC_BP);
    expect("blocks", jit_of(emu)->stat_blocks, 3); /* its start, the loop, the exception's handler */
    for (unsigned n = 0; n < sizeof(branches) / sizeof(branches[0]); n++)
        for (unsigned k = 0; k < ROUNDS; k++) {
            run(last, 64, branches[n], sizeof(branches[n]), &after);
            expect("vector", (unsigned)after.vector, VEC_GP);
            expect("rip", after.rip, last + 64 + (n == 2 ? 2 : 0));
            expect("rsp", after.gpr[RSP], DATA_ADDR + 512);
        }
    return failures != 0;
}
