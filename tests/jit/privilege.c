/* System calls and their returns, without leaving translated code: with the right privilege, and until somebody waits. */
#include "inside.h"

enum {
    TIMES = 0x10000, SCRAP = 200, /* exits that a program may need until all of it is translated, and for its slices */
    KERNEL = HANDLER_ADDR + 0x800, KERNEL_CS = 0x10, USER_CS = 0x33, FAR = CODE_ADDR + 4096
};

static void put_kernel(const char *bytes, unsigned n)
{
    memcpy(emu_ram + GPA_SYSTEM + KERNEL - SYSTEM_ADDR, bytes, n);
    codecache_written(emu, GPA_SYSTEM + KERNEL - SYSTEM_ADDR, n);
}

static void put_user(uint64_t at, const char *bytes, unsigned n) { emu_code_put(at, (const uint8_t *)bytes, n); }

/* From CODE_ADDR, in user code, to an exception. */
static void run(void)
{
    static struct icase c = {.mode = 64, .cs = USER_CS, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};

    c.before.rip = CODE_ADDR;
    c.before.gpr[RSP] = DATA_ADDR + 3800;
    emu_load(&c);
    while (emu_engine->enter(emu, 1 << 20) == EXIT_POLL)
        ;
}

#define KERNEL_IS(bytes) put_kernel(bytes, sizeof(bytes) - 1)
#define USER_IS(at, bytes) put_user(at, bytes, sizeof(bytes) - 1)

static void stays(void)
{
    KERNEL_IS("\xff\xc0\x48\x0f\x07");                                      /* inc eax; sysretq */
    USER_IS(CODE_ADDR, "\xbd\0\0\x01\0\x0f\x05\xff\xcd\x75\xfa\xcc"); /* mov ebp, TIMES; 1: syscall; dec ebp; jnz 1b; int3 */
    run();
    uint64_t before = jit_of(emu)->stat_exits;
    run();
    expect("calls", emu->gpr[RAX], TIMES);
    expect("few exits", jit_of(emu)->stat_exits - before < SCRAP, true);
}

/* A jump that waits to be linked is linked to where it leads, and not to where another instruction does. */
static void links(void)
{
    USER_IS(CODE_ADDR, "\xbd\0\0\x01\0\x31\xdb"         /* mov ebp, TIMES; xor ebx, ebx */
                       "\x48\x8d\x05\xf2\x0f\0\0"       /* lea rax, [FAR] */
                       "\x48\x8d\x0d\x2b\0\0\0"         /* lea rcx, [2f] */
                       "\x48\x8d\x15\x14\0\0\0"         /* lea rdx, [1f] */
                       "\xff\xe0");                     /* jmp rax */
    USER_IS(CODE_ADDR + 0x30, "\xe9\xcb\x0f\0\0");      /* 1: jmp FAR, which is known by now */
    USER_IS(CODE_ADDR + 0x40, "\xff\xe2");              /* 2: jmp rdx */
    USER_IS(FAR, "\xff\xcd\x74\x0a"                     /* dec ebp; jz 4f */
                 "\x85\xdb\x75\x04\xff\xc3\xff\xe2"     /* test ebx, ebx; jnz 3f; inc ebx; jmp rdx */
                 "\xff\xe1\xcc");                       /* 3: jmp rcx, to what is not yet known; 4: int3 */
    uint64_t before = jit_of(emu)->stat_exits;
    run();
    expect("turns", emu->gpr[RBP], 0);
    expect("few exits once it is linked", jit_of(emu)->stat_exits - before < SCRAP, true);
}

/* What user code called is not returned to by the kernel, with the privilege of then. */
static void forgets(void)
{
    KERNEL_IS("\x48\x83\xe9\x1d\x51\xc3");                                     /* sub rcx, 0x22 - 5; push rcx; ret */
    USER_IS(CODE_ADDR, "\xe8\x1b\0\0\0\x8c\xc8\xcc");                       /* call 1f; mov eax, cs; int3 */
    USER_IS(CODE_ADDR + 0x20, "\x0f\x05\xc3");                               /* 1: syscall; ret */
    for (unsigned n = 0; n < 4; n++) {
        run();
        expect("CS", emu->gpr[RAX], KERNEL_CS);
    }
    KERNEL_IS("\x48\x0f\x07");
    for (unsigned n = 0; n < 4; n++) {
        run();
        expect("CS, returned to by user code", emu->gpr[RAX], USER_CS);
    }
}

static void is_interrupted(void)
{
    KERNEL_IS("\x48\x0f\x07");
    USER_IS(CODE_ADDR, "\x0f\x05\xeb\xfc\xcc"); /* 1: syscall; jmp 1b */
    emu->rip = CODE_ADDR;
    emu_segments(&(struct icase){.cs = USER_CS, .ss = 0x2b, .ds = 0x2b, .es = 0x2b});
    for (unsigned n = 0; n < 4; n++)
        expect("a poll", emu_engine->enter(emu, 100000), EXIT_POLL);
}

int main(void)
{
    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    emu_engine = &engine_translate;
    emu->star = 0x23ull << 48 | (uint64_t)KERNEL_CS << 32;
    emu->lstar = KERNEL;
    stays();
    links();
    forgets();
    is_interrupted();
    return failures != 0;
}
