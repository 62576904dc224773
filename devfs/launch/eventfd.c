/* The client's eventfds. Where pidfd_getfd(2) is forbidden, as in many containers, the client's thread sends them to us itself. */
#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devfs/hand.h"
#include "devfs/launch/door.h"
#include "devfs/message.h"

static long run(struct call *c, enum trace_number number, uintptr_t a, uintptr_t b, uintptr_t d, uintptr_t e, uintptr_t f)
{
    const uintptr_t arg[6] = {a, b, d, e, f, 0};

    return trace_call(&c->t, number, arg);
}

static int send_from_client(struct call *c, struct message *ours, int fd)
{
    long page = run(c, TRACE_MMAP, 0, KVM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, (uintptr_t)c->gift[0]), sent;

    if (page < 0)
        return (int)page;
    message_fill(ours, (uintptr_t)page, trace_narrow(&c->t), fd);
    sent = run(c, TRACE_SENDMSG, (uintptr_t)c->gift[1], (uintptr_t)page, MSG_DONTWAIT, 0, 0);
    run(c, TRACE_MUNMAP, (uintptr_t)page, KVM_PAGE, 0, 0, 0);
    return sent < 0 ? (int)sent : 0;
}

static int fetch(struct call *c, int memfd, const int pair[2], int fd)
{
    struct message *ours = mmap(NULL, KVM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    const int gift[2] = {memfd, pair[1]};
    int err = ours == MAP_FAILED ? -ENOMEM : client_stop(c, gift, 2), got = -1;
    char byte;

    if (!err)
        err = send_from_client(c, ours, fd);
    if (!err && (packet_receive(pair[0], &byte, 1, &got) != 1 || got < 0))
        err = -EBADF;
    if (ours != MAP_FAILED)
        munmap(ours, KVM_PAGE);
    return err ? err : got;
}

static int have_sent(struct call *c, int fd)
{
    int memfd = memfd_create("kvmish-page", MFD_CLOEXEC), pair[2], got = -EMFILE;

    if (memfd < 0)
        return -errno;
    if (!ftruncate(memfd, KVM_PAGE) && !socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
        got = fetch(c, memfd, pair, fd);
        close(pair[0]);
        close(pair[1]);
    }
    close(memfd);
    return got;
}

int eventfd_take(const struct client *client, int fd, uint64_t *id)
{
    int copy = client_dup(client, fd);

    if (copy == -EPERM || copy == -ENOSYS)
        copy = have_sent((struct call *)client, fd);
    return copy < 0 ? copy : client_eventfd_of(copy, fd, id);
}
