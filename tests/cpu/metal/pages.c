/* Paging: rights of every kind of page by mode and access, reserved bits, sizes, accessed and dirty bits, page crossing.
 *
 * Built for 32-bit (two levels, then PAE) and for 64-bit code (four levels; with -DLA57 five). The kernel's pages are the
 * supervisor's; user code runs in an alias of them. SDM vol. 3, chapter 4
 */
#ifdef __x86_64__
#include "metal64.h"
typedef uint64_t word;
#define IP rip
#define SP rsp
#define FLAGS rflags
#define DI rdi
#define ALIAS 0xffff800000000000
#ifdef LA57
#define L 0x1000000000000
#else
#define L 0x8000000000
#endif
#else
#include "metal32.h"
typedef uint32_t word;
#define IP eip
#define SP esp
#define FLAGS eflags
#define DI edi
#define ALIAS 0x40000000u
#define L 0x80000000u
#endif

enum { P = 1, W = 2, U = 4, A = 32, D = 64, PS = 128 };
#define NX (1ull << 63)
enum { TABLES = 0x200000, DATA = 0x300000 };
enum { CR4_PSE = 16, CR4_PAE = 32, CR4_PGE = 128, CR4_SMEP = 1 << 20, CR4_SMAP = 1 << 21, CR4_PKE = 1 << 22 };
enum { CR0_WP = 1 << 16 };
#ifdef __x86_64__
enum { FL_AC = 1 << 18 };
#endif

#ifdef __x86_64__
SNIPPET(q_read, "mov (%rdi), %al");
SNIPPET(q_write, "mov %al, (%rdi)");
SNIPPET(q_rmw, "lock incb (%rdi)");
SNIPPET(q_fetch, "jmp *%rdi");
SNIPPET(w_read, "mov (%rdi), %rax");
SNIPPET(w_write, "mov %rax, (%rdi)");
SNIPPET(w_rmw, "addq $1, (%rdi)");
SNIPPET(w_push, "lea 8(%rdi), %rsp\n push %rax");
SNIPPET(w_movs, "lea w_read(%rip), %rsi\n movsq");
SNIPPET(w_sse, "movups %xmm0, (%rdi)");
#else
SNIPPET(q_read, "mov (%edi), %al");
SNIPPET(q_write, "mov %al, (%edi)");
SNIPPET(q_rmw, "lock incb (%edi)");
SNIPPET(q_fetch, "jmp *%edi");
SNIPPET(w_read, "mov (%edi), %eax");
SNIPPET(w_write, "mov %eax, (%edi)");
SNIPPET(w_rmw, "addl $1, (%edi)");
SNIPPET(w_push, "lea 4(%edi), %esp\n push %eax");
SNIPPET(w_movs, "mov $w_read, %esi\n movsl");
SNIPPET(w_sse, "cmpxchg8b (%edi)");
#endif

static unsigned levels, entry_bytes;

static void *table(unsigned n) { return (void *)(word)(TABLES + 0x1000 * n); }

static void set(void *t, unsigned index, uint64_t value)
{
    if (entry_bytes == 8)
        ((uint64_t *)t)[index] = value;
    else
        ((uint32_t *)t)[index] = (uint32_t)value;
}

static uint64_t get(void *t, unsigned index)
{
    return entry_bytes == 8 ? ((uint64_t *)t)[index] : ((uint32_t *)t)[index];
}

static uint64_t to(void *t, uint64_t bits) { return (word)t | bits; }

#define WRITE_CR(n, value) __asm__ volatile("mov %0, %%cr" #n : : "r"((word)(value)) : "memory")
#define READ_CR(n)                                                                                 \
    ({                                                                                             \
        word value_;                                                                               \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(value_));                                     \
        value_;                                                                                    \
    })

/* The test address' entries: level 1 is the page's. */
static void *path(unsigned level) { return table(16 + level); }
static unsigned path_index(unsigned level)
{
    return level < levels ? 0 : levels == 2 ? 512 : levels == 3 ? 2 : 1;
}
static void *path_table(unsigned level) { return level == levels ? table(0) : path(level); }
static void path_set(unsigned level, uint64_t value) { set(path_table(level), path_index(level), value); }
static uint64_t path_get(unsigned level) { return get(path_table(level), path_index(level)); }

/* Everything allowed down to a 4 KiB page. */
static void path_reset(void)
{
    for (unsigned level = levels; level > 1; level--)
        path_set(level, to(path_table(level - 1), levels == 3 && level == 3 ? P : P | W | U | A));
    path_set(1, DATA | P | W | U);
}

static void build(void)
{
    memset(table(0), 0, 0x1000 * 32);
    if (levels == 2) { /* no PSE yet: tables */
        for (unsigned n = 0; n < 1024; n++) {
            set(table(1), n, n << 12 | P | W);
            set(table(2), n, n << 12 | P | W | U);
        }
        set(table(0), 0, to(table(1), P | W));
        set(table(0), 256, to(table(2), P | W | U));
    } else {
        for (unsigned n = 0; n < 2; n++) {
            set(table(1), n, (uint64_t)n << 21 | P | W | PS);
            set(table(2), n, (uint64_t)n << 21 | P | W | U | PS);
        }
        if (levels == 3) {
            set(table(0), 0, to(table(1), P));
            set(table(0), 1, to(table(2), P));
        } else {
            void *pml4 = levels == 5 ? table(5) : table(0);
            set(table(3), 0, to(table(1), P | W));
            set(table(4), 0, to(table(2), P | W | U));
            set(pml4, 0, to(table(3), P | W));
            set(pml4, 256, to(table(4), P | W | U));
            if (levels == 5) {
                set(table(0), 0, to(pml4, P | W));
                set(table(0), 511, to(pml4, P | W | U));
            }
        }
    }
    path_reset();
    memset((void *)DATA, 0xcd, 4096);
    for (unsigned n = 0; n < 4096; n += 2)
        *(uint8_t *)(word)(DATA + n + 1) = 0x40; /* int 0x40 wherever it is entered */
}

static void access(const void *code, unsigned cpl, word address, word flags)
{
    struct entry e = at(code, cpl);

    if (cpl == 3) {
        e.IP += ALIAS;
        e.SP += ALIAS;
    }
    e.DI = address;
    e.FLAGS |= flags;
    WRITE_CR(2, 0);
    WRITE_CR(3, table(0));
    run(&e);
}

/* A letter: '.' done, the error code of a page fault, else the exception's. */
static void show(void)
{
    static const char codes[] = "0123456789abcdefghijklmnopqrstuv";
    char c = outcome();
    word cr2 = READ_CR(2);

    sum((uint32_t)cr2);
    if (last.vector == 14)
        c = last.error & 32 ? '#' : codes[last.error & 31];
    put_char(c);
}

static void rights(const char *title, unsigned config, word flags)
{
    static const void *const code[] = {q_read, q_write, q_fetch};

    for (unsigned k = 0; k < 6; k++) {
        put(title);
        put_hex(config, 2);
        put_char(k < 3 ? 's' : 'u');
        put_char("rwx"[k % 3]);
        put_char(' ');
        for (unsigned n = 0; n < 128; n++) {
            uint64_t leaf = DATA | (n & 7) | (n & 8 ? NX : 0), upper = to(path(1), P | (n >> 3 & 6) | (n & 64 ? NX : 0));
            path_set(1, leaf);
            path_set(2, upper);
            access(code[k % 3], k < 3 ? 0 : 3, k % 3 == 2 ? L : L + 0x100, flags); /* code stays intact */
            show();
            sum(path_get(1) & (A | D));
            if (last.vector == DONE)
                sum(path_get(2) & (A | D));
        }
        line_end();
    }
    path_reset();
}

/* One bit more in one entry of the path. `page_level`: where the path ends. */
static void reserved(const char *title, unsigned page_level)
{
    for (unsigned level = page_level; level <= levels; level++) {
        put(title);
        put_hex(page_level << 4 | level, 2);
        put_char(' ');
        path_reset();
        if (page_level > 1)
            path_set(page_level, DATA >> 22 << 22 | P | W | U | PS);
        if (page_level == 3)
            path_set(3, P | W | U | PS);
        for (unsigned bit = 0; bit < entry_bytes * 8; bit++) {
            uint64_t before = path_get(level);
            if ((before >> bit & 1) || (levels == 3 && level == 3)) {
                put_char('-');
                continue;
            }
            /* another frame or table: what is there is not ours to read */
            path_set(level, before | 1ull << bit);
            if (bit >= 12 && bit < 40 && level > page_level)
                put_char('-');
            else {
                access(q_read, 3, L, 0);
                show();
            }
            path_set(level, before);
        }
        line_end();
    }
    path_reset();
}

/* Accesses over the end of the page, where the next one is absent, read-only or the supervisor's. */
static void crossing(void)
{
    static const void *const code[] = {w_read, w_write, w_rmw, w_push, w_movs, w_sse};
    static const unsigned next[] = {0, P, P | U, P | W | U};

    for (unsigned n = 0; n < 4; n++) {
        put("crossing ");
        put_hex(n, 1);
        put_char(' ');
        set(path_table(1), 1, (DATA + 0x1000) | next[n]);
        for (unsigned k = 0; k < 6; k++) {
            for (word off = 0xff0; off < 0x1001; off += 3) {
                access(code[k], 3, L + off, 0);
                show();
                for (unsigned at = 0xfe0; at < 0x1020; at += 4)
                    sum(*(uint32_t *)(word)(DATA + at));
                sum(get(path_table(1), 1) & (A | D));
            }
        }
        line_end();
    }
    set(path_table(1), 1, 0);
}

static void wide(const char *name, const void *code, unsigned cpl, word address)
{
    put(name);
    access(code, cpl, address, 0);
    show();
    report("");
    line_end();
}

#ifdef __x86_64__
static void set_msr_bit(unsigned index, uint64_t bit, unsigned on)
{
    uint64_t value = read_msr(index);
    write_msr(index, on ? value | bit : value & ~bit);
}
static void set_pkru(uint32_t value) { __asm__ volatile("wrpkru" : : "a"(value), "c"(0), "d"(0)); }

static void canonical(void)
{
    static const uint64_t addresses[] = {0x00007ffffffffffc, 0x00007ffffffffff9, 0x0000800000000000, 0xffff7ffffffffff8,
                                         0xffff7ffffffffffc, 0x00ffffffffffffff, 0x0100000000000000, 0xfeffffffffffffff,
                                         0xff00000000000000, 0x8000000000000000, 0x7fffffffffffffff, 0xfffffffffffffffc};

    for (unsigned n = 0; n < sizeof(addresses) / sizeof(addresses[0]); n++) {
        wide("canonical read ", w_read, 0, addresses[n]);
        wide("canonical write ", w_write, 3, addresses[n]);
        wide("canonical jump ", q_fetch, 3, addresses[n]);
    }
}

static void keys(void)
{
    WRITE_CR(4, READ_CR(4) | CR4_PKE);
    for (unsigned n = 0; n < 8; n++) { /* PKRU: access, write disabled; WP */
        set_pkru((n & 3) << 10);
        WRITE_CR(0, n & 4 ? READ_CR(0) | CR0_WP : READ_CR(0) & ~(word)CR0_WP);
        for (unsigned k = 0; k < 12; k++) {
            static const void *const code[] = {q_read, q_write, q_fetch};
            put(k ? "" : "key ");
            path_set(1, DATA | P | U | (k & 1 ? W : 0) | 5ull << 59);
            access(code[k / 4], k & 2 ? 3 : 0, k < 8 ? L + 0x100 : L, 0);
            show();
        }
        line_end();
    }
    set_pkru(0);
    WRITE_CR(4, READ_CR(4) & ~(word)CR4_PKE);
    WRITE_CR(0, READ_CR(0) & ~(word)CR0_WP);
    path_reset();
}

/* No stack for the handler: a double fault, on a stack of its own or (there is none) nowhere. */
static void double_fault(void)
{
    gate_put(idt + 2 * 8, KCODE, idt[16] & 0xffff ? (uint64_t)(idt[16] & 0xffff) | (idt[16] >> 48) << 16 : 0, 0x8e, 1, 0);
    tss.rsp[0] = L + 0x3000;
    wide("double fault ", q_read, 3, L + 0x2000);
    tss.rsp[0] = 1ull << 63;
    wide("double fault ", q_read, 3, L + 0x2000);
    tables_reset();
}
#endif

static void set_cr4(word bits) { WRITE_CR(4, (READ_CR(4) & ~(word)(CR4_SMEP | CR4_SMAP)) | bits); }

static void matrices(void)
{
    for (unsigned config = 0; config < 16; config++) { /* WP, SMEP, SMAP, NXE */
        word cr0 = READ_CR(0);
        WRITE_CR(0, config & 1 ? cr0 | CR0_WP : cr0 & ~(word)CR0_WP);
        set_cr4((config & 2 ? CR4_SMEP : 0) | (config & 4 ? CR4_SMAP : 0));
#ifdef __x86_64__
        set_msr_bit(0xc0000080, 1 << 11, config & 8);
        rights("rights ", config, 0);
        if (config & 4)
            rights("rights AC ", config, FL_AC);
#else
        if (config < 8)
            rights("rights ", config, 0);
        if (config & 4 && config < 8)
            rights("rights AC ", config, FL_AC);
#endif
    }
    set_cr4(0);
    WRITE_CR(0, READ_CR(0) & ~(word)CR0_WP);
}

static void all(void)
{
    matrices();
    reserved("reserved ", 1);
    reserved("reserved large ", 2);
    crossing();
    wide("absent ", q_rmw, 3, L + 0x2000);
    wide("absent table ", q_rmw, 3, L + 0x40000000);
}

#ifdef __x86_64__
void tests(void)
{
    entry_bytes = 8;
#ifdef LA57
    levels = 5;
#else
    levels = 4;
#endif
    build();
    WRITE_CR(3, table(0));
    all();
    set_msr_bit(0xc0000080, 1 << 11, 0);
    reserved("reserved, no NX ", 1);
    reserved("reserved huge ", 3);
    canonical();
    keys();
    double_fault();
}
#else
static void pdptes(void)
{
    put("pdpte ");
    for (unsigned bit = 1; bit < 64; bit++) {
        uint64_t before = get(table(0), 3);
        struct entry e;
        extern const char load_cr3[];
        set(table(0), 3, P | 1ull << bit);
        e = at(load_cr3, 0);
        e.eax = (word)table(0);
        run(&e);
        put_char(outcome());
        set(table(0), 3, before);
        WRITE_CR(3, table(0));
    }
    line_end();
}

void tests(void)
{
    entry_bytes = 4;
    levels = 2;
    build();
    WRITE_CR(3, table(0));
    WRITE_CR(0, READ_CR(0) | 1u << 31);
    put("two levels\n");
    all();
    put("with PSE\n");
    WRITE_CR(4, CR4_PSE);
    all();
    WRITE_CR(0, READ_CR(0) & ~(1u << 31));
    WRITE_CR(4, CR4_PAE);
    entry_bytes = 8;
    levels = 3;
    build();
    WRITE_CR(3, table(0));
    WRITE_CR(0, READ_CR(0) | 1u << 31);
    put("PAE\n");
    all();
    __asm__ volatile("wrmsr" : : "c"(0xc0000080), "a"(1 << 11), "d"(0));
    put("PAE with NX\n");
    all();
    pdptes();
}
SNIPPET(load_cr3, "mov %eax, %cr3");
#endif
