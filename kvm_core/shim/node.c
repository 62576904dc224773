/* The device node seems to exist: what programs ask of /dev/kvm by its path, and what of its descriptor. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kvm/door.h"
#include "shim/shim.h"

enum { KVM_MAJOR = 10, KVM_MINOR = 232 };

static const char device[] = "/dev/kvm";

/* The call has failed: of a link whose end is not there, or nobody may use? */
static bool for_a_link(int dir, const char *path)
{
    return (errno == ENOENT || errno == EACCES) && link_is_device(dir, path);
}

/* ---- access ------------------------------------------------------------------------------------------------------------ */

static int access_device(int mode)
{
    return finish(mode & X_OK ? -EACCES : 0);
}

EXPORT int access(const char *path, int mode)
{
    int ret;

    if (path_is_device(AT_FDCWD, path, true))
        return access_device(mode);
    ret = NEXT(access)(path, mode);
    return ret && for_a_link(AT_FDCWD, path) ? access_device(mode) : ret;
}

EXPORT int eaccess(const char *path, int mode)
{
    int ret;

    if (path_is_device(AT_FDCWD, path, true))
        return access_device(mode);
    ret = NEXT(eaccess)(path, mode);
    return ret && for_a_link(AT_FDCWD, path) ? access_device(mode) : ret;
}
EXPORT int euidaccess(const char *path, int mode)
{
    return eaccess(path, mode);
}

EXPORT int faccessat(int dir, const char *path, int mode, int flags)
{
    bool follow = !(flags & AT_SYMLINK_NOFOLLOW);
    int ret;

    if (path_is_device(dir, path, follow))
        return access_device(mode);
    ret = NEXT(faccessat)(dir, path, mode, flags);
    return ret && follow && for_a_link(dir, path) ? access_device(mode) : ret;
}

/* ---- stat: character device 10:232, mode 0666, root's. struct stat64 is the same on 64-bit systems -------------------- */

static int stat_device(struct stat *st)
{
    memset(st, 0, sizeof(*st));
    st->st_mode = S_IFCHR | 0666;
    st->st_nlink = 1;
    st->st_ino = KVM_MINOR;
    st->st_rdev = makedev(KVM_MAJOR, KVM_MINOR);
    st->st_blksize = 4096;
    return 0;
}
_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "one layout");

/* After a stat() that follows links: is it the host's device, or a link that should lead to one? */
static int looked(int ret, int dir, const char *path, struct stat *st)
{
    if (ret ? for_a_link(dir, path) : S_ISCHR(st->st_mode) && st->st_rdev == makedev(KVM_MAJOR, KVM_MINOR))
        return stat_device(st);
    return ret;
}

/* Of the calls that take a descriptor and a path. */
static bool is_device_at(int dir, const char *path, int flags)
{
    if (flags & AT_EMPTY_PATH && kvmish_is_system(dir) && path_is_empty(path))
        return true;
    return path_is_device(dir, path, !(flags & AT_SYMLINK_NOFOLLOW));
}

#define STAT(call, dir, path, st, follow)                                                               \
    if (path_is_device(dir, path, follow))                                                              \
        return stat_device((struct stat *)(st));                                                        \
    return (follow) ? looked(call, dir, path, (struct stat *)(st)) : (call);

#define STAT_AT(call, dir, path, st, flags)                                                             \
    if (is_device_at(dir, path, flags))                                                                 \
        return stat_device((struct stat *)(st));                                                        \
    return (flags) & (AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) ? (call) : looked(call, dir, path, (struct stat *)(st));

EXPORT int fstat(int fd, struct stat *st)
{
    return kvmish_is_system(fd) ? stat_device(st) : NEXT(fstat)(fd, st);
}
EXPORT int fstat64(int fd, struct stat64 *st)
{
    return kvmish_is_system(fd) ? stat_device((struct stat *)st) : NEXT(fstat64)(fd, st);
}

EXPORT int stat(const char *path, struct stat *st)
{
    STAT(NEXT(stat)(path, st), AT_FDCWD, path, st, true)
}
EXPORT int stat64(const char *path, struct stat64 *st)
{
    STAT(NEXT(stat64)(path, st), AT_FDCWD, path, st, true)
}
EXPORT int lstat(const char *path, struct stat *st)
{
    STAT(NEXT(lstat)(path, st), AT_FDCWD, path, st, false)
}
EXPORT int lstat64(const char *path, struct stat64 *st)
{
    STAT(NEXT(lstat64)(path, st), AT_FDCWD, path, st, false)
}
EXPORT int fstatat(int dir, const char *path, struct stat *st, int flags)
{
    STAT_AT(NEXT(fstatat)(dir, path, st, flags), dir, path, st, flags)
}
EXPORT int fstatat64(int dir, const char *path, struct stat64 *st, int flags)
{
    STAT_AT(NEXT(fstatat64)(dir, path, st, flags), dir, path, st, flags)
}

/* Programs linked against a C library before 2.33. */
int __xstat(int version, const char *path, struct stat *st);
int __lxstat(int version, const char *path, struct stat *st);
int __fxstat(int version, int fd, struct stat *st);
int __fxstatat(int version, int dir, const char *path, struct stat *st, int flags);
int __xstat64(int version, const char *path, struct stat64 *st);
int __lxstat64(int version, const char *path, struct stat64 *st);
int __fxstat64(int version, int fd, struct stat64 *st);
int __fxstatat64(int version, int dir, const char *path, struct stat64 *st, int flags);
EXPORT int __xstat(int version, const char *path, struct stat *st)
{
    STAT(NEXT(__xstat)(version, path, st), AT_FDCWD, path, st, true)
}
EXPORT int __lxstat(int version, const char *path, struct stat *st)
{
    STAT(NEXT(__lxstat)(version, path, st), AT_FDCWD, path, st, false)
}
EXPORT int __fxstat(int version, int fd, struct stat *st)
{
    return kvmish_is_system(fd) ? stat_device(st) : NEXT(__fxstat)(version, fd, st);
}
EXPORT int __fxstat64(int version, int fd, struct stat64 *st)
{
    return kvmish_is_system(fd) ? stat_device((struct stat *)st) : NEXT(__fxstat64)(version, fd, st);
}
EXPORT int __fxstatat(int version, int dir, const char *path, struct stat *st, int flags)
{
    STAT_AT(NEXT(__fxstatat)(version, dir, path, st, flags), dir, path, st, flags)
}
EXPORT int __xstat64(int version, const char *path, struct stat64 *st)
{
    STAT(NEXT(__xstat64)(version, path, st), AT_FDCWD, path, st, true)
}
EXPORT int __lxstat64(int version, const char *path, struct stat64 *st)
{
    STAT(NEXT(__lxstat64)(version, path, st), AT_FDCWD, path, st, false)
}
EXPORT int __fxstatat64(int version, int dir, const char *path, struct stat64 *st, int flags)
{
    STAT_AT(NEXT(__fxstatat64)(version, dir, path, st, flags), dir, path, st, flags)
}

static int statx_device(struct statx *st)
{
    memset(st, 0, sizeof(*st));
    st->stx_mask = STATX_BASIC_STATS;
    st->stx_mode = S_IFCHR | 0666;
    st->stx_nlink = 1;
    st->stx_ino = KVM_MINOR;
    st->stx_rdev_major = KVM_MAJOR;
    st->stx_rdev_minor = KVM_MINOR;
    st->stx_blksize = 4096;
    return 0;
}

EXPORT int statx(int dir, const char *path, int flags, unsigned mask, struct statx *st)
{
    bool follow = !(flags & (AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH));
    int ret;

    if (is_device_at(dir, path, flags))
        return statx_device(st);
    ret = NEXT(statx)(dir, path, flags, mask, st);
    if (follow && (ret ? for_a_link(dir, path)
                       : st->stx_rdev_major == KVM_MAJOR && st->stx_rdev_minor == KVM_MINOR && S_ISCHR(st->stx_mode)))
        return statx_device(st);
    return ret;
}

/* ---- names ------------------------------------------------------------------------------------------------------------- */

EXPORT ssize_t readlink(const char *path, char *to, size_t room)
{
    return path_is_device(AT_FDCWD, path, false) ? finish(-EINVAL) : NEXT(readlink)(path, to, room);
}
EXPORT ssize_t readlinkat(int dir, const char *path, char *to, size_t room)
{
    return path_is_device(dir, path, false) ? finish(-EINVAL) : NEXT(readlinkat)(dir, path, to, room);
}

/* What _FORTIFY_SOURCE makes of them. */
ssize_t __readlink_chk(const char *path, char *to, size_t room, size_t bytes);
ssize_t __readlinkat_chk(int dir, const char *path, char *to, size_t room, size_t bytes);
char *__realpath_chk(const char *path, char *to, size_t bytes);
EXPORT ssize_t __readlink_chk(const char *path, char *to, size_t room, size_t bytes)
{
    return path_is_device(AT_FDCWD, path, false) ? finish(-EINVAL) : NEXT(__readlink_chk)(path, to, room, bytes);
}
EXPORT ssize_t __readlinkat_chk(int dir, const char *path, char *to, size_t room, size_t bytes)
{
    return path_is_device(dir, path, false) ? finish(-EINVAL) : NEXT(__readlinkat_chk)(dir, path, to, room, bytes);
}

static char *device_name(char *to)
{
    return to ? strcpy(to, device) : strdup(device);
}

EXPORT char *realpath(const char *path, char *to)
{
    char *found;

    if (path_is_device(AT_FDCWD, path, true))
        return device_name(to);
    found = NEXT(realpath)(path, to);
    return !found && for_a_link(AT_FDCWD, path) ? device_name(to) : found;
}
EXPORT char *__realpath_chk(const char *path, char *to, size_t bytes)
{
    return bytes < PATH_MAX ? NEXT(__realpath_chk)(path, to, bytes) : realpath(path, to);
}
EXPORT char *canonicalize_file_name(const char *path)
{
    return realpath(path, NULL);
}
