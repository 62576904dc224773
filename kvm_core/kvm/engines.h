/* Which engine runs the guests: the environment's KVMISH_ENGINE, since clients of /dev/kvm know nothing of engines. */
#ifndef KVMISH_KVM_ENGINES_H
#define KVMISH_KVM_ENGINES_H

struct engine;
struct vcpu;

/* The n-th engine's name, NULL behind the last. The first is the default. */
const char *engine_name(unsigned n);
/* What KVMISH_ENGINE names; where it is not set or empty the translator, or the interpreter on a host that allows no
 * translation. NULL if there is no such engine. */
const struct engine *engine_chosen(void);
const char *engine_chosen_name(void);
/* What the engine keeps for a vCPU. -ENOMEM, -ENOTSUP ... */
int engine_prepare(const struct engine *engine, struct vcpu *v);

#endif
