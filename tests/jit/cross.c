/* A frame that lies across the end of a page: operands that share a probe miss it at each turn of a loop. The block is
 * translated anew, with the probes apart, while it runs; what it does stays the same. */
#include "inside.h"

enum { TURNS = 1000 };

static uint64_t word(unsigned off)
{
    uint64_t value;

    memcpy(&value, emu_data + off, 8);
    return value;
}

static void run(unsigned frame)
{
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};
    struct state after;

    memset(emu_data, 0, 2 * 4096);
    c.before.rip = CODE_ADDR;
    c.before.gpr[RAX] = 0x1234;
    c.before.gpr[RBX] = TURNS;
    c.before.gpr[RCX] = 3;
    c.before.gpr[RSP] = DATA_ADDR + frame;
    c.before.in_use = 3;
    memset(c.before.ymm[0], 0x5a, 16);
    emu_engine = &engine_translate;
    emu_go(&c, &after, 100, false);
    expect("vector", (uint64_t)after.vector, (uint64_t)-1);
    expect("rbx", after.gpr[RBX], 0);
    expect("rdx", after.gpr[RDX], 3 * TURNS);
    expect("[rsp - 8]", word(frame - 8), 0x1234);
    expect("[rsp - 16]", word(frame - 16), 3 * TURNS);
    expect("[rsp - 32]", word(frame - 32), 0x5a5a5a5a5a5a5a5a);
    expect("[rsp - 24]", word(frame - 24), 0x5a5a5a5a5a5a5a5a);
}

static unsigned diverted(void)
{
    const struct jit *j = jit_of(emu);
    unsigned count = 0;

    for (unsigned n = 1; n <= j->region[0].blocks; n++)
        count += j->blocks[n].diverted;
    return count;
}

int main(void)
{
    static const uint8_t loop[] = {
        0x48, 0x89, 0x44, 0x24, 0xf8,       /* 1: mov [rsp - 8], rax */
        0x48, 0x01, 0x4c, 0x24, 0xf0,       /* add [rsp - 16], rcx */
        0xf3, 0x0f, 0x7f, 0x44, 0x24, 0xe0, /* movdqu [rsp - 32], xmm0 */
        0x48, 0x8b, 0x54, 0x24, 0xf0,       /* mov rdx, [rsp - 16] */
        0xff, 0xcb, 0x75, 0xe7, 0xcc        /* dec ebx; jnz 1b; int3 */
    };

    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    emu_code_put(CODE_ADDR, loop, sizeof(loop));
    run(2048);
    expect("blocks translated anew", diverted(), 0);
    run(4096 + 16);
    expect("blocks translated anew", diverted(), 1);
    run(4096 + 4);
    run(2048);
    expect("blocks translated anew", diverted(), 1);
    return failures != 0;
}
