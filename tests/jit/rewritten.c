/* Bytes of code that are written once more as they are, and bytes beside code: code that runs in between stays, a page that
 * does not is data. */
#include "inside.h"
#include "eax.h"

enum { PAGE = CODE_ADDR + 4096, GPA_PAGE = GPA_CODE + 4096, RUNS = 100 };

static uint64_t put(uint64_t at, const char *bytes, unsigned n)
{
    emu_code_put(at, (const uint8_t *)bytes, n);
    return at;
}
#define PUT(at, bytes) put(at, bytes, sizeof(bytes) - 1)

static uint8_t flags(void)
{
    struct page_ref ref;

    return phys_lookup(emu->phys, GPA_PAGE, &ref) ? ref.slot->page_flags[ref.page] : 0xff;
}

int main(void)
{
    struct state after;

    emu_create();
    if (!emu->translator && translate_create(emu))
        return 3;
    emu_engine = &engine_translate;

    uint64_t code = PUT(PAGE, "\xbf\x10\x10\0\x20" /* mov edi, PAGE + 16 */
                              "\xc6\x07\x90"       /* mov byte [rdi], 0x90 */
                              "\xb8\x01\0\0\0"     /* mov eax, 1 */
                              "\x90\x90\x90\x90\xcc");
    expect_eax("first", code, 1);
    uint64_t before = emu->stat_decoded;
    for (unsigned n = 0; n < RUNS; n++)
        expect("EAX", run_at(code, &after), 1);
    expect("decoded anew", emu->stat_decoded - before, 0);

    uint64_t same = PUT(CODE_ADDR, "\xbf\x09\x10\0\x20\xc6\x07\x01\xcc"); /* mov byte [PAGE + 9], 1: that of mov eax */
    expect("a page of code", flags() != 0, true);
    run_at(same, &after);
    run_at(same, &after);
    expect("data by now", flags(), 0);
    expect_eax("and code again", code, 1);

    uint64_t other = PUT(CODE_ADDR + 64, "\xbf\x09\x10\0\x20\xc6\x07\x02\xcc");
    run_at(other, &after);
    expect_eax("written", code, 2);

    uint64_t beside = PUT(CODE_ADDR + 128, "\xbf\x00\x18\0\x20" /* mov edi, PAGE + 0x800, where no code is */
                                           "\xb9\0\x20\0\0"       /* mov ecx, 8192 */
                                           "\x89\x0f"              /* mov [rdi], ecx */
                                           "\xff\xc9\x75\xfa\xcc"); /* dec ecx; jne */
    expect("code with data", flags() != 0, true);
    run_at(beside, &after);
    expect("data that had code", flags(), 0);
    expect_eax("which is there again", code, 2);
    return failures != 0;
}
