/* What /proc says of a process or a thread. */
#include "devfs/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

ssize_t proc_read(pid_t pid, const char *name, char *text, size_t room)
{
    char path[64];
    ssize_t got;
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    got = read(fd, text, room - 1);
    if (got < 0)
        got = -errno;
    close(fd);
    text[got < 0 ? 0 : got] = 0;
    return got;
}
