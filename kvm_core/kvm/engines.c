/* The engines by name, the default one first. */
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "kvm/engines.h"

static const struct engine *const engines[] = {&engine_translate, &engine_emulate};

enum { ENGINES = sizeof(engines) / sizeof(engines[0]) };

const char *engine_name(unsigned n)
{
    return n < ENGINES ? engines[n]->name : NULL;
}

const struct engine *engine_chosen(void)
{
    const char *name = getenv("KVMISH_ENGINE");

    if (!name || !*name)
        return engines[0];
    for (unsigned n = 0; n < ENGINES; n++)
        if (!strcmp(name, engines[n]->name))
            return engines[n];
    return NULL;
}
