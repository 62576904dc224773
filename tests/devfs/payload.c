/* What comes with a call is read from there, what goes back with its answer is written there, and everything else in the client
 * itself. The client is this process; its memory differs from what came.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/kvm.h"

#define CHECK(x) ((x) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x), exit(1)))

enum { IN = 16, ROOM = 12 };

static char memory[64], came[32], got[64];
static struct payload payload;
static struct client client;

static void call_comes(void)
{
    memset(memory, 'm', sizeof(memory));
    memset(came, 'c', sizeof(came));
    payload = (struct payload){.at = (uintptr_t)memory + 8, .data = (uint8_t *)came, .in = IN, .room = ROOM};
    client = (struct client){.pid = getpid(), .payload = &payload};
}

static uintptr_t argument(int offset)
{
    return payload.at + (uintptr_t)(intptr_t)offset;
}

/* A read from an offset into the argument: all of one kind, or the first that is not. */
static char read_at(int offset, size_t n)
{
    CHECK(!client_read(&client, got, argument(offset), n));
    for (size_t i = 1; i < n; i++)
        if (got[i] != got[0])
            return got[i];
    return got[0];
}

static void write_at(int offset, const char *text)
{
    CHECK(!client_write(&client, argument(offset), text, strlen(text)));
}

static void reads(void)
{
    call_comes();
    CHECK(read_at(0, IN) == 'c' && read_at(IN - 1, 1) == 'c' && read_at(4, 4) == 'c');
    CHECK(read_at(0, IN + 1) == 'm' && read_at(IN, 1) == 'm' && read_at(-1, 2) == 'm' && read_at(IN - 1, 2) == 'm');
    client.payload = NULL;
    CHECK(read_at(0, IN) == 'm');
}

static void writes(void)
{
    call_comes();
    write_at(0, "12345678");
    CHECK(payload.out == 8 && !memcmp(came, "12345678c", 9) && memory[8] == 'm');
    CHECK(!client_read(&client, got, payload.at, 8) && !memcmp(got, "12345678", 8));
    write_at(8, "9abc");
    write_at(2, "x");
    CHECK(payload.out == ROOM && !memcmp(came, "12x456789abcc", 13));
    write_at(ROOM, "d"); /* behind the room, and around both its ends */
    write_at(-1, "yz");
    CHECK(payload.out == ROOM && came[0] == '1' && came[ROOM] == 'c');
    CHECK(!memcmp(memory + 6, "myzm", 4) && memory[8 + ROOM] == 'd');
    call_comes();
    write_at(ROOM - 1, "12");
    CHECK(!payload.out && !memcmp(memory + 8 + ROOM - 1, "12", 2));
}

/* What lies in between is not ours to write. */
static void no_gap(void)
{
    call_comes();
    write_at(4, "5678");
    CHECK(!payload.out && came[4] == 'c' && !memcmp(memory + 8, "mmmm5678", 8));
}

int main(void)
{
    reads();
    writes();
    no_gap();
    return 0;
}
