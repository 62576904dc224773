/* What AMD's and Intel's processors do differently, by the vendor that CPUID names, on whatever host: both expectations.
 *
 * AMD's were seen on an AMD host, Intel's on an Intel host (harness.c compares them with the host's own where that is one).
 */
#include "cpu/cpuid.h"
#include "emu.h"

static int failures;
static struct icase c;
static struct state after;

#define EXPECT(condition)                                                                                           \
    do {                                                                                                            \
        if (!(condition)) {                                                                                         \
            printf("%s, line %d: %s: vector %d error %x cr2 %lx rip %lx\n", emu->amd ? "AMD" : "Intel", __LINE__,   \
                   #condition, after.vector, after.error, after.cr2, after.rip);                                    \
            failures++;                                                                                             \
        }                                                                                                           \
    } while (0)

static void prepare(int mode, const uint8_t *bytes, unsigned len)
{
    uint32_t mxcsr = 0x1f80;

    memset(&c, 0, sizeof(c));
    memcpy(c.bytes, bytes, len);
    c.len = (uint8_t)len;
    c.mode = (uint8_t)mode;
    c.cs = mode == 64 ? 0x33 : 0x23;
    c.ss = c.ds = c.es = 0x2b;
    c.before.rip = CODE_ADDR + 256;
    c.before.gpr[RBX] = DATA_ADDR;
    c.before.gpr[RSP] = DATA_ADDR + 4096;
    c.before.in_use = 7;
    c.before.fx[0] = 0x7f;
    c.before.fx[1] = 3;
    memcpy(c.before.fx + 24, &mxcsr, 4);
    memset(emu_data, 0, DATA_HOLE);
}
#define PREPARE(mode, ...) prepare(mode, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void run(void)
{
    emu_code_put(c.before.rip, c.bytes, c.len);
    emu_go(&c, &after, 1000, false);
    emu_code_put(c.before.rip, NULL, c.len);
}

static uint64_t get64(uint64_t linear)
{
    uint64_t value;

    memcpy(&value, emu_data + (linear - DATA_ADDR), 8);
    return value;
}

static void put64(uint64_t linear, uint64_t value) { memcpy(emu_data + (linear - DATA_ADDR), &value, 8); }

/* 66 in front of a near branch in 64-bit mode: AMD APM vol. 3, 1.2.4; SDM vol. 2, Jcc, RET */
static void check_branches(bool amd)
{
    PREPARE(64, 0x66, 0x70, 0x02); /* jo +2 */
    c.before.rflags = FL_OF;
    run();
    EXPECT(after.vector == -1 && after.rip == (amd ? 0x105 : CODE_ADDR + 0x105));

    PREPARE(64, 0x66, 0xc3); /* ret */
    put64(c.before.gpr[RSP], CODE_ADDR + 0x1000);
    run();
    EXPECT(after.rip == (amd ? 0x1000 : CODE_ADDR + 0x1000));
    EXPECT(after.gpr[RSP] == c.before.gpr[RSP] + (amd ? 2 : 8));

    PREPARE(64, 0xff, 0xd0); /* call rax: not canonical, with room to push and without */
    c.before.gpr[RAX] = 1ull << 60;
    run();
    EXPECT(after.vector == VEC_GP && after.gpr[RSP] == c.before.gpr[RSP]);
    EXPECT(get64(c.before.gpr[RSP] - 8) == (amd ? 0 : CODE_ADDR + 258));
    c.before.gpr[RSP] = DATA_ADDR + DATA_READONLY + 64;
    run();
    EXPECT(after.vector == VEC_PF);

    PREPARE(64, 0x48, 0xff, 0x1b); /* call far [rbx]: m16:64 is Intel's alone */
    put64(DATA_ADDR, CODE_ADDR + 0x1000);
    put64(DATA_ADDR + 8, 0x33);
    run();
    EXPECT(amd ? after.vector == VEC_GP && after.error == 0 : after.vector == -1 && after.rip == CODE_ADDR + 0x1000);

    PREPARE(64, 0x48, 0xcb); /* ret far: 64 bits of offset for a segment of 32 */
    put64(c.before.gpr[RSP] - 16, 1ull << 62 | (CODE_ADDR + 0x1000));
    put64(c.before.gpr[RSP] - 8, 0x23);
    c.before.gpr[RSP] -= 16;
    run();
    EXPECT(amd ? after.vector == VEC_GP && after.error == 0 : after.vector == -1 && after.rip == CODE_ADDR + 0x1000);
}

static void check_decoding(bool amd)
{
    PREPARE(64, 0x0f, 0x0d, 0xc0); /* no prefetch */
    run();
    EXPECT(after.vector == (amd ? VEC_UD : -1));

    PREPARE(64, 0x0f, 0xb9); /* UD1 at the end of what is mapped */
    c.before.rip = CODE_ADDR + CODE_BYTES - 2;
    run();
    EXPECT(after.vector == (amd ? VEC_UD : VEC_PF));

    PREPARE(32, 0xc4, 0xe3, 0xf9, 0x16, 0xc0, 0x00); /* vpextrd eax, xmm0, 0 with VEX.W */
    memset(c.before.ymm[0], 0x5a, 16);
    run();
    EXPECT(amd ? after.vector == VEC_UD : after.vector == -1 && after.gpr[RAX] == 0x5a5a5a5a);

    PREPARE(64, 0xf3, 0x41, 0x90); /* pause with REX.B */
    c.before.gpr[R8] = 1;
    run();
    EXPECT(after.gpr[RAX] == amd);

    PREPARE(64, 0x66, 0x63, 0x03); /* movsxd ax, [rbx] at a page's end */
    c.before.gpr[RBX] = DATA_ADDR + DATA_HOLE - 2;
    emu_data[DATA_HOLE - 2] = 0x34;
    run();
    EXPECT(amd ? after.vector == VEC_PF : after.vector == -1 && after.gpr[RAX] == 0x34);
}

static void check_stack(bool amd)
{
    PREPARE(32, 0x61); /* popa, faulting at its third register */
    c.before.gpr[RSP] = DATA_ADDR + DATA_HOLE - 8;
    memset(emu_data + DATA_HOLE - 8, 0x11, 8);
    run();
    EXPECT(after.vector == VEC_PF && after.gpr[RSP] == c.before.gpr[RSP] && after.gpr[RDI] == 0x11111111);

    PREPARE(64, 0x48, 0xcf); /* iretq: the flags are read first */
    c.before.gpr[RSP] = DATA_ADDR + DATA_HOLE - 12;
    run();
    EXPECT(after.vector == VEC_PF && after.cr2 == DATA_ADDR + DATA_HOLE + 4);

    PREPARE(64, 0x48, 0xcb); /* ret far: CS is read first, AMD's processors read 64 bits of it */
    c.before.gpr[RSP] = DATA_ADDR + DATA_HOLE - 4;
    run();
    EXPECT(after.vector == VEC_PF && after.cr2 == DATA_ADDR + DATA_HOLE + 4);
    c.before.gpr[RSP] = DATA_ADDR + DATA_HOLE - 10;
    run();
    EXPECT(after.vector == (amd ? VEC_PF : VEC_GP));

    PREPARE(32, 0xca, 0x10, 0x00); /* ret far 16, to 64-bit code: rSP goes on as wide as there */
    emu_map(0xfffff000, GPA_DATA, 0x67);
    put64(DATA_ADDR + 4080, 0x33ull << 32 | (CODE_ADDR + 0x1000));
    c.before.gpr[RSP] = 0xfffffff0;
    run();
    EXPECT(after.vector == -1 && after.gpr[RSP] == (1ull << 32 | 8));

    PREPARE(32, 0x07); /* pop es */
    c.before.gpr[RSP] = DATA_ADDR + DATA_HOLE - 2;
    run();
    EXPECT(amd ? after.vector == VEC_PF : after.vector == -1 && after.gpr[RSP] == DATA_ADDR + DATA_HOLE + 2);

    PREPARE(64, 0x58); /* pop rax, misaligned, at the end of the canonical addresses */
    c.before.gpr[RSP] = (1ull << 47) - 4;
    c.before.rflags = FL_AC;
    run();
    EXPECT(after.vector == (amd ? VEC_SS : VEC_AC));
    PREPARE(64, 0x48, 0xcb); /* ret far */
    c.before.gpr[RSP] = (1ull << 47) - 9;
    c.before.rflags = FL_AC;
    run();
    EXPECT(after.vector == (amd ? VEC_SS : VEC_AC));

    PREPARE(32, 0x06); /* push es */
    put64(c.before.gpr[RSP] - 4, ~0ull);
    run();
    EXPECT(*(uint32_t *)(emu_data + 4092) == (amd ? 0x0000002b : 0xffff002b));
}

static void check_repeated(bool amd)
{
    PREPARE(64, 0xf3, 0x6e); /* rep outsb, nothing to do */
    run();
    EXPECT(after.vector == VEC_GP);

    PREPARE(64, 0xf3, 0xae); /* repe scasb, a fault behind one that is equal: SDM vol. 2, REP */
    c.before.gpr[RDI] = DATA_ADDR + DATA_HOLE - 1;
    c.before.gpr[RCX] = 2;
    c.before.rflags = FL_CF;
    run();
    EXPECT(after.vector == VEC_PF && after.gpr[RCX] == 1);
    EXPECT(after.rflags == (amd ? FL_ZF | FL_PF : FL_CF));

    PREPARE(64, 0x67, 0xf3, 0xa4); /* rep movsb with addresses of 32 bits, nothing to do */
    c.before.gpr[RCX] = c.before.gpr[RSI] = c.before.gpr[RDI] = 1ull << 32;
    run();
    EXPECT(after.gpr[RCX] == (amd ? 1ull << 32 : 0) && after.gpr[RSI] == after.gpr[RCX] && after.gpr[RDI] == after.gpr[RCX]);

    PREPARE(64, 0x67, 0xf3, 0xac); /* rep lodsb */
    c.before.gpr[RCX] = c.before.gpr[RSI] = 1ull << 32;
    run();
    EXPECT(after.gpr[RCX] == (amd ? 1ull << 32 : 0) && after.gpr[RSI] == 1ull << 32);

    PREPARE(64, 0xf3, 0xaa); /* rep stosb over itself: read anew, it is nop; stosb */
    c.before.gpr[RDI] = c.before.rip;
    c.before.gpr[RCX] = 2;
    c.before.gpr[RAX] = 0x90;
    run();
    EXPECT(after.gpr[RDI] == CODE_ADDR + 258 && after.gpr[RCX] == (amd ? 0 : 1));
}

static void check_data(bool amd)
{
    PREPARE(32, 0x62, 0x03); /* bound eax, [ebx]: too low, and no upper bound */
    c.before.gpr[RBX] = DATA_ADDR + DATA_HOLE - 4;
    emu_data[DATA_HOLE - 4] = 1;
    run();
    EXPECT(after.vector == (amd ? VEC_PF : VEC_BR));

    PREPARE(64, 0xf3, 0x48, 0x0f, 0xae, 0xd0); /* wrfsbase rax: canonical with CR4.LA57 */
    c.before.gpr[RAX] = 1ull << 50;
    run();
    EXPECT(after.vector == (amd ? -1 : VEC_GP));

    PREPARE(64, 0x0f, 0x38, 0xcc, 0x03); /* sha256msg1 xmm0, [rbx] */
    c.before.gpr[RBX] += 1;
    run();
    EXPECT(!cpu_has(emu, FEAT_SHA) || after.vector == (amd ? -1 : VEC_GP));

    PREPARE(64, 0x66, 0x0f, 0xf7, 0xc1); /* maskmovdqu xmm0, xmm1: no byte; both do it, although SDM vol. 2 lets them choose */
    c.before.gpr[RDI] = DATA_ADDR + DATA_READONLY;
    run();
    EXPECT(after.vector == VEC_PF);

    PREPARE(64, 0x48, 0x0f, 0xae, 0x03); /* fxsave64 [rbx]: the pointers, no exception pending */
    c.before.fx[8] = 0x77;
    run();
    EXPECT(emu_data[8] == (amd ? 0 : 0x77));
}

/* FOP and FDP: SDM vol. 1, 8.1.8 and 8.1.9; CPUID leaf 7, EBX bit 6 */
static void check_x87_pointers(bool amd)
{
    uint16_t fop;
    uint64_t fdp;

    PREPARE(64, 0xdd, 0x03); /* fld qword [rbx] */
    c.before.fx[6] = 0x23;
    c.before.fx[16] = 0x42;
    run();
    memcpy(&fop, after.fx + 6, 2);
    memcpy(&fdp, after.fx + 16, 8);
    EXPECT(after.vector == -1 && fop == (amd ? 0x503 : 0x23));
    EXPECT(fdp == (cpu_has(emu, FEAT_FDP_EXCPTN_ONLY) ? 0x42 : DATA_ADDR));

    PREPARE(64, 0xdd, 0x03); /* with an exception that is not masked: denormal operand */
    c.before.fx[0] = 0x7d;
    put64(DATA_ADDR, 1);
    run();
    memcpy(&fop, after.fx + 6, 2);
    memcpy(&fdp, after.fx + 16, 8);
    EXPECT(after.vector == -1 && after.fx[2] & 0x80 && fop == 0x503 && fdp == DATA_ADDR);

    PREPARE(64, 0x48, 0x0f, 0xae, 0x0b); /* fxrstor64 [rbx]: bits 63 to 57 of FDP */
    emu_data[0] = 0x7f;
    emu_data[1] = 3;
    put64(DATA_ADDR + 16, 1ull << 60 | 1);
    run();
    memcpy(&fdp, after.fx + 16, 8);
    EXPECT(after.vector == -1 && fdp == (amd ? 1 : 1ull << 60 | 1));
}

/* Stores of x87 and MMX that fault, or would. */
static void check_x87_stores(bool amd)
{
    PREPARE(64, 0xdb, 0x13); /* fist dword [rbx], stack underflow not masked: nothing would be stored */
    c.before.fx[0] = 0x7e;
    c.before.gpr[RBX] = DATA_ADDR + DATA_HOLE;
    run();
    EXPECT(after.vector == (amd ? VEC_PF : -1));

    PREPARE(64, 0xdb, 0x3b); /* fstp tbyte [rbx]: eight bytes and two */
    c.before.fx[4] = 1;
    memset(c.before.fx + 32, 0x5a, 10);
    c.before.gpr[RBX] = DATA_ADDR + DATA_HOLE - 8;
    run();
    EXPECT(after.vector == VEC_PF && emu_data[DATA_HOLE - 8] == (amd ? 0 : 0x5a));

    PREPARE(64, 0x0f, 0x7f, 0x03); /* movq [rbx], mm0: TOP, whose change SDM vol. 1, 9.5.1 has with every MMX instruction */
    c.before.fx[3] = 3 << 3;
    c.before.gpr[RBX] = DATA_ADDR + DATA_HOLE;
    run();
    EXPECT(after.vector == VEC_PF && after.fx[3] == (amd ? 3 << 3 : 0) && after.fx[4] == 0);
}

/* EFLAGS.AC: SDM vol. 1, 15.7 */
static void check_alignment(bool amd)
{
    PREPARE(64, 0x0f, 0x10, 0x03); /* movups xmm0, [rbx] */
    c.before.gpr[RBX] += 1;
    c.before.rflags = AC_FLAG;
    run();
    EXPECT(after.vector == (amd ? VEC_AC : -1));

    PREPARE(64, 0x48, 0x8b, 0x03); /* mov rax, [rbx]: also half canonical */
    c.before.gpr[RBX] = (1ull << 47) - 1;
    c.before.rflags = AC_FLAG;
    run();
    EXPECT(after.vector == (amd ? VEC_GP : VEC_AC));

    PREPARE(64, 0xc4, 0xe2, 0x79, 0x13, 0x03); /* vcvtph2ps xmm0, [rbx]: SDM vol. 2, exceptions type 11 */
    c.before.gpr[RBX] += 1;
    c.before.rflags = AC_FLAG;
    run();
    EXPECT(!cpu_has(emu, FEAT_F16C) || after.vector == (amd ? VEC_AC : -1));
}

/* What is left behind by vector instructions that fault. */
static void check_vector_faults(bool amd)
{
    if (!cpu_has(emu, FEAT_AVX2))
        return;
    PREPARE(64, 0xc4, 0xe2, 0x69, 0x90, 0x04, 0x0b); /* vpgatherdd xmm0, [rbx + xmm1], xmm2 */
    memset(c.before.ymm[0], 0x11, 32);
    memset(c.before.ymm[1], 0, 16);
    c.before.ymm[1][5] = DATA_HOLE >> 8; /* the second element's */
    memset(c.before.ymm[2], 0x80, 32);
    run();
    EXPECT(after.vector == VEC_PF && after.ymm[0][0] == 0 && after.ymm[0][4] == 0x11 && after.ymm[2][0] == 0);
    EXPECT(after.ymm[0][16] == (amd ? 0x11 : 0) && after.ymm[2][16] == (amd ? 0x80 : 0) && after.ymm[2][4] == (amd ? 0x80 : 0xff));

    PREPARE(64, 0xc4, 0xe2, 0x71, 0x2c, 0x03); /* vmaskmovps xmm0, xmm1, [rbx] */
    memset(c.before.ymm[1], 0x80, 16);
    c.before.gpr[RBX] = (1ull << 47) - 4;
    run();
    EXPECT(after.vector == (amd ? VEC_PF : VEC_GP));

    PREPARE(64, 0xc4, 0xe3, 0x79, 0x1d, 0x03, 0x00); /* vcvtps2ph [rbx], xmm0, 0 */
    memset(c.before.ymm[0], 0x11, 16); /* tiny */
    c.before.gpr[RBX] = DATA_ADDR + DATA_HOLE;
    run();
    EXPECT(!cpu_has(emu, FEAT_F16C) || (after.vector == VEC_PF && after.fx[24] == (amd ? 0x80 : 0xb0)));
}

static void check_xsave(bool amd)
{
    uint32_t invalid = 1 << 20;

    PREPARE(64, 0x0f, 0xae, 0x24, 0x24); /* xsave [rsp]: neither canonical nor aligned */
    c.before.gpr[RSP] = (1ull << 60) + 1;
    run();
    EXPECT(after.vector == (amd ? VEC_GP : VEC_SS));

    PREPARE(64, 0x0f, 0xae, 0x2b); /* xrstor [rbx]: a compacted area, of which only the header is there, with nothing to load */
    c.before.gpr[RBX] = DATA_ADDR + DATA_HOLE - 576;
    c.before.gpr[RAX] = 7;
    put64(c.before.gpr[RBX] + 520, 1ull << 63 | 7);
    run();
    EXPECT(after.vector == (amd ? -1 : VEC_PF));

    PREPARE(64, 0x0f, 0xae, 0x2b); /* MXCSR is not valid */
    c.before.gpr[RAX] = 7;
    put64(DATA_ADDR + 512, 7);
    put64(DATA_ADDR + 520, 1ull << 63 | 7);
    memcpy(emu_data + 24, &invalid, 4);
    memset(c.before.ymm[0], 0x11, 32);
    run();
    EXPECT(after.vector == VEC_GP && after.ymm[0][0] == (amd ? 0x11 : 0) && after.ymm[0][16] == 0x11);
}

static void check_vendor(bool amd)
{
    EXPECT(emu->amd == amd);
    check_branches(amd);
    check_decoding(amd);
    check_stack(amd);
    check_repeated(amd);
    check_data(amd);
    check_x87_pointers(amd);
    check_x87_stores(amd);
    check_alignment(amd);
    check_vector_faults(amd);
    if (emu->xcr0 == 7 && cpu_has(emu, FEAT_AVX))
        check_xsave(amd);
}

/* The default model with another vendor, and without one feature (bit of a leaf's ECX), if any. */
static void set_model(bool amd, uint32_t leaf, unsigned bit)
{
    static struct kvm_cpuid_entry2 model[256];
    int n = emu_vendor_model(model, sizeof(model) / sizeof(model[0]), amd);

    for (int k = 0; k < n; k++) {
        if (leaf && model[k].function == leaf && model[k].index == 0)
            model[k].ecx &= ~(1u << bit);
    }
    if (n <= 0 || cpuid_set(emu, model, (unsigned)n)) {
        printf("the model is refused\n");
        failures++;
    }
}

/* An instruction is there when its feature is: decoded under one model, it does not outlive it at the same address. */
static void check_model_change(uint32_t leaf, unsigned bit, enum cpu_feature feature, const uint8_t *bytes, unsigned len)
{
    prepare(64, bytes, len);
    emu_code_put(c.before.rip, c.bytes, c.len);
    for (int k = 0; k < 4; k++) {
        set_model(emu->amd, k & 1 ? leaf : 0, bit);
        if (!(k & 1) && !cpu_has(emu, feature)) /* this host has not got it */
            break;
        emu_go(&c, &after, 1000, false);
        EXPECT(after.vector == (k & 1 ? VEC_UD : -1));
    }
    emu_code_put(c.before.rip, NULL, c.len);
    set_model(emu->amd, 0, 0);
}

static void check_features(void)
{
    check_model_change(1, 23, FEAT_POPCNT, (const uint8_t[]){0xf3, 0x0f, 0xb8, 0xc3}, 4);
    check_model_change(1, 12, FEAT_FMA, (const uint8_t[]){0xc4, 0xe2, 0xf1, 0x98, 0xc2}, 5);
    check_model_change(7, 9, FEAT_VAES, (const uint8_t[]){0xc4, 0xe2, 0x7d, 0xdc, 0xc1}, 5);
    check_model_change(7, 10, FEAT_VPCLMULQDQ, (const uint8_t[]){0xc4, 0xe3, 0x7d, 0x44, 0xc1, 0x00}, 6);
    check_model_change(0x80000001, 6, FEAT_SSE4A, (const uint8_t[]){0x66, 0x0f, 0x79, 0xc1}, 4);
}

/* EVEX and XOP, where VEX or another map has the mnemonic: #UD, whatever the host has. They were executed as the same opcode
 * without prefix, which for VFMADD is none: SIGILL in the monitor. */
static void check_absent(void)
{
    static const uint8_t code[][10] = {
        {0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc0},       /* vaddps zmm0, zmm0, zmm0 */
        {0x62, 0xf1, 0x7c, 0x08, 0x58, 0xc0},       /* vaddps xmm0, xmm0, xmm0 */
        {0x62, 0xf1, 0x7c, 0x28, 0x58, 0x03},       /* vaddps ymm0, ymm0, [rbx] */
        {0x62, 0xe1, 0x7c, 0x08, 0x58, 0xc0},       /* vaddps xmm16, xmm0, xmm0 */
        {0x62, 0xf1, 0x7c, 0x09, 0x58, 0xc0},       /* vaddps xmm0 {k1}, xmm0, xmm0 */
        {0x62, 0xf2, 0x75, 0x08, 0x98, 0xc2},       /* vfmadd132ps xmm0, xmm1, xmm2 */
        {0x62, 0xf2, 0x7d, 0x08, 0x18, 0xc0},       /* vbroadcastss xmm0, xmm0 */
        {0x62, 0xf3, 0x7d, 0x08, 0x16, 0xc0, 0x00}, /* vpextrd eax, xmm0, 0 */
        {0x62, 0xf1, 0x7d, 0x08, 0x6e, 0xc0},       /* vmovd xmm0, eax */
        {0x62, 0xf1, 0xff, 0x08, 0x2c, 0xc0},       /* vcvttsd2si rax, xmm0 */
        {0x62, 0xf2, 0x7d, 0x09, 0x90, 0x04, 0x03}, /* vpgatherdd xmm0 {k1}, [rbx + xmm0] */
        {0x8f, 0xe9, 0x78, 0x80, 0xc0},             /* vfrczps xmm0, xmm0 */
        {0x8f, 0xe8, 0x78, 0xa2, 0xc1, 0x20},       /* vpcmov xmm0, xmm0, xmm1, xmm2 */
    };

    for (unsigned n = 0; n < sizeof(code) / sizeof(code[0]); n++)
        for (unsigned times = 0; times < 3; times++) {
            prepare(64, code[n], sizeof(code[n]));
            run();
            if (after.vector != VEC_UD)
                printf("instruction %u\n", n);
            EXPECT(after.vector == VEC_UD && after.rip == c.before.rip);
        }
    PREPARE(32, 0x62, 0xf1, 0x7c, 0x08, 0x58, 0xc0);
    run();
    EXPECT(after.vector == VEC_UD);
}

/* Any P0 to P2, opcode and operands of EVEX; of XOP whatever would follow. */
static void check_absent_bytes(void)
{
    uint64_t x = 0x9e3779b97f4a7c15ull;
    uint8_t code[15];

    for (unsigned n = 0; n < 20000; n++) {
        for (unsigned k = 0; k < sizeof(code); k++, x ^= x << 13, x ^= x >> 7, x ^= x << 17)
            code[k] = (uint8_t)(x >> 24);
        code[0] = n & 1 ? 0x62 : 0x8f;
        code[1] |= n & 1 ? 0xc0 : 8; /* not BOUND, not POP */
        prepare(n & 2 ? 64 : 32, code, sizeof(code));
        run();
        if (after.vector != VEC_UD)
            printf("instruction %u\n", n);
        EXPECT(after.vector == VEC_UD && after.rip == c.before.rip);
    }
    /* 16 bytes as XOP, and so #GP; as POP with /1 not. */
    PREPARE(32, 0x3e, 0x36, 0x8f, 0x0a, 0xc0, 0x10, 0xac, 0x73, 0x28, 0x8c, 0x01, 0x6c, 0x99, 0xd9, 0x04);
    run();
    EXPECT(after.vector == VEC_UD);
    PREPARE(64, 0x8f, 0xe8); /* at the end of what is mapped */
    c.before.rip = CODE_ADDR + CODE_BYTES - 2;
    run();
    EXPECT(after.vector == VEC_UD);
}

/* mov eax, [rip + 0x7ffffff8] and its like: farther from the page than 32 bits say. */
static void check_edge(void)
{
    enum { FAR_GPA = 0x90000 };
    uint64_t at = CODE_ADDR + 256 + 6 + 0x7ffffff8ull;

    emu_map(at & ~0xfffull, FAR_GPA, 0x67);
    memset(emu_ram + FAR_GPA, 0x42, 4096);
    PREPARE(64, 0x8b, 0x05, 0xf8, 0xff, 0xff, 0x7f);
    run();
    EXPECT(after.vector == -1 && after.gpr[RAX] == 0x42424242);
    PREPARE(64, 0x8d, 0x05, 0xf8, 0xff, 0xff, 0x7f); /* lea */
    run();
    EXPECT(after.gpr[RAX] == (uint32_t)at);
    PREPARE(64, 0x89, 0x05, 0xf8, 0xff, 0xff, 0x7f); /* mov [], eax */
    run();
    EXPECT(after.vector == -1 && memcmp(emu_ram + FAR_GPA + (at & 0xfff), "\0\0\0\0", 4) == 0);
    PREPARE(64, 0x0f, 0x10, 0x05, 0xf7, 0xff, 0xff, 0x7f); /* movups xmm0, [] */
    run();
    EXPECT(after.vector == -1 && after.ymm[0][15] == 0x42);
}

/* mov eax, [disp32] with a SIB that has no base, which REX.B does not give it, in 32-bit addresses either: SDM vol. 2, 2.2.1.2 */
static void check_no_base(void)
{
    static const uint8_t mov[] = {0x67, 0x41, 0x8b, 0x04, 0x25, 0x08, 0x00, 0x00, 0x10};

    for (unsigned from = 0; from < 2; from++) { /* 1: without 67 */
        prepare(64, mov + from, sizeof(mov) - from);
        put64(DATA_ADDR + 8, 0x1234);
        c.before.gpr[R13] = 0x1000;
        run();
        EXPECT(after.vector == -1 && after.gpr[RAX] == 0x1234);
    }
}

int main(void)
{
    emu_create();
    for (int k = 0; k < 4; k++) {
        set_model(k & 1, 0, 0);
        check_vendor(k & 1);
    }
    check_features();
    check_absent();
    check_absent_bytes();
    check_edge();
    check_no_base();
    printf("%d failures\n", failures);
    return failures != 0;
}
