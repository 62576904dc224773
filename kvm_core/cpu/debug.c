/* Debug registers: what MOV DR may do, and which accesses hit a breakpoint. SDM vol. 3, ch. 17.2 */
#include "cpu/debug.h"

#include <linux/kvm.h>

#include "cpu/state.h"

enum { DR7_GD = 1 << 13 };
enum { DR6_WRITABLE = 0xe00f, DR7_FIXED = 0x400 };
#define DR6_FIXED 0xffff0ff0ull
#define DR7_WRITABLE 0xffff2bffull
enum breakpoint { BP_INSN = 0, BP_WRITE = 1, BP_IO = 2, BP_ACCESS = 3 };

/* DR0-DR3 and DR7 in force: the client's while it debugs with KVM_GUESTDBG_USE_HW_BP, else the
 * guest's. */
static const uint64_t *debug_registers(const struct vcpu *v)
{
    return v->guest_debug & KVM_GUESTDBG_USE_HW_BP ? v->guest_debug_dr : v->dr;
}

/* DR4 and DR5 are DR6 and DR7, unless CR4.DE makes them #UD; with DR7.GD any access is a #DB. */
static unsigned check_access(struct vcpu *v, unsigned n)
{
    if (n > 7 || (n / 2 == 2 && (v->cr4 & CR4_DE)))
        cpu_ud(v);
    if (v->cpl)
        cpu_gp(v, 0);
    if (debug_registers(v)[7] & DR7_GD)
        cpu_debug_fault(v, DR6_BD);
    return n / 2 == 2 ? n + 2 : n;
}

uint64_t cpu_read_dr(struct vcpu *v, unsigned n) { return v->dr[check_access(v, n)]; }

void cpu_write_dr(struct vcpu *v, unsigned n, uint64_t value)
{
    n = check_access(v, n);
    if (n >= 6 && value >> 32)
        cpu_gp(v, 0);
    if (n == 6) {
        v->dr[6] = (value & DR6_WRITABLE) | DR6_FIXED;
        return;
    }
    v->dr[n] = n == 7 ? (value & DR7_WRITABLE) | DR7_FIXED : value;
    if (n == 7 || (v->dr[7] & 0xff)) /* watched pages have no tag in the TLB */
        tlb_flush_all(v);
    cpu_update_slow(v);
}

static bool enabled(uint64_t dr7, unsigned n) { return dr7 >> (2 * n) & 3; }
static enum breakpoint kind(uint64_t dr7, unsigned n) { return dr7 >> (16 + 4 * n) & 3; }

static unsigned length(uint64_t dr7, unsigned n) /* bytes */
{
    static const uint8_t bytes[] = {1, 2, 8, 4};

    return bytes[dr7 >> (18 + 4 * n) & 3];
}

/* Whether breakpoint n covers a byte of [addr, addr + size). */
static bool covers(const uint64_t *dr, unsigned n, uint64_t addr, unsigned size)
{
    uint64_t first = dr[n] & ~(uint64_t)(length(dr[7], n) - 1), last = first + length(dr[7], n) - 1;

    return addr <= last && addr + size - 1 >= first;
}

bool debug_insn_breakpoint(struct vcpu *v, uint64_t linear, uint64_t *dr6_bits)
{
    const uint64_t *dr = debug_registers(v);

    *dr6_bits = 0;
    if (v->eflags & FL_RF)
        return false;
    for (unsigned n = 0; n < 4; n++)
        if (enabled(dr[7], n) && kind(dr[7], n) == BP_INSN && dr[n] == linear)
            *dr6_bits |= 1u << n;
    return *dr6_bits != 0;
}

void debug_data_access(struct vcpu *v, uint64_t linear, unsigned size, bool write)
{
    const uint64_t *dr = debug_registers(v);

    for (unsigned n = 0; n < 4; n++) {
        enum breakpoint k = kind(dr[7], n);

        if (enabled(dr[7], n) && (k == BP_ACCESS || (k == BP_WRITE && write)) &&
            covers(dr, n, linear, size))
            v->db_pending |= 1u << n;
    }
}

void debug_io_access(struct vcpu *v, uint16_t port, unsigned size)
{
    const uint64_t *dr = debug_registers(v);

    if (!(v->cr4 & CR4_DE))
        return;
    for (unsigned n = 0; n < 4; n++)
        if (enabled(dr[7], n) && kind(dr[7], n) == BP_IO && covers(dr, n, port, size))
            v->db_pending |= 1u << n;
}

bool debug_page_watched(const struct vcpu *v, uint64_t linear)
{
    const uint64_t *dr = debug_registers(v);

    if (likely(!(dr[7] & 0xff)))
        return false;
    for (unsigned n = 0; n < 4; n++)
        if (enabled(dr[7], n) && (kind(dr[7], n) & BP_WRITE) && dr[n] >> 12 == linear >> 12)
            return true;
    return false;
}
