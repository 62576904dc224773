/* How a client's answer to an exit gets back into the instruction that asked. */
#include <string.h>

#include "cpu/cpu.h"

static void record(struct vcpu *v, uint64_t addr, unsigned size, bool write, const void *data)
{
    struct access_fragment *f;

    if (v->log.count == ACCESS_MAX)
        return; /* the instruction asks again and gets EXIT_INTERNAL */
    f = &v->log.f[v->log.count++];
    *f = (struct access_fragment){
        .addr = addr, .size = (uint8_t)size, .write = write, .kind = (uint8_t)v->exit.reason};
    if (data)
        memcpy(&f->data, data, size);
}

/* What is left of an IN: a register and rip. */
static void finish_in(struct vcpu *v, const void *data)
{
    uint32_t value = 0;

    memcpy(&value, data, v->exit.io.size);
    io_in_done(v, v->exit.io.size, value);
    v->rip = (v->rip + v->exit.io.insn_len) & v->ip_mask;
    v->eflags &= ~(uint32_t)FL_RF;
    v->shadow = SHADOW_NONE;
    v->instructions++;
}

/* One port access. As in KVM the answer is lost when the client has meanwhile sent the vCPU elsewhere. */
static void answer_port(struct vcpu *v, const void *data)
{
    if (v->exit.io.done || v->seg[CS].base + v->rip != v->exit.io.linear)
        return;
    if (!v->exit.io.write && io_ends_plainly(v)) {
        finish_in(v, data);
        return;
    }
    record(v, v->exit.io.port, v->exit.io.size, v->exit.io.write, data);
    v->log.replay = true;
}

void cpu_answer(struct vcpu *v, const void *data)
{
    switch (v->exit.reason) {
    case EXIT_PIO:
        if (!v->exit.io.string) {
            answer_port(v, data);
            return;
        }
        v->pio_count = v->exit.io.count;
        if (data)
            memcpy(v->pio_data, data, (size_t)v->exit.io.count * v->exit.io.size);
        break;
    case EXIT_MMIO:
        record(v, v->exit.mmio.gpa, v->exit.mmio.size, v->exit.mmio.write, data);
        break;
    case EXIT_RDMSR:
    case EXIT_WRMSR:
        record(v, v->exit.msr.index, 8, v->exit.reason == EXIT_WRMSR, data);
        break;
    default:
        return;
    }
    v->log.replay = true;
}
