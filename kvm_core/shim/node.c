/* The device node seems to exist, by its path and by its descriptor. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kvm/door.h"
#include "shim/shim.h"

EXPORT int access(const char *path, int mode)
{
    return kvmish_is_device(path) ? finish(mode & X_OK ? -EACCES : 0) : NEXT(access)(path, mode);
}
EXPORT int eaccess(const char *path, int mode)
{
    return kvmish_is_device(path) ? finish(mode & X_OK ? -EACCES : 0) : NEXT(eaccess)(path, mode);
}
EXPORT int euidaccess(const char *path, int mode)
{
    return eaccess(path, mode);
}
EXPORT int faccessat(int dir, const char *path, int mode, int flags)
{
    return kvmish_is_device(path) ? finish(mode & X_OK ? -EACCES : 0) : NEXT(faccessat)(dir, path, mode, flags);
}

enum { KVM_MAJOR = 10, KVM_MINOR = 232 };

/* Character device 10:232, mode 0666, root's. struct stat64 is the same on 64-bit systems. */
static int device_stat(struct stat *st)
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

/* Of the calls that take a descriptor and a path. */
static bool is_device_at(int dir, const char *path, int flags)
{
    if (flags & AT_EMPTY_PATH && kvmish_is_system(dir) && (!path || !*path))
        return true;
    return kvmish_is_device(path);
}

EXPORT int fstat(int fd, struct stat *st)
{
    return kvmish_is_system(fd) ? device_stat(st) : NEXT(fstat)(fd, st);
}
EXPORT int fstat64(int fd, struct stat64 *st)
{
    return kvmish_is_system(fd) ? device_stat((struct stat *)st) : NEXT(fstat64)(fd, st);
}

EXPORT int stat(const char *path, struct stat *st)
{
    return kvmish_is_device(path) ? device_stat(st) : NEXT(stat)(path, st);
}
EXPORT int stat64(const char *path, struct stat64 *st)
{
    return kvmish_is_device(path) ? device_stat((struct stat *)st) : NEXT(stat64)(path, st);
}
EXPORT int lstat(const char *path, struct stat *st)
{
    return kvmish_is_device(path) ? device_stat(st) : NEXT(lstat)(path, st);
}
EXPORT int lstat64(const char *path, struct stat64 *st)
{
    return kvmish_is_device(path) ? device_stat((struct stat *)st) : NEXT(lstat64)(path, st);
}
EXPORT int fstatat(int dir, const char *path, struct stat *st, int flags)
{
    return is_device_at(dir, path, flags) ? device_stat(st) : NEXT(fstatat)(dir, path, st, flags);
}
EXPORT int fstatat64(int dir, const char *path, struct stat64 *st, int flags)
{
    return is_device_at(dir, path, flags) ? device_stat((struct stat *)st) : NEXT(fstatat64)(dir, path, st, flags);
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
    return kvmish_is_device(path) ? device_stat(st) : NEXT(__xstat)(version, path, st);
}
EXPORT int __lxstat(int version, const char *path, struct stat *st)
{
    return kvmish_is_device(path) ? device_stat(st) : NEXT(__lxstat)(version, path, st);
}
EXPORT int __fxstat(int version, int fd, struct stat *st)
{
    return kvmish_is_system(fd) ? device_stat(st) : NEXT(__fxstat)(version, fd, st);
}
EXPORT int __fxstat64(int version, int fd, struct stat64 *st)
{
    return kvmish_is_system(fd) ? device_stat((struct stat *)st) : NEXT(__fxstat64)(version, fd, st);
}
EXPORT int __fxstatat(int version, int dir, const char *path, struct stat *st, int flags)
{
    return is_device_at(dir, path, flags) ? device_stat(st) : NEXT(__fxstatat)(version, dir, path, st, flags);
}
EXPORT int __xstat64(int version, const char *path, struct stat64 *st)
{
    return kvmish_is_device(path) ? device_stat((struct stat *)st) : NEXT(__xstat64)(version, path, st);
}
EXPORT int __lxstat64(int version, const char *path, struct stat64 *st)
{
    return kvmish_is_device(path) ? device_stat((struct stat *)st) : NEXT(__lxstat64)(version, path, st);
}
EXPORT int __fxstatat64(int version, int dir, const char *path, struct stat64 *st, int flags)
{
    return is_device_at(dir, path, flags) ? device_stat((struct stat *)st) : NEXT(__fxstatat64)(version, dir, path, st, flags);
}

EXPORT int statx(int dir, const char *path, int flags, unsigned mask, struct statx *st)
{
    if (!is_device_at(dir, path, flags))
        return NEXT(statx)(dir, path, flags, mask, st);
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
