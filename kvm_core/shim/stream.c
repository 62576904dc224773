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

/* As open() does: links are looked at by who reads and writes. */
static bool is_device(const char *path, const char *mode)
{
    return path_is_device(AT_FDCWD, path, true) || (strchr(mode, '+') && link_is_device(AT_FDCWD, path));
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
    return is_device(path, mode) ? open_stream(mode) : NEXT(fopen)(path, mode);
}
EXPORT FILE *fopen64(const char *path, const char *mode)
{
    return is_device(path, mode) ? open_stream(mode) : NEXT(fopen64)(path, mode);
}

/* The stream is made anew on another file, whose place the device takes. */
static FILE *reopen_stream(const char *mode, FILE *f)
{
    int fd = open_device(flags_of(mode)), place;

    if (fd >= 0 && (f = NEXT(freopen)("/", "r", f))) {
        place = fileno(f);
        dup3(fd, place, flags_of(mode) & O_CLOEXEC);
    } else {
        f = NULL;
    }
    if (fd >= 0)
        close(fd);
    return f;
}

EXPORT FILE *freopen(const char *path, const char *mode, FILE *f)
{
    closes(fileno(f));
    return is_device(path, mode) ? reopen_stream(mode, f) : NEXT(freopen)(path, mode, f);
}
EXPORT FILE *freopen64(const char *path, const char *mode, FILE *f)
{
    closes(fileno(f));
    return is_device(path, mode) ? reopen_stream(mode, f) : NEXT(freopen64)(path, mode, f);
}

EXPORT int fclose(FILE *f)
{
    int before = errno, fd = fileno(f);

    errno = before;
    closes(fd);
    return NEXT(fclose)(f);
}
