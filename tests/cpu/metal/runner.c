/* Runs a ROM image on the interpreter alone: RAM, the ROM, the debug port 0xe9 on stdout, exit by
 * port 0xf4. runner IMAGE [amd|intel]; exit status 0 after the image's own exit, 1 after a shutdown
 * or anything unexpected.
 */
#include "../fixture.h"

#include <fcntl.h>
#include <unistd.h>

enum { ROM_BYTES = 65536, POLLS_MAX = 2000 };

static bool finished;

static int pio_in(struct vcpu *v, uint16_t port, unsigned size, uint32_t *data)
{
    (void)v, (void)port, (void)size;
    *data = UINT32_MAX;
    return 0;
}

static int pio_out(struct vcpu *v, uint16_t port, unsigned size, uint32_t data)
{
    (void)v, (void)size;
    if (port == 0xe9)
        putchar((int)(data & 0xff));
    finished |= port == 0xf4;
    if (finished)
        __atomic_store_n(&v->kick, 1, __ATOMIC_SEQ_CST);
    return 0;
}

int main(int argc, char **argv)
{
    static struct memobj rom_object;
    static uint8_t rom_flags[ROM_BYTES / 4096];
    static struct memslot rom_slot = {.id = 1,
                                      .gpa = 0xffff0000,
                                      .size_bytes = ROM_BYTES,
                                      .obj = &rom_object,
                                      .page_flags = rom_flags,
                                      .readonly = true};
    uint8_t *rom = aligned_alloc(4096, ROM_BYTES);
    struct phys_map *map = calloc(1, sizeof(*map) + 2 * sizeof(map->slot[0]));
    struct vcpu *v = new_vcpu();
    int fd = argc > 1 ? open(argv[1], O_RDONLY) : -1;

    if (fd < 0 || read(fd, rom, ROM_BYTES) != ROM_BYTES)
        return 2;
    memcpy(ram + RAM_BYTES - ROM_BYTES, rom, ROM_BYTES); /* the top of the first MiB, as on a PC */
    rom_object = (struct memobj){.host = rom, .size_bytes = ROM_BYTES};
    map->count = 2;
    map->slot[0] = &slot;
    map->slot[1] = &rom_slot;
    v->phys = map;
    ops.pio_in = pio_in;
    ops.pio_out = pio_out;
    v->amd = argc > 2 && !strcmp(argv[2], "amd");
    tlb_flush_all(v);
    for (unsigned n = 0; n < POLLS_MAX && !finished; n++) {
        enum cpu_exit_reason reason = engine_emulate.enter(v, 1 << 20);
        if (reason != EXIT_POLL) {
            fprintf(stderr, "exit %d at %x:%" PRIx64 "\n", reason, v->seg[CS].sel, v->rip);
            return 1;
        }
    }
    fflush(stdout);
    return !finished;
}
