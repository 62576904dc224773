/* A branch of nearly 2 GiB leads farther from the start of its page than one displacement reaches: translated as interpreted. */
#include "eax.h"

#define FAR_ADDR (CODE_ADDR + 0x80000000ull) /* from the middle of CODE_ADDR's page less than 2 GiB away */

int main(void)
{
    static const uint8_t there[] = {0xb8, 0x07, 0, 0, 0, 0xcc}; /* mov eax, 7; int3 */
    static const struct {
        const char *name;
        uint8_t bytes[2];
        unsigned opcode; /* bytes of it */
    } branches[] = {{"jnz", {0x0f, 0x85}, 2}, {"jmp", {0xe9}, 1}, {"call", {0xe8}, 1}};

    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    emu_engine = &engine_translate;
    emu_map(FAR_ADDR, GPA_CODE + 4096, 0x67);
    memcpy(emu_ram + GPA_CODE + 4096, there, sizeof(there));
    for (unsigned n = 0; n < sizeof(branches) / sizeof(branches[0]); n++) {
        uint8_t code[6];
        unsigned at = 0x800, length = branches[n].opcode + 4;
        uint32_t displacement = 0x80000000u - at - length;
        memcpy(code, branches[n].bytes, branches[n].opcode);
        memcpy(code + branches[n].opcode, &displacement, 4);
        emu_code_put(CODE_ADDR + at, code, length);
        expect_eax(branches[n].name, CODE_ADDR + at, 7);
    }
    return 0;
}
