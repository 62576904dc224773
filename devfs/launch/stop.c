/* A client's thread is stopped on its way out of an ioctl, to run system calls of ours: ptrace(2), which an ancestor may do.
 *
 * It is answered first, with 0, and has its real result when it is let go. What it needs from us, descriptors, it gets while it still
 * waits for the answer.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "devfs/launch/door.h"

/* Once for each process that it happens to. */
static void complain(const struct call *c, int err)
{
    static _Atomic pid_t told;

    if (atomic_exchange(&told, c->client.pid) != c->client.pid)
        dprintf(STDERR_FILENO,
                "kvmish: process %d cannot be changed for its machine (%s): a debugger has it, or ptrace is forbidden here. "
                "Guest memory of a memfd needs no ptrace, nor does kvmish exec --door preload\n",
                c->client.pid, strerror(-err));
}

int client_stop(struct call *c, const int *gift, unsigned gifts)
{
    int err, failed = 0;

    if (c->stopped)
        return -EBUSY;
    pthread_mutex_lock(&c->d->moving);
    err = trace_seize(&c->t, c->tid);
    if (err) {
        pthread_mutex_unlock(&c->d->moving);
        complain(c, err);
        return err;
    }
    for (c->gifts = 0; c->gifts < gifts && !failed; c->gifts++) {
        c->gift[c->gifts] = call_give(c, gift[c->gifts], O_CLOEXEC);
        if (c->gift[c->gifts] < 0)
            failed = c->gift[c->gifts--];
    }
    c->stopped = true;
    call_answer_early(c);
    err = trace_wait(&c->t, NULL);
    return err ? err : failed;
}

void client_resume(struct call *c, int ret)
{
    for (unsigned i = 0; i < c->gifts; i++)
        trace_close(&c->t, c->gift[i]);
    trace_resume(&c->t, ret);
    pthread_mutex_unlock(&c->d->moving);
    call_end(c);
}
