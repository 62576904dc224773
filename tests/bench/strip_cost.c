/* What an iteration of loops over memory costs in translated code, in cycles of the TSC: a walk by its stride, and a loop of few
 * iterations inside another: build/tests/bench/strip_cost. */
#include "cycles.h"

enum { AREA_ADDR = 0x14000000, GPA_AREA = 0x90000, PAGES = 64, RUNS = 1000, INSTRUCTIONS = 100000 };

static void put_imm(uint32_t value)
{
    memcpy(out, &value, 4);
    out += 4;
}
static void put_back(const uint8_t *to)
{
    int8_t distance = (int8_t)(to - (out + 1));

    put((const char *)&distance, 1);
}

/* -> instructions of an iteration */
static double walk(unsigned stride)
{
    PUT("\xbf"), put_imm(AREA_ADDR); /* mov edi, area */
    PUT("\xb9"), put_imm(PAGES * 4096 / stride - 1); /* mov ecx, iterations */
    uint8_t *again = out;
    PUT("\x48\x03\x07\x48\x81\xc7"), put_imm(stride); /* add rax, [rdi]; add rdi, stride */
    PUT("\xff\xc9\x75"), put_back(again); /* dec ecx; jnz */
    return 4;
}

static double nest(unsigned turns)
{
    PUT("\xbf"), put_imm(AREA_ADDR); /* mov edi, area */
    PUT("\xbb"), put_imm(PAGES * 4096 / 512 - 1); /* mov ebx, rounds */
    uint8_t *outer = out;
    PUT("\x48\x89\xfa\xb9"), put_imm(turns); /* mov rdx, rdi; mov ecx, turns */
    uint8_t *inner = out;
    PUT("\x48\x03\x02\x48\x89\x04\xce\x48\x83\xc2\x08"); /* add rax, [rdx]; mov [rsi + rcx * 8], rax; add rdx, 8 */
    PUT("\x48\xff\xc9\x75"), put_back(inner); /* dec rcx; jnz */
    PUT("\x48\x81\xc7\x00\x02\0\0\xff\xcb\x75"), put_back(outer); /* add rdi, 512; dec ebx; jnz */
    return 5 + 5.0 / turns;
}

static void measure(const char *name, double (*program)(unsigned), unsigned number)
{
    static struct icase c;

    code_begin();
    double length = program(number);
    PUT("\xeb"), put_back(code); /* jmp */
    c.before.gpr[RSI] = DATA_ADDR + 1024;
    printf("%s of %4u: %.2f cycles an iteration\n", name, number, length * best_cycles(&c, RUNS, INSTRUCTIONS));
}

int main(void)
{
    static const unsigned strides[] = {8, 64, 128, 256, 384, 512, 1024}, turns[] = {2, 3, 4, 5, 8, 12, 16, 20, 32, 64};

    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    for (unsigned n = 0; n < PAGES; n++)
        emu_map(AREA_ADDR + 4096 * n, GPA_AREA + 4096 * (n % 16), 0x67 | PTE_NX);
    for (unsigned n = 0; n < sizeof(strides) / sizeof(strides[0]); n++)
        measure("a stride", walk, strides[n]);
    for (unsigned n = 0; n < sizeof(turns) / sizeof(turns[0]); n++)
        measure("turns   ", nest, turns[n]);
    return 0;
}
