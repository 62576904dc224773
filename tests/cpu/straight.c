/* The straight way through 64-bit gates and back by IRETQ against the one with all checks: of whatever tables, frames and limits,
 * with a bit wrong here and there, both make the same or raise the same. */
#include "fixture.h"

#include "cpu/far.h"
#include "cpu/straight.h"
#include "mmu/paging.h"
#include "mmu/tlb.h"

enum { ROUNDS = 200000, VECTORS = 32, FLAGS = 0x3f7fd5 };
enum { GDT = 0x1000, IDT = 0x2000, TSS = 0x3000, STACKS = 0x4000, CODE = 0x8000, TABLES = 0x10000, USED = 0xa000 };
enum { CODE0 = 0x08, DATA0 = 0x10, CODE3 = 0x1b, DATA3 = 0x23, CODE32 = 0x2b };

static struct vcpu *v;
static uint64_t taken_gates, taken_returns;

static uint64_t next(void)
{
    static uint64_t x = 0x2545f4914f6cdd1dull;

    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x * 0x9e3779b97f4a7c15ull >> 16;
}
static unsigned below(unsigned n) { return (unsigned)(next() % n); }
static void put(uint64_t at, uint64_t value) { memcpy(ram + at, &value, 8); }

/* A bit somewhere in `bytes` from `at`. */
static void spoil(uint64_t at, unsigned bytes) { ram[at + below(bytes)] ^= (uint8_t)(1u << below(8)); }

/* Stacks: two of the supervisor's, one of the user's, one that is read-only. */
static void map_all(void)
{
    static const uint64_t rights[16] = {[6] = 0x67, [7] = 0x61};

    put(TABLES, TABLES + 0x1000 + 0x67);
    put(TABLES + 0x1000, TABLES + 0x2000 + 0x67);
    put(TABLES + 0x2000, TABLES + 0x3000 + 0x67);
    for (unsigned page = 0; page < 16; page++)
        put(TABLES + 0x3000 + 8 * page, page * 0x1000 + (rights[page] ? rights[page] : 0x63));
}

static uint16_t any_selector(void)
{
    static const uint16_t some[] = {CODE0, DATA0, CODE3, DATA3, CODE32, 0, 1, 2, 3, CODE0 | 1, CODE3 | 4, 0x30, 0x38, 0xfff8};

    return some[below(sizeof(some) / sizeof(some[0]))];
}

static uint64_t any_stack(void) { return (STACKS + 0x80 + below(0x3f00)) & ~(below(4) ? 7ull : 0ull); }
static uint64_t any_code(void) { return CODE + below(64) + (below(32) ? 0 : 1ull << (40 + below(24))); }

static void tables(void)
{
    static const uint64_t gdt[] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff, 0x00cffb000000ffff};

    memset(ram, 0, USED);
    memcpy(ram + GDT, gdt, sizeof(gdt));
    for (unsigned n = 0; n < VECTORS; n++) {
        uint64_t to = CODE + 16 * n, type = 0x8e + (n & 1) + (n & 2 ? 0x60 : 0), ist = n & 4 ? n >> 3 : 0;
        put(IDT + 16 * n, (to & 0xffff) | CODE0 << 16 | ist << 32 | type << 40 | (to >> 16) << 48);
    }
    for (unsigned n = 0; n < 11; n++)
        put(TSS + 4 + 8 * n, any_stack());
    v->gdt = (struct desc_table){GDT, below(8) ? 47 : (uint16_t)below(64)};
    v->idt = (struct desc_table){IDT, below(8) ? VECTORS * 16 - 1 : (uint16_t)below(VECTORS * 16)};
    v->seg[TR] = (struct segment){.base = TSS, .limit = below(8) ? 103 : below(104), .ar = AR_P | 11, .sel = 0x40};
    if (!below(4))
        spoil(GDT, sizeof(gdt));
    if (!below(4))
        spoil(TSS, 104);
}

static void state(void)
{
    bool user = below(2);

    v->cr4 = CR4_PAE | (below(2) ? CR4_SMAP : 0) | (below(8) ? 0 : CR4_SMEP);
    v->cpl = user ? 3 : 0;
    segment_from_desc(&v->seg[CS], user ? CODE3 : CODE0, user ? 0x00affb000000ffff : 0x00af9b000000ffff);
    segment_from_desc(&v->seg[SS], user ? DATA3 : DATA0, user ? 0x00cff3000000ffff : 0x00cf93000000ffff);
    for (unsigned s = DS; s <= GS; s++) {
        v->seg[s] = (struct segment){.ar = AR_UNUSABLE};
        if (below(2))
            segment_from_desc(&v->seg[s], below(2) ? DATA3 : DATA0, below(2) ? 0x00cff3000000ffff : 0x00cf93000000ffff);
    }
    for (unsigned n = 0; n < 16; n++)
        v->gpr[n] = next();
    v->gpr[RSP] = any_stack();
    v->rip = any_code();
    v->eflags = 0;
    cpu_set_eflags(v, (next() & (FL_ARITH | FL_IF | FL_DF | FL_NT | FL_RF | FL_IOPL | FL_ID)) | (below(8) ? 0 : FL_AC) |
                          (below(16) ? 0 : FL_TF));
    cpu_update_mode(v);
}

static void an_event(void)
{
    static const uint8_t types[] = {EVENT_EXTINT, EVENT_FAULT, EVENT_SOFTINT, EVENT_SOFTEXC, EVENT_TRAP, EVENT_ICEBP};
    unsigned vector = below(VECTORS + 1);

    v->pending = (struct event){.type = types[below(sizeof(types))], .vector = (uint8_t)vector, .insn_len = 2};
    if (v->pending.type == EVENT_FAULT && below(2)) {
        v->pending.has_error = true;
        v->pending.error = (uint32_t)next() & 0xffff;
        v->pending.payload = next();
    }
    if (!below(4) && vector < VECTORS)
        spoil(IDT + 16 * vector, 16);
}

static void a_frame(void)
{
    bool outer = below(2) || v->cpl == 3;
    uint64_t frame[5] = {any_code(), outer ? CODE3 : CODE0, next() & FLAGS, any_stack(), outer ? DATA3 : DATA0};

    if (!below(4))
        frame[1] = any_selector();
    if (!below(4))
        frame[4] = any_selector();
    memcpy(ram + v->gpr[RSP], frame, sizeof(frame));
}

struct outcome {
    int fault;
    struct vcpu state;
    uint8_t memory[USED];
};

static void keep(struct outcome *o, int fault)
{
    o->fault = fault;
    memcpy(&o->state, v, offsetof(struct vcpu, tlb_sets));
    memcpy(o->memory, ram, USED);
}
static void restore(const struct outcome *o)
{
    memcpy(v, &o->state, offsetof(struct vcpu, tlb_sets));
    memcpy(ram, o->memory, USED);
}

static void go(bool gate)
{
    static const struct insn iretq = {.len = 2};

    if (gate)
        exception_deliver(v);
    else
        insn_iret(v, &iretq, 8);
}

static void same_segment(const struct segment *a, const struct segment *b, unsigned s)
{
    CHECK(a->base == b->base && a->limit == b->limit && a->ar == b->ar && a->sel == b->sel && a->flat == b->flat, "segment %u", s);
}

static void same(const struct outcome *a, const struct outcome *b)
{
    const struct vcpu *x = &a->state, *y = &b->state;

    CHECK(a->fault == b->fault, "%d, %d", a->fault, b->fault);
    if (a->fault >= 0)
        CHECK(x->fault.error == y->fault.error && x->fault.has_error == y->fault.has_error && x->fault.payload == y->fault.payload);
    CHECK(!memcmp(x->gpr, y->gpr, sizeof(x->gpr)) && x->rip == y->rip);
    CHECK(x->eflags == y->eflags && x->oszapc == y->oszapc, "%x, %x", x->eflags, y->eflags);
    CHECK(x->cpl == y->cpl && x->mode == y->mode && x->tlb == y->tlb && x->code_bits == y->code_bits);
    CHECK(x->stack_size == y->stack_size && x->code_model == y->code_model);
    CHECK(x->pending.type == y->pending.type && x->delivering == y->delivering && x->cr2 == y->cr2 && x->dr[6] == y->dr[6]);
    for (unsigned s = ES; s <= GS; s++)
        same_segment(&x->seg[s], &y->seg[s], s);
    CHECK(!memcmp(a->memory, b->memory, USED), "memory");
}

static void compare(bool gate)
{
    static struct outcome before, careful, straight;
    bool taken;

    keep(&before, 0);
    v->slow |= SLOW_SINGLE;
    int fault = OUTCOME(v, go(gate));
    v->slow &= (uint8_t)~SLOW_SINGLE;
    keep(&careful, fault);
    restore(&before);
    fault = OUTCOME(v, go(gate));
    keep(&straight, fault);
    same(&careful, &straight);
    restore(&before);
    if (v->slow)
        return;
    taken = gate ? straight_gate(v, &v->pending, 2, v->rip) : !(v->eflags & FL_NT) && straight_iretq(v, FLAGS);
    *(gate ? &taken_gates : &taken_returns) += taken;
    CHECK(!taken || careful.fault < 0);
}

/* RSP0 is in a page that is not there: a gate with a stack of its own does not read it. SDM vol. 3, 6.14.5 */
static void without_rsp0(uint8_t slow)
{
    enum { ABSENT = 9, BEHIND = 0xa000, STACK = STACKS + 0x800 };
    uint64_t page;

    tables();
    state();
    put(IDT, CODE | (uint64_t)CODE0 << 16 | 1ull << 32 | 0x8eull << 40);
    memcpy(ram + GDT + CODE0, &(uint64_t){0x00af9b000000ffff}, 8);
    v->gdt.limit = 47;
    v->idt.limit = 15;
    v->seg[TR] = (struct segment){.base = BEHIND - 0x20, .limit = 103, .ar = AR_P | 11, .sel = 0x40};
    put(BEHIND + 4, STACK);
    memcpy(&page, ram + TABLES + 0x3000 + 8 * ABSENT, 8);
    put(TABLES + 0x3000 + 8 * ABSENT, 0);
    tlb_flush_all(v);
    v->cpl = 3;
    cpu_set_eflags(v, 0);
    cpu_update_mode(v);
    v->slow |= slow;
    v->pending = (struct event){.type = EVENT_EXTINT};
    CHECK(OUTCOME(v, exception_deliver(v)) < 0 && v->cpl == 0 && v->gpr[RSP] == STACK - 40, "%#" PRIx64, v->gpr[RSP]);
    v->slow &= (uint8_t)~slow;
    v->pending.type = v->delivering = EVENT_NONE;
    put(TABLES + 0x3000 + 8 * ABSENT, page);
    tlb_flush_all(v);
}

int main(void)
{
    v = new_vcpu();
    set_supported_cpuid(v);
    map_all();
    v->cr0 = CR0_PE | CR0_PG | CR0_WP;
    v->cr3 = TABLES;
    v->efer = EFER_LME | EFER_LMA | EFER_NXE;
    v->seg[LDTR] = (struct segment){.ar = AR_UNUSABLE};
    for (unsigned round = 0; round < ROUNDS && failures < 20; round++) {
        bool gate = below(2);
        tables();
        state();
        if (gate)
            an_event();
        else
            a_frame();
        if (!below(64)) /* else what faults early finds all that comes later in the TLB */
            tlb_flush_all(v);
        compare(gate);
        v->pending.type = EVENT_NONE;
        v->delivering = EVENT_NONE;
    }
    without_rsp0(0);
    without_rsp0(SLOW_SINGLE);
    CHECK(taken_gates > ROUNDS / 20 && taken_returns > ROUNDS / 20, "only %" PRIu64 " and %" PRIu64, taken_gates, taken_returns);
    free_vcpu(v);
    return report();
}
