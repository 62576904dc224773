/* A vCPU that spins on PAUSE comes out when it is kicked, not at the end of its slice: each PAUSE may give its time away. */
#include "../isa/emu.h"

#include "jit/translate.h"

static unsigned asked;

static void kick(struct vcpu *v)
{
    asked++;
    __atomic_store_n(&v->kick, 1, __ATOMIC_RELAXED);
}

int main(void)
{
    static const uint8_t spin[] = {0xf3, 0x90, 0xeb, 0xfc}; /* 1: pause; jmp 1b */
    static const struct machine_ops ops = {.pause_loop = kick};
    static struct icase c = {.mode = 64, .cs = 0x33, .ss = 0x2b, .ds = 0x2b, .es = 0x2b};

    emu_create();
    emu->ops = &ops;
    if (!emu->translator && translate_create(emu))
        return 3;
    translate_at_once(emu, false);
    emu_code_put(CODE_ADDR, spin, sizeof(spin));
    c.before.rip = CODE_ADDR;
    emu_load(&c);
    for (unsigned n = 1; n <= 3; n++) {
        emu->kick = 0;
        enum cpu_exit_reason why = engine_translate.enter(emu, 100000);
        if (why != EXIT_POLL || asked != n || (emu->rip != CODE_ADDR && emu->rip != CODE_ADDR + 2)) {
            printf("entry %u: exit %d, kicked %u times, rip %llx\n", n, why, asked, (unsigned long long)emu->rip);
            return 1;
        }
    }
    return 0;
}
