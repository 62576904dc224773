/* The engines by name, the default one first. */
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "jit/translate.h"
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
        return translate_possible() ? &engine_emulate : &engine_translate;
    for (unsigned n = 0; n < ENGINES; n++)
        if (!strcmp(name, engines[n]->name))
            return engines[n];
    return NULL;
}

const char *engine_chosen_name(void)
{
    const struct engine *engine = engine_chosen();

    return engine ? engine->name : NULL;
}

int engine_prepare(const struct engine *engine, struct vcpu *v)
{
    int err = engine == &engine_translate ? translate_create(v) : 0;

    if (!err && engine == &engine_translate && getenv("KVMISH_TRANSLATE_AT_ONCE"))
        translate_at_once(v, false);
    return err;
}
