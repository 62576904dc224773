/* Shared by the files of the preload library. */
#ifndef KVMISH_SHIM_SHIM_H
#define KVMISH_SHIM_SHIM_H

#define EXPORT __attribute__((visibility("default")))

enum { FD_LIMIT = 65536 }; /* descriptors above it are never ours */

/* From now on signals that come of missing memory are looked at before the program has them. */
void take_faults(void);

#endif
