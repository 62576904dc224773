/* What /proc says of a process or a thread. */
#include "devfs/proc.h"

#include <dirent.h>
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

/* The name, field 2, is in parentheses and may hold anything. */
const char *proc_stat_field(const char *stat, unsigned n)
{
    const char *at = strrchr(stat, ')');

    for (unsigned i = 2; at && i < n; i++)
        at = strchr(at + 1, ' ');
    return at ? at + 1 : NULL;
}

bool proc_dead(pid_t tid)
{
    char stat[256];
    const char *state;

    if (proc_read(tid, "stat", stat, sizeof(stat)) <= 0)
        return true;
    state = proc_stat_field(stat, 3);
    return !state || *state == 'Z' || *state == 'X';
}

pid_t proc_living(pid_t tgid)
{
    pid_t found = tgid;
    struct dirent *e;
    char path[64];
    DIR *d;

    if (!proc_dead(tgid))
        return tgid;
    snprintf(path, sizeof(path), "/proc/%d/task", tgid);
    d = opendir(path);
    while (d && found == tgid && (e = readdir(d)))
        if (atoi(e->d_name) > 0 && !proc_dead(atoi(e->d_name)))
            found = atoi(e->d_name);
    if (d)
        closedir(d);
    return found;
}
