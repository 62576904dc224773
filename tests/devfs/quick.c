/* devfs/quick.c and devfs/readers.c by themselves, with a load as /proc/loadavg has it from a file of ours.
 *
 * The scheduler's part is not looked at here, only which policy it is told, and which reader reads.
 */
#include <assert.h>
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devfs/processor.h"
#include "devfs/worker.h"

#define PATTERN "/tmp/quick-load-XXXXXX"
enum { ENOUGH = 100, THREAD = 7, OTHER = 8, LONG_NS = 1000000000 };

static struct worker w;

static bool watchable = true;

bool watch_more(struct worker *of)
{
    assert(of == &w && sched_getscheduler(0) == SCHED_OTHER); /* a thread that it starts inherits the policy */
    return watchable;
}

static void loads(const char *running)
{
    char line[64];
    int n = snprintf(line, sizeof(line), "0.00 0.00 0.00 %s/999 1234\n", running);

    assert(pwrite(w.quick.load, line, (size_t)n, 0) == n);
}

static void call(struct reader *r, pid_t tid, struct kvm_vcpu *running)
{
    struct call c = {.w = &w, .reader = r, .tid = tid, .running = running};

    pthread_mutex_lock(&w.lock);
    quick_begin(&c);
    quick_end(&c);
    pthread_mutex_unlock(&w.lock);
}

static bool gives_way(void)
{
    return sched_getscheduler(0) == SCHED_IDLE;
}

static void calls(struct reader *r, unsigned n)
{
    while (n--)
        call(r, THREAD, NULL);
}

static void tick(void)
{
    pthread_mutex_lock(&w.lock);
    quick_look(&w);
    pthread_mutex_unlock(&w.lock);
}

static void test_policy(struct reader *r, int line)
{
    struct kvm_vcpu *some = (void *)r; /* that it is one is all that counts */

    loads("1");
    calls(r, 2);
    assert(!w.quick.reader && !gives_way());
    calls(r, ENOUGH);
    assert(w.quick.reader == r && gives_way() && w.session.readers.only == r);
    call(r, OTHER, NULL); /* another thread's, that is no KVM_RUN */
    tick();
    assert(w.quick.reader == r);
    tick(); /* there was no call since the last one */
    assert(!w.quick.reader && !w.session.readers.only && gives_way());
    quick_restore(line, getpid());
    assert(!gives_way());
    calls(r, ENOUGH);
    call(r, OTHER, some); /* another processor of the guest */
    assert(!w.quick.reader && w.quick.tid == OTHER);
    quick_restore(line, getpid());
    assert(!gives_way());
}

static void test_load(struct reader *r, int line)
{
    struct kvm_vcpu *some = (void *)r;

    call(r, THREAD, some);
    loads("99");
    calls(r, ENOUGH);
    assert(!w.quick.reader && !gives_way());
    loads("1");
    calls(r, ENOUGH);
    assert(w.quick.reader == r);
    loads("99");
    for (unsigned i = 0; i < ENOUGH && w.quick.reader; i++) {
        calls(r, 1);
        tick();
    }
    assert(!w.quick.reader);
    quick_restore(line, getpid());
    assert(!gives_way());
}

static unsigned looks(struct reader *r, unsigned n)
{
    struct call c = {.w = &w, .reader = r, .waited = LONG_NS};
    unsigned looked = 0;

    for (; n; n--, w.quick.calls++)
        looked += quick_apart(&c);
    return looked;
}

/* Who takes his time on the same processor is asked less and less where he is; who has been elsewhere, soon again. */
static void test_looks(struct reader *r, int line)
{
    unsigned first, later;

    loads("1");
    calls(r, ENOUGH);
    first = looks(r, ENOUGH);
    later = looks(r, ENOUGH);
    quick_moved(&w);
    assert(later && first > later && looks(r, ENOUGH) > later);
    quick_over(&w);
    assert(!looks(r, ENOUGH));
    quick_restore(line, getpid());
}

static void *until_released(void *release)
{
    while (!atomic_load((atomic_bool *)release))
        sched_yield();
    return (void *)(intptr_t)sched_getscheduler(0);
}

/* Whoever has been started by the reader meanwhile, by the core, too, gets back what it never had. */
static void test_inherited(struct reader *r, int line)
{
    atomic_bool release = false;
    pthread_t thread;
    void *policy;

    loads("1");
    calls(r, ENOUGH);
    assert(gives_way() && !pthread_create(&thread, NULL, until_released, &release));
    quick_over(&w);
    quick_restore(line, getpid());
    atomic_store(&release, true);
    assert(!pthread_join(thread, &policy) && (intptr_t)policy == SCHED_OTHER && !gives_way());
}

/* Who would have lifted it has died meanwhile. */
static void test_hand_dies(struct reader *r, int line)
{
    int gone[2], kept = w.quick.line;

    assert(!pipe2(gone, O_NONBLOCK));
    w.quick.line = gone[1];
    calls(r, ENOUGH);
    assert(gives_way() && !atomic_load(&r->slow));
    close(gone[0]);
    quick_over(&w);
    assert(atomic_load(&r->slow) && !w.quick.reader);
    calls(r, ENOUGH);
    assert(!w.quick.reader);
    close(gone[1]);
    quick_restore(line, getpid());
    w.quick.line = kept;
    atomic_store(&r->slow, false);
}

/* Nobody could end it. */
static void test_no_watch(struct reader *r)
{
    watchable = false;
    calls(r, ENOUGH);
    assert(!w.quick.reader && !gives_way());
    watchable = true;
}

/* Nobody could give it back: it is not given up. */
static void test_no_right(struct reader *r)
{
    w.quick.line = -1;
    loads("1");
    calls(r, ENOUGH);
    assert(!w.quick.reader && !gives_way());
}

/* ---- readers ----------------------------------------------------------------------------------------------------------------- */

static int requests[2];
static _Atomic(struct reader *) last;
static _Atomic unsigned served;

static bool read_one(void *owner, struct reader *r)
{
    char byte;
    ssize_t got;

    (void)owner;
    readers_wait_begin(r);
    got = read(requests[0], &byte, 1);
    readers_wait_end(r);
    if (got == 1) {
        atomic_store(&last, r);
        atomic_fetch_add(&served, 1);
    }
    return got != 0;
}

static unsigned waiting(struct readers *s)
{
    unsigned n = 0;

    pthread_mutex_lock(&s->lock);
    for (struct reader *r = s->first; r; r = r->next)
        n += atomic_load(&r->wait) != READER_WORKS;
    pthread_mutex_unlock(&s->lock);
    return n;
}

static void await_waiting(struct readers *s, unsigned n)
{
    while (waiting(s) != n)
        sched_yield();
}

static void request_and_await(void)
{
    unsigned before = atomic_load(&served);

    assert(write(requests[1], "r", 1) == 1);
    while (atomic_load(&served) == before)
        sched_yield();
}

static void test_readers(void)
{
    static struct readers s = {.buffer_bytes = 1, .read = read_one};
    struct reader *one;

    assert(!pipe(requests) && !readers_signal() && !readers_start(&s, 3, -1));
    await_waiting(&s, 3);
    request_and_await();
    one = atomic_load(&last);
    await_waiting(&s, 3);
    readers_only(one);
    await_waiting(&s, 1); /* the others have been called out of their read */
    for (unsigned i = 0; i < ENOUGH; i++) {
        request_and_await();
        assert(atomic_load(&last) == one);
    }
    atomic_store(&one->slow, true); /* it ends, for there are others */
    readers_all(&s);
    while (atomic_load(&s.count) != 2)
        request_and_await();
    await_waiting(&s, 2);
    close(requests[1]);
    while (atomic_load(&s.count))
        sched_yield();
}

static cpu_set_t anywhere;

static bool note_where(void *owner, struct reader *r)
{
    (void)owner;
    assert(r->cpu == -1 && !sched_getaffinity(0, sizeof(anywhere), &anywhere));
    return false;
}

/* A reader that is pinned starts another: that one may be anywhere. */
static void test_started_by_a_pinned_one(void)
{
    static struct readers s = {.buffer_bytes = 1, .follow = true, .read = note_where};
    cpu_set_t before, one;

    assert(!sched_getaffinity(0, sizeof(before), &before) && processor_pin(0, sched_getcpu()));
    assert(!sched_getaffinity(0, sizeof(one), &one) && CPU_COUNT(&one) == 1 && !readers_start(&s, 1, -1));
    while (atomic_load(&s.count))
        sched_yield();
    assert(CPU_COUNT(&anywhere) >= CPU_COUNT(&before) && !sched_setaffinity(0, sizeof(before), &before));
}

int main(void)
{
    struct reader r = {.all = &w.session.readers, .tid = gettid(), .cpu = -1};
    char name[] = PATTERN;
    int line[2];

    signal(SIGPIPE, SIG_IGN); /* as in the worker, which blocks it */
    if (quick_line(line))
        err(1, "quick_line");
    test_readers();
    test_started_by_a_pinned_one();
    if (line[1] < 0) {
        puts("no CAP_SYS_NICE");
        return 77;
    }
    quick_init(&w.quick, line[1]);
    close(w.quick.load);
    w.quick.load = mkostemp(name, O_CLOEXEC);
    unlink(name);
    test_policy(&r, line[0]);
    test_load(&r, line[0]);
    test_looks(&r, line[0]);
    test_inherited(&r, line[0]);
    test_hand_dies(&r, line[0]);
    test_no_watch(&r);
    test_no_right(&r);
    puts("ok");
    return 0;
}
