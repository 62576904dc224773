/* Where the guest spends its instructions, and which host code is whose, for who asks: both cost nothing otherwise.
 *
 * KVMISH_PROFILE=FILE: once in PERIOD instructions or so the address is noted at which the guest then is; when the vCPU is
 * destroyed, a line for each address is added to FILE: address, CPL, how often (hexadecimal, decimal, decimal).
 * KVMISH_PERF_MAP=1: each block is added to /tmp/perf-PID.map as it is made, so that `perf report` can name it.
 */
#include "jit/jit.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PERIOD = 4096, PLACES = 1 << 16 };

struct profile {
    FILE *out;
    int32_t left;   /* instructions until the next sample */
    uint32_t seed;
    uint64_t lost;  /* samples that found no place */
    struct place {
        uint64_t rip;
        uint32_t samples;
        uint8_t cpl;
    } place[PLACES];
};

/* Irregular, so that a guest's loop does not keep time with it. */
static int32_t next_period(struct profile *p)
{
    p->seed = p->seed * 1664525 + 1013904223;
    return PERIOD / 2 + (int32_t)(p->seed >> 20) % PERIOD;
}

void jit_profile_create(struct jit *j)
{
    const char *path = getenv("KVMISH_PROFILE");

    if (path && *path && (j->profile = calloc(1, sizeof(*j->profile)))) {
        j->profile->out = fopen(path, "ae");
        j->profile->left = next_period(j->profile);
    }
    if (getenv("KVMISH_PERF_MAP")) {
        char name[64];
        snprintf(name, sizeof(name), "/tmp/perf-%d.map", (int)getpid());
        if ((j->perf_map = fopen(name, "ae")))
            setvbuf(j->perf_map, NULL, _IOLBF, 0);
    }
}

void jit_profile_destroy(struct jit *j)
{
    struct profile *p = j->profile;

    if (j->perf_map)
        fclose(j->perf_map);
    if (p && p->out) {
        for (struct place *at = p->place; at < p->place + PLACES; at++)
            if (at->samples)
                fprintf(p->out, "%" PRIx64 " %u %u\n", at->rip, at->cpl, at->samples);
        if (p->lost)
            fprintf(p->out, "0 0 %" PRIu64 "\n", p->lost);
        fclose(p->out);
    }
    free(p);
}

int32_t jit_profile_slice(const struct profile *p, int32_t slice) { return slice < p->left ? slice : p->left; }

static void sample(struct vcpu *v, struct profile *p)
{
    unsigned n = (unsigned)((v->rip * 0x9e3779b97f4a7c15ull) >> 48);

    for (unsigned tries = 0; tries < 64; tries++, n = (n + 1) & (PLACES - 1)) {
        struct place *at = &p->place[n];
        if (!at->samples)
            *at = (struct place){.rip = v->rip, .cpl = v->cpl};
        if (at->rip == v->rip && at->cpl == v->cpl) {
            at->samples++;
            return;
        }
    }
    p->lost++;
}

void jit_profile_count(struct vcpu *v, int32_t instructions)
{
    struct profile *p = jit_of(v)->profile;

    p->left -= instructions;
    if (p->left <= 0) {
        sample(v, p);
        p->left = next_period(p);
    }
}

void jit_perf_map(const struct jit *j, const struct block *b, uint32_t end, uint64_t rip)
{
    uint32_t start = b->entry - JIT_PROLOGUE;

    fprintf(j->perf_map, "%" PRIx64 " %x guest:%" PRIx64 "\n", (uint64_t)(j->rx + start), end - start, rip);
}
