/* Timers under a fake clock: heap, LAPIC timer, PIT with reinjection; the thread, briefly. */
#include <semaphore.h>
#include <time.h>

#include "harness.h"

static void advance(struct vm *vm, uint64_t ns)
{
    timers_advance(&vm->chip.timers, ns);
}

struct log {
    struct timers *timers;
    struct timer timer[64], *stop;
    unsigned fired[64], count;
    uint64_t at[64];
};

static void note(struct timer *timer, void *arg)
{
    struct log *log = arg;

    if (log->count < 64) {
        log->fired[log->count] = (unsigned)(timer - log->timer);
        log->at[log->count++] = timers_now_ns(log->timers);
    }
    if (log->stop)
        timer_cancel(log->timers, log->stop);
}

static void test_heap(void)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct clock clock = {.fake = true};
    struct timers timers;
    struct log log = {.timers = &timers};

    CHECK_EQ(timers_init(&timers, &lock, &clock), 0);
    for (unsigned i = 0; i < 64; i++)
        timer_init(&log.timer[i], note, &log);
    for (unsigned i = 0; i < 64; i++)
        CHECK_EQ(timer_arm(&timers, &log.timer[i], 1000 + (i * 37) % 64, 0), 0);
    for (unsigned i = 0; i < 64; i += 2)
        timer_cancel(&timers, &log.timer[i]);
    timer_arm(&timers, &log.timer[1], 5000, 0); /* moved */
    timers_advance(&timers, 999);
    CHECK_EQ(log.count, 0);
    timers_advance(&timers, 3000);
    CHECK_EQ(log.count, 31);
    for (unsigned i = 0; i < log.count; i++) {
        CHECK_EQ(log.at[i], 1000 + (log.fired[i] * 37) % 64);
        CHECK(i == 0 || log.at[i] > log.at[i - 1]);
    }
    timers_advance(&timers, 2000);
    CHECK_EQ(log.fired[31], 1);
    CHECK(!timer_armed(&log.timer[1]));
    log.count = 0;
    timer_arm(&timers, &log.timer[3], clock.fake_now_ns + 10, 10);
    timers_advance(&timers, 35);
    CHECK_EQ(log.count, 3);
    log.stop = &log.timer[3]; /* cancelled by its own callback */
    timers_advance(&timers, 100);
    CHECK_EQ(log.count, 4);
    timer_after_ns(&timers, &log.timer[4], UINT64_MAX); /* never, without wrapping */
    timers_advance(&timers, 1000);
    CHECK_EQ(log.count, 4);
    timers_destroy(&timers);
}

static void test_one_shot_and_periodic(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);

    enable(vm);
    wr(vm, 0, APIC_LVT_TIMER, 0xee);
    wr(vm, 0, APIC_TIMER_DIVIDE, 0x3); /* by 16 */
    CHECK_EQ(rd(vm, 0, APIC_TIMER_CURRENT), 0);
    wr(vm, 0, APIC_TIMER_INITIAL, 100000);
    CHECK_EQ(rd(vm, 0, APIC_TIMER_CURRENT), 100000);
    advance(vm, 16 * 25000);
    CHECK_EQ(rd(vm, 0, APIC_TIMER_CURRENT), 75000);
    advance(vm, 16 * 75000 - 1);
    CHECK_EQ(take(vm, 0), -1);
    advance(vm, 1);
    CHECK_EQ(take(vm, 0), 0xee);
    wr(vm, 0, APIC_EOI, 0);
    CHECK_EQ(rd(vm, 0, APIC_TIMER_CURRENT), 0);
    wr(vm, 0, APIC_LVT_TIMER, 1 << 17 | 0xee);
    CHECK_EQ(rd(vm, 0, APIC_TIMER_CURRENT), 0); /* expired: periodic mode alone starts nothing */
    advance(vm, 10000000);
    CHECK_EQ(take(vm, 0), -1);

    wr(vm, 0, APIC_TIMER_DIVIDE, 0xb); /* by 1 */
    wr(vm, 0, APIC_TIMER_INITIAL, 1000000);
    for (unsigned i = 0; i < 5; i++) {
        advance(vm, 1000000);
        CHECK_EQ(take(vm, 0), 0xee);
        wr(vm, 0, APIC_EOI, 0);
    }
    advance(vm, 3000000); /* three ticks, one IRR bit */
    CHECK_EQ(take(vm, 0), 0xee);
    wr(vm, 0, APIC_EOI, 0);
    CHECK_EQ(take(vm, 0), -1);
    wr(vm, 0, APIC_LVT_TIMER, 1 << 17 | 1 << 16 | 0xee); /* masked it runs on, unheard */
    advance(vm, 1500000);
    CHECK_EQ(rd(vm, 0, APIC_TIMER_CURRENT), 500000);
    CHECK_EQ(take(vm, 0), -1);
    wr(vm, 0, APIC_LVT_TIMER, 0xee); /* back to one-shot: this count is the last */
    CHECK_EQ(rd(vm, 0, APIC_TIMER_CURRENT), 500000);
    advance(vm, 5000000);
    CHECK_EQ(take(vm, 0), 0xee);
    wr(vm, 0, APIC_EOI, 0);
    CHECK_EQ(rd(vm, 0, APIC_TIMER_CURRENT), 0);

    wr(vm, 0, APIC_TIMER_INITIAL, 1000);
    wr(vm, 0, APIC_TIMER_DIVIDE, 0x0); /* by 2, while it runs */
    CHECK_EQ(rd(vm, 0, APIC_TIMER_CURRENT), 1000);
    advance(vm, 1999);
    CHECK_EQ(take(vm, 0), -1);
    advance(vm, 1);
    CHECK_EQ(take(vm, 0), 0xee);
    wr(vm, 0, APIC_EOI, 0);
    wr(vm, 0, APIC_TIMER_INITIAL, 1000);
    wr(vm, 0, APIC_TIMER_INITIAL, 0); /* stops */
    advance(vm, 10000);
    CHECK_EQ(take(vm, 0), -1);
    vm_free(vm);
}

static void test_late_and_short_periods(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);

    enable(vm);
    wr(vm, 0, APIC_LVT_TIMER, 1 << 17 | 0xee);
    wr(vm, 0, APIC_TIMER_DIVIDE, 0xb); /* by 1 */
    wr(vm, 0, APIC_TIMER_INITIAL, 1000000);
    vm->clock.fake_now_ns += 3500000; /* nobody has come to the timer meanwhile: no tick is made up for */
    CHECK_EQ(rd(vm, 0, APIC_TIMER_CURRENT), 500000);
    CHECK_EQ(take(vm, 0), 0xee);
    wr(vm, 0, APIC_EOI, 0);
    CHECK_EQ(take(vm, 0), -1);
    advance(vm, 500000);
    CHECK_EQ(take(vm, 0), 0xee);
    wr(vm, 0, APIC_EOI, 0);
    wr(vm, 0, APIC_TIMER_INITIAL, 1000); /* a period is 200 us at least, as KVM's min_timer_period_us has it */
    advance(vm, 199999);
    CHECK_EQ(take(vm, 0), -1);
    advance(vm, 1);
    CHECK_EQ(take(vm, 0), 0xee);
    vm_free(vm);
}

static void test_all_divisors(void)
{
    static const struct {
        uint32_t code, divide;
    } rows[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);

    enable(vm);
    wr(vm, 0, APIC_LVT_TIMER, 0xee);
    for (unsigned i = 0; i < 8; i++) {
        wr(vm, 0, APIC_TIMER_DIVIDE, rows[i].code | 4);
        CHECK_EQ(rd(vm, 0, APIC_TIMER_DIVIDE), rows[i].code);
        wr(vm, 0, APIC_TIMER_INITIAL, 1000);
        advance(vm, 10 * rows[i].divide);
        CHECK_EQ(rd(vm, 0, APIC_TIMER_CURRENT), 990);
    }
    vm_free(vm);
}

static void test_deadline(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);
    struct lapic *lapic = &vm->cpu[0].lapic;
    uint64_t tsc;

    enable(vm);
    lapic_deadline_set(lapic, 5); /* not in that mode: ignored */
    CHECK_EQ(lapic_deadline_get(lapic), 0);
    wr(vm, 0, APIC_LVT_TIMER, 2 << 17 | 0xef);
    tsc = fake_tsc(&vm->cpu[0]);
    lapic_deadline_set(lapic, tsc + 2001); /* 1000.5 ns: not before */
    CHECK_EQ(lapic_deadline_get(lapic), tsc + 2001);
    advance(vm, 1000);
    CHECK_EQ(take(vm, 0), -1);
    advance(vm, 1);
    CHECK_EQ(take(vm, 0), 0xef);
    CHECK_EQ(lapic_deadline_get(lapic), 0);
    wr(vm, 0, APIC_EOI, 0);
    lapic_deadline_set(lapic, fake_tsc(&vm->cpu[0])); /* past: at once */
    CHECK_EQ(take(vm, 0), 0xef);
    wr(vm, 0, APIC_EOI, 0);
    lapic_deadline_set(lapic, UINT64_MAX);
    advance(vm, 1000000000);
    CHECK_EQ(take(vm, 0), -1);
    wr(vm, 0, APIC_TIMER_INITIAL, 1000); /* ignored in this mode */
    CHECK_EQ(rd(vm, 0, APIC_TIMER_INITIAL), 0);
    wr(vm, 0, APIC_LVT_TIMER, 0xef); /* leaving the mode disarms */
    CHECK_EQ(lapic_deadline_get(lapic), 0);
    wr(vm, 0, APIC_LVT_TIMER, 2 << 17 | 0xef);
    lapic_deadline_set(lapic, fake_tsc(&vm->cpu[0]) + 2000000);
    vm->clock.fake_now_ns += 2000000; /* the TSC is set forward */
    lapic_tsc_changed(lapic);
    CHECK_EQ(take(vm, 0), 0xef);
    lapic_set_cpuid(lapic, true, false, 40); /* no such mode */
    wr(vm, 0, APIC_LVT_TIMER, 2 << 17 | 0xef);
    CHECK_EQ(rd(vm, 0, APIC_LVT_TIMER), 0xef);
    vm_free(vm);
}

static void test_state_resumes(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);
    struct kvm_lapic_state state;

    enable(vm);
    wr(vm, 0, APIC_LVT_TIMER, 1 << 17 | 0xee);
    wr(vm, 0, APIC_TIMER_DIVIDE, 0xb);
    wr(vm, 0, APIC_TIMER_INITIAL, 1000000);
    advance(vm, 400000);
    lapic_get_state(&vm->cpu[0].lapic, &state);
    lapic_reset(&vm->cpu[0].lapic, false);
    advance(vm, 5000000); /* time passes unseen */
    CHECK_EQ(lapic_set_state(&vm->cpu[0].lapic, &state), 0);
    CHECK_EQ(rd(vm, 0, APIC_TIMER_CURRENT), 600000);
    advance(vm, 599999);
    CHECK_EQ(take(vm, 0), -1);
    advance(vm, 1);
    CHECK_EQ(take(vm, 0), 0xee);
    vm_free(vm);
}

#define TICK_NS(count) ((uint64_t)(count)*1000000000u / PIT_HZ)

static struct vm *vm_with_pit(void)
{
    struct vm *vm = vm_new(IRQCHIP_KERNEL, 1);

    pic_start(vm, 1);
    CHECK_EQ(irqchip_create_pit(&vm->chip, 2), -EINVAL);
    CHECK_EQ(irqchip_create_pit(&vm->chip, KVM_PIT_SPEAKER_DUMMY), 0);
    CHECK_EQ(irqchip_create_pit(&vm->chip, 0), -EEXIST);
    return vm;
}

static void pit_program(struct vm *vm, unsigned channel, unsigned mode, unsigned count)
{
    out(vm, 0x43, channel << 6 | 3 << 4 | mode << 1);
    out(vm, (uint16_t)(0x40 + channel), count & 0xff);
    out(vm, (uint16_t)(0x40 + channel), count >> 8 & 0xff);
}

/* Takes the timer's interrupt and ends it. */
static bool pit_irq(struct vm *vm)
{
    if (take(vm, 0) != 0x30)
        return false;
    out(vm, 0x20, 0x20);
    return true;
}

static void test_pit_reinjection(void)
{
    struct vm *vm = vm_with_pit();

    advance(vm, 1000000000);
    CHECK(!pit_irq(vm));          /* silent until programmed */
    pit_program(vm, 0, 2, 11932); /* 100 Hz */
    advance(vm, TICK_NS(11932));
    CHECK(pit_irq(vm));
    CHECK(!pit_irq(vm));
    advance(vm, 5 * TICK_NS(11932)); /* owed: five */
    for (unsigned i = 0; i < 5; i++)
        CHECK(pit_irq(vm));
    CHECK(!pit_irq(vm));
    CHECK_EQ(irqchip_set_reinject(&vm->chip, false), 0);
    advance(vm, 5 * TICK_NS(11932));
    CHECK(pit_irq(vm));
    CHECK(!pit_irq(vm));
    irqchip_set_reinject(&vm->chip, true);
    out(vm, 0x21, 1);
    advance(vm, 5 * TICK_NS(11932));
    out(vm, 0x21, 0); /* unmasked: what was lost is forgiven */
    CHECK(pit_irq(vm));
    CHECK(!pit_irq(vm));
    pit_program(vm, 0, 0, 1000); /* one shot */
    advance(vm, TICK_NS(1000));
    CHECK(pit_irq(vm));
    advance(vm, 1000000000);
    CHECK(!pit_irq(vm));
    pit_program(vm, 0, 2, 0); /* 65536 */
    out(vm, 0x43, 0x30);      /* a control word stops it */
    advance(vm, 1000000000);
    CHECK(!pit_irq(vm));
    vm_free(vm);
}

static unsigned pit_count(struct vm *vm, unsigned channel)
{
    unsigned low;

    out(vm, 0x43, channel << 6); /* latch */
    low = in(vm, (uint16_t)(0x40 + channel));
    return low | in(vm, (uint16_t)(0x40 + channel)) << 8;
}

static void test_pit_counters(void)
{
    struct vm *vm = vm_with_pit();
    unsigned low;

    pit_program(vm, 0, 2, 1000);
    advance(vm, TICK_NS(300) + 1);
    CHECK_EQ(pit_count(vm, 0), 700);
    out(vm, 0x43, 0xd2); /* read-back: count of channel 0 */
    advance(vm, TICK_NS(100));
    low = in(vm, 0x40);
    CHECK_EQ(low | in(vm, 0x40) << 8, 700);
    out(vm, 0x43, 0xe2); /* status of channel 0: output high, word, mode 2 */
    CHECK_EQ(in(vm, 0x40), 0xb4);
    advance(vm, 1);
    out(vm, 0x43, 0x00);
    advance(vm, TICK_NS(100));
    out(vm, 0x43, 0x00); /* is ignored, as long as the first one has not been read */
    low = in(vm, 0x40);
    CHECK_EQ(low | in(vm, 0x40) << 8, 600);
    pit_program(vm, 0, 6, 1000); /* mode 2 as well */
    out(vm, 0x43, 0xe2);
    CHECK_EQ(in(vm, 0x40), 0xb4);
    out(vm, 0x43, 0x10), out(vm, 0x40, 200); /* low byte only, mode 0 */
    CHECK_EQ(in(vm, 0x40), 200);
    out(vm, 0x43, 0x31), out(vm, 0x40, 0x00), out(vm, 0x40, 0x10); /* BCD 1000 */
    advance(vm, TICK_NS(1) + 1);
    CHECK_EQ(pit_count(vm, 0), 0x0999);
    pit_program(vm, 1, 3, 1000); /* square wave: by two */
    advance(vm, TICK_NS(100) + 1);
    CHECK_EQ(pit_count(vm, 1), 800);
    vm_free(vm);
}

static void test_speaker_gate(void)
{
    struct vm *vm = vm_with_pit();

    out(vm, 0x61, 0);
    pit_program(vm, 2, 0, 1000);
    advance(vm, TICK_NS(5000));
    CHECK_EQ(in(vm, 0x61) & 0x21, 0); /* gate low: it stands */
    out(vm, 0x61, 1);
    advance(vm, TICK_NS(999) - 1000);
    CHECK_EQ(in(vm, 0x61) & 0x23, 1);
    advance(vm, 3000);
    CHECK_EQ(in(vm, 0x61) & 0x23, 0x21);
    out(vm, 0x61, 3);
    CHECK_EQ(in(vm, 0x61) & 0x23, 0x23);
    pit_program(vm, 2, 0, 1000);
    advance(vm, TICK_NS(300) + 1);
    out(vm, 0x61, 0); /* it stands, and goes on from there */
    advance(vm, TICK_NS(500));
    CHECK_EQ(pit_count(vm, 2), 700);
    out(vm, 0x61, 1);
    CHECK_EQ(pit_count(vm, 2), 700);
    advance(vm, TICK_NS(100) + 1);
    CHECK_EQ(pit_count(vm, 2), 600);
    vm_free(vm);
}

static void test_pit_state(void)
{
    struct vm *vm = vm_with_pit();
    struct kvm_pit_state2 state;
    struct kvm_pit_state one;

    pit_program(vm, 0, 2, 11932);
    out(vm, 0x61, 2);
    CHECK_EQ(irqchip_get_pit(&vm->chip, &state), 0);
    CHECK_EQ(state.channels[0].count, 11932);
    CHECK_EQ(state.channels[0].mode, 2);
    CHECK_EQ(state.channels[1].count, 65536);
    CHECK_EQ(state.channels[2].gate, 0);
    CHECK_EQ(state.flags, KVM_PIT_FLAGS_SPEAKER_DATA_ON);
    state.flags = KVM_PIT_FLAGS_HPET_LEGACY; /* the HPET drives GSI 0 */
    CHECK_EQ(irqchip_set_pit(&vm->chip, &state), 0);
    advance(vm, 100000000);
    CHECK(!pit_irq(vm));
    state.flags = 0;
    CHECK_EQ(irqchip_set_pit(&vm->chip, &state), 0);
    advance(vm, TICK_NS(11932));
    CHECK(pit_irq(vm));
    CHECK_EQ(irqchip_get_pit1(&vm->chip, &one), 0);
    CHECK_EQ(one.channels[0].count, 11932);
    memset(&state, 0xff, sizeof(state)); /* nonsense is cut to size */
    CHECK_EQ(irqchip_set_pit(&vm->chip, &state), 0);
    for (uint16_t port = 0x40; port < 0x43; port++)
        in(vm, port), in(vm, port), in(vm, port);
    memset(&state, 0, sizeof(state));
    CHECK_EQ(irqchip_set_pit(&vm->chip, &state), 0);
    in(vm, 0x40), pit_count(vm, 2);
    vm_free(vm);
}

static void test_nmi_watchdog(void)
{
    struct vm *vm = vm_with_pit();

    enable(vm);
    wr(vm, 0, APIC_LVT_LINT0, 4 << 8);
    pit_program(vm, 0, 2, 11932);
    irqchip_set_reinject(&vm->chip, false);
    advance(vm, 3 * TICK_NS(11932));
    CHECK_EQ(vm->cpu[0].nmis, 3);
    CHECK(!lapic_maybe_pending(&vm->cpu[0].lapic)); /* INTR does not pass */
    wr(vm, 0, APIC_SPIV, 0xff);
    advance(vm, 3 * TICK_NS(11932));
    CHECK_EQ(vm->cpu[0].nmis, 3);
    vm_free(vm);
}

struct live {
    struct timers timers;
    struct timer late, early;
    sem_t fired;
    unsigned order[2], count;
};

static void live_fire(struct timer *timer, void *arg)
{
    struct live *live = arg;

    live->order[live->count++ & 1] = timer == &live->late;
    sem_post(&live->fired);
}

/* The real thread: an earlier deadline wakes it, none fires early, and destroying an idle one does
 * not hang. */
static void test_real_thread(void)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct live live = {.count = 0};
    uint64_t start;

    sem_init(&live.fired, 0, 0);
    CHECK_EQ(timers_init(&live.timers, &lock, NULL), 0);
    timer_init(&live.late, live_fire, &live);
    timer_init(&live.early, live_fire, &live);
    pthread_mutex_lock(&lock);
    start = timers_now_ns(&live.timers);
    CHECK_EQ(timer_arm(&live.timers, &live.late, start + 3000000, 0), 0);
    pthread_mutex_unlock(&lock);
    pthread_mutex_lock(&lock);
    CHECK_EQ(timer_arm(&live.timers, &live.early, start + 1000000, 0), 0);
    pthread_mutex_unlock(&lock);
    sem_wait(&live.fired);
    CHECK(timers_now_ns(&live.timers) >= start + 1000000);
    sem_wait(&live.fired);
    CHECK(timers_now_ns(&live.timers) >= start + 3000000);
    CHECK_EQ(live.order[0], 0);
    CHECK_EQ(live.order[1], 1);
    pthread_mutex_lock(&lock);
    timer_after_ns(&live.timers, &live.late, 3600000000000u);
    pthread_mutex_unlock(&lock);
    timers_destroy(&live.timers);
    CHECK(!timer_armed(&live.late));
    sem_destroy(&live.fired);
}

int main(void)
{
    test_heap();
    test_one_shot_and_periodic();
    test_late_and_short_periods();
    test_all_divisors();
    test_deadline();
    test_state_resumes();
    test_pit_reinjection();
    test_pit_counters();
    test_speaker_gate();
    test_pit_state();
    test_nmi_watchdog();
    test_real_thread();
    return finish("timers");
}
