/* The ioctl slot of the mounted file: requests of the system descriptor; KVM_CREATE_VM goes to a worker.
 *
 * libfuse2 has copied in what the request's number says; the core reads and writes the client itself, and what it has written is
 * echoed, so that the kernel's copy afterwards changes nothing (and nobody sees memory of ours).
 */
#include "devfs/slots.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devfs/hand.h"
#include "kvm/kvm.h"

enum { COMPAT = 1 }; /* FUSE_IOCTL_COMPAT: a 32-bit client */

struct fuse_context2 { /* libfuse2, struct fuse_context */
    void *fuse;
    uid_t uid;
    gid_t gid;
    pid_t pid; /* of the calling thread */
};

static void *(*context)(void);

int devfs_start(const char *worker, unsigned spares, void *(*get_context)(void), char *error, size_t room)
{
    char khz[16];

    context = get_context;
    snprintf(khz, sizeof(khz), "%u", host_tsc_khz());
    setenv("KVMISH_TSC_KHZ", khz, 1); /* measuring takes 15 ms: not in each worker */
    return pool_start(worker, spares, error, room);
}

void devfs_stop(void)
{
    pool_stop();
}

/* The hand asks the client's thread to stop before it answers us, and gives it the descriptor once our own answer is out. */
static int create_vm(const struct fuse_context2 *c, uint64_t type)
{
    struct create_vm q = {.tid = c->pid, .cpu = sched_getcpu(), .uid = c->uid, .gid = c->gid};
    int32_t ret;
    int socket, fd;
    bool last;

    if (type)
        return -EINVAL;
    socket = ret = pool_take(q.cpu, &last);
    q.last = socket >= 0 && last;
    if (socket >= 0 && (packet_send(socket, &q, sizeof(q), -1) || packet_receive(socket, &ret, sizeof(ret), &fd) != sizeof(ret)))
        ret = -EIO;
    if (socket >= 0)
        close(socket);
    return ret;
}

int devfs_ioctl(const char *path, int cmd, void *arg, void *file, unsigned flags, void *data)
{
    const struct fuse_context2 *c = context();
    const struct client client = {.pid = c->pid, .compat = flags & COMPAT};
    unsigned request = (unsigned)cmd;
    int ret;

    (void)file;
    if (strcmp(path, "/kvm"))
        return -ENOTTY;
    if (request == KVM_CREATE_VM)
        return create_vm(c, (uintptr_t)arg);
    ret = system_ioctl(&client, request, (uintptr_t)arg);
    if (_IOC_DIR(request) & _IOC_READ && data && client_read(&client, data, (uintptr_t)arg, _IOC_SIZE(request)))
        memset(data, 0, _IOC_SIZE(request));
    return ret;
}
