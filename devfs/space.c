/* An address space, by /proc/PID/pagemap: the file is that of the space which the process had when it was opened. proc(5)
 *
 * /proc/PID/mem would do as well, and does where a kernel has no pagemap (CONFIG_PROC_PAGE_MONITOR), but takes a page and the lock of the
 * address space for each look, of which there is one in every ioctl.
 */
#include "devfs/space.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int space_open(pid_t tid)
{
    static const char *const names[] = {"pagemap", "mem"};
    char path[32];
    int fd = -1;

    for (unsigned i = 0; i < sizeof(names) / sizeof(*names) && fd < 0; i++) {
        snprintf(path, sizeof(path), "/proc/%d/%s", tid, names[i]);
        fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    return fd < 0 ? -errno : fd;
}

/* Of one that has ended nothing is read. Of one that lives it is an error: of pagemap to read less than an entry, of mem to read where
 * nothing is mapped. */
bool space_lives(int fd)
{
    char byte;

    return fd < 0 || pread(fd, &byte, 1, 0) != 0;
}
