/* The LAPIC timer: one-shot and periodic at 1 GHz / divide, and TSC deadline (SDM 11.5.4). */
#include <errno.h>

#include "internal.h"

/* KVM's APIC bus clock is 1 GHz: a count lasts divide nanoseconds. */
#define BUS_CYCLE_NS 1u
/* A shorter period floods the guest; KVM's min_timer_period_us. */
#define MIN_PERIOD_NS 200000u

enum timer_mode { ONE_SHOT = 0, PERIODIC = 1, TSC_DEADLINE = 2 };

static enum timer_mode mode_of(uint32_t lvt)
{
    return (enum timer_mode)((lvt >> 17) & 3);
}

static enum timer_mode timer_mode(const struct lapic *lapic)
{
    return mode_of(lapic_reg(lapic, APIC_LVT_TIMER));
}

static struct timers *timers_of(const struct lapic *lapic)
{
    return &lapic->chip->timers;
}

static uint64_t now_ns(const struct lapic *lapic)
{
    return timers_now_ns(timers_of(lapic));
}

static void stop(struct lapic *lapic)
{
    timer_cancel(timers_of(lapic), &lapic->timer);
    lapic->timer_expires_ns = 0;
}

/* Bits 0, 1 and 3 of the divide register: 2, 4 ... 128, 1. SDM figure 11-10 */
static uint32_t divide_of(uint32_t value)
{
    uint32_t code = (value & 3) | (value & 8) >> 1;

    return 1u << ((code + 1) & 7);
}

/* Nanoseconds until the guest's TSC reaches the deadline; 0 if it has. */
static uint64_t ns_to_deadline(const struct lapic *lapic)
{
    const struct irq_ops *ops = &lapic->chip->ops;
    uint64_t tsc = ops->tsc_now(lapic->owner), khz = ops->tsc_khz(lapic->owner);
    unsigned __int128 ns;

    if (tsc >= lapic->tsc_deadline)
        return 0;
    if (!khz)
        return UINT64_MAX / 2;
    /* rounded up, so as not to fire early */
    ns = ((unsigned __int128)(lapic->tsc_deadline - tsc) * 1000000u + khz - 1) / khz;
    return ns > UINT64_MAX / 2 ? UINT64_MAX / 2 : (uint64_t)ns;
}

static void start_deadline(struct lapic *lapic)
{
    uint64_t delay_ns;

    stop(lapic);
    if (!lapic->tsc_deadline)
        return;
    delay_ns = ns_to_deadline(lapic);
    if (delay_ns) {
        timer_after_ns(timers_of(lapic), &lapic->timer, delay_ns);
        return;
    }
    lapic->tsc_deadline = 0;
    lapic_deliver_local_locked(lapic, APIC_LVT_TIMER);
}

/* Runs for delay_ns, then, in periodic mode, for timer_period_ns each. */
static void start_count(struct lapic *lapic, uint64_t delay_ns)
{
    lapic->timer_expires_ns = now_ns(lapic) + delay_ns;
    timer_arm(timers_of(lapic), &lapic->timer, lapic->timer_expires_ns, 0);
}

static void set_period(struct lapic *lapic)
{
    uint64_t period_ns =
        (uint64_t)lapic_reg(lapic, APIC_TIMER_INITIAL) * BUS_CYCLE_NS * lapic->divide;

    if (period_ns && period_ns < MIN_PERIOD_NS && timer_mode(lapic) == PERIODIC)
        period_ns = MIN_PERIOD_NS;
    lapic->timer_period_ns = period_ns;
}

static void expired(struct timer *timer, void *arg)
{
    struct lapic *lapic = arg;
    uint64_t now = now_ns(lapic), period_ns = lapic->timer_period_ns;

    (void)timer;
    switch (timer_mode(lapic)) {
    case TSC_DEADLINE:
        /* the host's clock may run ahead of the guest's TSC: then this arms again */
        start_deadline(lapic);
        return;
    case PERIODIC:
        if (period_ns) {
            /* ticks missed meanwhile fall together in IRR, as on hardware */
            lapic->timer_expires_ns +=
                (1 + (now - lapic->timer_expires_ns) / period_ns) * period_ns;
            timer_arm(timers_of(lapic), &lapic->timer, lapic->timer_expires_ns, 0);
        }
        break;
    default:
        lapic->timer_expires_ns = 0;
        break;
    }
    lapic_deliver_local_locked(lapic, APIC_LVT_TIMER);
}

/* An expiry that the timer thread has not come to yet happens now, so that count, mode and IRR
 * agree. */
static void settle(struct lapic *lapic)
{
    struct timer *timer = &lapic->timer;

    if (!timer_armed(timer) || timer->when_ns > now_ns(lapic))
        return;
    timer_cancel(timers_of(lapic), timer);
    expired(timer, lapic);
}

void lapic_timer_init(struct lapic *lapic)
{
    timer_init(&lapic->timer, expired, lapic);
}

void lapic_timer_reset(struct lapic *lapic)
{
    stop(lapic);
    lapic->timer_period_ns = 0;
    lapic->tsc_deadline = 0;
    lapic->divide = divide_of(lapic_reg(lapic, APIC_TIMER_DIVIDE));
}

/* Into and out of deadline mode the timer is disarmed; between the others it runs on. SDM 11.5.4.1
 */
void lapic_timer_lvt_write(struct lapic *lapic, uint32_t value)
{
    bool was_deadline = timer_mode(lapic) == TSC_DEADLINE;

    settle(lapic);
    lapic_reg_set(lapic, APIC_LVT_TIMER, value);
    if (was_deadline != (mode_of(value) == TSC_DEADLINE)) {
        stop(lapic);
        lapic_reg_set(lapic, APIC_TIMER_INITIAL, 0);
        lapic->timer_period_ns = 0;
        lapic->tsc_deadline = 0;
    }
    if (mode_of(value) == PERIODIC && lapic->timer_period_ns)
        set_period(lapic);
}

void lapic_timer_initial_write(struct lapic *lapic, uint32_t value)
{
    if (timer_mode(lapic) == TSC_DEADLINE)
        return;
    stop(lapic);
    lapic_reg_set(lapic, APIC_TIMER_INITIAL, value);
    set_period(lapic);
    if (lapic->timer_period_ns)
        start_count(lapic, lapic->timer_period_ns);
}

/* A running count keeps its value and goes on at the new rate. */
void lapic_timer_divide_write(struct lapic *lapic, uint32_t value)
{
    uint64_t now = now_ns(lapic), left_ns = 0;
    uint32_t old = lapic->divide;

    lapic_reg_set(lapic, APIC_TIMER_DIVIDE, value & 0xb);
    lapic->divide = divide_of(value);
    if (old == lapic->divide || !lapic->timer_period_ns)
        return;
    if (lapic->timer_expires_ns > now)
        left_ns = lapic->timer_expires_ns - now;
    set_period(lapic);
    if (lapic->timer_expires_ns)
        start_count(lapic, left_ns / old * lapic->divide);
}

uint32_t lapic_timer_current(struct lapic *lapic)
{
    uint64_t now, left_ns;

    settle(lapic);
    if (timer_mode(lapic) == TSC_DEADLINE || !lapic->timer_period_ns || !lapic->timer_expires_ns)
        return 0;
    now = now_ns(lapic);
    left_ns = lapic->timer_expires_ns > now ? lapic->timer_expires_ns - now : 0;
    if (left_ns > lapic->timer_period_ns)
        left_ns %= lapic->timer_period_ns;
    return (uint32_t)(left_ns / (BUS_CYCLE_NS * lapic->divide));
}

void lapic_timer_resume(struct lapic *lapic, uint32_t current)
{
    uint64_t left_ns;

    stop(lapic);
    lapic->divide = divide_of(lapic_reg(lapic, APIC_TIMER_DIVIDE));
    if (timer_mode(lapic) == TSC_DEADLINE) {
        lapic->timer_period_ns = 0;
        start_deadline(lapic);
        return;
    }
    lapic->tsc_deadline = 0;
    set_period(lapic);
    left_ns = (uint64_t)current * BUS_CYCLE_NS * lapic->divide;
    if (left_ns > lapic->timer_period_ns)
        left_ns = lapic->timer_period_ns;
    if (!left_ns && timer_mode(lapic) == PERIODIC)
        left_ns = lapic->timer_period_ns;
    if (left_ns)
        start_count(lapic, left_ns);
}

uint64_t lapic_deadline_get(struct lapic *lapic)
{
    uint64_t deadline = 0;

    irqchip_lock(lapic->chip);
    if (lapic_hw_enabled(lapic) && timer_mode(lapic) == TSC_DEADLINE)
        deadline = lapic->tsc_deadline;
    irqchip_unlock(lapic->chip);
    return deadline;
}

void lapic_deadline_set(struct lapic *lapic, uint64_t value)
{
    irqchip_lock(lapic->chip);
    if (lapic_hw_enabled(lapic) && timer_mode(lapic) == TSC_DEADLINE) {
        lapic->tsc_deadline = value;
        start_deadline(lapic);
    }
    irqchip_unlock(lapic->chip);
}

void lapic_tsc_changed(struct lapic *lapic)
{
    irqchip_lock(lapic->chip);
    if (timer_mode(lapic) == TSC_DEADLINE)
        start_deadline(lapic);
    irqchip_unlock(lapic->chip);
}
