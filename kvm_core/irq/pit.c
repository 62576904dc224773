/* The 8254: counters computed from the clock, a timer for channel 0 (data sheet, order 231164). */
#include "pit.h"

#include <string.h>

#include "internal.h"

enum { READ_LSB = 1, READ_MSB = 2, READ_WORD = 3, READ_WORD_HIGH = 4 };
enum { MODE_NONE = 0xff, MAX_COUNT = 0x10000 };

#define MAX_OWED 0x7fffffffu /* ticks a guest can be late by */

/* A shorter period floods the guest; KVM's min_timer_period_us. */
#define MIN_PERIOD_NS 200000u

static uint64_t now_ns(const struct irqchip *chip)
{
    return timers_now_ns(&chip->timers);
}

static uint64_t ticks_to_ns(uint64_t ticks)
{
    return ticks * 1000000000u / PIT_HZ;
}

static bool gate_holds(const struct pit_channel *c)
{
    return !c->gate && c->mode != 1 && c->mode != 5;
}

/* Counter clocks since the count was loaded. */
static uint64_t elapsed_ticks(const struct irqchip *chip, const struct pit_channel *c)
{
    uint64_t ns = gate_holds(c) ? c->held_ns : now_ns(chip) - c->load_ns;

    return (uint64_t)((unsigned __int128)ns * PIT_HZ / 1000000000u);
}

static uint16_t to_bcd(uint32_t value)
{
    return (uint16_t)(value / 1000 % 10 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 |
                      value % 10);
}

static uint32_t from_bcd(uint16_t value)
{
    return (value >> 12) * 1000u + (value >> 8 & 15) * 100u + (value >> 4 & 15) * 10u +
           (value & 15);
}

static uint16_t current_count(const struct irqchip *chip, const struct pit_channel *c)
{
    uint64_t ticks = elapsed_ticks(chip, c);
    uint32_t modulus = c->bcd ? 10000 : MAX_COUNT, count;

    switch (c->mode) {
    case 2:
        count = c->count - (uint32_t)(ticks % c->count);
        break;
    case 3: /* counts down by two, twice per period */
        count = c->count - (uint32_t)(2 * ticks % c->count);
        break;
    default: /* runs on below zero */
        count = (c->count + modulus - (uint32_t)(ticks % modulus)) % modulus;
        break;
    }
    return c->bcd ? to_bcd(count) : (uint16_t)count;
}

static bool output(const struct irqchip *chip, const struct pit_channel *c)
{
    uint64_t ticks = elapsed_ticks(chip, c);

    switch (c->mode) {
    case 0:
        return ticks >= c->count;
    case 1:
        return ticks >= c->count;
    case 2: /* low for the last clock of a period */
        return !c->gate || ticks % c->count != c->count - 1;
    case 3:
        return !c->gate || ticks % c->count < (c->count + 1) / 2;
    default: /* a strobe of one clock */
        return ticks != c->count;
    }
}

static void forgive_ticks(struct pit *pit)
{
    pit->pending = 0;
    pit->acked = true;
}

/* One edge on GSI 0, unless the guest still owes an acknowledgement for the last one. */
static void raise_gsi0(struct irqchip *chip)
{
    struct pit *pit = &chip->pit;

    if (pit->reinject) {
        if (!pit->acked)
            return;
        pit->acked = false;
    }
    irqchip_set_line_locked(chip, 0, IRQ_SOURCE_PIT, true, false);
    irqchip_set_line_locked(chip, 0, IRQ_SOURCE_PIT, false, false);
    /* LINT0 as NMI: the old NMI watchdog of a guest feeds on this timer */
    for (unsigned i = 0; chip->lapics_lint0_nmi && i < chip->lapics; i++)
        if (chip->lapic[i]->lint0_nmi)
            lapic_deliver_local_locked(chip->lapic[i], APIC_LVT_LINT0);
}

static void tick(struct timer *timer, void *arg)
{
    struct irqchip *chip = arg;
    struct pit *pit = &chip->pit;
    uint64_t now = now_ns(chip), due = timer->when_ns, ticks = 1;

    if (pit->period_ns) {
        ticks += (now - due) / pit->period_ns;
        timer_arm(&chip->timers, timer, due + ticks * pit->period_ns, 0);
    }
    if (pit->reinject)
        pit->pending += ticks < MAX_OWED - pit->pending ? (uint32_t)ticks : MAX_OWED - pit->pending;
    raise_gsi0(chip);
}

void pit_acknowledged(struct irqchip *chip)
{
    struct pit *pit = &chip->pit;

    if (!pit->reinject)
        return;
    pit->acked = true;
    if (pit->pending && --pit->pending)
        raise_gsi0(chip);
}

void pit_unmasked(struct irqchip *chip)
{
    if (chip->pit.reinject)
        forgive_ticks(&chip->pit);
}

void pit_set_reinject(struct irqchip *chip, bool reinject)
{
    if (reinject && !chip->pit.reinject)
        forgive_ticks(&chip->pit);
    chip->pit.reinject = reinject;
}

/* Channel 0 drives GSI 0, unless the HPET has taken that over. */
static void start_timer(struct irqchip *chip)
{
    struct pit *pit = &chip->pit;
    uint64_t period_ns = ticks_to_ns(pit->channel[0].count);

    timer_cancel(&chip->timers, &pit->timer);
    pit->period_ns = 0;
    forgive_ticks(pit);
    if (pit->flags & KVM_PIT_FLAGS_HPET_LEGACY)
        return;
    switch (pit->channel[0].mode) {
    case 2:
    case 3:
        if (period_ns < MIN_PERIOD_NS)
            period_ns = MIN_PERIOD_NS;
        pit->period_ns = period_ns;
        break;
    case 0:
    case 1:
    case 4:
        break;
    default:
        return;
    }
    timer_arm(&chip->timers, &pit->timer, now_ns(chip) + period_ns, 0);
}

/* count as written, 0 standing for the maximum. */
static void load_count(struct irqchip *chip, unsigned index, uint32_t count)
{
    struct pit_channel *c = &chip->pit.channel[index];

    if (c->bcd && count)
        count = from_bcd((uint16_t)count);
    if (!count || count > MAX_COUNT)
        count = c->bcd ? 10000 : MAX_COUNT;
    c->count = count;
    c->load_ns = now_ns(chip);
    c->held_ns = 0;
    if (index == 0)
        start_timer(chip);
}

static void set_gate(struct irqchip *chip, unsigned index, bool gate)
{
    struct pit_channel *c = &chip->pit.channel[index];
    uint64_t now = now_ns(chip);

    if (gate == c->gate)
        return;
    if (!gate)
        c->held_ns = now - c->load_ns;
    else if (c->mode == 0 || c->mode == 4)
        c->load_ns = now - c->held_ns; /* goes on */
    else
        c->load_ns = now; /* starts again */
    c->gate = gate;
}

static void latch_count(const struct irqchip *chip, struct pit_channel *c)
{
    if (c->count_latched)
        return;
    c->latched_count = current_count(chip, c);
    c->count_latched = c->rw_mode;
}

static void latch_status(const struct irqchip *chip, struct pit_channel *c)
{
    if (c->status_latched)
        return;
    c->status = (uint8_t)((output(chip, c) ? 0x80 : 0) | (c->rw_mode & 3) << 4 |
                          (c->mode & 7) << 1 | c->bcd);
    c->status_latched = true;
}

static void write_control(struct irqchip *chip, uint8_t value)
{
    unsigned index = value >> 6, access = (value >> 4) & 3;
    struct pit_channel *c;

    if (index == 3) { /* read-back */
        for (unsigned i = 0; i < 3; i++) {
            if (!(value & (2u << i)))
                continue;
            if (!(value & 0x20))
                latch_count(chip, &chip->pit.channel[i]);
            if (!(value & 0x10))
                latch_status(chip, &chip->pit.channel[i]);
        }
        return;
    }
    c = &chip->pit.channel[index];
    if (!access) {
        latch_count(chip, c);
        return;
    }
    c->rw_mode = c->read_state = c->write_state = (uint8_t)access;
    c->mode = (value >> 1) & 7;
    if (c->mode > 5) /* modes 2 and 3 ignore the top bit */
        c->mode -= 4;
    c->bcd = value & 1;
    c->count_latched = 0;
    c->status_latched = false;
    if (index == 0) /* stopped until a count arrives */
        timer_cancel(&chip->timers, &chip->pit.timer);
}

static void write_counter(struct irqchip *chip, unsigned index, uint8_t value)
{
    struct pit_channel *c = &chip->pit.channel[index];

    switch (c->write_state) {
    case READ_MSB:
        load_count(chip, index, (uint32_t)value << 8);
        break;
    case READ_WORD:
        c->write_latch = value;
        c->write_state = READ_WORD_HIGH;
        break;
    case READ_WORD_HIGH:
        c->write_state = READ_WORD;
        load_count(chip, index, c->write_latch | (uint32_t)value << 8);
        break;
    default:
        load_count(chip, index, value);
        break;
    }
}

static uint8_t read_counter(const struct irqchip *chip, struct pit_channel *c)
{
    uint16_t count;

    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    if (c->count_latched) {
        bool high = c->count_latched == READ_MSB;

        c->count_latched = c->count_latched == READ_WORD ? READ_MSB : 0;
        return (uint8_t)(high ? c->latched_count >> 8 : c->latched_count);
    }
    count = current_count(chip, c);
    switch (c->read_state) {
    case READ_MSB:
        return (uint8_t)(count >> 8);
    case READ_WORD:
        c->read_state = READ_WORD_HIGH;
        return (uint8_t)count;
    case READ_WORD_HIGH:
        c->read_state = READ_WORD;
        return (uint8_t)(count >> 8);
    }
    return (uint8_t)count;
}

/* Port 0x61: speaker gate and data, channel 2's output, and a bit that toggles with the memory
 * refresh. */
static uint8_t read_speaker(const struct irqchip *chip)
{
    const struct pit_channel *c = &chip->pit.channel[2];

    return (uint8_t)(c->gate | (chip->pit.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON ? 2 : 0) |
                     (now_ns(chip) >> 14 & 1) << 4 | output(chip, c) << 5);
}

bool pit_pio_read(struct irqchip *chip, uint16_t port, unsigned size_bytes, uint32_t *value)
{
    *value = 0;
    if (port == 0x61 && (chip->pit.create_flags & KVM_PIT_SPEAKER_DUMMY)) {
        *value = read_speaker(chip);
        return true;
    }
    if (port < 0x40 || port + size_bytes > 0x44)
        return false;
    if (port < 0x43)
        *value = read_counter(chip, &chip->pit.channel[port & 3]);
    return true;
}

bool pit_pio_write(struct irqchip *chip, uint16_t port, unsigned size_bytes, uint32_t value)
{
    if (port == 0x61 && (chip->pit.create_flags & KVM_PIT_SPEAKER_DUMMY)) {
        chip->pit.flags &= ~(uint32_t)KVM_PIT_FLAGS_SPEAKER_DATA_ON;
        if (value & 2)
            chip->pit.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
        set_gate(chip, 2, value & 1);
        return true;
    }
    if (port < 0x40 || port + size_bytes > 0x44)
        return false;
    if (port == 0x43)
        write_control(chip, (uint8_t)value);
    else
        write_counter(chip, port & 3, (uint8_t)value);
    return true;
}

static void pit_reset(struct irqchip *chip)
{
    struct pit *pit = &chip->pit;

    timer_cancel(&chip->timers, &pit->timer);
    pit->flags = 0;
    memset(pit->channel, 0, sizeof(pit->channel));
    for (unsigned i = 0; i < 3; i++) {
        pit->channel[i].mode = MODE_NONE;
        pit->channel[i].gate = i != 2;
        load_count(chip, i, 0);
    }
}

void pit_init(struct irqchip *chip, uint32_t create_flags)
{
    timer_init(&chip->pit.timer, tick, chip);
    chip->pit.create_flags = create_flags;
    chip->pit.reinject = true;
    pit_reset(chip);
}

void pit_get_state(struct irqchip *chip, struct kvm_pit_state2 *state)
{
    memset(state, 0, sizeof(*state));
    for (unsigned i = 0; i < 3; i++) {
        const struct pit_channel *c = &chip->pit.channel[i];

        state->channels[i] = (struct kvm_pit_channel_state){
            .count = c->bcd ? to_bcd(c->count) : c->count,
            .latched_count = c->latched_count,
            .count_latched = c->count_latched,
            .status_latched = c->status_latched,
            .status = c->status,
            .read_state = c->read_state,
            .write_state = c->write_state,
            .write_latch = c->write_latch,
            .rw_mode = c->rw_mode,
            .mode = c->mode,
            .bcd = c->bcd,
            .gate = c->gate,
            .count_load_time = (__s64)c->load_ns,
        };
    }
    state->flags = chip->pit.flags;
}

void pit_set_state(struct irqchip *chip, const struct kvm_pit_state2 *state)
{
    chip->pit.flags = state->flags & (KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON);
    for (unsigned i = 0; i < 3; i++) {
        const struct kvm_pit_channel_state *from = &state->channels[i];
        struct pit_channel *c = &chip->pit.channel[i];

        *c = (struct pit_channel){
            .latched_count = from->latched_count,
            .count_latched = from->count_latched & 3,
            .status_latched = from->status_latched,
            .status = from->status,
            .read_state = from->read_state,
            .write_state = from->write_state,
            .write_latch = from->write_latch,
            .rw_mode = from->rw_mode & 3,
            .mode = from->mode > 5 ? MODE_NONE : from->mode,
            .bcd = from->bcd,
            .gate = from->gate,
        };
        load_count(chip, i, from->count > MAX_COUNT ? 0 : from->count);
    }
}
