/* The slow path of every guest memory access: translation, TLB fill, devices, page crossing, code pages. */
#include "cpu/access.h"

#include "cpu/lockstep.h"
#include "isa/codecache.h"
#include "mmu/large.h"
#include "mmu/phys.h"
#include "mmu/reach.h"

/* ---- devices: the access log -------------------------------------------------------------- */

/* The log belongs to one execution of one instruction; a new owner starts with an empty one. */
static void log_claim(struct vcpu *v)
{
    if (v->log.replay || (v->log.cur == v->cur && v->log.budget == v->budget))
        return;
    v->log.cur = v->cur;
    v->log.budget = v->budget;
    v->log.count = v->log.next = 0;
}

struct access_fragment *access_log_next(struct vcpu *v, uint8_t kind, uint64_t addr, unsigned size,
                                        bool write)
{
    struct access_fragment *f;

    log_claim(v);
    if (v->log.next >= v->log.count)
        return NULL;
    f = &v->log.f[v->log.next];
    if (f->kind != kind || f->addr != addr || f->size != size || f->write != write) {
        v->log.count = v->log.next; /* the guest changed the instruction under us: ask again */
        return NULL;
    }
    v->log.next++;
    return f;
}

void access_log_append(struct vcpu *v, uint8_t kind, uint64_t addr, unsigned size, bool write,
                       uint64_t data)
{
    if (v->log.count == ACCESS_MAX)
        cpu_leave(v, EXIT_INTERNAL);
    v->log.f[v->log.count++] = (struct access_fragment){
        .addr = addr, .data = data, .size = (uint8_t)size, .write = write, .kind = kind};
    v->log.next = v->log.count;
}

static uint64_t mmio_read(struct vcpu *v, uint64_t gpa, unsigned size)
{
    struct access_fragment *f = access_log_next(v, EXIT_MMIO, gpa, size, false);
    uint64_t data = 0;

    if (f)
        return f->data;
    if (v->ops->mmio_read(v, gpa, size, &data)) {
        v->exit.mmio.gpa = gpa;
        v->exit.mmio.size = (uint8_t)size;
        v->exit.mmio.write = false;
        cpu_leave(v, EXIT_MMIO);
    }
    access_log_append(v, EXIT_MMIO, gpa, size, false, data);
    return data;
}

static void mmio_write(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t data)
{
    if (access_log_next(v, EXIT_MMIO, gpa, size, true))
        return;
    if (v->ops->mmio_write(v, gpa, size, data)) {
        v->exit.mmio.gpa = gpa;
        v->exit.mmio.size = (uint8_t)size;
        v->exit.mmio.write = true;
        v->exit.mmio.data = data;
        cpu_leave(v, EXIT_MMIO);
    }
    access_log_append(v, EXIT_MMIO, gpa, size, true, data);
}

/* ---- one page -------------------------------------------------------------------------------- */

struct page { /* a translated page */
    uint64_t gpa;   /* of the page */
    uint8_t *host;  /* NULL: a device (or, for writes, ROM) */
    struct memslot *slot;
    uint64_t index; /* page within the slot */
};

/* All of the operand, before any of its pages is looked up. */
static void check_canonical(struct vcpu *v, uint64_t linear, size_t size)
{
    if (cpu_lma(v) && (!cpu_canonical(v, linear) || !cpu_canonical(v, linear + size - 1))) {
        if (v->cur && v->cur->am != AM_NONE && v->cur->seg == SS)
            cpu_fault_error(v, VEC_SS, 0);
        cpu_gp(v, 0);
    }
}

void mem_check_canonical(struct vcpu *v, uint64_t linear, size_t n)
{
    check_canonical(v, linear, n);
}

/* Translates the page of `linear` with the rights of `kind` and enters it into that TLB set. */
static void translate(struct vcpu *v, enum tlb_set_kind kind, uint64_t linear, int access, struct page *out)
{
    struct page_ref ref;
    struct walk w;
    uint32_t error;
    uint64_t page = linear & ~0xfffull;

    v->stat_tlb_miss++;
    error = mmu_walk(v, linear, kind, access, &w);
    if (error)
        cpu_page_fault(v, linear, error & ~WALK_FAULT);
    *out = (struct page){.gpa = w.gpa};
    if (!phys_lookup_near(v->phys, &v->slot_near, w.gpa, &ref))
        return;
    out->slot = ref.slot;
    out->index = ref.page;
    if (access == ACC_WRITE && ref.slot->readonly)
        return; /* KVM_MEM_READONLY: a write is MMIO. KVM API 4.35 */
    out->host = ref.host;
    /* A touch that only reads would have the host find a page of zeros, and at the write another one. */
    if (unlikely(!(access == ACC_WRITE ? reach_write(ref.host) : reach_read(ref.host))))
        cpu_unbacked(v, w.gpa, access == ACC_WRITE);
    if (access == ACC_WRITE)
        phys_mark_dirty(ref.slot, ref.page);
    if (unlikely(v->lockstep != NULL) && access == ACC_WRITE)
        lockstep_page(v, ref.slot, ref.page, ref.host);
    if (kind == TLB_USER_AC || ((v->slow & SLOW_BREAKPOINT) && debug_page_watched(v, linear)))
        return;
    struct tlb_set *set = &v->tlb_sets[kind];
    bool direct = w.writable && !ref.slot->readonly && (access == ACC_WRITE || !(ref.slot->dirty || ref.slot->partial || v->lockstep)) &&
                  !__atomic_load_n(&ref.slot->page_flags[ref.page], __ATOMIC_SEQ_CST);
    if (unlikely(set->fills.count == FILLS_MAX))
        tlb_fills_renew(set);
    tlb_enter(v, set, page, ref.host, access == ACC_WRITE, direct, w.global);
    if (w.page_shift > 12)
        large_note(v, linear, w.page_shift);
}

/* A store to a page that may hold decoded instructions has been made. */
static void after_store(struct vcpu *v, const struct page *p, uint64_t gpa, unsigned size)
{
    uint8_t holders = __atomic_load_n(&p->slot->page_flags[p->index], __ATOMIC_SEQ_CST);
    uint8_t own = page_code_flag(v->index);

    if (!holders)
        return;
    if (holders & own)
        codecache_written(v, gpa, size);
    if (v->ops->code_written && (holders & ~own || v->index >= PAGE_CODE_OWN))
        v->ops->code_written(v, gpa, size, holders);
}

static uint64_t host_load(const uint8_t *p, unsigned size)
{
    uint64_t value = 0;

    switch (size) {
    case 1:
    case 2:
    case 4:
    case 8: return host_get(p, size);
    }
    memcpy(&value, p, size);
    return value;
}

static void host_store(uint8_t *p, unsigned size, uint64_t value)
{
    switch (size) {
    case 1:
    case 2:
    case 4:
    case 8: host_put(p, size, value); return;
    }
    memcpy(p, &value, size);
}

/* Loads `size` (1 to 8) bytes within a translated page; a device gets naturally sized pieces. */
static uint64_t page_load(struct vcpu *v, const struct page *p, uint64_t linear, unsigned size)
{
    unsigned off = linear & 0xfff;
    uint64_t value = 0;

    if (p->host)
        return host_load(p->host + off, size);
    for (unsigned done = 0; done < size;) {
        unsigned part = size - done >= 8 ? 8 : size - done >= 4 ? 4 : size - done >= 2 ? 2 : 1;
        value |= mmio_read(v, p->gpa + off + done, part) << (8 * done);
        done += part;
    }
    return value;
}

static void page_store(struct vcpu *v, const struct page *p, uint64_t linear, unsigned size, uint64_t value)
{
    unsigned off = linear & 0xfff;

    if (p->host) {
        host_store(p->host + off, size, value);
        after_store(v, p, p->gpa + off, size);
        return;
    }
    for (unsigned done = 0; done < size;) {
        unsigned part = size - done >= 8 ? 8 : size - done >= 4 ? 4 : size - done >= 2 ? 2 : 1;
        uint64_t piece = value >> (8 * done);
        mmio_write(v, p->gpa + off + done, part, part == 8 ? piece : piece & ((1ull << 8 * part) - 1));
        done += part;
    }
}

static enum tlb_set_kind current_kind(const struct vcpu *v)
{
    return (enum tlb_set_kind)(v->tlb - v->tlb_sets);
}

/* What an operand of `size` bytes must be aligned to with CR0.AM and EFLAGS.AC: its size up to 8, also for an m80; what is
 * longer and no vector (FSAVE, FSTENV) 4, in 16-bit form 2: SDM vol. 3, table 6-7. Vectors: AMD's processors want 16, Intel's
 * nothing (SDM vol. 1, 15.7) */
static unsigned alignment_of(const struct vcpu *v, size_t size)
{
    switch (size) {
    case 1:
    case 2:
    case 4:
    case 8: return (unsigned)size;
    case 10: return 8;
    case 14:
    case 94: return 2;
    case 28:
    case 108: return 4;
    case 16:
    case 32: return v->amd ? 16 : 1;
    }
    return 1;
}

/* Canonical addresses, alignment. Intel's processors see that the last byte lies beyond the canonical ones when all else is right. */
static void check_operand(struct vcpu *v, enum tlb_set_kind kind, uint64_t linear, size_t size)
{
    if (unlikely(kind == TLB_USER_AC)) {
        check_canonical(v, linear, v->amd ? size : 1);
        if (linear & (alignment_of(v, size) - 1))
            cpu_fault_error(v, VEC_AC, 0);
    }
    check_canonical(v, linear, size);
}

static uint64_t load_kind(struct vcpu *v, enum tlb_set_kind kind, uint64_t linear, unsigned size)
{
    unsigned first = 4096 - (linear & 0xfff);
    struct page a, b;

    linear = wrap_linear(v, linear);
    check_operand(v, kind, linear, size);
    if (v->slow & SLOW_BREAKPOINT)
        debug_data_access(v, linear, size, false);
    translate(v, kind, linear, ACC_READ, &a);
    if (first >= size)
        return page_load(v, &a, linear, size);
    uint64_t next = wrap_linear(v, linear + first);
    translate(v, kind, next, ACC_READ, &b);
    return page_load(v, &a, linear, first) | page_load(v, &b, next, size - first) << (8 * first);
}

static void store_kind(struct vcpu *v, enum tlb_set_kind kind, uint64_t linear, unsigned size, uint64_t value)
{
    unsigned first = 4096 - (linear & 0xfff);
    struct page a, b;

    linear = wrap_linear(v, linear);
    check_operand(v, kind, linear, size);
    translate(v, kind, linear, ACC_WRITE, &a);
    if (first >= size) {
        page_store(v, &a, linear, size, value);
    } else {
        uint64_t next = wrap_linear(v, linear + first);
        translate(v, kind, next, ACC_WRITE, &b);
        page_store(v, &a, linear, first, value & ((1ull << 8 * first) - 1));
        page_store(v, &b, next, size - first, value >> (8 * first));
    }
    if (v->slow & SLOW_BREAKPOINT)
        debug_data_access(v, linear, size, true);
}

void stack_check_canonical(struct vcpu *v, uint64_t linear, unsigned size)
{
    if (cpu_lma(v) && (!cpu_canonical(v, linear) || !cpu_canonical(v, linear + stack_canonical_bytes(v, size) - 1)))
        cpu_fault_error(v, VEC_SS, 0);
}

uint64_t mem_load_slow(struct vcpu *v, uint64_t linear, unsigned size)
{
    return load_kind(v, current_kind(v), linear, size);
}

void mem_store_slow(struct vcpu *v, uint64_t linear, unsigned size, uint64_t value)
{
    store_kind(v, current_kind(v), linear, size, value);
}

uint64_t stack_load_slow(struct vcpu *v, uint64_t linear, unsigned size)
{
    stack_check_canonical(v, linear, size);
    return mem_load_slow(v, linear, size);
}

void stack_store_slow(struct vcpu *v, uint64_t linear, unsigned size, uint64_t value)
{
    stack_check_canonical(v, linear, size);
    mem_store_slow(v, linear, size, value);
}

uint64_t mem_load_kind_slow(struct vcpu *v, enum tlb_set_kind kind, uint64_t linear, unsigned size)
{
    return load_kind(v, kind, linear, size);
}

void mem_store_kind_slow(struct vcpu *v, enum tlb_set_kind kind, uint64_t linear, unsigned size, uint64_t value)
{
    store_kind(v, kind, linear, size, value);
}

/* ---- longer operands ------------------------------------------------------------------------- */

static void bytes_load(struct vcpu *v, const struct page *p, uint64_t linear, uint8_t *to, size_t n)
{
    if (p->host) {
        memcpy(to, p->host + (linear & 0xfff), n);
        return;
    }
    for (size_t done = 0; done < n;) {
        unsigned part = n - done >= 8 ? 8 : (unsigned)(n - done);
        uint64_t value = page_load(v, p, linear + done, part);
        memcpy(to + done, &value, part);
        done += part;
    }
}

void mem_read_bytes(struct vcpu *v, uint64_t linear, void *buf, size_t n)
{
    linear = wrap_linear(v, linear);
    check_operand(v, current_kind(v), linear, n);
    mem_read_elements(v, linear, buf, n);
}

void mem_read_elements(struct vcpu *v, uint64_t linear, void *buf, size_t n)
{
    size_t first = 4096 - (linear & 0xfff);
    struct page a, b;

    linear = wrap_linear(v, linear);
    const void *direct = n - 1 < 4096 ? mem_probe_read(v, linear, (unsigned)n) : NULL;
    if (direct) {
        memcpy(buf, direct, n);
        return;
    }
    check_canonical(v, linear, n);
    if (v->slow & SLOW_BREAKPOINT)
        debug_data_access(v, linear, (unsigned)n, false);
    translate(v, current_kind(v), linear, ACC_READ, &a);
    if (first >= n) {
        bytes_load(v, &a, linear, buf, n);
        return;
    }
    uint64_t next = wrap_linear(v, linear + first);
    translate(v, current_kind(v), next, ACC_READ, &b);
    bytes_load(v, &a, linear, buf, first);
    bytes_load(v, &b, next, (uint8_t *)buf + first, n - first);
}

static void bytes_store(struct vcpu *v, const struct page *p, uint64_t linear, const uint8_t *from, size_t n)
{
    if (p->host) {
        memcpy(p->host + (linear & 0xfff), from, n);
        after_store(v, p, p->gpa + (linear & 0xfff), (unsigned)n);
        return;
    }
    for (size_t done = 0; done < n;) {
        unsigned part = n - done >= 8 ? 8 : (unsigned)(n - done);
        uint64_t value = 0;
        memcpy(&value, from + done, part);
        page_store(v, p, linear + done, part, value);
        done += part;
    }
}

void mem_write_bytes(struct vcpu *v, uint64_t linear, const void *buf, size_t n)
{
    linear = wrap_linear(v, linear);
    check_operand(v, current_kind(v), linear, n);
    mem_write_elements(v, linear, buf, n);
}

void mem_write_elements(struct vcpu *v, uint64_t linear, const void *buf, size_t n)
{
    size_t first = 4096 - (linear & 0xfff);
    struct page a, b;

    linear = wrap_linear(v, linear);
    void *direct = n - 1 < 4096 ? mem_probe_write(v, linear, (unsigned)n) : NULL;
    if (direct) {
        memcpy(direct, buf, n);
        return;
    }
    check_canonical(v, linear, n);
    translate(v, current_kind(v), linear, ACC_WRITE, &a);
    if (first >= n) {
        bytes_store(v, &a, linear, buf, n);
    } else {
        uint64_t next = wrap_linear(v, linear + first);
        translate(v, current_kind(v), next, ACC_WRITE, &b);
        bytes_store(v, &a, linear, buf, first);
        bytes_store(v, &b, next, (const uint8_t *)buf + first, n - first);
    }
    if (v->slow & SLOW_BREAKPOINT)
        debug_data_access(v, linear, (unsigned)n, true);
}

void mem_check_write(struct vcpu *v, uint64_t linear, size_t n)
{
    linear = wrap_linear(v, linear);
    check_operand(v, current_kind(v), linear, n);
    mem_check_elements(v, linear, n);
}

void mem_check_elements(struct vcpu *v, uint64_t linear, size_t n)
{
    struct page p;

    if (!n)
        return;
    linear = wrap_linear(v, linear);
    if (mem_probe_write(v, linear, 1) && mem_probe_write(v, linear + n - 1, 1))
        return;
    check_canonical(v, linear, n);
    translate(v, current_kind(v), linear, ACC_WRITE, &p);
    if ((linear & 0xfff) + n > 4096)
        translate(v, current_kind(v), wrap_linear(v, (linear + n - 1) & ~0xfffull), ACC_WRITE, &p);
}

/* ---- read-modify-write ------------------------------------------------------------------------ */

void mem_rmw_begin(struct vcpu *v, uint64_t linear, unsigned size, struct rmw *m)
{
    unsigned first = 4096 - (linear & 0xfff);
    struct page a, b;

    linear = wrap_linear(v, linear);
    check_operand(v, current_kind(v), linear, size);
    m->linear = linear;
    m->host = NULL;
    m->exclusive = false;
    translate(v, current_kind(v), linear, ACC_WRITE, &a);
    if (first >= size) {
        if (a.host)
            m->host = a.host + (linear & 0xfff);
        /* ROM: read from it, although a write to it is MMIO */
        else if (a.slot)
            a.host = a.slot->obj->host + a.slot->obj_offset + (a.index << 12);
        m->value = page_load(v, &a, linear, size);
        m->frame[0] = a.gpa;
        return;
    }
    uint64_t next = wrap_linear(v, linear + first);
    translate(v, current_kind(v), next, ACC_WRITE, &b);
    m->frame[0] = a.gpa;
    m->frame[1] = b.gpa;
    m->exclusive = a.host && b.host && v->ops->exclusive_begin;
    if (m->exclusive)
        v->ops->exclusive_begin(v);
    m->value = page_load(v, &a, linear, first) | page_load(v, &b, next, size - first) << (8 * first);
}

static void page_of_gpa(struct vcpu *v, uint64_t gpa, struct page *p)
{
    struct page_ref ref;

    *p = (struct page){.gpa = gpa};
    if (phys_lookup(v->phys, gpa, &ref)) {
        p->slot = ref.slot;
        p->index = ref.page;
        p->host = ref.slot->readonly ? NULL : ref.host;
    }
}

void mem_rmw_end(struct vcpu *v, unsigned size, struct rmw *m, uint64_t value)
{
    unsigned first = 4096 - (m->linear & 0xfff);
    struct page p;

    page_of_gpa(v, m->frame[0], &p);
    if (first >= size) {
        page_store(v, &p, m->linear, size, value);
    } else {
        page_store(v, &p, m->linear, first, value & ((1ull << 8 * first) - 1));
        page_of_gpa(v, m->frame[1], &p);
        page_store(v, &p, wrap_linear(v, m->linear + first), size - first, value >> (8 * first));
        if (m->exclusive)
            v->ops->exclusive_end(v);
    }
    if (v->slow & SLOW_BREAKPOINT)
        debug_data_access(v, m->linear, size, true);
}

void mem_rmw_stored(struct vcpu *v, unsigned size, struct rmw *m)
{
    struct page p;

    page_of_gpa(v, m->frame[0], &p);
    if (p.slot)
        after_store(v, &p, m->frame[0] + (m->linear & 0xfff), size);
    if (v->slow & SLOW_BREAKPOINT)
        debug_data_access(v, m->linear, size, true);
}

bool phys_load64(struct vcpu *v, uint64_t gpa, uint64_t *value)
{
    return phys_read(v->phys, gpa, value, sizeof(*value)) == 0;
}
