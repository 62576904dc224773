/* Where a path of the client's leads: to /dev/kvm, by another spelling, from another directory, by way of links?
 *
 * The door goes it name by name, as the kernel would for the client: from the client's root and directories, which are in /proc. That the
 * device is there is said of its directory alone, so that the host need not have one.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "devfs/launch/door.h"
#include "devfs/proc.h"

enum { LINKS_MAX = 40 /* the kernel's */, THERE = 1, ELSEWHERE = 0, ON = -1 };

struct walk {
    const struct call *c;
    int root, at; /* O_PATH */
    struct stat dev; /* the client's /dev */
    char rest[2 * PATH_MAX];
    unsigned links;
    bool follow; /* also the last name */
    uint64_t resolve; /* of openat2(2) */
};

/* ---- places ------------------------------------------------------------------------------------------------------------ */

static int directory(int at, const char *name, int flags)
{
    return openat(at, name, O_PATH | O_DIRECTORY | O_CLOEXEC | flags);
}

static bool is_at(int fd, const struct stat *place)
{
    struct stat st;

    return !fstat(fd, &st) && st.st_dev == place->st_dev && st.st_ino == place->st_ino;
}

/* True: it is there. */
static bool go(struct walk *w, int to)
{
    if (to < 0)
        return false;
    close(w->at);
    w->at = to;
    return true;
}

/* What a path of the client's begins at, as a path of ours. */
static void base(const struct call *c, int dir, const char *path, char *to, size_t room)
{
    if (*path == '/')
        snprintf(to, room, "/proc/%d/root", c->tid);
    else if (dir == AT_FDCWD)
        snprintf(to, room, "/proc/%d/cwd", c->tid);
    else
        snprintf(to, room, "/proc/%d/fd/%d", c->tid, dir);
}

/* ---- a step -------------------------------------------------------------------------------------------------------------- */

static bool up(struct walk *w)
{
    struct stat root;

    if (!fstat(w->root, &root) && is_at(w->at, &root))
        return !(w->resolve & RESOLVE_BENEATH);
    return go(w, directory(w->at, "..", 0));
}

static bool is_in_proc(const struct walk *w)
{
    struct statfs fs;

    return !fstatfs(w->at, &fs) && fs.f_type == PROC_SUPER_MAGIC;
}

/* The client's own directory, where /proc would say ours, or, another PID namespace's, none. */
static bool is_own_directory(const char *name)
{
    return !strcmp(name, "self") || !strcmp(name, "thread-self");
}

static int own_directory(const struct walk *w, const char *name)
{
    char path[64];

    if (!is_own_directory(name))
        return -1;
    if (*name == 's')
        snprintf(path, sizeof(path), "/proc/%d", proc_relative(w->c->tid, "Tgid"));
    else
        snprintf(path, sizeof(path), "/proc/%d/task/%d", proc_relative(w->c->tid, "Tgid"), w->c->tid);
    return directory(AT_FDCWD, path, 0);
}

/* What is a link in /proc leads to a place, not to a path. The last one the kernel may follow itself: to a file of ours, too. */
static int through_proc(struct walk *w, const char *name, bool last)
{
    int own = own_directory(w, name);

    if (own >= 0)
        return go(w, own) ? ON : ELSEWHERE;
    return !last && !(w->resolve & (RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH | RESOLVE_IN_ROOT)) && go(w, directory(w->at, name, 0))
               ? ON : ELSEWHERE;
}

static int through_link(struct walk *w, const char *target, const char *rest)
{
    char joined[sizeof(w->rest)];

    if (w->resolve & RESOLVE_NO_SYMLINKS || ++w->links > LINKS_MAX ||
        snprintf(joined, sizeof(joined), "%s%s", target, rest) >= (int)sizeof(joined))
        return ELSEWHERE;
    if (*target == '/' && (w->resolve & RESOLVE_BENEATH || !go(w, fcntl(w->root, F_DUPFD_CLOEXEC, 0))))
        return ELSEWHERE;
    memcpy(w->rest, joined, strlen(joined) + 1);
    return ON;
}

/* rest: what follows the name, from its slash on. */
static int step(struct walk *w, const char *name, const char *rest)
{
    char target[PATH_MAX];
    ssize_t n;

    if (!strcmp(name, "..") || !strcmp(name, "."))
        return name[1] && !up(w) ? ELSEWHERE : ON;
    if (!*rest && !strcmp(name, "kvm") && is_at(w->at, &w->dev))
        return THERE;
    n = readlinkat(w->at, name, target, sizeof(target) - 1);
    if (n < 0 && !(is_own_directory(name) && is_in_proc(w)))
        return *rest && go(w, directory(w->at, name, O_NOFOLLOW)) ? ON : ELSEWHERE;
    if (!*rest && !w->follow)
        return ELSEWHERE;
    if (is_in_proc(w))
        return through_proc(w, name, !*rest);
    target[n] = 0;
    return through_link(w, target, rest);
}

static bool walk(struct walk *w)
{
    int known = ON;

    while (known == ON) {
        char name[NAME_MAX + 1], *start = w->rest + strspn(w->rest, "/");
        size_t n = strcspn(start, "/");
        if (!n || n >= sizeof(name))
            return false;
        memcpy(name, start, n);
        name[n] = 0;
        memmove(w->rest, start + n, strlen(start + n) + 1);
        known = step(w, name, w->rest);
    }
    return known == THERE;
}

/* ---- what is asked --------------------------------------------------------------------------------------------------------- */

bool path_leads_there(const struct call *c, int dir, const char *path, bool follow, uint64_t resolve)
{
    struct walk w = {.c = c, .follow = follow, .resolve = resolve};
    bool scoped = resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT), there = false;
    char place[64];
    int real;

    if (*path == '/' && resolve & RESOLVE_BENEATH)
        return false;
    snprintf(w.rest, sizeof(w.rest), "%s", path);
    base(c, AT_FDCWD, "/", place, sizeof(place));
    real = directory(AT_FDCWD, place, 0);
    base(c, dir, scoped ? "." : path, place, sizeof(place));
    w.at = directory(AT_FDCWD, place, 0);
    w.root = fcntl(scoped ? w.at : real, F_DUPFD_CLOEXEC, 0);
    if (real >= 0 && w.at >= 0 && w.root >= 0 && !fstatat(real, "dev", &w.dev, 0))
        there = walk(&w);
    close(w.root);
    close(w.at);
    close(real);
    return there;
}

bool path_is_link(const struct call *c, int dir, const char *path)
{
    char place[64 + PATH_MAX], byte;

    base(c, dir, path, place, 64);
    snprintf(place + strlen(place), sizeof(place) - 64, "/%s", path);
    return readlink(place, &byte, 1) == 1;
}
