/* The processes of one `kvmish exec`: front -> door -> keeper -> the program.
 *
 * The front is the one that was called: it passes signals on, is stopped and goes on with the program, and ends as that ends. The
 * door serves (door.h). The keeper is the program's parent: the door, which traces the program now and then, could not tell a child's
 * stop from a tracee's. As the keeper is the door's child, every process of the program is a descendant of the door, which where
 * Yama is strict may trace only those.
 */
#ifndef KVMISH_DEVFS_LAUNCH_PROCESSES_H
#define KVMISH_DEVFS_LAUNCH_PROCESSES_H

#include <signal.h>
#include <stdint.h>
#include <sys/types.h>

/* What the front is told, in packets. */
enum news_kind {
    NEWS_PARENT,    /* value: the keeper's process */
    NEWS_PROGRAM,   /* value: its process */
    NEWS_END,       /* value: as from waitpid() */
    NEWS_LAST,      /* the same, of the end; no process of the program's is left */
    NEWS_NO_FILTER, /* value: errno */
    NEWS_NO_EXEC,
};

struct news {
    int32_t kind, value;
};

/* Tells the program's story until its end: an exit status, or dies as it died. door: our child; news: a socket. */
int front_main(pid_t door, int news);
/* Starts the file `path`, under the filter whose listener goes to `listener` and with these signals blocked, and waits for all that
 * comes of it. */
int keeper_main(int news, int listener, char *const argv[], const char *path, const sigset_t *mask, pid_t front);

/* probe.c: a client of our own. */
int probe_main(void);

/* Standard input and output (and error, from 2) are /dev/null from now on. */
void leave_files(int up_to);

#endif
