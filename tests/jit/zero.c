/* What a JZ leaves behind for who looks at all flags: they are known beforehand only if nothing but the result makes them. */
#include "eax.h"

enum { ZERO = 0x44 /* ZF, PF */, CARRY = 0x11 /* CF, AF */ };

static const struct {
    uint8_t length, bytes[6];
    unsigned flags;
} writers[] = { /* EAX and ECX are zero, CF is set */
    {2, {0x31, 0xc9}, ZERO}, /* xor ecx, ecx */
    {2, {0x85, 0xc9}, ZERO}, /* test ecx, ecx */
    {2, {0xa8, 0x00}, ZERO}, /* test al, 0 */
    {3, {0xf6, 0xc1, 0x00}, ZERO}, /* test cl, 0 */
    {3, {0x48, 0x21, 0xc9}, ZERO}, /* and rcx, rcx */
    {3, {0x66, 0x09, 0xc9}, ZERO}, /* or cx, cx */
    {2, {0x2a, 0xc8}, ZERO}, /* sub cl, al */
    {3, {0x39, 0x0c, 0x24}, ZERO}, /* cmp [rsp], ecx */
    {3, {0x83, 0xf9, 0x00}, ZERO}, /* cmp ecx, 0 */
    {5, {0x3d, 0x00, 0x00, 0x00, 0x00}, ZERO}, /* cmp eax, 0 */
    {3, {0x83, 0xc9, 0x00}, ZERO}, /* or ecx, 0 */
    {6, {0x81, 0xe9, 0x00, 0x00, 0x00, 0x00}, ZERO}, /* sub ecx, 0 */
    {4, {0x39, 0xc1, 0x89, 0xca}, ZERO}, /* cmp ecx, eax; mov edx, ecx */
    {4, {0xb0, 0x00, 0x04, 0x00}, ZERO}, /* mov al, 0; add al, 0 */
    {4, {0xb1, 0xff, 0xfe, 0xc1}, ZERO | CARRY}, /* mov cl, 255; inc cl: AF, and CF is kept */
    {5, {0xb0, 0xff, 0x80, 0xc0, 0x01}, ZERO | CARRY}, /* mov al, 255; add al, 1 */
    {4, {0xb0, 0xff, 0x14, 0x00}, ZERO | CARRY}, /* mov al, 255; adc al, 0 */
    {2, {0xf7, 0xd9}, ZERO}, /* neg ecx */
};

static uint8_t *put(uint8_t *p, const uint8_t *bytes, unsigned n) { return (uint8_t *)memcpy(p, bytes, n) + n; }

/* The JZ leads to who looks, at `to`. */
static void write_code(unsigned n, unsigned to)
{
    static const uint8_t start[] = {0x31, 0xc0, 0x31, 0xc9, 0xf9}; /* xor eax, eax; xor ecx, ecx; stc */
    static const uint8_t look[] = {0x8b, 0x54, 0x24, 0x40,         /* mov edx, [rsp + 64] */
                                   0x9c, 0x58, 0x25, 0xd5, 8, 0, 0, 0xcc}; /* pushfq; pop rax; and eax, 0x8d5; int3 */
    uint8_t code[256], *p = code + 64;

    memset(code, 0xcc, sizeof(code));
    put(code + to, look, sizeof(look));
    p = put(p, start, sizeof(start));
    p = put(p, writers[n].bytes, writers[n].length);
    *p++ = 0x74;
    *p = (uint8_t)(code + to - (p + 1));
    emu_code_put(CODE_ADDR, code, sizeof(code));
}

int main(void)
{
    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    emu_engine = &engine_translate;
    for (unsigned exact = 0; exact < 2; exact++) {
        translate_at_once(emu, exact);
        for (unsigned n = 0; n < sizeof(writers) / sizeof(writers[0]); n++) {
            char what[32];
            snprintf(what, sizeof(what), "writer %u", n);
            write_code(n, 16);
            expect_eax(what, CODE_ADDR + 64, writers[n].flags);
            write_code(n, 128);
            expect_eax(what, CODE_ADDR + 64, writers[n].flags);
        }
    }
    return 0;
}
