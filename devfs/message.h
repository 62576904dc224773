/* A message with one descriptor, as sendmsg(2) or recvmsg(2) in a client works with it: its words may be of 32 bits. */
#ifndef KVMISH_DEVFS_MESSAGE_H
#define KVMISH_DEVFS_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

struct message {
    union {
        struct {
            struct msghdr head;
            struct iovec iov;
            char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
        } wide;
        struct {
            struct {
                uint32_t name, name_bytes, iov, iovs, control, control_bytes, flags;
            } head;
            struct {
                uint32_t base, bytes;
            } iov;
            struct {
                uint32_t bytes;
                int32_t level, type, fd;
            } control;
        } narrow;
    };
    char byte[8]; /* what is sent besides */
};

/* at: where it will stand in the client. fd: to be sent, in its numbers; -1: room for one to come. */
void message_fill(struct message *m, uintptr_t at, bool narrow, int fd);
/* The descriptor that has come, or -EMFILE: the kernel found no room for it in the client's table. */
int message_fd(const struct message *m, bool narrow);

#endif
