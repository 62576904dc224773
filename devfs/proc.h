/* What /proc says of a process or a thread. */
#ifndef KVMISH_DEVFS_PROC_H
#define KVMISH_DEVFS_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* The beginning of /proc/PID/NAME, ended by a zero: its length, or -errno. */
ssize_t proc_read(pid_t pid, const char *name, char *text, size_t room);
/* Field n of what /proc/PID/stat says, from 3 on, by proc(5)'s numbers; NULL: not there. */
const char *proc_stat_field(const char *stat, unsigned n);
/* A line of /proc/TID/status that has another thread or process, "Tgid" or "TracerPid": its number. 0: none, or no such thread. */
pid_t proc_relative(pid_t tid, const char *line);
/* A zombie, or gone. */
bool proc_dead(pid_t tid);
/* The first thread of a process that is neither: its own number, mostly. The same when there is none. */
pid_t proc_living(pid_t tgid);

#endif
