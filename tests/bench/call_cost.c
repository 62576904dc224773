/* What calls and returns cost in translated code, in cycles of the TSC per guest instruction, and what INVLPG of an executed page
 * costs: build/tests/bench/call_cost. */
#include "cycles.h"

enum { RUNS = 3000, INSTRUCTIONS = 50000, SITES = 64, OTHER = 4096 };

static void branch(char opcode, unsigned to)
{
    uint32_t distance = (uint32_t)(code + to - (out + 5));

    put(&opcode, 1);
    put((const char *)&distance, 4);
}
static void call(unsigned to) { branch('\xe8', to); }

/* ---- programs that never end ----------------------------------------------------------------------------- */

static void fib(void)
{
    PUT("\xbf\x14\0\0\0"); /* mov edi, 20 */
    call(256);
    branch('\xe9', 0);
    out = code + 256;
    PUT("\x53\x89\xfb\x89\xf8\x83\xff\x02\x7c\x14\x8d\x7b\xff"); /* push rbx; edi < 2 is its own; lea edi, [rbx - 1] */
    call(256);
    PUT("\x50\x8d\x7b\xfe"); /* push rax; lea edi, [rbx - 2] */
    call(256);
    PUT("\x59\x01\xc8\x5b\xc3"); /* pop rcx; add eax, ecx; pop rbx; ret */
}

static void from_sites(unsigned to)
{
    for (unsigned n = 0; n < SITES; n++) {
        call(to);
        PUT("\x01\xd8"); /* add eax, ebx */
    }
    branch('\xe9', 0);
}

static void sites(void)
{
    from_sites(2048);
    out = code + 2048;
    PUT("\x8d\x5b\x01\x83\xf0\x05\xc3"); /* lea ebx, [rbx + 1]; xor eax, 5; ret */
}

static void levels(void)
{
    from_sites(OTHER);
    out = code + OTHER;
    call(OTHER + 512);
    PUT("\x01\xd8");
    call(OTHER + 512);
    PUT("\xc3");
    out = code + OTHER + 512;
    PUT("\x8d\x5b\x01\xc3");
}

static void unbalanced(void)
{
    call(256);
    branch('\xe9', 0);
    out = code + 256;
    call(262);
    PUT("\x90\x58\xc3"); /* nop; pop rax; ret */
}

/* ---- measuring -------------------------------------------------------------------------------------------- */

static void measure(const char *name, void (*program)(void))
{
    static struct icase c;

    code_begin();
    program();
    c.before.gpr[RSP] = DATA_ADDR + 3800;
    printf("%-44s %.2f cycles an instruction\n", name, best_cycles(&c, RUNS, INSTRUCTIONS));
}

int main(void)
{
    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    measure("fib, recursive", fib);
    measure("one function, called from 64 places", sites);
    measure("two levels of calls", levels);
    measure("call; pop", unbalanced);
    return 0;
}
