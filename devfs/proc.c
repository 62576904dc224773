/* What /proc says of a process or a thread. */
#include "devfs/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

pid_t proc_relative(pid_t tid, const char *line)
{
    char status[2048], start[32], *at;

    if (proc_read(tid, "status", status, sizeof(status)) <= 0)
        return 0;
    snprintf(start, sizeof(start), "\n%s:", line);
    at = strstr(status, start);
    return at ? (pid_t)strtol(at + strlen(start), NULL, 10) : 0;
}
