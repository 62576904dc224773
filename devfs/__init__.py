"""The device file: a /dev/kvm made of FUSE, for programs that know only the kernel's."""
