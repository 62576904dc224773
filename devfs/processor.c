/* Where a thread runs. */
#include "devfs/processor.h"

#include <sched.h>

bool processor_pin(pid_t tid, int cpu)
{
    cpu_set_t one;

    if (cpu < 0 || cpu >= CPU_SETSIZE)
        return false;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    return !sched_setaffinity(tid, sizeof(one), &one);
}

int processor_only(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) || CPU_COUNT(&set) != 1)
        return -1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &set))
            return cpu;
    return -1;
}
