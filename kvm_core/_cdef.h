/* What Python sees of the core: the door, file for file with kvm_core/kvm/door.h. */
int kvmish_open(void);
int kvmish_ioctl(int fd, unsigned long req, uintptr_t arg);
int kvmish_close(int fd);
int kvmish_kick(int fd);
