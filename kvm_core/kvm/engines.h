/* Which engine runs the guests: the environment's KVMISH_ENGINE, since clients of /dev/kvm know nothing of engines. */
#ifndef KVMISH_KVM_ENGINES_H
#define KVMISH_KVM_ENGINES_H

struct engine;

/* The n-th engine's name, NULL behind the last. The first is the default. */
const char *engine_name(unsigned n);
/* What KVMISH_ENGINE names, the default where it is not set or empty; NULL if there is no such engine. */
const struct engine *engine_chosen(void);

#endif
