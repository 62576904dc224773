/* The LAPIC's registers, through the xAPIC page and the x2APIC MSRs (SDM tables 11-1 and 11-6). */
#include <errno.h>

#include "internal.h"

#define LVT_MODE (7u << 8)
#define LVT_TIMER_PERIODIC (1u << 17)
#define LVT_TIMER_MODES (3u << 17)
#define LVT_LINT (1u << 13 | LVT_LEVEL) /* polarity, trigger */

/* ICR: delivery status is read-only; what an x2APIC faults on. SDM figures 11-12 and 11-28 */
#define ICR_BUSY (1u << 12)
#define X2APIC_ICR_RESERVED (0xfffu << 20 | 3u << 16 | 1u << 13)

static bool in_bank(uint32_t offset)
{
    return offset >= APIC_ISR && offset < APIC_ESR;
}

/* Register access; false: no such register, or #GP in x2APIC mode. */
static bool lapic_reg_read_locked(struct lapic *lapic, uint32_t offset, uint32_t *value)
{
    bool x2apic = lapic_x2apic(lapic);

    *value = 0;
    switch (offset) {
    case APIC_DFR:
    case APIC_ICR2:
        if (x2apic)
            return false;
        break;
    case APIC_APR: /* not since the P6 family; KVM reads 0 */
        return !x2apic;
    case APIC_TIMER_CURRENT:
        *value = lapic_timer_current(lapic);
        return true;
    case APIC_LVT_CMCI:
        if (lapic->lvt_entries < 7)
            return false;
        break;
    case APIC_ID:
    case APIC_VERSION:
    case APIC_TPR:
    case APIC_PPR:
    case APIC_LDR:
    case APIC_SPIV:
    case APIC_ESR:
    case APIC_ICR:
    case APIC_LVT_TIMER:
    case APIC_LVT_THERMAL:
    case APIC_LVT_PMC:
    case APIC_LVT_LINT0:
    case APIC_LVT_LINT1:
    case APIC_LVT_ERROR:
    case APIC_TIMER_INITIAL:
    case APIC_TIMER_DIVIDE:
        break;
    default:
        if (!in_bank(offset))
            return false;
        break;
    }
    *value = lapic_reg(lapic, offset);
    return true;
}

/* dest as in ICR2's top byte, or a whole x2APIC id. SDM 11.6.1 */
static void send_ipi(struct lapic *lapic, uint32_t icr, uint32_t dest)
{
    struct irq_message message = {
        .dest = dest,
        .vector = (uint8_t)icr,
        .mode = (enum delivery_mode)((icr >> 8) & 7),
        .logical = (icr >> 11) & 1,
        .assert = (icr >> 14) & 1,
        .level_triggered = (icr >> 15) & 1,
        .shorthand = (enum shorthand)((icr >> 18) & 3),
    };

    if (message.vector < 16 && (message.mode == DELIVER_FIXED || message.mode == DELIVER_LOWEST)) {
        lapic_error(lapic, ESR_SEND_ILLEGAL_VECTOR);
        return;
    }
    irq_deliver(lapic->chip, lapic, &message);
}

static void write_icr(struct lapic *lapic, uint32_t icr, uint32_t dest)
{
    icr &= ~ICR_BUSY;
    lapic_reg_set(lapic, APIC_ICR, icr);
    send_ipi(lapic, icr, dest);
}

static void write_spiv(struct lapic *lapic, uint32_t value)
{
    static const enum apic_reg lvts[] = {APIC_LVT_TIMER, APIC_LVT_THERMAL, APIC_LVT_PMC,
                                         APIC_LVT_LINT0, APIC_LVT_LINT1,   APIC_LVT_ERROR,
                                         APIC_LVT_CMCI};
    uint32_t writable = 0x3ff;

    if (lapic_reg(lapic, APIC_VERSION) & VERSION_DIRECTED_EOI)
        writable |= SPIV_NO_EOI_BROADCAST;
    lapic_reg_set(lapic, APIC_SPIV, value & writable);
    if (!(value & SPIV_ENABLED)) { /* software-disabled: every LVT entry is masked. SDM 11.4.7.2 */
        for (unsigned i = 0; i < lapic->lvt_entries; i++)
            lapic_reg_set(lapic, lvts[i], lapic_reg(lapic, lvts[i]) | LVT_MASKED);
        lapic_watch_lint0(lapic);
    }
    lapic_update(lapic);
}

static bool write_lvt(struct lapic *lapic, uint32_t offset, uint32_t value)
{
    uint32_t writable = LVT_MASKED | 0xff;

    switch (offset) {
    case APIC_LVT_TIMER:
        writable |= lapic->has_tsc_deadline ? LVT_TIMER_MODES : LVT_TIMER_PERIODIC;
        break;
    case APIC_LVT_LINT0:
    case APIC_LVT_LINT1:
        writable |= LVT_MODE | LVT_LINT;
        break;
    case APIC_LVT_CMCI:
        if (lapic->lvt_entries < 7)
            return false;
        writable |= LVT_MODE;
        break;
    case APIC_LVT_THERMAL:
    case APIC_LVT_PMC:
        writable |= LVT_MODE;
        break;
    default:
        break;
    }
    if (!lapic_sw_enabled(lapic))
        value |= LVT_MASKED;
    if (offset == APIC_LVT_TIMER)
        lapic_timer_lvt_write(lapic, value & writable);
    else
        lapic_reg_set(lapic, offset, value & writable);
    if (offset == APIC_LVT_LINT0) {
        lapic_watch_lint0(lapic);
        lapic_update(lapic);
    }
    return true;
}

/* Registers that exist, or are writable, in one of the two modes only. */
static bool write_by_mode(struct lapic *lapic, uint32_t offset, uint32_t value, bool x2apic)
{
    switch (offset) {
    case APIC_ID:
        if (!x2apic)
            lapic_reg_set(lapic, APIC_ID, value & 0xff000000);
        return !x2apic;
    case APIC_LDR:
        if (!x2apic)
            lapic_reg_set(lapic, APIC_LDR, value & 0xff000000);
        return !x2apic;
    case APIC_DFR:
        if (!x2apic)
            lapic_reg_set(lapic, APIC_DFR, value | 0x0fffffff);
        return !x2apic;
    case APIC_ICR2:
        if (!x2apic)
            lapic_reg_set(lapic, APIC_ICR2, value & 0xff000000);
        return !x2apic;
    case APIC_SELF_IPI:
        if (!x2apic || (value & ~0xffu))
            return false;
        send_ipi(lapic, (uint32_t)SHORT_SELF << 18 | 1u << 14 | value, 0);
        return true;
    }
    return false;
}

static bool lapic_reg_write_locked(struct lapic *lapic, uint32_t offset, uint32_t value)
{
    bool x2apic = lapic_x2apic(lapic);

    switch (offset) {
    case APIC_TPR:
        lapic_reg_set(lapic, APIC_TPR, value & 0xff);
        lapic_update(lapic);
        return true;
    case APIC_EOI:
        if (x2apic && value) /* SDM 11.12.1.2 */
            return false;
        lapic_eoi_locked(lapic);
        return true;
    case APIC_SPIV:
        write_spiv(lapic, value);
        return true;
    case APIC_ESR: /* a write latches what was found since the last one. SDM 11.5.3 */
        if (x2apic && value)
            return false;
        lapic_reg_set(lapic, APIC_ESR, lapic->esr_pending);
        lapic->esr_pending = 0;
        return true;
    case APIC_ICR:
        write_icr(lapic, value, lapic_reg(lapic, APIC_ICR2) >> 24);
        return true;
    case APIC_LVT_CMCI:
    case APIC_LVT_TIMER:
    case APIC_LVT_THERMAL:
    case APIC_LVT_PMC:
    case APIC_LVT_LINT0:
    case APIC_LVT_LINT1:
    case APIC_LVT_ERROR:
        return write_lvt(lapic, offset, value);
    case APIC_TIMER_INITIAL:
        lapic_timer_initial_write(lapic, value);
        return true;
    case APIC_TIMER_DIVIDE:
        lapic_timer_divide_write(lapic, value);
        return true;
    }
    return write_by_mode(lapic, offset, value, x2apic);
}

/* Reserved offsets are an error of their own; writes to read-only registers are merely lost. */
static void access_error(struct lapic *lapic, uint32_t offset)
{
    uint32_t ignored;

    if (!lapic_reg_read_locked(lapic, offset, &ignored) && offset != APIC_EOI && offset != APIC_RRD)
        lapic_error(lapic, ESR_ILLEGAL_REGISTER);
}

/* Off, or in x2APIC mode, the page reads as all ones and ignores writes
 * (KVM_X86_QUIRK_LAPIC_MMIO_HOLE). */
static bool page_is_hole(const struct lapic *lapic)
{
    return !lapic_hw_enabled(lapic) || lapic_x2apic(lapic);
}

void lapic_read(struct lapic *lapic, uint32_t offset, unsigned size_bytes, uint64_t *value)
{
    uint64_t mask = size_bytes >= 8 ? UINT64_MAX : (1ull << (8 * size_bytes)) - 1;
    uint32_t within = offset & 0xf, data = 0;

    irqchip_lock(lapic->chip);
    if (page_is_hole(lapic)) {
        *value = mask;
    } else {
        /* registers are 32 bits wide, each on a 16-byte boundary */
        if (within + size_bytes <= 4 && !lapic_reg_read_locked(lapic, offset & 0xff0, &data))
            access_error(lapic, offset & 0xff0);
        *value = (uint64_t)data >> (8 * within % 32) & mask;
    }
    irqchip_unlock(lapic->chip);
}

void lapic_write(struct lapic *lapic, uint32_t offset, unsigned size_bytes, uint64_t value)
{
    if (size_bytes != 4 || (offset & 0xf))
        return;
    irqchip_lock(lapic->chip);
    if (!page_is_hole(lapic) && !lapic_reg_write_locked(lapic, offset & 0xff0, (uint32_t)value))
        access_error(lapic, offset & 0xff0);
    irqchip_unlock(lapic->chip);
}

int lapic_msr_read(struct lapic *lapic, uint32_t msr, uint64_t *value)
{
    uint32_t offset = (msr - APIC_X2APIC_MSR_FIRST) << 4, data = 0;
    bool ok;

    irqchip_lock(lapic->chip);
    ok = lapic_x2apic(lapic) && offset < KVM_APIC_REG_SIZE &&
         lapic_reg_read_locked(lapic, offset, &data);
    *value = data;
    if (ok && offset == APIC_ICR)
        *value |= (uint64_t)lapic_reg(lapic, APIC_ICR2) << 32;
    irqchip_unlock(lapic->chip);
    return ok ? 0 : -EINVAL;
}

int lapic_msr_write(struct lapic *lapic, uint32_t msr, uint64_t value)
{
    uint32_t offset = (msr - APIC_X2APIC_MSR_FIRST) << 4;
    bool ok = false;

    irqchip_lock(lapic->chip);
    if (lapic_x2apic(lapic) && offset < KVM_APIC_REG_SIZE) {
        if (offset == APIC_ICR) {
            ok = !(value & X2APIC_ICR_RESERVED);
            if (ok) {
                lapic_reg_set(lapic, APIC_ICR2, (uint32_t)(value >> 32));
                write_icr(lapic, (uint32_t)value, (uint32_t)(value >> 32));
            }
        } else {
            ok = !(value >> 32) && lapic_reg_write_locked(lapic, offset, (uint32_t)value);
        }
    }
    irqchip_unlock(lapic->chip);
    return ok ? 0 : -EINVAL;
}

void lapic_set_tpr(struct lapic *lapic, uint8_t cr8)
{
    irqchip_lock(lapic->chip);
    lapic_reg_set(lapic, APIC_TPR, (uint32_t)(cr8 & 15) << 4);
    lapic_update(lapic);
    irqchip_unlock(lapic->chip);
}

uint8_t lapic_get_tpr(struct lapic *lapic)
{
    uint8_t cr8;

    irqchip_lock(lapic->chip);
    cr8 = (lapic_reg(lapic, APIC_TPR) >> 4) & 15;
    irqchip_unlock(lapic->chip);
    return cr8;
}
