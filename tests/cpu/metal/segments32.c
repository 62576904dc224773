/* The image metal32: segments, gates, flags, tasks and virtual-8086 mode. */
#include "metal32.h"

void tests(void)
{
    test_loads();
    test_transfers();
    test_returns();
    test_gates();
    test_flags();
    test_tasks();
    test_vm86();
}
