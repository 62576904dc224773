/* When data instructions are not available (#UD, #NM, #MF), and operands that a device answers.
 *
 * The expected conditions are those of SDM vol. 3, table 2-2 and ch. 14, written down a second time.
 */
#include "emu.h"

enum kind { SSE, AVX, MMX, X87, WAIT, FXSR, XSV, VEX_GENERAL, PLAIN };

static const struct {
    const char *name;
    enum kind kind;
    uint8_t len, bytes[8];
} instructions[] = {
    {"addps xmm0, xmm1", SSE, 3, {0x0f, 0x58, 0xc1}},
    {"pxor xmm0, xmm1", SSE, 4, {0x66, 0x0f, 0xef, 0xc1}},
    {"ldmxcsr [rbx]", SSE, 3, {0x0f, 0xae, 0x13}},
    {"vaddps xmm0, xmm0, xmm1", AVX, 4, {0xc5, 0xf8, 0x58, 0xc1}},
    {"vpxor ymm0, ymm0, ymm1", AVX, 4, {0xc5, 0xfd, 0xef, 0xc1}},
    {"vzeroupper", AVX, 3, {0xc5, 0xf8, 0x77}},
    {"vgatherdps xmm0, [rbx+xmm1], xmm2", AVX, 6, {0xc4, 0xe2, 0x69, 0x92, 0x04, 0x0b}},
    {"paddb mm0, mm1", MMX, 3, {0x0f, 0xfc, 0xc1}},
    {"emms", MMX, 2, {0x0f, 0x77}},
    {"fadd st0, st1", X87, 2, {0xd8, 0xc1}},
    {"fldcw [rbx]", X87, 2, {0xd9, 0x2b}},
    {"fnclex", X87, 2, {0xdb, 0xe2}},
    {"fnstsw ax", X87, 2, {0xdf, 0xe0}},
    {"fwait", WAIT, 1, {0x9b}},
    {"fxsave [rbx]", FXSR, 3, {0x0f, 0xae, 0x03}},
    {"fxrstor [rbx]", FXSR, 3, {0x0f, 0xae, 0x0b}},
    {"xsave [rbx]", XSV, 3, {0x0f, 0xae, 0x23}},
    {"xrstor [rbx]", XSV, 3, {0x0f, 0xae, 0x2b}},
    {"andn eax, ecx, edx", VEX_GENERAL, 5, {0xc4, 0xe2, 0x70, 0xf2, 0xc2}},
    {"popcnt eax, ecx", PLAIN, 4, {0xf3, 0x0f, 0xb8, 0xc1}},
    {"crc32 eax, cl", PLAIN, 5, {0xf2, 0x0f, 0x38, 0xf0, 0xc1}},
};

static int failures;

static void emu_run(const struct icase *c, struct state *after)
{
    emu_code_put(c->before.rip, c->bytes, c->len);
    emu_go(c, after, 1000, false);
    emu_code_put(c->before.rip, NULL, c->len);
}

static int expected(enum kind kind)
{
    bool em = emu->cr0 & CR0_EM, ts = emu->cr0 & CR0_TS, mp = emu->cr0 & CR0_MP;
    bool avx = (emu->cr4 & CR4_OSXSAVE) && (emu->xcr0 & 6) == 6;

    switch (kind) {
    case SSE: return em || !(emu->cr4 & CR4_OSFXSR) ? VEC_UD : ts ? VEC_NM : -1;
    case AVX: return !avx ? VEC_UD : ts ? VEC_NM : -1;
    case MMX: return em ? VEC_UD : ts ? VEC_NM : -1;
    case X87: return em || ts ? VEC_NM : -1;
    case WAIT: return mp && ts ? VEC_NM : -1;
    case FXSR: return em || ts ? VEC_NM : -1;
    case XSV: return !(emu->cr4 & CR4_OSXSAVE) ? VEC_UD : ts ? VEC_NM : -1;
    default: return -1;
    }
}

static void base_case(struct icase *c, const uint8_t *bytes, unsigned len)
{
    uint32_t mxcsr = 0x1f80;

    memset(c, 0, sizeof(*c));
    memcpy(c->bytes, bytes, len);
    c->len = len;
    c->mode = 64;
    c->cs = 0x33;
    c->ss = c->ds = c->es = 0x2b;
    c->before.rip = CODE_ADDR + 256;
    c->before.gpr[RBX] = DATA_ADDR;
    c->before.in_use = 7;
    c->before.fx[0] = 0x7f;
    c->before.fx[1] = 3;
    memcpy(c->before.fx + 24, &mxcsr, 4);
    memset(emu_data, 0, 4096);
}

static void check_availability(void)
{
    uint64_t cr0 = emu->cr0, cr4 = emu->cr4;
    struct icase c;
    struct state after;

    for (unsigned n = 0; n < sizeof(instructions) / sizeof(instructions[0]); n++) {
        for (unsigned bits = 0; bits < 128; bits++) {
            emu->cr0 = (cr0 & ~(CR0_EM | CR0_TS | CR0_MP)) | (bits & 1 ? CR0_EM : 0) | (bits & 2 ? CR0_TS : 0) |
                       (bits & 4 ? CR0_MP : 0);
            emu->cr4 = (cr4 & ~(CR4_OSFXSR | CR4_OSXSAVE)) | (bits & 8 ? CR4_OSFXSR : 0) |
                       (bits & 16 ? CR4_OSXSAVE : 0);
            emu->xcr0 = 1 | (bits >> 5 & 3) << 1;
            base_case(&c, instructions[n].bytes, instructions[n].len);
            emu_run(&c, &after);
            if (after.vector == expected(instructions[n].kind))
                continue;
            printf("%s: CR0 %lx CR4 %lx XCR0 %lx: vector %d, want %d\n", instructions[n].name, emu->cr0, emu->cr4,
                   emu->xcr0, after.vector, expected(instructions[n].kind));
            failures++;
        }
    }
    emu->cr0 = cr0;
    emu->cr4 = cr4;
    emu->xcr0 = 7;
}

/* ---- operands in a device ------------------------------------------------------------------------------- */

enum { DEVICE_BYTES = 4096, DEVICE_ADDR = 0x30000000, DEVICE_GPA = 0x8000000 };

static uint8_t device[DEVICE_BYTES];
static unsigned exits;

static int device_read(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t *data)
{
    (void)v, (void)gpa, (void)size, (void)data;
    return 1; /* ask the client */
}

static int device_write(struct vcpu *v, uint64_t gpa, unsigned size, uint64_t data)
{
    (void)v, (void)gpa, (void)size, (void)data;
    return 1;
}

static const struct machine_ops ops = {.mmio_read = device_read, .mmio_write = device_write};

/* Runs the instruction, answering as a device made of memory would, until it is through. */
static void run_with_device(struct icase *c, struct state *after)
{
    struct state between;
    uint64_t value;

    emu->log.replay = false;
    emu->log.count = emu->log.next = 0;
    for (exits = 0; exits < 80; exits++) {
        emu_run(c, &between);
        if (between.vector != 1000 + EXIT_MMIO)
            break;
        if (memcmp(between.gpr, c->before.gpr, sizeof(between.gpr)) != 0 ||
            memcmp(between.ymm, c->before.ymm, sizeof(between.ymm)) != 0) {
            printf("registers changed before the last access\n");
            failures++;
        }
        uint64_t off = emu->exit.mmio.gpa - DEVICE_GPA;
        unsigned size = emu->exit.mmio.size;
        if (emu->exit.mmio.write)
            memcpy(device + off, &emu->exit.mmio.data, size);
        value = 0;
        memcpy(&value, device + off, size);
        cpu_answer(emu, emu->exit.mmio.write ? NULL : &value);
        emu->log.next = 0;
    }
    emu->log.replay = false;
    emu->log.count = emu->log.next = 0;
    *after = between;
}

static void expect(bool ok, const char *what)
{
    if (ok)
        return;
    printf("device operand: %s (%u exits)\n", what, exits);
    failures++;
}

static void check_devices(void)
{
    struct icase c;
    struct state after;
    uint8_t ymm0[32];

    for (unsigned k = 0; k < DEVICE_BYTES; k++)
        device[k] = k * 13 + (k >> 8);
    base_case(&c, (const uint8_t[]){0xc5, 0xfc, 0x10, 0x03}, 4); /* vmovups ymm0, [rbx] */
    c.before.gpr[RBX] = DEVICE_ADDR + 5;
    run_with_device(&c, &after);
    expect(after.vector < 0 && memcmp(after.ymm[0], device + 5, 32) == 0 && exits >= 4, "vmovups load");

    base_case(&c, (const uint8_t[]){0xc5, 0xfc, 0x11, 0x03}, 4); /* vmovups [rbx], ymm0 */
    c.before.gpr[RBX] = DEVICE_ADDR + 64;
    memset(c.before.ymm[0], 0x5a, 32);
    run_with_device(&c, &after);
    expect(after.vector < 0 && memcmp(device + 64, c.before.ymm[0], 32) == 0, "vmovups store");

    base_case(&c, (const uint8_t[]){0xc4, 0xe2, 0x6d, 0x92, 0x04, 0x0b}, 6); /* vgatherdps ymm0, [rbx+ymm1], ymm2 */
    c.before.gpr[RBX] = DEVICE_ADDR;
    for (int k = 0; k < 8; k++) {
        int32_t off = 400 - 36 * k;
        memcpy(c.before.ymm[1] + 4 * k, &off, 4);
        c.before.ymm[2][4 * k + 3] = k & 1 ? 0x80 : 0;
        memcpy(ymm0 + 4 * k, device + off, 4);
        if (!(k & 1))
            memset(ymm0 + 4 * k, 0, 4);
    }
    run_with_device(&c, &after);
    expect(after.vector < 0 && memcmp(after.ymm[0], ymm0, 32) == 0 && exits == 4, "vgatherdps");

    base_case(&c, (const uint8_t[]){0xc4, 0xe2, 0x6d, 0x2e, 0x03}, 5); /* vmaskmovps [rbx], ymm2, ymm0 */
    c.before.gpr[RBX] = DEVICE_ADDR + 512;
    memset(c.before.ymm[0], 0xa5, 32);
    c.before.ymm[2][7] = c.before.ymm[2][31] = 0x80;
    run_with_device(&c, &after);
    expect(after.vector < 0 && exits == 2 && device[512 + 4] == 0xa5 && device[512 + 28] == 0xa5 &&
               device[512] != 0xa5, "vmaskmovps store");

    base_case(&c, (const uint8_t[]){0xdb, 0x3b}, 2); /* fstp tbyte [rbx] */
    c.before.gpr[RBX] = DEVICE_ADDR + 600;
    c.before.fx[4] = 1;
    memcpy(c.before.fx + 32, "\1\2\3\4\5\6\7\x88\x11\x40", 10);
    run_with_device(&c, &after);
    expect(after.vector < 0 && memcmp(device + 600, c.before.fx + 32, 10) == 0 && after.fx[4] == 0, "fstp");

    base_case(&c, (const uint8_t[]){0x0f, 0xae, 0x03}, 3); /* fxsave [rbx] */
    c.before.gpr[RBX] = DEVICE_ADDR + 1024;
    memset(c.before.ymm[15], 0x77, 16);
    run_with_device(&c, &after);
    expect(after.vector < 0 && device[1024] == 0x7f && device[1024 + 160 + 15 * 16] == 0x77, "fxsave");

    base_case(&c, (const uint8_t[]){0x0f, 0xae, 0x0b}, 3); /* fxrstor [rbx] */
    c.before.gpr[RBX] = DEVICE_ADDR + 1024;
    run_with_device(&c, &after);
    expect(after.vector < 0 && after.ymm[15][3] == 0x77, "fxrstor");
}

/* ---- import and export ------------------------------------------------------------------------------------ */

static void check_images(void)
{
    uint8_t image[4096], again[4096];
    uint64_t bv;

    for (int k = 0; k < 16; k++)
        memset(emu->ymm[k], 0x10 + k, 32);
    emu->xinuse = 7;
    emu->pkru = 0x55555554;
    xsave_export(emu, image, sizeof(image), XSAVE_COMPONENTS);
    memcpy(&bv, image + 512, 8);
    expect(bv == (7 | XSAVE_PKRU), "exported XSTATE_BV");
    expect(image[XSAVE_AVX_OFFSET] == 0x10 && image[xsave_pkru_offset()] == 0x54, "exported components");
    memset(emu->ymm, 0, sizeof(emu->ymm));
    emu->pkru = 0;
    expect(xsave_import(emu, image, sizeof(image), XSAVE_COMPONENTS) == 0, "import");
    xsave_export(emu, again, sizeof(again), XSAVE_COMPONENTS);
    expect(memcmp(image, again, sizeof(image)) == 0, "export, import, export");
    image[512 + 8] = 1; /* XCOMP_BV */
    expect(xsave_import(emu, image, sizeof(image), XSAVE_COMPONENTS) < 0, "import of a compacted image");
    image[512 + 8] = 0;
    image[27] = 1; /* MXCSR, reserved bit */
    expect(xsave_import(emu, image, sizeof(image), XSAVE_COMPONENTS) < 0, "import of a reserved MXCSR bit");
    image[27] = 0;
    expect(xsave_import(emu, image, sizeof(image), 3) < 0, "import of components not allowed");
    expect(xsave_import(emu, image, 400, XSAVE_COMPONENTS) < 0, "import of a short image");
    xsave_export(emu, again, 576, XSAVE_COMPONENTS); /* must not write behind 576 bytes: ASan */
}

int main(void)
{
    emu_create();
    emu->ops = &ops;
    emu_map(DEVICE_ADDR, DEVICE_GPA, 0x67);
    tlb_flush_all(emu);
    check_availability();
    check_devices();
    check_images();
    printf("%d failures\n", failures);
    return failures != 0;
}
