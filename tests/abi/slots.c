/* Thousands of memory slots added, moved and deleted at random: overlaps are refused, and shared memory is known, as by looking at all. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "kvm/door.h"
#include "kvm/kvm.h"

enum { IDS = 60, PLACES = 200, HOST_PLACES = 1500, STEPS = 20000, PAGE_BYTES = 4096 };

static struct slot {
    uint64_t gpa, host, pages; /* pages: 0: it is not there */
} slots[IDS];
static struct memslot in_order[IDS];
static struct slot_order order;
static uint64_t seed = 1;

static unsigned below(unsigned n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % n;
}

static bool meet(uint64_t a, uint64_t a_pages, uint64_t b, uint64_t b_pages) { return a < b + b_pages && b < a + a_pages; }

static void expect(const char *what, unsigned step, bool right)
{
    if (!right) {
        printf("step %u: %s\n", step, what);
        exit(1);
    }
}

static bool overlaps(unsigned id, const struct slot *s)
{
    for (unsigned i = 0; i < IDS; i++)
        if (i != id && slots[i].pages && meet(slots[i].gpa, slots[i].pages, s->gpa, s->pages))
            return true;
    return false;
}

static bool any_share(void)
{
    for (unsigned i = 0; i < IDS; i++)
        for (unsigned j = 0; j < i; j++)
            if (slots[i].pages && slots[j].pages && meet(slots[i].host, slots[i].pages, slots[j].host, slots[j].pages))
                return true;
    return false;
}

static void keep_order(unsigned id)
{
    struct slot *s = &slots[id];

    if (in_order[id].size_bytes)
        slot_order_remove(&order, &in_order[id]);
    in_order[id] = (struct memslot){.userspace_addr = s->host * PAGE_BYTES, .size_bytes = s->pages * PAGE_BYTES};
    if (!s->pages)
        return;
    expect("room", id, !slot_order_reserve(&order));
    slot_order_add(&order, &in_order[id]);
}

/* Those with memory in a range, and no others, are marked. */
static void look(unsigned step)
{
    uint64_t from = below(HOST_PLACES), to = from + 1 + below(4);
    bool any = false, said = slot_order_set_partial(&order, from * PAGE_BYTES, to * PAGE_BYTES);

    for (unsigned i = 0; i < IDS; i++) {
        bool in = slots[i].pages && meet(slots[i].host, slots[i].pages, from, to - from);
        expect("marked", step, atomic_exchange(&in_order[i].partial, false) == in);
        any |= in;
    }
    expect("range", step, said == any);
}

int main(void)
{
    uint8_t *memory = mmap(NULL, (HOST_PLACES + 4) * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int vm = kvmish_ioctl(kvmish_open(), KVM_CREATE_VM, 0);
    unsigned shared = 0;

    for (unsigned step = 0; step < STEPS; step++) {
        unsigned id = below(IDS);
        struct slot s = slots[id].pages ? slots[id] : (struct slot){.host = below(HOST_PLACES), .pages = 1 + below(3)};
        bool gone = slots[id].pages && !below(3);
        s.gpa = below(PLACES);
        struct kvm_userspace_memory_region r = {.slot = id, .guest_phys_addr = s.gpa * PAGE_BYTES,
            .memory_size = gone ? 0 : s.pages * PAGE_BYTES, .userspace_addr = (uintptr_t)memory + s.host * PAGE_BYTES};
        int want = gone || !overlaps(id, &s) ? 0 : -EEXIST;
        expect("KVM_SET_USER_MEMORY_REGION", step, kvmish_ioctl(vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&r) == want);
        if (!want) {
            slots[id] = gone ? (struct slot){0} : s;
            keep_order(id);
        }
        expect("sharing", step, (order.sharing != 0) == any_share());
        shared += order.sharing != 0;
        look(step);
    }
    expect("both kinds were seen", STEPS, shared && shared < STEPS);
    return 0;
}
