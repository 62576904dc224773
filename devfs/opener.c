/* Opens the files of the session that this process itself serves.
 *
 * An open waits for answers of other threads here. Killed in between, the opening thread would wait for ever, not even for a
 * signal: the session ends when the last descriptor of /dev/fuse is closed, and the thread's table of descriptors holds one.
 * So a thread does nothing but open, with a table of its own that does not: the other threads' goes with them, the hand, which
 * sees the end of its socket, closes its descriptor, and the kernel ends what waits.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devfs/worker.h"

enum { STACK_BYTES = 64 << 10 };

/* Keeps two descriptors of all. */
static int own_table(int a, int b)
{
    unsigned low = (unsigned)(a < b ? a : b), high = (unsigned)(a < b ? b : a);

    if (unshare(CLONE_FILES) || (low && close_range(0, low - 1, 0)) || (high > low + 1 && close_range(low + 1, high - 1, 0)) ||
        close_range(high + 1, ~0u, 0))
        return -errno;
    return 0;
}

static void *open_thread(void *arg)
{
    struct worker *w = arg;
    int mount = w->session.mount, socket = w->opener.theirs, err = own_table(mount, socket), fd;
    char name[OPEN_NAME_BYTES];

    prctl(PR_SET_NAME, "kvmish-open");
    if (packet_send(socket, &err, sizeof(err), -1) || err)
        return NULL;
    while (packet_receive(socket, name, sizeof(name), &fd) > 0) {
        name[sizeof(name) - 1] = 0;
        fd = openat(mount, name, O_RDWR | O_CLOEXEC);
        err = fd < 0 ? -errno : 0;
        if (packet_send(socket, &err, sizeof(err), fd))
            break;
        if (fd >= 0)
            close(fd);
    }
    return NULL;
}

int opener_init(struct worker *w)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return -errno;
    w->opener.ours = pair[0];
    w->opener.theirs = pair[1];
    w->opener.started = false;
    pthread_mutex_init(&w->opener.lock, NULL);
    return 0;
}

/* Waits for the thread to have its own table, in which its end of the line stays open. */
static int ready(struct opener *o)
{
    int err, fd;

    if (packet_receive(o->ours, &err, sizeof(err), &fd) != sizeof(err))
        err = -EIO;
    close(o->theirs);
    o->theirs = -1;
    return err;
}

static int start(struct worker *w)
{
    pthread_attr_t attr;
    int err;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    err = -pthread_create(&w->opener.thread, &attr, open_thread, w);
    pthread_attr_destroy(&attr);
    if (err)
        return err;
    w->opener.started = true;
    return ready(&w->opener);
}

int opener_renew(struct worker *w)
{
    close(w->opener.ours);
    pthread_join(w->opener.thread, NULL);
    return opener_init(w);
}

int opener_open(struct worker *w, const char *name)
{
    struct opener *o = &w->opener;
    int err = 0, fd = -1;

    pthread_mutex_lock(&o->lock);
    if (!o->started)
        err = start(w);
    if (!err && packet_send(o->ours, name, strlen(name) + 1, -1))
        err = -EIO;
    if (!err && !atomic_load(&w->session.readers.count))
        err = session_serve_until(&w->session, o->ours);
    if (!err && packet_receive(o->ours, &err, sizeof(err), &fd) != sizeof(err))
        err = -EIO;
    pthread_mutex_unlock(&o->lock);
    return err ? err : fd >= 0 ? fd : -EMFILE;
}
