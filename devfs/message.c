/* struct msghdr and cmsghdr as a client's system calls have them, with pointers into the client. */
#include "devfs/message.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#define AT(member) (at + offsetof(struct message, member))

static void fill_wide(struct message *m, uintptr_t at, int fd)
{
    struct cmsghdr *c = (void *)m->wide.control;

    m->wide.iov = (struct iovec){(void *)AT(byte), 1};
    m->wide.head = (struct msghdr){.msg_iov = (void *)AT(wide.iov), .msg_iovlen = 1, .msg_control = (void *)AT(wide.control),
                                   .msg_controllen = sizeof(m->wide.control)};
    c->cmsg_len = CMSG_LEN(sizeof(fd));
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(c), &fd, sizeof(fd));
}

static void fill_narrow(struct message *m, uintptr_t at, int fd)
{
    const uint32_t bytes = sizeof(m->narrow.control);

    m->narrow.iov.base = (uint32_t)AT(byte);
    m->narrow.iov.bytes = 1;
    m->narrow.head.iov = (uint32_t)AT(narrow.iov);
    m->narrow.head.iovs = 1;
    m->narrow.head.control = (uint32_t)AT(narrow.control);
    m->narrow.head.control_bytes = m->narrow.control.bytes = bytes;
    m->narrow.control.level = SOL_SOCKET;
    m->narrow.control.type = SCM_RIGHTS;
    m->narrow.control.fd = fd;
}

void message_fill(struct message *m, uintptr_t at, bool narrow, int fd)
{
    memset(m, 0, sizeof(*m));
    (narrow ? fill_narrow : fill_wide)(m, at, fd);
}

static int wide_fd(const struct message *m)
{
    const struct cmsghdr *c = (const void *)m->wide.control;
    int fd;

    if (m->wide.head.msg_controllen < CMSG_LEN(sizeof(fd)) || c->cmsg_type != SCM_RIGHTS)
        return -EMFILE;
    memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

int message_fd(const struct message *m, bool narrow)
{
    if (!narrow)
        return wide_fd(m);
    return m->narrow.head.control_bytes < sizeof(m->narrow.control) || m->narrow.control.type != SCM_RIGHTS
               ? -EMFILE : m->narrow.control.fd;
}
