"""The core's module, and the names of its engines.

The core reads KVMISH_ENGINE where it creates a vCPU (kvm/engines.c).
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from kvm_core.errors import BackendError, ConfigError

VARIABLE = "KVMISH_ENGINE"
ENGINES = ("translate", "emulate")  # the default first


def core() -> Any:
    """Return the module that cffi made of the core. :raise BackendError: if it was not built."""
    try:
        return import_module("kvm_core._kvm")
    except ImportError as error:
        raise BackendError(f"the core is not built ({error}); run `make ext`") from None


def chosen() -> str:
    """Return the engine that a vCPU in this process gets: by the environment, or the default.

    :raise ConfigError: if the environment names none.
    :raise BackendError: if the core is not built.
    """
    module = core()
    name = module.lib.engine_chosen_name()
    if not name:
        raise _unknown(VARIABLE, os.environ[VARIABLE])
    return str(module.ffi.string(name).decode())


def choose(name: str, where: str = "--engine") -> None:
    """Make it the engine of the vCPUs that this process, or its children, create from now on.

    :raise ConfigError: if no engine has the name; the message begins with where it was given.
    """
    if name not in ENGINES:
        raise _unknown(where, name)
    os.environ[VARIABLE] = name


def check() -> None:
    """Look at what the environment names, before a program fails by it. :raise ConfigError:"""
    if name := os.environ.get(VARIABLE):
        choose(name, VARIABLE)


def _unknown(where: str, name: str) -> ConfigError:
    return ConfigError(f"{where} {name}: there is no such engine; use {' or '.join(ENGINES)}")
