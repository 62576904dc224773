/* A descriptor of a client in this process: files.c keeps them, _accel.c looks them up. */
#ifndef KVMISH_KVM_FILES_H
#define KVMISH_KVM_FILES_H

#include "kvm/kvm.h"

struct file {
    _Atomic int refs;
    enum object_kind kind;
    unsigned generation; /* of the process that made it: a child of fork gets EIO, as from KVM; 0: another program did */
    void *object;        /* NULL: it is in another program */
    struct file *next; /* in the pool */
};

extern _Atomic unsigned process_generation;

/* A reference to what fd stands for, or NULL. Lock-free. */
struct file *file_get(int fd);
void file_put(struct file *f);

#endif
