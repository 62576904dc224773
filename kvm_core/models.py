"""The named processor models, whose one definition is kvm_core/cpu/cpuid_models.c.

They work on what any KVM's KVM_GET_SUPPORTED_CPUID answered, so a VMM applies them on every door.
"""

from __future__ import annotations

import ctypes
import errno

from kvm_core import engines
from kvm_core.abi import KvmCpuidEntry2
from kvm_core.errors import ConfigError


def cpu_model_names() -> list[str]:
    """Return what `--cpu` may be. :raise BackendError: if the core is not built."""
    module = engines.core()
    names: list[str] = []
    while name := module.lib.cpuid_model_name(len(names)):
        names.append(module.ffi.string(name).decode("ascii"))
    return names


def apply_cpu_model(supported: list[KvmCpuidEntry2], name: str) -> list[KvmCpuidEntry2]:
    """Return the supported CPUID restricted to a model.

    :raise ConfigError: for an unknown model, or one that needs what is not supported.
    """
    module = engines.core()
    entries = (KvmCpuidEntry2 * len(supported))(*supported)
    pointer = module.ffi.cast("struct kvm_cpuid_entry2 *", ctypes.addressof(entries))
    count = module.lib.cpuid_model_apply(name.encode(), pointer, len(supported))
    if count == -errno.ENOENT:
        known = ", ".join(cpu_model_names())
        raise ConfigError(f"--cpu {name}: no such model; choose one of {known}")
    if count < 0:
        raise ConfigError(f"--cpu {name}: needs instructions that this host lacks; use --cpu host")
    return [KvmCpuidEntry2.from_buffer_copy(bytes(entry)) for entry in entries[:count]]
