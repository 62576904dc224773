/* Signals that wait for a thread, from /proc/PID/task/TID/status. */
#include "devfs/signals.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t field(const char *text, const char *name, int base)
{
    const char *at = strstr(text, name);

    return at ? strtoull(at + strlen(name), NULL, base) : 0;
}

static char state(const char *text)
{
    const char *at = strstr(text, "\nState:\t");

    return at ? at[8] : '?';
}

bool signals_read(int fd, struct signals *s)
{
    char text[4096];
    ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);

    if (n <= 0)
        return false;
    text[n] = 0;
    s->state = state(text);
    s->traced = field(text, "\nTracerPid:", 10) != 0;
    s->pending = field(text, "\nSigPnd:", 16) | field(text, "\nShdPnd:", 16);
    s->blocked = field(text, "\nSigBlk:", 16);
    s->ignored = field(text, "\nSigIgn:", 16);
    return true;
}

bool signals_end_run(const struct signals *s, const struct kvm_vcpu *kv)
{
    uint64_t mask;

    memcpy(&mask, &kv->sigmask, sizeof(mask));
    return s->pending & ~s->ignored & ~(kv->has_sigmask ? mask : s->blocked);
}
