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

uint32_t io_in(struct vcpu *v, uint16_t port, unsigned size)
{
    uint32_t data = 0;

    struct access_fragment *f = access_log_next(v, EXIT_PIO, port, size, false);

    if (v->slow & SLOW_BREAKPOINT)
        debug_io_access(v, port, size);
    if (f)
        return (uint32_t)f->data;
    if (v->ops->pio_in(v, port, size, &data)) {
        v->exit.io.port = port;
        v->exit.io.size = (uint8_t)size;
        v->exit.io.write = false;
        v->exit.io.string = false;
        v->exit.io.count = 1;
        cpu_leave(v, EXIT_PIO);
    }
    return data;
}

void io_out(struct vcpu *v, uint16_t port, unsigned size, uint32_t value)
{
    if (v->slow & SLOW_BREAKPOINT)
        debug_io_access(v, port, size);
    if (access_log_next(v, EXIT_PIO, port, size, true))
        return;
    if (v->ops->pio_out(v, port, size, value)) {
        v->exit.io.port = port;
        v->exit.io.size = (uint8_t)size;
        v->exit.io.write = true;
        v->exit.io.string = false;
        v->exit.io.count = 1;
        memcpy(v->pio_data, &value, size);
        cpu_leave(v, EXIT_PIO);
    }
}

/* IN AL/AX/EAX, imm8/DX. The port operand is an immediate or DX. */
static uint16_t port_of(const struct vcpu *v, const struct insn *i)
{
    return i->src == RDX || i->dst == RDX ? (uint16_t)v->gpr[RDX] : (uint16_t)i->imm;
}

const struct insn *op_in(struct vcpu *v, const struct insn *i)
{
    uint16_t port = port_of(v, i);

    io_check(v, port, i->size);
    uint32_t data = io_in(v, port, i->size);
    if (i->size == 1)
        reg_set(v, RAX, 1, data);
    else
        reg_set(v, RAX, i->size, data);
    return insn_end(v, i); /* a device may have raised an interrupt */
}

const struct insn *op_out(struct vcpu *v, const struct insn *i)
{
    uint16_t port = port_of(v, i);

    io_check(v, port, i->size);
    io_out(v, port, i->size, (uint32_t)reg_get(v, RAX, i->size));
    return insn_end(v, i);
}
