/* devfs/watch.c by itself: the watching thread does not wait for ever for who has the lock of all calls. */
#include <assert.h>
#include <err.h>
#include <poll.h>
#include <stdio.h>

#include "devfs/worker.h"

static struct worker w;

int main(void)
{
    struct pollfd asked = {.events = POLLIN};
    int line[2];

    if (quick_line(line))
        err(1, "quick_line");
    if (line[1] < 0) {
        puts("no CAP_SYS_NICE");
        return 77;
    }
    quick_init(&w.quick, line[1]);
    watch_init(&w);
    pthread_mutex_lock(&w.lock);
    assert(watch_more(&w));
    asked.fd = line[0];
    assert(poll(&asked, 1, -1) == 1); /* the hand is to give way back to who has the lock */
    pthread_mutex_unlock(&w.lock);
    puts("ok");
    return 0;
}
