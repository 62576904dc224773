"""What a boot protocol is given, and what it leaves: memory filled in, and a processor state to
start from.
"""

from __future__ import annotations

import os
import stat
from typing import Literal, NamedTuple

from kvm_core.errors import ConfigError
from vmmuser.memory import GuestMemory

# E820 types (ACPI 6.4, table 15.374).
E820_RAM, E820_RESERVED, E820_ACPI = 1, 2, 3

MIB = 1 << 20


class MemoryMap(NamedTuple):
    """The board's idea of physical memory, as a kernel is told."""

    e820: list[tuple[int, int, int]]  # (address, size, type)
    low_top: int  # end of the RAM that begins at 1 MiB


class Image:
    """A file that the guest boots from. It stays open, since a reset reads it again."""

    def __init__(self, fd: int, option: str, name: str) -> None:
        """Take the descriptor of a file; `option` and `name` are for errors."""
        self._fd, self.option, self.name = fd, option, name
        self.size = os.fstat(fd).st_size

    def read(self, at: int, size: int) -> bytes:
        """Return as many of the bytes as there are. :raise ConfigError: if it cannot be read."""
        data = bytearray(max(0, min(size, self.size - at)))
        return bytes(data[: self._into(at, memoryview(data))])

    def load(self, at: int, target: memoryview) -> None:
        """Fill `target` straight from the file. :raise ConfigError: if the file ends before."""
        if self._into(at, target) < len(target):
            raise ConfigError(f"{self.option} {self.name}: is cut short; get it again")

    def _into(self, at: int, target: memoryview) -> int:
        done = 0
        try:
            while done < len(target) and (count := os.preadv(self._fd, [target[done:]], at + done)):
                done += count
        except OSError as error:
            raise ConfigError(f"{self.option} {self.name}: {error.strerror}") from None
        return done

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class Payload(NamedTuple):
    """A kernel with its arguments."""

    kernel: Image
    initrd: Image | None = None
    cmdline: str = ""

    def cmdline_bytes(self) -> bytes:
        """Return the command line as the kernel gets it: what was no UTF-8, as it was given."""
        return self.cmdline.encode(errors="surrogateescape")

    def close(self) -> None:
        """Close the files."""
        self.kernel.close()
        if self.initrd:
            self.initrd.close()


class Entry(NamedTuple):
    """How the boot processor starts."""

    mode: Literal["long", "protected"]
    rip: int
    regs: dict[str, int]
    cr3: int = 0
    gdt: int = 0
    gdt_limit: int = 0


def open_image(option: str, path: str, what: str) -> Image:
    """Open a file. :raise ConfigError: with the option, the reason and what to do."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}; name {what}") from None
    image = Image(fd, option, path)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        image.close()
        kind = "is a directory" if stat.S_ISDIR(mode) else "is not a file"
        raise ConfigError(f"{option} {path}: {kind}; name {what}")
    if not image.size:
        image.close()
        raise ConfigError(f"{option} {path}: is empty; name {what}")
    return image


def load_initrd(memory: GuestMemory, initrd: Image, floor: int, ceiling: int) -> int:
    """Put it as high as possible below `ceiling`, on a page; where. :raise ConfigError: no room."""
    address = (ceiling - initrd.size) & ~0xFFF
    if address < floor:
        raise ConfigError(
            f"{initrd.option} {initrd.name}: {-(-initrd.size >> 20)} MiB do not fit "
            "beside the kernel into the guest's memory "
            f"({max(ceiling - floor, 0) >> 20} MiB free); give more with -m"
        )
    initrd.load(0, memory.view(address, initrd.size))
    return address
