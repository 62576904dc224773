/* Flag-setting integer arithmetic: the host's own where it is an x86-64, else in portable C. */
#ifndef KVMISH_CPU_ALU_H
#define KVMISH_CPU_ALU_H

#if defined(__x86_64__) && !defined(KVMISH_PORTABLE_ALU)
#include "cpu/host_alu.h"
#else
#include "cpu/portable_alu.h"
#endif

#endif
