/* Port I/O: permission, IN and OUT, and the way to a device. SDM vol. 1, chapter 19. */
#include "cpu/access.h"
#include "cpu/debug.h"
#include "cpu/sem/common.h"
#include "gen/handlers.h"

/* The I/O permission bitmap: two bytes are read, so that an access may span them. SDM vol. 1, 19.5.2 */
static bool bitmap_allows(struct vcpu *v, uint16_t port, unsigned size)
{
    const struct segment *tr = &v->seg[TR];
    uint16_t base, bits;

    if (tr->ar & AR_UNUSABLE || (tr->ar & AR_TYPE) < 9 || tr->limit < 103)
        return false; /* no 32- or 64-bit TSS */
    base = (uint16_t)sys_load(v, tr->base + 102, 2);
    if ((uint32_t)base + port / 8 + 1 > tr->limit)
        return false;
    bits = (uint16_t)sys_load(v, tr->base + base + port / 8, 2);
    return !(bits >> port % 8 & ((1u << size) - 1));
}

void io_check(struct vcpu *v, uint16_t port, unsigned size)
{
    if (v->mode == MODE_REAL)
        return;
    if (v->mode != MODE_VM86 && v->cpl <= cpu_iopl(v))
        return;
    if (!bitmap_allows(v, port, size))
        cpu_gp(v, 0);
}

bool io_ends_plainly(const struct vcpu *v)
{
    return !((v->slow & ~(SLOW_SINGLE | SLOW_LOCKSTEP)) | v->log.count | (v->eflags & FL_TF)) &&
           v->shadow != SHADOW_MOV_SS;
}

/* To the client with one access. Most of them end the block, with an event for the engine: a longjmp would cost the host
 * its return predictions for the whole way out. */
static const struct insn *leave_for_port(struct vcpu *v, const struct insn *i, uint16_t port, bool write)
{
    bool plain = io_ends_plainly(v);

    v->exit.io.port = port;
    v->exit.io.size = i->size;
    v->exit.io.write = write;
    v->exit.io.string = false;
    v->exit.io.done = write && plain;
    v->exit.io.insn_len = i->len;
    v->exit.io.count = 1;
    v->exit.io.linear = v->seg[CS].base + cpu_this_rip(v, i);
    if (v->exit.io.done)
        v->rip = cpu_next_rip(v, i);
    if (!plain || v->slow | v->shadow | v->rf_saved)
        cpu_leave(v, EXIT_PIO);
    v->pending.type = EVENT_EXIT;
    if (!write) { /* not executed yet */
        v->rip = cpu_this_rip(v, i);
        v->budget++;
    }
    return NULL;
}

void io_in_done(struct vcpu *v, unsigned size, uint32_t data)
{
    if (size == 1)
        reg_set(v, RAX, 1, data);
    else
        reg_set(v, RAX, size, data);
}

/* IN AL/AX/EAX, imm8/DX. The port operand is an immediate or DX. */
static uint16_t port_of(const struct vcpu *v, const struct insn *i)
{
    return i->src == RDX || i->dst == RDX ? (uint16_t)v->gpr[RDX] : (uint16_t)i->imm;
}

const struct insn *op_in(struct vcpu *v, const struct insn *i)
{
    uint16_t port = port_of(v, i);
    uint32_t data = 0;
    struct access_fragment *f;

    io_check(v, port, i->size);
    f = access_log_next(v, EXIT_PIO, port, i->size, false);
    if (v->slow & SLOW_BREAKPOINT)
        debug_io_access(v, port, i->size);
    if (f)
        data = (uint32_t)f->data;
    else if (v->ops->pio_in(v, port, i->size, &data))
        return leave_for_port(v, i, port, false);
    io_in_done(v, i->size, data);
    return insn_end(v, i); /* a device may have raised an interrupt */
}

const struct insn *op_out(struct vcpu *v, const struct insn *i)
{
    uint16_t port = port_of(v, i);
    uint32_t value = (uint32_t)reg_get(v, RAX, i->size);

    io_check(v, port, i->size);
    if (v->slow & SLOW_BREAKPOINT)
        debug_io_access(v, port, i->size);
    if (access_log_next(v, EXIT_PIO, port, i->size, true))
        return insn_end(v, i);
    if (v->ops->pio_out(v, port, i->size, value)) {
        memcpy(v->pio_data, &value, sizeof(value));
        return leave_for_port(v, i, port, true);
    }
    return insn_end(v, i);
}
