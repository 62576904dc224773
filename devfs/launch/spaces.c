/* The address spaces that machines belong to: one descriptor each, however many objects a program has. */
#include <stdlib.h>
#include <unistd.h>

#include "devfs/launch/door.h"
#include "devfs/space.h"

struct space {
    pid_t tgid;
    int fd; /* devfs/space.h */
    unsigned users;
    struct space *next;
};

static struct space *all;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct space *add(pid_t tgid, pid_t tid)
{
    struct space *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    *s = (struct space){.tgid = tgid, .fd = space_open(tid), .next = all};
    return all = s;
}

struct space *space_take(pid_t tgid, pid_t tid)
{
    struct space *s;

    pthread_mutex_lock(&lock);
    for (s = all; s && (s->tgid != tgid || !space_lives(s->fd)); s = s->next)
        ;
    if (!s)
        s = add(tgid, tid);
    if (s)
        s->users++;
    pthread_mutex_unlock(&lock);
    return s;
}

bool space_is_of(const struct space *s, pid_t tgid)
{
    return s->tgid == tgid && space_lives(s->fd);
}

void space_put(struct space *s)
{
    struct space **p = &all;

    pthread_mutex_lock(&lock);
    if (--s->users == 0) {
        while (*p != s)
            p = &(*p)->next;
        *p = s->next;
        if (s->fd >= 0)
            close(s->fd);
        free(s);
    }
    pthread_mutex_unlock(&lock);
}
