/* The client's guest memory comes into the worker: through the hand, which may look at the client and change it. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devfs/mapping.h"
#include "devfs/worker.h"

struct adoption {
    uint8_t *host;
    struct worker *w;
    size_t writable; /* bytes */
};

static int map_area(void *owner, const struct hand_reply *r, int fd)
{
    struct adoption *a = owner;
    int err = mapping_fill(a->host, &r->area, fd);

    close(fd);
    a->writable += r->area.prot & PROT_WRITE ? r->area.bytes : 0;
    return err;
}

static unsigned list(void *owner, int32_t *tids, unsigned room)
{
    return call_list(((struct adoption *)owner)->w, tids, room);
}

/* First as it is; when some of it is private, once more with the client stopped. */
static int adopt_into(struct adoption *a, struct call *c, const struct range *what)
{
    int err;

    if (!c->stopped) {
        call_ask(c);
        err = hand_adopt(&c->w->hand, c->tid, what, false, list, map_area, a);
        hand_unlock(&c->w->hand);
        if (err != -EAGAIN)
            return err;
    }
    err = call_stop(c);
    if (err)
        return err;
    pthread_rwlock_wrlock(&c->w->answers);
    err = hand_adopt(&c->w->hand, c->tid, what, true, list, map_area, a);
    pthread_rwlock_unlock(&c->w->answers);
    return err;
}

int memory_map(struct call *c, uintptr_t addr, size_t bytes, uint8_t **host)
{
    struct adoption a = {.w = c->w};
    int err = mapping_reserve(addr, bytes, &a.host);

    if (err)
        return err;
    err = adopt_into(&a, c, &(struct range){addr, bytes, 0});
    if (err)
        mapping_free(a.host, bytes);
    *host = a.host;
    return err ? err : a.writable < bytes;
}

int memory_renew(struct call *c, uintptr_t addr, size_t bytes, uint8_t *host, uintptr_t at)
{
    struct adoption a = {.w = c->w, .host = host};
    int err = adopt_into(&a, c, &(struct range){addr, bytes, at});

    if (err == -EBUSY && !c->stopped) /* its own thread was not caught: there is nothing to begin anew */
        return -EFAULT;
    return err ? err : c->stopped;
}
