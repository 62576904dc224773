/* Which fields of two states are compared in lockstep, and how a difference is written down. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cpu/lockstep_internal.h"
#include "isa/codecache.h"
#include "mmu/phys.h"

struct field {
    const char *name;
    uint16_t offset, bytes;
    uint64_t ignored; /* bits, of fields up to 8 bytes */
};
#define FIELD(f) {#f, offsetof(struct vcpu, f), sizeof(((struct vcpu *)0)->f), 0}
#define GPR(name, n) {name, offsetof(struct vcpu, gpr[n]), 8, 0}
#define SEG(name, n)                                                                                                   \
    {name, offsetof(struct vcpu, seg[n]), offsetof(struct segment, sel) + 2, 0}

static const struct field fields[] = {
    FIELD(rip),
    GPR("rax", RAX), GPR("rcx", RCX), GPR("rdx", RDX), GPR("rbx", RBX), GPR("rsp", RSP), GPR("rbp", RBP), GPR("rsi", RSI),
    GPR("rdi", RDI), GPR("r8", R8), GPR("r9", R9), GPR("r10", R10), GPR("r11", R11), GPR("r12", R12), GPR("r13", R13),
    GPR("r14", R14), GPR("r15", R15),
    {"eflags (arithmetic)", offsetof(struct vcpu, oszapc), 4, (uint32_t)~(PF_OF | PF_CF | PF_PF | PF_AF | PF_ZF | PF_SF)},
    {"eflags (other)", offsetof(struct vcpu, eflags), 4, FL_RF}, /* between two iterations of REP: of the engine's making */
    SEG("es", ES), SEG("cs", CS), SEG("ss", SS), SEG("ds", DS), SEG("fs", FS), SEG("gs", GS), SEG("ldtr", LDTR),
    SEG("tr", TR), FIELD(cpl), FIELD(mode), FIELD(shadow), FIELD(gdt.base), FIELD(gdt.limit), FIELD(idt.base),
    FIELD(idt.limit), FIELD(cr0), FIELD(cr2), FIELD(cr3), FIELD(cr4), FIELD(cr8), FIELD(efer), FIELD(xcr0), FIELD(pdpte),
    FIELD(dr), FIELD(pkru), FIELD(star), FIELD(lstar), FIELD(cstar), FIELD(sfmask), FIELD(kernel_gs_base), FIELD(tsc_aux),
    FIELD(sysenter_cs), FIELD(sysenter_esp), FIELD(sysenter_eip), FIELD(pat), FIELD(misc_enable), FIELD(spec_ctrl),
    FIELD(xss), FIELD(debugctl), FIELD(mtrr_def_type), FIELD(mtrr_fixed), FIELD(mtrr_var), FIELD(tsc_adjust),
    FIELD(tsc_offset), FIELD(ymm), FIELD(fx), FIELD(xinuse), FIELD(nmi_masked), FIELD(pending.type), FIELD(pending.vector),
    FIELD(pending.error), FIELD(db_pending), FIELD(pio_count),
};
enum { FIELDS = sizeof(fields) / sizeof(fields[0]) };

static const void *at(const struct vcpu *v, const struct field *f) { return (const uint8_t *)v + f->offset; }

static bool same(const struct field *f, const struct vcpu *a, const struct vcpu *b)
{
    uint64_t x = 0, y = 0;

    if (!memcmp(at(a, f), at(b, f), f->bytes))
        return true;
    if (!f->ignored || f->bytes > 8)
        return false;
    memcpy(&x, at(a, f), f->bytes);
    memcpy(&y, at(b, f), f->bytes);
    return !((x ^ y) & ~f->ignored);
}

const char *lockstep_state_differs(const struct vcpu *a, const struct vcpu *b, const char *last)
{
    bool behind = last == NULL;

    for (unsigned n = 0; n < FIELDS; n++) {
        if (behind && !same(&fields[n], a, b))
            return fields[n].name;
        behind |= fields[n].name == last;
    }
    return NULL;
}

/* ---- the report ------------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) static void say(struct lockstep *l, size_t *used, const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(l->report + *used, REPORT_BYTES - *used, format, args);
    va_end(args);
    *used += n > 0 ? (size_t)n : 0;
    if (*used >= REPORT_BYTES)
        *used = REPORT_BYTES - 1;
}

static void say_state(struct lockstep *l, size_t *used, const char *title, const struct vcpu *v)
{
    static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

    say(l, used, "%s: cs:rip %04x:%016" PRIx64 " eflags %06" PRIx64 " cpl %u cr0 %" PRIx64 " cr3 %" PRIx64 "\n", title,
        v->seg[CS].sel, v->rip, cpu_get_eflags(v), v->cpl, v->cr0, v->cr3);
    for (unsigned n = 0; n < 16; n++)
        say(l, used, "  %-3s %016" PRIx64 "%s", names[n], v->gpr[n], n % 4 == 3 ? "\n" : "");
}

static void say_field(struct lockstep *l, size_t *used, const char *title, const struct vcpu *v, const char *name)
{
    for (unsigned n = 0; n < FIELDS; n++) {
        const uint8_t *p = at(v, &fields[n]);
        if (strcmp(fields[n].name, name))
            continue;
        say(l, used, "  %-8s", title);
        for (unsigned k = fields[n].bytes; k-- > 0;)
            say(l, used, "%02x", p[k]);
        say(l, used, "\n");
    }
}

static void say_memory(struct lockstep *l, size_t *used)
{
    for (unsigned n = 0; n < l->pages; n++) {
        const struct saved_page *p = &l->page[n];
        const uint8_t *tested = n < l->tested_pages ? p->after : p->before;
        for (unsigned k = 0; k < 4096; k++) {
            if (p->host[k] == tested[k])
                continue;
            say(l, used, "memory at %" PRIx64 ": before %02x, tested %02x, reference %02x\n",
                p->slot->gpa + (p->index << 12) + k, p->before[k], tested[k], p->host[k]);
            return;
        }
    }
}

static void say_bytes(struct vcpu *v, struct lockstep *l, size_t *used)
{
    uint8_t bytes[15];
    struct vcpu *before = &l->before;
    uint64_t rip = v->rip, base = v->seg[CS].base;
    uint8_t bits = v->code_bits;
    unsigned n;

    v->rip = before->rip;
    v->seg[CS].base = before->seg[CS].base;
    v->code_bits = before->code_bits;
    n = codecache_bytes(v, bytes);
    v->rip = rip;
    v->seg[CS].base = base;
    v->code_bits = bits;
    say(l, used, "instruction (%u-bit code):", before->code_bits);
    for (unsigned k = 0; k < n; k++)
        say(l, used, " %02x", bytes[k]);
    say(l, used, "\n");
}

void lockstep_describe(struct vcpu *v, struct lockstep *l, const char *title)
{
    size_t used = 0;

    say(l, &used, "lockstep: %s\n", title);
    say_bytes(v, l, &used);
    say_state(l, &used, "before", &l->before);
    say_state(l, &used, "tested", &l->tested_after);
    say_state(l, &used, "reference", v);
    for (const char *name = NULL; (name = lockstep_state_differs(&l->tested_after, v, name)) != NULL;) {
        say(l, &used, "differs: %s\n", name);
        say_field(l, &used, "before", &l->before, name);
        say_field(l, &used, "tested", &l->tested_after, name);
        say_field(l, &used, "ref", v, name);
    }
    say_memory(l, &used);
    if (l->nearly)
        say(l, &used, "with the same registers at the same place there differed: %s\n", l->nearly);
    if (l->tested_after.exit.reason != v->exit.reason)
        say(l, &used, "exit: tested %u, reference %u\n", l->tested_after.exit.reason, v->exit.reason);
    if (l->devices.next != l->device_end)
        say(l, &used, "device accesses: tested %u, reference %u\n", l->device_end, l->devices.next);
}
