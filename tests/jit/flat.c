/* 32-bit code is translated for flat segments. Behind a load of ES, SS or DS that ends that, the rest of the block is not for it: the
 * next instruction finds its operand by the new base, though there is memory, and the TLB knows it, by the old one. No arguments. */
#include "eax.h"

enum { OFFSET = 0x20, SEGMENT = 12, PREFIX = 13, GPA_FLAT = 0x90000 };

static uint8_t code[] = {
    0x8b, 0x1d, OFFSET, 0, 0, 0,    /* mov ebx, [OFFSET] */
    0xb8, LDT_DATA32, 0, 0, 0,      /* mov eax, LDT_DATA32 */
    0x8e, 0,                        /* mov SEGMENT, eax */
    0, 0x8b, 0x1d, OFFSET, 0, 0, 0, /* mov ebx, SEGMENT:[OFFSET] */
    0xcc                            /* int3 */
};
static const struct {
    const char *name;
    uint8_t number, prefix;
} segments[] = {{"ES", ES, 0x26}, {"SS", SS, 0x36}, {"DS", DS, 0x3e}};

static bool finds_operand(void)
{
    const struct icase c = {.mode = 32, .cs = 0x23, .ss = 0x2b, .ds = 0x2b, .es = 0x2b,
                            .before = {.rip = CODE_ADDR, .gpr[RSP] = DATA_ADDR + 3800}};
    struct state after;

    emu_go(&c, &after, 1000, false);
    return after.vector == -1 && after.gpr[RBX] == 0x12345678;
}

int main(void)
{
    const uint32_t value = 0x12345678;

    emu_create();
    emu_ldt();
    emu_map(0, GPA_FLAT, 0x67);
    memcpy(emu_ram + GPA_DATA + OFFSET, &value, sizeof(value));
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    for (unsigned translated = 0; translated < 2; translated++) {
        emu_engine = translated ? &engine_translate : &engine_emulate;
        for (unsigned n = 0; n < sizeof(segments) / sizeof(segments[0]); n++) {
            code[SEGMENT] = (uint8_t)(0xc0 | segments[n].number << 3);
            code[PREFIX] = segments[n].prefix;
            emu_code_put(CODE_ADDR, code, sizeof(code));
            if (!finds_operand() || !finds_operand()) { /* the second time without a miss of the TLB */
                printf("%s, %s: not by its new base\n", emu_engine->name, segments[n].name);
                return 1;
            }
        }
    }
    return 0;
}
