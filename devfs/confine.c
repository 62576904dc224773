/* What a worker gives up before it runs a guest. */
#include "devfs/confine.h"

int confine_worker(const struct hand_reply *client)
{
    (void)client;
    return 0;
}
