"""The engines' names as Python gives them to the core, which reads KVMISH_ENGINE (kvm/engines.c)."""

from __future__ import annotations

import os

from kvm_core.errors import ConfigError

VARIABLE = "KVMISH_ENGINE"
ENGINES = ("translate", "emulate")  # the default first
DEFAULT = ENGINES[0]


def chosen() -> str:
    """Return what the environment names, or the default. :raise ConfigError: for neither."""
    return check(os.environ.get(VARIABLE) or DEFAULT, VARIABLE)


def choose(name: str) -> None:
    """Make it the engine of the vCPUs that this process, or its children, create from now on."""
    os.environ[VARIABLE] = check(name, "engine")


def check(name: str, where: str) -> str:
    """Return the name. :raise ConfigError: if no engine has it; the message begins with where."""
    if name not in ENGINES:
        raise ConfigError(f"{where} {name}: there is no such engine; use {' or '.join(ENGINES)}")
    return name
