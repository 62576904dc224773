/* A machine's slots in the order of the client's addresses: whose memory is at one, and whether two slots share some.
 *
 * Two slots of all share memory if and only if two neighbours in this order do.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/kvm.h"

unsigned slots_below(struct memslot *const *slot, unsigned count, size_t field, uint64_t address)
{
    unsigned low = 0, high = count;

    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (*(const uint64_t *)((const char *)slot[mid] + field) < address)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static unsigned first_from(const struct slot_order *o, uint64_t addr)
{
    return slots_below(o->slot, o->count, offsetof(struct memslot, userspace_addr), addr);
}

static uint64_t end_of(const struct memslot *s) { return s->userspace_addr + s->size_bytes; }

/* Between the slots at n - 1 and n. */
static unsigned share(const struct slot_order *o, unsigned n)
{
    return n && n < o->count && end_of(o->slot[n - 1]) > o->slot[n]->userspace_addr;
}

int slot_order_reserve(struct slot_order *o)
{
    unsigned room = o->room ? 2 * o->room : 16;
    struct memslot **grown;

    if (o->count < o->room)
        return 0;
    grown = realloc(o->slot, room * sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    o->slot = grown;
    o->room = room;
    return 0;
}

void slot_order_add(struct slot_order *o, struct memslot *s)
{
    unsigned n = first_from(o, s->userspace_addr);

    o->sharing -= share(o, n);
    memmove(o->slot + n + 1, o->slot + n, (o->count - n) * sizeof(*o->slot));
    o->slot[n] = s;
    o->count++;
    o->sharing += share(o, n) + share(o, n + 1);
}

void slot_order_remove(struct slot_order *o, const struct memslot *s)
{
    unsigned n = first_from(o, s->userspace_addr);

    while (o->slot[n] != s)
        n++;
    o->sharing -= share(o, n) + share(o, n + 1);
    memmove(o->slot + n, o->slot + n + 1, (o->count - n - 1) * sizeof(*o->slot));
    o->count--;
    o->sharing += share(o, n);
}

bool slot_order_set_partial(struct slot_order *o, uint64_t from, uint64_t to)
{
    unsigned n = first_from(o, from);
    bool found = false;

    if (o->sharing)
        n = 0; /* any that begins before may reach as far */
    else if (n)
        n--;
    for (; n < o->count && o->slot[n]->userspace_addr < to; n++)
        if (end_of(o->slot[n]) > from) {
            atomic_store(&o->slot[n]->partial, true);
            found = true;
        }
    return found;
}
