/* An ioctl of the client's, from its arrival to its answer; and what the core asks of a client in another process.
 *
 * Most calls are answered at their end. Those that must change the client (a new descriptor, memory to be exchanged) are
 * answered first, with the client's thread caught on its way out, and get their real result from the hand.
 */
#include <errno.h>
#include <unistd.h>

#include "devfs/mapping.h"
#include "devfs/worker.h"

static struct call *call_of(const struct client *c)
{
    return (struct call *)c;
}

static void answer(struct call *c, int ret)
{
    int32_t packet = ret;

    if (c->unique)
        session_result(&c->w->session, c->unique, ret, c->payload.data, c->payload.out);
    else
        packet_send(c->w->broker, &packet, sizeof(packet), -1);
}

void call_begin(struct call *c, struct worker *w, uint64_t unique, pid_t tid)
{
    c->client = (struct client){.pid = w->client, .ops = &foreign_ops, .payload = &c->payload};
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
    pthread_mutex_unlock(&c->w->lock);
}

void call_end(struct call *c, int ret)
{
    if (c->stopped) {
        unlist(c);
        hand_resume(&c->w->hand, ret);
        hand_unlock(&c->w->hand);
        if (c->reader)
            readers_idle(c->reader->all);
        return;
    }
    pthread_rwlock_rdlock(&c->w->answers);
    unlist(c);
    if (c->reader)
        readers_idle(c->reader->all); /* before: the answered thread's next call may come while we are on our way back */
    answer(c, ret);
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

/* The client's thread is answered, and stops on its way out; the hand's lock is ours until call_end(). */
static int stop(struct call *c)
{
    int err;

    if (c->stopped)
        return 0;
    hand_lock(&c->w->hand);
    err = hand_stop(&c->w->hand, c->tid);
    if (err) {
        hand_unlock(&c->w->hand);
        return err;
    }
    c->stopped = true;
    answer(c, 0);
    c->client.payload = NULL; /* it has gone back */
    return 0;
}

int call_stop(struct call *c)
{
    int err = stop(c);

    return err ? err : hand_stopped(&c->w->hand);
}

/* ---- client_ops ------------------------------------------------------------------------------------------------------ */

static int install(const struct client *client, enum object_kind kind, void *object, int map_fd)
{
    struct call *c = call_of(client);
    struct worker *w = c->w;
    int backing = 0, number, fd, theirs;

    if (map_fd >= 0) {
        hand_lock(&w->hand);
        backing = hand_backing(&w->hand, map_fd);
        hand_unlock(&w->hand);
        if (backing < 0)
            return backing;
    }
    number = node_add(w, kind, object, backing);
    if (number < 0)
        return number;
    fd = theirs = node_open(w, number);
    if (fd >= 0) {
        theirs = stop(c);
        if (!theirs)
            theirs = hand_give(&w->hand, fd, false);
        if (theirs < 0)
            node_forget(w, number); /* the core keeps its object */
        close(fd);
    } else {
        node_forget(w, number);
    }
    return theirs;
}

static int give(const struct client *client, int fd)
{
    struct call *c = call_of(client);
    int err = stop(c);

    return err ? err : hand_give(&c->w->hand, fd, true);
}

static int take_eventfd(const struct client *client, int fd, uint64_t *id)
{
    struct call *c = call_of(client);
    int got;

    if (!c->stopped)
        hand_lock(&c->w->hand);
    got = hand_eventfd(&c->w->hand, fd, id);
    if (!c->stopped)
        hand_unlock(&c->w->hand);
    return got;
}

static int map(const struct client *client, uintptr_t addr, size_t bytes, uint8_t **host)
{
    return memory_map(call_of(client), addr, bytes, host);
}

const struct client_ops foreign_ops = {install, give, take_eventfd, map, mapping_free};
