/* Where a thread runs. */
#include "devfs/processor.h"

#include <sched.h>
#include <string.h>

bool processor_pin(pid_t tid, int cpu)
{
    cpu_set_t one;

    if (cpu < 0 || cpu >= CPU_SETSIZE)
        return false;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    return !sched_setaffinity(tid, sizeof(one), &one);
}

void processor_leave(pid_t tid, int cpu)
{
    cpu_set_t others;

    memset(&others, 0xff, sizeof(others));
    if (cpu >= 0 && cpu < CPU_SETSIZE)
        CPU_CLR(cpu, &others);
    sched_setaffinity(tid, sizeof(others), &others); /* EINVAL: there is no other */
}

void processor_any(void)
{
    processor_leave(0, -1);
}
