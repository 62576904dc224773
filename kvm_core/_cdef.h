/* What Python sees of the core: the door (kvm_core/kvm/door.h), the loop around KVM_RUN (runner.h), the engines
 * (kvm/engines.h) and the named processor models (cpu/cpuid_models.h). */
int kvmish_open(void);
int kvmish_ioctl(int fd, unsigned long req, uintptr_t arg);
int kvmish_close(int fd);
int kvmish_kick(int fd);

int runner_direct(int fd, void *run, const uint32_t *answers, unsigned count);
int runner_device(int fd, void *run, const uint32_t *answers, unsigned count);
void runner_start(void);
bool runner_end(unsigned ms);

const char *engine_name(unsigned n);
const char *engine_chosen_name(void);

struct kvm_cpuid_entry2;
const char *cpuid_model_name(unsigned n);
int cpuid_model_apply(const char *name, struct kvm_cpuid_entry2 *entries, unsigned n);
