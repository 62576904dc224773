/* A client that finds the device by other names: `paths PATH SCENARIO` in an empty directory; says "ok" and exits 0, or says what is
 * wrong. PATH is /dev/kvm.
 */
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "machine.h"

static void serves(int fd)
{
    CHECK(fd >= 0 && ioctl(fd, KVM_GET_API_VERSION, 0) == 12 && !close(fd));
}

static void is_node(const struct stat *st)
{
    CHECK(S_ISCHR(st->st_mode) && st->st_rdev == makedev(10, 232));
}

/* ---- one name ------------------------------------------------------------------------------------------------------------ */

static void opens(int dir, const char *name)
{
    serves(openat(dir, name, O_RDWR));
    serves(openat(dir, name, O_RDWR | O_CLOEXEC | O_CREAT, 0600));
    REFUSED(openat(dir, name, O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
    REFUSED(openat(dir, name, O_RDWR | O_DIRECTORY), ENOTDIR);
}

static void streams(const char *name)
{
    FILE *f = fopen(name, "r+");

    CHECK(f && ioctl(fileno(f), KVM_GET_API_VERSION, 0) == 12);
    CHECK((f = freopen("/proc/self/maps", "r", f)) && ioctl(fileno(f), KVM_GET_API_VERSION, 0) < 0);
    CHECK((f = freopen(name, "r+e", f)) && ioctl(fileno(f), KVM_GET_API_VERSION, 0) == 12 && fcntl(fileno(f), F_GETFD) == FD_CLOEXEC);
    CHECK(!fclose(f));
}

static void seems_there(int dir, const char *name)
{
    struct stat st;

    CHECK(!faccessat(dir, name, R_OK | W_OK, 0) && !faccessat(dir, name, F_OK, AT_EACCESS));
    REFUSED(faccessat(dir, name, X_OK, 0), EACCES);
    CHECK(!fstatat(dir, name, &st, 0));
    is_node(&st);
#ifdef STATX_BASIC_STATS /* musl's headers may be older */
    struct statx x;
    CHECK(!statx(dir, name, 0, STATX_BASIC_STATS, &x) && S_ISCHR(x.stx_mode) && x.stx_rdev_minor == 232);
#endif
}

static void is_no_link(int dir, const char *name)
{
    char to[PATH_MAX];
    struct stat st;

    REFUSED(readlinkat(dir, name, to, sizeof(to)), EINVAL);
    CHECK(!fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW));
    is_node(&st);
    serves(openat(dir, name, O_RDWR | O_NOFOLLOW));
}

static void by_path(const char *name)
{
    char found[PATH_MAX];
    struct stat st;

    opens(AT_FDCWD, name);
    serves(open(name, O_RDWR));
    streams(name);
    seems_there(AT_FDCWD, name);
    CHECK(!access(name, R_OK | W_OK) && !eaccess(name, R_OK) && !stat(name, &st));
    is_node(&st);
    if (strncmp(name, "/proc/", 6)) /* where musl's does not go; it keeps two slashes at the start */
        CHECK(realpath(name, found) && !strcmp(found + (found[1] == '/'), "/dev/kvm"));
}

/* ---- all names ------------------------------------------------------------------------------------------------------------- */

static void spellings(void)
{
    static const char *const name[] = {"/dev/kvm", "//dev/kvm", "/dev//kvm", "/dev/./kvm", "/dev/../dev/kvm", "/./dev/kvm",
                                       "/proc/self/root/dev/kvm", "/proc/thread-self/root/dev/kvm", "/proc/self/cwd/up/dev/kvm"};
    struct stat st;

    CHECK(!symlink("/", "up"));
    for (unsigned i = 0; i < sizeof(name) / sizeof(*name); i++) {
        by_path(name[i]);
        is_no_link(AT_FDCWD, name[i]);
        serves(open(name[i], O_RDONLY));
        serves(creat(name[i], 0600));
        CHECK(!lstat(name[i], &st));
        is_node(&st);
    }
}

static void relative(void)
{
    int dev = open("/dev", O_RDONLY | O_DIRECTORY), root = open("/", O_PATH);

    CHECK(dev >= 0 && root >= 0);
    opens(dev, "kvm");
    seems_there(dev, "./kvm");
    is_no_link(dev, "../dev/kvm");
    opens(root, "dev/kvm");
    seems_there(root, "dev/kvm");
    CHECK(!fchdir(dev));
    by_path("kvm");
    by_path("./kvm");
    is_no_link(AT_FDCWD, "kvm");
    CHECK(!chdir("/"));
    by_path("dev/kvm");
    REFUSED(openat(99, "kvm", O_RDWR), EBADF);
}

/* By their own name, and by none of the device's. */
static void links(void)
{
    static const char *const name[] = {"link", "kvm", "again", "far/kvm", "here/dev/kvm"};
    char to[PATH_MAX];
    struct stat st;

    CHECK(!symlink("/dev/kvm", "link") && !symlink("link", "kvm") && !symlink("./kvm", "again"));
    CHECK(!symlink("/dev", "far") && !symlink("/", "here"));
    for (unsigned i = 0; i < sizeof(name) / sizeof(*name); i++)
        by_path(name[i]);
    is_no_link(AT_FDCWD, "far/kvm");
    for (unsigned i = 0; i < 3; i++) {
        CHECK(!lstat(name[i], &st) && S_ISLNK(st.st_mode) && readlink(name[i], to, sizeof(to)) > 0);
        REFUSED(open(name[i], O_RDWR | O_NOFOLLOW), ELOOP);
    }
}

/* What is called so and is something else. */
static void others(void)
{
    struct stat st;
    char found[PATH_MAX], byte;
    int fd;

    CHECK(!mkdir("d", 0700) && (fd = open("d/kvm", O_RDWR | O_CREAT | O_EXCL, 0600)) >= 0 && write(fd, "x", 1) == 1 && !close(fd));
    CHECK(!symlink("d/kvm", "kvm") && !symlink("kvmm", "kvmm") && !symlink("nowhere", "d/link"));
    for (unsigned i = 0; i < 2; i++) {
        const char *name = i ? "kvm" : "d/kvm";
        CHECK((fd = open(name, O_RDWR)) >= 0 && read(fd, &byte, 1) == 1 && byte == 'x' && !close(fd));
        CHECK(!stat(name, &st) && S_ISREG(st.st_mode) && st.st_size == 1);
        CHECK(realpath(name, found) && strcmp(found, "/dev/kvm"));
    }
    REFUSED(open("kvmm", O_RDWR), ELOOP);
    REFUSED(open("d/link", O_RDWR), ENOENT);
    REFUSED(open("e/kvm", O_RDWR), ENOENT);
    REFUSED(stat("/devkvm", &st), ENOENT);
    REFUSED(open("", O_RDWR), ENOENT);
}

/* A descriptor that only stands for the file, and what is opened by way of it. */
static void again(void)
{
    static const char *const from[] = {"/proc/self/fd/%d", "/proc/thread-self/fd/%d", "/dev/fd/%d"};
    int flags[] = {O_PATH, O_PATH | O_NOFOLLOW | O_CLOEXEC, O_RDWR}, fd;
    unsigned ways = access("/dev/fd", F_OK) ? 2 : 3;
    char name[64];

    for (unsigned i = 0; i < 3; i++)
        for (unsigned k = 0; k < ways; k++) {
            CHECK((fd = open("/dev/kvm", flags[i])) >= 0);
            snprintf(name, sizeof(name), from[k], fd);
            serves(open(name, O_RDWR | O_CLOEXEC));
            serves(open(name, O_RDONLY));
            CHECK(!close(fd));
        }
}

static int open_how(int dir, const char *name, uint64_t resolve)
{
    struct open_how how = {.flags = O_RDWR | O_CLOEXEC, .resolve = resolve};

    return (int)syscall(SYS_openat2, dir, name, &how, sizeof(how));
}

/* By a system call that the C library has no function for. */
static void resolved(void)
{
    int dev = open("/dev", O_PATH), root = open("/", O_PATH), here = open(".", O_PATH);

    CHECK(!symlink("/dev/kvm", "link") && !mkdir("dev", 0700));
    serves(open_how(AT_FDCWD, "/dev/kvm", 0));
    serves(open_how(AT_FDCWD, "/dev//kvm", RESOLVE_NO_SYMLINKS));
    serves(open_how(AT_FDCWD, "link", 0));
    serves(open_how(dev, "kvm", RESOLVE_BENEATH));
    serves(open_how(dev, "/kvm", RESOLVE_IN_ROOT));
    serves(open_how(root, "/dev/kvm", RESOLVE_IN_ROOT));
    REFUSED(open_how(AT_FDCWD, "link", RESOLVE_NO_SYMLINKS), ELOOP);
    REFUSED(open_how(dev, "/dev/kvm", RESOLVE_BENEATH), EXDEV);
    REFUSED(open_how(here, "/dev/kvm", RESOLVE_IN_ROOT), ENOENT);
    REFUSED(open_how(here, "link", RESOLVE_BENEATH), EXDEV);
}

int main(int argc, char **argv)
{
    static const struct scenario scenario[] = {
        {"spellings", spellings}, {"relative", relative}, {"links", links}, {"others", others}, {"again", again},
        {"resolved", resolved}, {NULL, NULL}
    };

    if (argc != 3)
        errx(2, "usage: paths PATH SCENARIO");
    return run_scenario(scenario, argv[1], argv[2]);
}
