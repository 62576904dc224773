/* The worker's end of the line to its hand. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devfs/hand.h"

enum { REQUEST_HEAD = offsetof(struct hand_request, tid_list) };

void hand_lock(struct hand_link *h)
{
    pthread_mutex_lock(&h->lock);
}

void hand_unlock(struct hand_link *h)
{
    pthread_mutex_unlock(&h->lock);
}

/* One request, one reply; *fd: what came with it, to be closed by the caller, or NULL when none can come. */
static int ask(struct hand_link *h, const struct hand_request *q, int send_fd, struct hand_reply *r, int *fd)
{
    int got;

    if (packet_send(h->socket, q, REQUEST_HEAD, send_fd))
        return -EIO;
    if (packet_receive(h->socket, r, sizeof(*r), &got) != sizeof(*r))
        return -EIO;
    if (fd)
        *fd = got;
    else if (got >= 0)
        close(got);
    return r->ret;
}

static struct hand_request request(enum hand_op op, pid_t tid, int64_t a, int64_t b)
{
    struct hand_request q;

    memset(&q, 0, REQUEST_HEAD);
    q.op = op;
    q.tid = tid;
    q.a = a;
    q.b = b;
    return q;
}

static int tell(struct hand_link *h, enum hand_op op, int64_t a)
{
    const struct hand_request q = request(op, 0, a, 0);

    return packet_send(h->socket, &q, REQUEST_HEAD, -1);
}

int hand_backing(struct hand_link *h, int fd)
{
    const struct hand_request q = request(HAND_BACKING, 0, 0, 0);
    struct hand_reply r;

    return ask(h, &q, fd, &r, NULL);
}

int hand_ready(struct hand_link *h, int vm_file, struct hand_reply *who)
{
    const struct hand_request q = request(HAND_READY, 0, 0, 0);

    return ask(h, &q, vm_file, who, NULL);
}

int hand_space(struct hand_link *h, int *space)
{
    char byte;

    return packet_receive(h->socket, &byte, 1, space) == 1 && *space >= 0 ? 0 : -EIO;
}

int hand_made(struct hand_link *h, int ret)
{
    return tell(h, HAND_MADE, ret);
}

int hand_resume(struct hand_link *h, int ret)
{
    return tell(h, HAND_RESUME, ret);
}

static int catch(struct hand_link *h, const struct hand_request *q, int fd, bool *answered)
{
    struct hand_reply r = {.answered = 0};
    int ret = ask(h, q, fd, &r, NULL);

    *answered = r.answered;
    return ret;
}

int hand_stop(struct hand_link *h, pid_t tid, uint64_t unique, bool *answered)
{
    const struct hand_request q = request(HAND_STOP, tid, sched_getcpu(), (int64_t)unique);

    return catch(h, &q, -1, answered);
}

int hand_give(struct hand_link *h, pid_t tid, uint64_t unique, int fd, bool read_only, bool *answered)
{
    struct hand_request q = request(HAND_GIVE, tid, sched_getcpu(), (int64_t)unique);

    q.option = read_only;
    return catch(h, &q, fd, answered);
}

static int fetch(struct hand_link *h, enum hand_op op, pid_t tid, int64_t a, uint64_t *id)
{
    const struct hand_request q = request(op, tid, a, 0);
    struct hand_reply r;
    int fd, err;

    err = ask(h, &q, -1, &r, &fd);
    if (err < 0) {
        if (err != -EIO && fd >= 0)
            close(fd);
        return err;
    }
    if (id)
        *id = r.id;
    return fd >= 0 ? fd : -EIO;
}

int hand_eventfd(struct hand_link *h, pid_t tid, int fd, uint64_t *id)
{
    return fetch(h, HAND_EVENTFD, tid, fd, id);
}

int hand_proc(struct hand_link *h, pid_t tid, enum hand_proc which)
{
    return fetch(h, HAND_PROC, tid, which, NULL);
}

static int send_list(struct hand_link *h, struct hand_request *q,
                     unsigned (*list)(void *owner, int32_t *tids, unsigned room), void *owner)
{
    q->tids = list(owner, q->tid_list, HAND_TIDS_MAX);
    return packet_send(h->socket, q, REQUEST_HEAD + q->tids * sizeof(q->tid_list[0]), -1);
}

int hand_adopt(struct hand_link *h, pid_t tid, const struct range *what, bool convert,
               unsigned (*list)(void *owner, int32_t *tids, unsigned room),
               int (*area)(void *owner, const struct hand_reply *r, int fd), void *owner)
{
    struct hand_request *q = calloc(1, sizeof(*q));
    struct hand_reply r;
    int err = 0, failed = 0;

    if (!q)
        return -ENOMEM;
    *q = (struct hand_request){.op = HAND_ADOPT, .tid = tid, .a = (int64_t)what->addr, .b = (int64_t)what->bytes,
                                .only = (int64_t)what->only, .option = convert};
    err = send_list(h, q, list, owner);
    while (!err) {
        int fd;
        if (packet_receive(h->socket, &r, sizeof(r), &fd) != sizeof(r)) {
            err = -EIO;
        } else if (r.kind == HAND_ASK) {
            q->op = HAND_PARKED;
            err = send_list(h, q, list, owner);
        } else if (r.kind == HAND_AREA && fd >= 0) {
            int e = area(owner, &r, fd); /* all replies are taken, whatever becomes of them */
            failed = failed ? failed : e;
        } else {
            err = r.ret;
            break;
        }
    }
    free(q);
    return err ? err : failed;
}
