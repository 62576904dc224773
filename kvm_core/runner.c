/* KVM_RUN for clients in Python: what needs no device is answered here. See runner.h. */
#include "runner.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <time.h>

#include "kvm/door.h"
#include "signals.h"

typedef int ioctl_call(int fd, unsigned long request, uintptr_t arg);

static int device_ioctl(int fd, unsigned long request, uintptr_t arg)
{
    int r = ioctl(fd, request, arg);

    return r < 0 ? -errno : r;
}

static bool answered(struct kvm_run *run, const uint32_t *answers, unsigned count)
{
    if (run->exit_reason != KVM_EXIT_IO || run->io.direction != KVM_EXIT_IO_IN || run->io.size != 1 || run->io.count != 1)
        return false;
    for (unsigned i = 0; i < count; i++) {
        uint32_t answer = __atomic_load_n(&answers[i], __ATOMIC_ACQUIRE);
        if ((answer & ANSWER_STANDS) && answer >> 16 == run->io.port) {
            ((uint8_t *)run)[run->io.data_offset] = (uint8_t)answer;
            return true;
        }
    }
    return false;
}

static int enter(ioctl_call *call, int fd, struct kvm_run *run, const uint32_t *answers, unsigned count)
{
    int r;

    do
        r = call(fd, KVM_RUN, 0);
    while (!r && answered(run, answers, count));
    return r;
}

int runner_device(int fd, struct kvm_run *run, const uint32_t *answers, unsigned count)
{
    return enter(device_ioctl, fd, run, answers, count);
}

/* ---- in this process ------------------------------------------------------------------------------------------------ */

enum { ASKED = 64, LOOK_MS = 10, DESCRIPTORS = 65536 };

static _Atomic unsigned inside; /* calls of KVM_RUN under way */
static atomic_bool over;        /* the process ends */

struct stay { /* one of them */
    unsigned found, asked;
    int64_t looked_ms;
};

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return ts.tv_sec * 1000ll + ts.tv_nsec / 1000000;
}

/* A handler that the client has installed since, and that has no wrapper yet, may have run on this thread. */
static bool ends(void *with)
{
    struct stay *s = with;
    unsigned was = s->found;

    if (atomic_load(&over))
        return true;
    if (++s->asked % ASKED || now_ms() - s->looked_ms < LOOK_MS)
        return false;
    s->found = handlers_wrap();
    s->looked_ms = now_ms();
    return s->found != was;
}

static int direct_run(int fd, unsigned long request, uintptr_t arg)
{
    struct stay s = {.found = handlers_found()};
    int r;

    (void)request;
    atomic_fetch_add(&inside, 1);
    r = kvmish_run(fd, arg, ends, &s);
    atomic_fetch_sub(&inside, 1);
    return r;
}

int runner_direct(int fd, struct kvm_run *run, const uint32_t *answers, unsigned count)
{
    return enter(direct_run, fd, run, answers, count);
}

static void forked(void)
{
    atomic_store(&inside, 0);
    handlers_forked();
    kvmish_forked();
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forked); }

void runner_start(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, watch_forks);
    handlers_wrap();
}

bool runner_end(unsigned ms)
{
    const struct timespec pause = {0, 1000000};

    atomic_store(&over, true);
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        kvmish_run_ends(fd);
    for (int64_t until = now_ms() + ms; atomic_load(&inside) && now_ms() < until;)
        nanosleep(&pause, NULL);
    return !atomic_load(&inside);
}
