/* The code cache: memory that is never writable and executable at one address, the thunks in its first bytes. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "jit/emit.h"
#include "mmu/refill.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10u
#endif

#ifdef __x86_64__
#define HOST_HAS(feature) __builtin_cpu_supports(feature)
#else
#define HOST_HAS(feature) false
#endif

static const uint8_t pinned[] = {H_RAX, H_RCX, H_RDX, H_RBX, H_RBP, H_RSI, H_RDI, H_R12, H_R13, H_R14};

/* ---- thunks ---------------------------------------------------------------------------------- */

/* 66 0F `opcode` of xmm or ymm n and [field]; base r9: VEX.B. POR has n as its first source too. */
enum { MOVDQA_LOAD = 0x6f, MOVDQA_STORE = 0x7f, POR = 0xeb };
static void put_vector(struct emit *e, bool vex, unsigned opcode, bool wide, unsigned n, int32_t field)
{
    if (vex) {
        put8(e, 0xc4), put8(e, (n & 8 ? 0 : 0x80) | 0x41);
        put8(e, (opcode == POR ? ~n & 15 : 15) << 3 | wide << 2 | 1);
    } else {
        put8(e, 0x66);
        put_rex(e, false, n, 0, H_BASE, false);
        put8(e, 0x0f);
    }
    put8(e, opcode);
    put_mem(e, n, H_BASE, NO_INDEX, 0, field);
}

static int32_t vector_field(unsigned n) { return FIELD(ymm) + 32 * (int32_t)n; }

static void put_vzeroupper(struct emit *e) { put8(e, 0xc5), put8(e, 0xf8), put8(e, 0x77); }

static void put_vectors_out(struct emit *e)
{
    bool avx = HOST_HAS("avx");

    for (unsigned n = 0; n < 16; n++)
        put_vector(e, avx, MOVDQA_STORE, avx, n, vector_field(n));
    if (avx) /* C's SSE code would pay */
        put_vzeroupper(e);
}

/* When all upper halves are zero the host is told so. Else each SSE instruction would wait for the register that it writes, to
 * keep the half that it does not. */
static void put_vectors_in(struct emit *e)
{
    bool avx = HOST_HAS("avx");

    if (avx) {
        for (unsigned n = 0; n < 16; n++) /* by two, which do not wait for each other */
            put_vector(e, true, n < 2 ? MOVDQA_LOAD : POR, false, n & 1, vector_field(n) + 16);
        put8(e, 0xc5), put8(e, 0xf9), put8(e, 0xeb), put8(e, 0xc1);               /* vpor xmm0, xmm0, xmm1 */
        put8(e, 0xc4), put8(e, 0xe2), put8(e, 0x79), put8(e, 0x17), put8(e, 0xc0); /* vptest xmm0, xmm0 */
    }
    for (unsigned n = 0; n < 16; n++)
        put_vector(e, avx, MOVDQA_LOAD, avx, n, vector_field(n));
    if (avx) {
        uint8_t *over = put_jump(e, CC_JNE);
        put_vzeroupper(e);
        set_jump(over, e->p);
    }
}

/* Between vcpu.fx and the host, if they are to be there; what C needs not find in them is gone. SDM vol. 2, XRSTOR, XSAVE */
static void put_x87(struct emit *e, bool store)
{
    test_field(e, FIELD(run.lack), VECTOR_X87);
    uint8_t *none = put_jump(e, CC_JNE);
    load_imm32(e, H_RAX, 1);
    op_reg(e, false, 0x33, H_RDX, H_RDX);
    put_rex(e, true, 0, 0, H_BASE, false);
    put8(e, 0x0f), put8(e, 0xae);
    put_mem(e, store ? 4 : 5, H_BASE, NO_INDEX, 0, FIELD(fx));
    if (store)
        put8(e, 0xdb), put8(e, 0xe3); /* fninit */
    set_jump(none, e->p);
}

static void put_spill(struct emit *e)
{
    for (unsigned n = 0; n < sizeof(pinned); n++)
        store_field(e, pinned[n], GPR_FIELD(pinned[n]));
    store_field(e, H_SP, GPR_FIELD(RSP));
    op_mem(e, false, 0x89, H_LEFT, H_BASE, NO_INDEX, 0, FIELD(run.left));
    put_rex(e, false, 0, 0, H_BASE, false); /* cmp byte [run.lack], 0xff */
    put8(e, 0x80);
    put_mem(e, 7, H_BASE, NO_INDEX, 0, FIELD(run.lack));
    put8(e, 0xff);
    uint8_t *none = put_jump(e, CC_JE);
    put_vectors_out(e);
    put_x87(e, true);
    set_jump(none, e->p);
}

static void put_fill(struct emit *e)
{
    for (unsigned n = 0; n < sizeof(pinned); n++)
        load_field(e, pinned[n], GPR_FIELD(pinned[n]));
    load_field(e, H_SP, GPR_FIELD(RSP));
    op_mem(e, false, 0x8b, H_LEFT, H_BASE, NO_INDEX, 0, FIELD(run.left));
}

static const uint8_t saved[] = {H_RBX, H_RBP, H_R12, H_R13, H_R14, H_LEFT}; /* System V ABI: the callee's to keep */

static void put_push(struct emit *e, unsigned opcode, unsigned reg)
{
    put_rex(e, false, 0, 0, reg, false);
    put8(e, opcode | (reg & 7));
}

/* Back to C, whatever calls are remembered. */
static void put_return(struct emit *e)
{
    load_field(e, H_HOST_SP, FIELD(run.calls));
    op_imm(e, true, 0, H_HOST_SP, 8 + CALL_BYTES);
    for (unsigned n = sizeof(saved); n--;)
        put_push(e, 0x58, saved[n]);
    put8(e, 0xc3);
}

/* Below all calls stands one that nobody made, from address 0: who returns there, in truth, goes to C. */
static void put_first_call(struct emit *e, uint32_t to)
{
    put8(e, 0x6a), put8(e, 0); /* push 0 */
    put8(e, 0x4c), put8(e, 0x8d), put8(e, 0x15); /* lea r10, [rip + to] */
    put32(e, to - here(e) - 4);
    put_push(e, 0x50, H_T0);
    store_field(e, H_HOST_SP, FIELD(run.calls));
    lea(e, H_T0, H_HOST_SP, -CALLS_MAX * CALL_BYTES);
    store_field(e, H_T0, FIELD(run.calls_end));
}

/* enter(vcpu, code): r10 is the guest's address; code may rely on a 16-byte aligned stack. */
static void put_enter(struct emit *e, uint32_t exit_rip)
{
    for (unsigned n = 0; n < sizeof(saved); n++)
        put_push(e, 0x50, saved[n]);
    op_imm(e, true, 5, H_HOST_SP, 8);
    op_mem(e, true, 0x8d, H_BASE, H_RDI, NO_INDEX, 0, BASE_BIAS);
    move(e, H_T1, H_RSI);
    put_first_call(e, exit_rip);
    load_field(e, H_T0, FIELD(rip));
    put_fill(e);
    put8(e, 0x41), put8(e, 0xff), put8(e, 0xe3); /* jmp r11 */
}

/* r10 and r11 are what C is told besides the vCPU. */
static void put_c_call(struct emit *e, uint64_t target)
{
    put_spill(e);
    op_mem(e, true, 0x8d, H_RDI, H_BASE, NO_INDEX, 0, -BASE_BIAS);
    move(e, H_RBX, H_BASE);
    op_reg(e, false, 0x8b, H_RSI, H_T0);
    op_reg(e, false, 0x8b, H_RDX, H_T1);
    op_imm(e, true, 5, H_HOST_SP, 8);
    put8(e, 0x48), put8(e, 0xb8); /* mov rax, imm64 */
    memcpy(e->p, &target, 8);
    e->p += 8;
    put8(e, 0xff), put8(e, 0xd0);
    op_imm(e, true, 0, H_HOST_SP, 8);
    move(e, H_BASE, H_RBX);
    op_imm(e, false, 7, H_RAX, RESULT_LEAVE);
    uint8_t *leave = put_jump(e, CC_JE), *fill = put_jump(e, CC_JB);
    op_imm(e, false, 7, H_RAX, RESULT_GO);
    uint8_t *go = put_jump(e, CC_JE);
    put_vectors_in(e);
    put_x87(e, false);
    set_jump(fill, e->p);
    put_fill(e);
    put8(e, 0xc3);
    set_jump(go, e->p);
    load_field(e, H_HOST_SP, FIELD(run.calls)); /* what is remembered was called elsewhere, with other rights maybe */
    load_field(e, H_T0, FIELD(rip));
    load_field(e, H_T1, FIELD(run.target[1]));
    put_fill(e);
    put8(e, 0x41), put8(e, 0xff), put8(e, 0xe3); /* jmp r11 */
    set_jump(leave, e->p);
    put_return(e);
}

/* The call's return address goes on by so many bytes; r10 or r11: where it was. */
static void put_return_behind(struct emit *e, unsigned reg, unsigned bytes)
{
    op_mem(e, true, 0x8b, reg, H_HOST_SP, NO_INDEX, 0, 0);
    op_mem(e, true, 0x83, 0, H_HOST_SP, NO_INDEX, 0, 0); /* add qword [rsp], bytes */
    put8(e, bytes);
}

/* Called where a probe has not found its page: r10 is how the address differs from the tag, r11 which entry that is. Returns to the
 * jump that follows the call with the address in r10 when there is another entry now. */
static void put_refill(struct emit *e, const struct jit *j, enum refill_kind kind, bool write)
{
    enum { JUMP_BYTES = 5 };
    static const uint8_t kept[] = {H_RAX, H_RCX, H_RDX, H_RSI, H_RDI, H_SP, H_BASE, H_T1, H_T0}; /* System V ABI: not the callee's */
    uint64_t target = (uint64_t)mmu_refill;

    for (unsigned n = 0; n < sizeof(kept); n++)
        put_push(e, 0x50, kept[n]);
    op_mem(e, true, 0x8d, H_RDI, H_BASE, NO_INDEX, 0, -BASE_BIAS);
    move(e, H_RSI, H_T0);
    move(e, H_RDX, H_T1);
    load_imm32(e, H_RCX, write);
    put8(e, 0x48), put8(e, 0xb8); /* mov rax, imm64 */
    memcpy(e->p, &target, 8);
    e->p += 8;
    put8(e, 0xff), put8(e, 0xd0);
    op_mem(e, true, 0x89, H_RAX, H_HOST_SP, NO_INDEX, 0, 0); /* r10 */
    op_reg(e, false, 0x85, H_RDX, H_RDX);
    for (unsigned n = sizeof(kept); n--;)
        put_push(e, 0x58, kept[n]);
    uint8_t *failed = put_jump(e, CC_JE);
    put8(e, 0xc3);
    set_jump(failed, e->p);
    if (kind == REFILL_SKIP) {
        put_return_behind(e, H_T0, JUMP_BYTES);
        put8(e, 0xc3);
    } else if (kind == REFILL_INTERPRET) {
        put_return_behind(e, H_T0, JUMP_BYTES + 4);
        op_mem(e, false, 0x8b, H_T0, H_T0, NO_INDEX, 0, JUMP_BYTES);
        jump_to(e, j->interpret);
    } else {
        put_return_behind(e, H_T1, JUMP_BYTES + 8);
        op_mem(e, false, 0x8b, H_T0, H_T1, NO_INDEX, 0, JUMP_BYTES);
        op_mem(e, false, 0x8b, H_T1, H_T1, NO_INDEX, 0, JUMP_BYTES + 4);
        jump_to(e, j->group);
    }
}

/* Called when the slice is used up: another one, if nobody wants the vCPU and the budget has more. Then the sign is clear and JGE would
 * jump. r10 is lost. A profile wants to see each slice's end. */
static void put_renew(struct emit *e, bool profile)
{
    op_mem(e, false, 0x83, 7, H_BASE, NO_INDEX, 0, FIELD(kick)); /* cmp dword [kick], 0 */
    put8(e, 0);
    uint8_t *kicked = put_jump(e, profile ? JUMP_ALWAYS : CC_JNE);
    op_mem(e, false, 0x8b, H_T0, H_BASE, NO_INDEX, 0, FIELD(run.hidden));
    op_imm(e, false, 7, H_T0, SLICE_MAX);
    uint8_t *last = put_jump(e, CC_JL);
    load_imm32(e, H_T0, SLICE_MAX);
    set_jump(last, e->p);
    op_mem(e, false, 0x29, H_T0, H_BASE, NO_INDEX, 0, FIELD(run.hidden));
    op_reg(e, false, 0x03, H_LEFT, H_T0);
    put8(e, 0xc3);
    set_jump(kicked, e->p);
    op_reg(e, false, 0x85, H_LEFT, H_LEFT);
    put8(e, 0xc3);
}

/* Out of a block to C, with the offset in the page in r11 and, at exit_link, the jump to patch in r10. exit_edge is called by an
 * edge (put_exit()) that is not linked, or is to poll: before the call stands the jump, behind it the offset. */
static void put_exits(struct emit *e, struct jit *j)
{
    j->exit_edge = here(e);
    op_reg(e, false, 0x85, H_LEFT, H_LEFT);
    uint8_t *unlinked = put_jump(e, CC_JNS);
    call_to(e, j->renew);
    put_push(e, 0x58, H_T0); /* pop r10 */
    uint8_t *poll = put_jump(e, CC_JS);
    lea(e, H_T0, H_T0, -(6 + 5)); /* the jump once more: it is taken */
    put8(e, 0x41), put8(e, 0xff), put8(e, 0xe2);
    set_jump(unlinked, e->p);
    put_push(e, 0x58, H_T0);
    load_word(e, H_T1, H_T0, 0);
    op_imm(e, false, 5, H_T0, (int32_t)((uint32_t)(uintptr_t)j->rx + 4 + 5)); /* the jump's distance and the call: an offset in the cache */
    j->exit_link = here(e);
    op_mem(e, false, 0x89, H_T0, H_BASE, NO_INDEX, 0, FIELD(run.patch));
    uint8_t *page = put_jump(e, JUMP_ALWAYS);
    set_jump(poll, e->p);
    load_word(e, H_T1, H_T0, 0);
    set_jump(page, e->p);
    j->exit_page = here(e);
    load_field(e, H_T0, GPR_FIELD(REG_PAGE));
    op_mem(e, true, 0x8d, H_T0, H_T0, H_T1, 0, 0);
    jump_to(e, j->exit_rip);
}

static void put_thunks(struct jit *j)
{
    struct emit e = {.p = j->rw, .rw = j->rw};

    /* with the address in r10 and, at exit_return, the jump to patch in r11 */
    j->exit_return = here(&e);
    op_mem(&e, false, 0x89, H_T1, H_BASE, NO_INDEX, 0, FIELD(run.patch));
    j->exit_rip = here(&e);
    store_field(&e, H_T0, FIELD(rip));
    put_spill(&e);
    put_return(&e);
    /* called before a prologue, with the linear address of the block's page in r10 */
    j->exit_stale = here(&e);
    pop_field(&e, FIELD(run.stale));
    jump_to(&e, j->exit_rip);
    j->enter = (void (*)(struct vcpu *, const void *))(uintptr_t)(j->rx + here(&e));
    put_enter(&e, j->exit_rip);
    j->renew = here(&e);
    put_renew(&e, j->profile);
    put_exits(&e, j);
    j->interpret = here(&e);
    put_c_call(&e, (uint64_t)jit_interpret);
    j->vectors = here(&e);
    put_c_call(&e, (uint64_t)jit_vectors);
    j->group = here(&e);
    put_c_call(&e, (uint64_t)jit_group);
    for (unsigned n = 0; n < 2 * REFILL_KINDS; n++) {
        j->refill[n / 2][n % 2] = here(&e);
        put_refill(&e, j, n / 2, n % 2);
    }
    e.p += -here(&e) & 63;
    j->scratch = here(&e);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static int code_memfd(off_t bytes)
{
    int err, fd = memfd_create("kvmish-jit", MFD_CLOEXEC | MFD_EXEC);

    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create("kvmish-jit", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, bytes)) {
        err = -errno;
        close(fd);
        return err;
    }
    return fd < 0 ? -errno : fd;
}

int jit_cache_possible(void)
{
    const size_t bytes = 4096;
    int err = 0, fd = code_memfd((off_t)bytes);
    void *code;

    if (fd < 0)
        return fd;
    code = mmap(NULL, bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (code == MAP_FAILED)
        err = -errno;
    else
        munmap(code, bytes);
    close(fd);
    return err;
}

static int map_memfd(struct jit *j)
{
    int err = 0, fd = code_memfd(CODE_BYTES);

    if (fd < 0)
        return fd;
    j->rw = mmap(NULL, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    j->rx = mmap(NULL, CODE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (j->rw == MAP_FAILED || j->rx == MAP_FAILED)
        err = -errno;
    close(fd);
    return err;
}

/* perf takes the names of perf-PID.map for code without a file only, and a memfd is one. */
static int map_anonymous(struct jit *j)
{
    j->rw = mmap(NULL, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (j->rw == MAP_FAILED)
        return -errno;
    j->rx = mremap(j->rw, 0, CODE_BYTES, MREMAP_MAYMOVE); /* once more */
    return j->rx == MAP_FAILED || mprotect(j->rx, CODE_BYTES, PROT_READ | PROT_EXEC) ? -errno : 0;
}

static int map_code(struct jit *j)
{
    int err = j->perf_map ? map_anonymous(j) : map_memfd(j);

    if (!err) { /* a child has no vCPU: it must not write into ours */
        madvise(j->rw, CODE_BYTES, MADV_DONTFORK);
        madvise(j->rx, CODE_BYTES, MADV_DONTFORK);
    }
    return err;
}

int jit_cache_create(struct vcpu *v, struct jit *j)
{
    int err;

    (void)v;
    j->rw = j->rx = MAP_FAILED;
    err = jit_blocks_create(j);
    if (!err)
        err = map_code(j);
    if (err) {
        jit_cache_destroy(j);
        return err;
    }
    j->bmi2 = HOST_HAS("bmi2");
    j->x87 = jit_x87_host();
    put_thunks(j);
    return 0;
}

void jit_cache_destroy(struct jit *j)
{
    if (j->rw != MAP_FAILED)
        munmap(j->rw, CODE_BYTES);
    if (j->rx != MAP_FAILED)
        munmap(j->rx, CODE_BYTES);
    jit_blocks_destroy(j);
}
