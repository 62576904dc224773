/* The listener: takes up what clients ask (seccomp_unotify(2)), hands it on, answers.
 *
 * A client's thread sleeps meanwhile. Once we have taken its call up, only its death wakes it
 * (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV), so that no answer is lost to a signal.
 */
#include <errno.h>
#include <linux/audit.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devfs/launch/door.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS /* Linux 6.6 */
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, uint64_t)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1ul
#endif

enum { FIRST_READERS = 2 };

/* ---- calls ----------------------------------------------------------------------------------------------------------- */

static void begin(struct call *c)
{
    pthread_mutex_lock(&c->d->lock);
    c->next = c->d->calls;
    c->link = &c->d->calls;
    if (c->next)
        c->next->link = &c->next;
    c->d->calls = c;
    pthread_mutex_unlock(&c->d->lock);
}

static void unlist(struct call *c)
{
    pthread_mutex_lock(&c->d->lock);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    pthread_mutex_unlock(&c->d->lock);
}

/* Its failure is the client's death. */
static void send(struct call *c, int64_t ret, uint32_t flags)
{
    struct seccomp_notif_resp r = {.id = c->id, .val = ret < 0 ? 0 : ret, .error = ret < 0 ? (int32_t)ret : 0, .flags = flags};

    ioctl(c->d->listener, SECCOMP_IOCTL_NOTIF_SEND, &r);
}

static void finish(struct call *c, int64_t ret, uint32_t flags)
{
    pthread_rwlock_rdlock(&c->d->answers);
    unlist(c);
    send(c, ret, flags);
    pthread_rwlock_unlock(&c->d->answers);
}

void call_answer(struct call *c, int64_t ret)
{
    finish(c, ret, 0);
}

void call_continue(struct call *c)
{
    finish(c, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
}

void call_answer_early(struct call *c)
{
    pthread_rwlock_rdlock(&c->d->answers);
    send(c, 0, 0);
    pthread_rwlock_unlock(&c->d->answers);
}

void call_end(struct call *c)
{
    unlist(c);
}

bool call_alive(const struct call *c)
{
    return !ioctl(c->d->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &c->id);
}

int call_give(const struct call *c, int fd, uint32_t flags)
{
    struct seccomp_notif_addfd a = {.id = c->id, .srcfd = (uint32_t)fd, .newfd_flags = flags};
    int theirs = ioctl(c->d->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a);

    return theirs < 0 ? -errno : theirs;
}

/* ---- ioctl ------------------------------------------------------------------------------------------------------------- */

static int do_ioctl(struct call *c, enum object_kind kind, void *object)
{
    uint32_t request = (uint32_t)c->arg[1];

    bool run = kind == OBJECT_VCPU && request == KVM_RUN;
    int ret;

    if (run)
        watch_call(c, object);
    ret = object_ioctl(kind, object, &c->client, request, (uintptr_t)c->arg[2]);
    if (run)
        watch_end(c);
    return ret;
}

/* False: the thread must end, for a thread of the client's died while it traced it: that is how the kernel lets go of the dead. */
static bool serve_ioctl(struct call *c, struct reader *r)
{
    bool foreign;
    void *object;
    enum object_kind kind = object_take(c, &object, &foreign);
    int ret;

    if (kind == OBJECT_NONE) { /* the file is another's, or there is none */
        call_continue(c);
        return true;
    }
    readers_busy(r->all);
    ret = foreign ? -EIO : do_ioctl(c, kind, object); /* EIO: the memory of another process */
    if (c->stopped)
        client_resume(c, ret);
    else
        call_answer(c, ret);
    object_put(kind, object);
    if (c->t.died)
        return false;
    readers_idle(r->all);
    return true;
}

/* ---- the listener ---------------------------------------------------------------------------------------------------------- */

static bool serve(struct door *d, struct reader *r, const struct seccomp_notif *n)
{
    struct call c = {.client = {.ops = &lent_ops, .compat = n->data.arch == AUDIT_ARCH_I386, .thread = (pid_t)n->pid}, .d = d, .id = n->id,
                     .what = watched_find(n->data.arch, n->data.nr), .tid = (pid_t)n->pid, .status = -1};

    for (unsigned i = 0; i < 6; i++)
        c.arg[i] = n->data.args[i];
    begin(&c);
    switch (c.what ? c.what->kind : WATCH_SIGNAL) {
    case WATCH_IOCTL: return serve_ioctl(&c, r);
    case WATCH_SIGNAL:
        call_continue(&c);
        watch_expect(d);
        break;
    case WATCH_SIGRETURN: restart_serve(&c); break;
    default: path_serve(&c); break;
    }
    return true;
}

static bool receive(void *owner, struct reader *r)
{
    struct door *d = owner;

    memset(r->buffer, 0, r->all->buffer_bytes); /* the kernel insists */
    if (ioctl(d->listener, SECCOMP_IOCTL_NOTIF_RECV, r->buffer))
        return errno == EINTR || errno == ENOENT; /* ENOENT: the thread is no longer waiting */
    return serve(d, r, (void *)r->buffer);
}

int door_start(struct door *d)
{
    struct seccomp_notif_sizes sizes;
    int err;

    if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes))
        return -errno;
    ioctl(d->listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP); /* faster, where there is it */
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->moving, NULL);
    pthread_mutex_init(&d->ram_lock, NULL);
    pthread_rwlock_init(&d->answers, NULL);
    err = objects_init(d);
    if (!err)
        err = watch_start(d);
    d->readers = (struct readers){.read = receive, .owner = d,
                                  .buffer_bytes = sizes.seccomp_notif > sizeof(struct seccomp_notif)
                                                      ? sizes.seccomp_notif
                                                      : sizeof(struct seccomp_notif)};
    return err ? err : readers_start(&d->readers, FIRST_READERS, -1);
}
