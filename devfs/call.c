/* An ioctl of the client's, from its arrival to its answer; and what the core asks of a client in another process.
 *
 * Most calls are answered at their end. Those that must change the client (a new descriptor, memory to be exchanged) are
 * answered first, with the client's thread caught on its way out, and get their real result from the hand.
 */
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devfs/mapping.h"
#include "devfs/worker.h"

static struct call *call_of(const struct client *c)
{
    return (struct call *)c;
}

/* By which the client's memory is, if not by its own number. When that thread has ended, too, another process may have the number. */
static pid_t reachable(const struct worker *w)
{
    return w->reachable && (!syscall(SYS_tgkill, w->client, w->reachable, 0) || errno == EPERM) ? w->reachable : 0;
}

void call_begin(struct call *c, struct worker *w, uint64_t unique, pid_t tid)
{
    c->client = (struct client){.pid = w->client, .thread = reachable(w), .ops = &foreign_ops, .payload = &c->payload};
    c->w = w;
    c->unique = unique;
    c->tid = tid;
    c->stopped = false;
    pthread_mutex_lock(&w->lock);
    c->next = w->calls;
    c->link = &w->calls;
    if (c->next)
        c->next->link = &c->next;
    w->calls = c;
    quick_begin(c);
    pthread_mutex_unlock(&w->lock);
}

static bool is_run(const struct worker *w, const struct kvm_vcpu *kv)
{
    for (const struct call *c = w->calls; c; c = c->next)
        if (c->running == kv)
            return true;
    return false;
}

/* A signal that came too late to end this KVM_RUN is not for the next one, unless that waits here already. */
static void unlist(struct call *c)
{
    pthread_mutex_lock(&c->w->lock);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    if (c->running && !is_run(c->w, c->running))
        atomic_store(&c->running->signalled, 0);
    quick_end(c);
    pthread_mutex_unlock(&c->w->lock);
}

void call_end(struct call *c, int ret)
{
    if (c->stopped) {
        unlist(c);
        readers_idle(c->reader->all); /* before: the answered thread's next call may come while we are on our way back */
        hand_resume(&c->w->hand, ret);
        hand_unlock(&c->w->hand);
        return;
    }
    pthread_rwlock_rdlock(&c->w->answers);
    unlist(c);
    readers_idle(c->reader->all);
    session_result(&c->w->session, c->unique, ret, c->payload.data, c->payload.out);
    pthread_rwlock_unlock(&c->w->answers);
}

bool call_interrupt(struct worker *w, uint64_t unique)
{
    struct call *c;

    pthread_mutex_lock(&w->lock);
    for (c = w->calls; c; c = c->next)
        if (c->unique == unique)
            break;
    if (c && c->running)
        watch_interrupted(c);
    pthread_mutex_unlock(&w->lock);
    return c;
}

unsigned call_list(void *worker, int32_t *tids, unsigned room)
{
    struct worker *w = worker;
    unsigned n = 0;

    pthread_mutex_lock(&w->lock);
    for (struct call *c = w->calls; c && n < room; c = c->next)
        tids[n++] = c->tid;
    pthread_mutex_unlock(&w->lock);
    return n;
}

/* Nobody gives way meanwhile: threads of the client's may stand still, and the hand has no ear for another wish. */
void call_ask(struct call *c)
{
    pthread_mutex_lock(&c->w->lock);
    quick_over(c->w);
    pthread_mutex_unlock(&c->w->lock);
    hand_lock(&c->w->hand);
}

/* With the hand's lock, which is ours until call_end() when the client's thread has been answered. */
static void note_answer(struct call *c, bool answered)
{
    c->stopped = answered;
    if (answered)
        c->client.payload = NULL; /* it has gone back */
    else
        hand_unlock(&c->w->hand);
}

int call_stop(struct call *c)
{
    bool answered;
    int err;

    if (c->stopped)
        return 0;
    call_ask(c);
    err = hand_stop(&c->w->hand, c->tid, c->unique, &answered);
    note_answer(c, answered);
    return err;
}

/* ---- client_ops ------------------------------------------------------------------------------------------------------ */

/* Into the table of the client's thread, which is stopped then. */
static int give_stopping(struct call *c, int fd, bool read_only)
{
    bool answered;
    int theirs;

    if (c->stopped)
        return -EBUSY; /* one for each call */
    call_ask(c);
    theirs = hand_give(&c->w->hand, c->tid, c->unique, fd, read_only, &answered);
    note_answer(c, answered);
    return theirs;
}

/* A new file of the session, open. */
static int make_file(struct worker *w, enum object_kind kind, int map_fd, unsigned *number)
{
    int backing = 0, added;

    if (map_fd >= 0) {
        hand_lock(&w->hand);
        backing = hand_backing(&w->hand, map_fd);
        hand_unlock(&w->hand);
        if (backing < 0)
            return backing;
    }
    added = node_add(w, kind, NULL, backing);
    if (added < 0)
        return added;
    *number = (unsigned)added;
    return node_open(w, *number);
}

static int install(const struct client *client, enum object_kind kind, void *object, int map_fd)
{
    struct call *c = call_of(client);
    struct worker *w = c->w;
    unsigned number;
    int fd, theirs;

    if (kind == OBJECT_VM) { /* the hand gives its file */
        node_set(w, w->ahead.vm, object);
        return 0;
    }
    fd = ahead_take(w, map_fd, &number);
    if (fd < 0)
        fd = make_file(w, kind, map_fd, &number);
    if (fd < 0)
        return fd;
    node_set(w, number, object);
    theirs = give_stopping(c, fd, false);
    if (theirs < 0)
        node_set(w, number, NULL); /* the core keeps its object */
    close(fd);
    return theirs;
}

static int give(const struct client *client, int fd)
{
    return give_stopping(call_of(client), fd, true);
}

static int take_eventfd(const struct client *client, int fd, uint64_t *id)
{
    struct call *c = call_of(client);
    int got;

    if (!c->stopped)
        call_ask(c);
    got = hand_eventfd(&c->w->hand, c->tid, fd, id);
    if (!c->stopped)
        hand_unlock(&c->w->hand);
    return got;
}

static int map(const struct client *client, uintptr_t addr, size_t bytes, uint8_t **host)
{
    return memory_map(call_of(client), addr, bytes, host);
}

static int renew(const struct client *client, uintptr_t addr, size_t bytes, uint8_t *host, uintptr_t at)
{
    return memory_renew(call_of(client), addr, bytes, host, at);
}

const struct client_ops foreign_ops = {install, give, take_eventfd, map, mapping_free, renew};
