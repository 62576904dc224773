/* A client's thread that calls again at once is served by one reader, which gives way to it. */
#ifndef KVMISH_DEVFS_QUICK_H
#define KVMISH_DEVFS_QUICK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct call;
struct reader;
struct worker;

struct quick {
    int line;              /* to the hand, which gives back what a reader has given up; -1: nobody could */
    pid_t tid;             /* the client's thread */
    unsigned streak;       /* its calls, each soon after the one before, and each soon ended */
    int64_t ended;         /* the last one, ns of CLOCK_MONOTONIC */
    struct reader *reader; /* the only one that reads now, with SCHED_IDLE; NULL: all do */
    unsigned calls, seen;  /* in all; at the last tick */
    unsigned looked, pause; /* calls, when quick_apart() was true; from there to the next time */
    int load, processors;  /* /proc/loadavg; of the host */
    unsigned busy;         /* ticks on end */
};

/* Before hand and worker are two processes: their ends of a line, -1 where this process may not undo SCHED_IDLE. -errno */
int quick_line(int line[2]);
/* The worker, before it loses sight of /proc. */
void quick_init(struct quick *q, int line);
/* The hand, when its end can be read. */
void quick_restore(int line, pid_t worker);
/* Is this the thread that has just called? Too short a time for an execve(), and for its number to be another one's. */
bool quick_again(struct worker *w, pid_t tid);
/* The hand shall give back what threads here have given up. False: there is none. */
bool quick_lift(const struct quick *q);
/* All of these with w->lock. end: before the answer. over: all readers read again. */
void quick_begin(struct call *c);
void quick_end(struct call *c);
void quick_over(struct worker *w);
/* May the client be on another processor than the reader that it has for itself? moved: it was. */
bool quick_apart(struct call *c);
void quick_moved(struct worker *w);
/* True: there is still something to look at. */
bool quick_look(struct worker *w);

#endif
