/* Many machines on few processors: `fair PATH` has 8 clients with 2 VMs of 4 vCPUs each count, until all have counted enough together;
 * says the least part that a VM had, in percent of its fair share.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

#include "machine.h"

enum { CLIENTS = 8, VMS = 2, EACH = 4, ALL = CLIENTS * VMS, RAM = 16 * PAGE, APART = 64 };

static const uint64_t warm = 200000000, enough = 1000000000; /* some seconds of two processors */
/* 1: inc dword [bx]; jnz 1b; inc dword [bx + 4]; jmp 1b */
static const uint8_t counts[] = {0x66, 0xff, 0x07, 0x75, 0xfb, 0x66, 0xff, 0x47, 0x04, 0xeb, 0xf5};

static void *run_on(void *vcpu)
{
    for (;;)
        run(*(int *)vcpu);
    return NULL;
}

static void be_a_client(uint8_t *memory)
{
    static struct machine m[VMS];
    pthread_t thread;

    for (unsigned i = 0; i < VMS; i++) {
        uint8_t *ram = memory + (size_t)i * RAM;
        memcpy(ram + CODE, counts, sizeof(counts));
        start(&m[i], EACH);
        CHECK(!add_slot(m[i].vm, 0, 0, ram, RAM));
        for (unsigned k = 0; k < EACH; k++) {
            set_registers(m[i].vcpu[k], CODE, DATA + k * APART);
            CHECK(!pthread_create(&thread, NULL, run_on, &m[i].vcpu[k]));
        }
    }
    for (;;)
        pause();
}

static uint64_t counted(const uint8_t *memory, unsigned vm)
{
    uint64_t sum = 0;

    for (unsigned k = 0; k < EACH; k++)
        sum += *(const volatile uint64_t *)(const void *)(memory + (size_t)vm * RAM + DATA + k * APART);
    return sum;
}

/* Waits until all together have counted to `until`; what each has. */
static void await(const uint8_t *memory, uint64_t until, uint64_t each[ALL])
{
    const struct timespec look = {0, 10000000};
    uint64_t all;

    do {
        nanosleep(&look, NULL);
        all = 0;
        for (unsigned i = 0; i < ALL; i++)
            all += each[i] = counted(memory, i);
    } while (all < until);
}

int main(int argc, char **argv)
{
    uint8_t *memory = mmap(NULL, (size_t)ALL * RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t before[ALL], after[ALL], all = 0, least = ~0ull;
    pid_t client[CLIENTS];

    if (argc != 2)
        errx(2, "usage: fair PATH");
    path = argv[1];
    CHECK(memory != MAP_FAILED);
    for (unsigned i = 0; i < CLIENTS; i++) {
        CHECK((client[i] = fork()) >= 0);
        if (!client[i])
            be_a_client(memory + (size_t)i * VMS * RAM);
    }
    await(memory, warm, before);
    await(memory, enough, after);
    for (unsigned i = 0; i < ALL; i++) {
        all += after[i] - before[i];
        least = after[i] - before[i] < least ? after[i] - before[i] : least;
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        CHECK(!kill(client[i], SIGKILL) && waitpid(client[i], NULL, 0) == client[i]);
    printf("%llu\n", (unsigned long long)(least * 100 * ALL / all));
    return 0;
}
