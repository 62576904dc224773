"""What the user asked for, checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from kvm_core.errors import ConfigError

MIN_MEMORY_MIB, MAX_MEMORY_MIB = 4, 1 << 20
_MEMORY = re.compile(r"([0-9]+)([MmGg]?)")


class Disk(NamedTuple):
    """A virtio disk."""

    path: str
    read_only: bool = False
    id: str = ""  # what the monitor calls it; empty: by its place
    serial: str = ""  # what the guest reads, at most 20 bytes


class MachineConfig(NamedTuple):
    """One virtual machine."""

    kernel: str
    initrd: str | None = None
    cmdline: str = ""
    memory_mib: int = 256
    vcpus: int = 1
    cpu: str = "host"
    disks: Sequence[Disk] = ()
    lockstep: bool = False  # two engines are compared: devices and the vCPU take turns
    memory_file: str | None = None  # the guest's RAM is this file; None: nobody else's memory


def parse_memory(text: str) -> int:
    """Read the value of -m, in MiB or with a suffix M or G. :raise ConfigError: if it is not a
    size.
    """
    match = _MEMORY.fullmatch(text.strip())
    if not match:
        raise ConfigError(f"-m {text}: is not a size; give MiB, such as 256, 512M or 2G")
    mib = int(match[1]) << (10 if match[2] in ("G", "g") else 0)
    if not MIN_MEMORY_MIB <= mib <= MAX_MEMORY_MIB:
        raise ConfigError(f"-m {text}: out of range; give {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB")
    return mib


def parse_vcpus(text: str) -> int:
    """Read the value of --smp. :raise ConfigError: if it is not a number of processors."""
    if not text.strip().isdecimal() or not 1 <= int(text) <= 255:
        raise ConfigError(f"--smp {text}: is not a number of processors; give 1 to 255")
    return int(text)


def parse_disk(text: str) -> Disk:
    """Read the value of --disk: a path, which `,ro` may follow."""
    path, comma, option = text.rpartition(",")
    if comma and option == "ro":
        return Disk(path, read_only=True)
    return Disk(text)
