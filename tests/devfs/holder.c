/* A thread of ours that holds a process lets go by ending. Who would hold it next waits for that. */
#include "../../devfs/proc.c"
#include "../../devfs/trace.c"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

static pid_t child, first;
static sem_t held;
static atomic_bool done;

static bool sleeps(pid_t tid)
{
    char path[64];
    long number = -1;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
    f = fopen(path, "re");
    if (f && fscanf(f, "%ld", &number) != 1)
        number = -1;
    if (f)
        fclose(f);
    return number == SYS_nanosleep || number == SYS_clock_nanosleep;
}

static void *hold_until_somebody_waits(void *failed)
{
    *(int *)failed = trace_hold(child);
    sem_post(&held);
    while (!done && !sleeps(first))
        ;
    return NULL;
}

int main(void)
{
    pthread_t thread;
    int failed, err;

    first = gettid();
    child = fork();
    if (!child)
        for (;;)
            pause();
    sem_init(&held, 0, 0);
    if (pthread_create(&thread, NULL, hold_until_somebody_waits, &failed))
        return 2;
    sem_wait(&held);
    err = trace_hold(child);
    done = true;
    pthread_join(thread, NULL);
    kill(child, SIGKILL);
    if (failed || err)
        fprintf(stderr, "first %s, then %s\n", strerror(-failed), strerror(-err));
    return failed || err;
}
