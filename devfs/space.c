/* An address space, by /proc/PID/mem: the file is that of the space which the process had when it was opened. proc(5) */
#include "devfs/space.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int space_open(pid_t tgid)
{
    char path[32];
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/mem", tgid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* Of one that has ended nothing is read; where nothing is mapped in one that lives it is an error. */
bool space_lives(int fd)
{
    char byte;

    return fd < 0 || pread(fd, &byte, 1, 0) != 0;
}
