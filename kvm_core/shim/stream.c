/* The device as a stream: who only wants to know whether it is there may fopen() it, as C++'s ifstream does. The C library then opens and
 * closes without calling open() and close().
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kvm/door.h"
#include "shim/shim.h"

static int flags_of(const char *mode)
{
    int access = strchr(mode, '+') ? O_RDWR : *mode == 'r' ? O_RDONLY : O_WRONLY;

    return access | (strchr(mode, 'e') ? O_CLOEXEC : 0);
}

static FILE *open_stream(const char *mode)
{
    int fd = open_device(flags_of(mode));
    FILE *f = fd < 0 ? NULL : fdopen(fd, mode);

    if (fd >= 0 && !f)
        close(fd);
    return f;
}

EXPORT FILE *fopen(const char *path, const char *mode)
{
    return kvmish_is_device(path) ? open_stream(mode) : NEXT(fopen)(path, mode);
}
EXPORT FILE *fopen64(const char *path, const char *mode)
{
    return kvmish_is_device(path) ? open_stream(mode) : NEXT(fopen64)(path, mode);
}

EXPORT int fclose(FILE *f)
{
    int before = errno, fd = fileno(f);

    errno = before;
    closes(fd);
    return NEXT(fclose)(f);
}
