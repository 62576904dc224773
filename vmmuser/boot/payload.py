"""What a boot protocol is given, and what it leaves: memory filled in, and a processor state to
start from.
"""

from __future__ import annotations

import os
import stat
from typing import Literal, NamedTuple

from kvm_core.errors import ConfigError

# E820 types (ACPI 6.4, table 15.374).
E820_RAM, E820_RESERVED, E820_ACPI = 1, 2, 3

MIB = 1 << 20


class MemoryMap(NamedTuple):
    """The board's idea of physical memory, as a kernel is told."""

    e820: list[tuple[int, int, int]]  # (address, size, type)
    low_top: int  # end of the RAM that begins at 1 MiB


class Payload(NamedTuple):
    """A kernel with its arguments."""

    kernel: bytes
    kernel_name: str
    initrd: bytes = b""
    initrd_name: str = ""
    cmdline: str = ""


class Entry(NamedTuple):
    """How the boot processor starts."""

    mode: Literal["long", "protected"]
    rip: int
    regs: dict[str, int]
    cr3: int = 0
    gdt: int = 0
    gdt_limit: int = 0


def read_file(option: str, path: str, what: str) -> bytes:
    """Read a whole file. :raise ConfigError: with the option, the reason and what to do."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{option} {path}: is not a file; name {what}")
            data = file.read()
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}; name {what}") from None
    if not data:
        raise ConfigError(f"{option} {path}: is empty; name {what}")
    return data


def place_initrd(payload: Payload, floor: int, ceiling: int) -> int:
    """Where the initrd goes: page-aligned, as high as possible below `ceiling`. :raise
    ConfigError: no room.
    """
    size = len(payload.initrd)
    address = (ceiling - size) & ~0xFFF
    if address < floor:
        raise ConfigError(
            f"--initrd {payload.initrd_name}: {size >> 20} MiB do not fit beside the kernel "
            f"into the guest's memory ({max(ceiling - floor, 0) >> 20} MiB free); give more with -m"
        )
    return address
