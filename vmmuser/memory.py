"""Guest memory: mapped once, in huge pages if the host has them, seen by guest-physical address."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import stat
from typing import NamedTuple

from kvm_core.errors import BackendError, ConfigError, GuestError

PAGE = 4096
HUGE_PAGE = 2 << 20
MAP_NORESERVE = 0x4000  # the mmap module of Python 3.11 has no name for it


class BadAddressError(GuestError):
    """A guest-physical range that is not RAM."""


class Ram(NamedTuple):
    """A contiguous range of RAM: guest address, bytes, and where it begins in the mapping."""

    gpa: int
    size: int
    offset: int


class GuestMemory:
    """RAM in one or more ranges of guest-physical addresses."""

    def __init__(self, ranges: list[tuple[int, int]], path: str | None = None) -> None:
        """Map RAM for (gpa, size) pairs, page-aligned, ascending; in a new file if `path` is given.
        :raise ConfigError: if it does not fit.
        """
        self._path = ""
        self.ranges: list[Ram] = []
        total = 0
        for gpa, size in ranges:
            if gpa % PAGE or size % PAGE or size <= 0:
                raise ConfigError(f"memory range {gpa:#x}+{size:#x} is not made of pages")
            self.ranges.append(Ram(gpa, size, total))
            total += size
        self.size = total
        try:
            self._map, at = self._anonymous() if path is None else self._shared(path)
        except (OSError, ValueError, OverflowError) as error:
            raise BackendError(
                f"-m: the host cannot map {total >> 20} MiB of guest memory ({error}); ask for less"
            ) from None
        self.buffer = memoryview(self._map)[at : at + total]
        # The object that keeps an export of the mapping alive also gives its address.
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._map, at)
        self.host_address = ctypes.addressof(self._anchor)

    def _anonymous(self) -> tuple[mmap.mmap, int]:
        """Map memory. :return: the mapping, and where in it the first huge page begins."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        mapping = mmap.mmap(-1, self.size + HUGE_PAGE, flags=flags)
        with contextlib.suppress(OSError):  # a host without huge pages
            mapping.madvise(mmap.MADV_HUGEPAGE)
        mapping.madvise(mmap.MADV_DONTFORK)  # what is written while a child starts is not copied
        return mapping, -ctypes.addressof(ctypes.c_char.from_buffer(mapping)) % HUGE_PAGE

    def _shared(self, path: str) -> tuple[mmap.mmap, int]:
        """Map a new file. :return: the mapping, and 0."""
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"--memory-file {path}: {error.strerror}; name another") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(self._fd)
            # One of another size is not what a machine like this one left when it was killed.
            if not stat.S_ISREG(status.st_mode) or status.st_size not in (0, self.size):
                raise ConfigError(f"--memory-file {path}: is something else; name another")
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, self.size)
            mapping = mmap.mmap(self._fd, self.size)
        except BlockingIOError:
            os.close(self._fd)
            raise ConfigError(f"--memory-file {path}: another machine uses it") from None
        except BaseException:
            os.close(self._fd)
            raise
        self._path = path
        return mapping, 0

    def clear(self) -> None:
        """Make it all zero, as after power-on, and give the pages back to the host."""
        with contextlib.suppress(OSError):  # a file system that cannot; nor does a warm reset
            self._map.madvise(mmap.MADV_REMOVE if self._path else mmap.MADV_DONTNEED)

    def offset(self, gpa: int, size: int) -> int:
        """Where the range begins in `buffer`. :raise BadAddressError: if any of it is not RAM."""
        for ram in self.ranges:
            inside = gpa - ram.gpa
            if inside >= 0 and inside + size <= ram.size:
                return ram.offset + inside
        raise BadAddressError(f"guest address {gpa:#x}+{size:#x} is not RAM")

    def view(self, gpa: int, size: int) -> memoryview:
        """Return the bytes themselves, writable. :raise BadAddressError: if any is not RAM."""
        at = self.offset(gpa, size)
        return self.buffer[at : at + size]

    def read(self, gpa: int, size: int) -> bytes:
        """Copy out. :raise BadAddressError: if any is not RAM."""
        return bytes(self.view(gpa, size))

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy in. :raise BadAddressError: if any is not RAM."""
        self.view(gpa, len(data))[:] = data

    def close(self) -> None:
        """Unmap, unless someone still looks at it."""
        if self._anchor is None:
            return
        self._anchor = None
        if self._path:
            os.close(self._fd)
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        try:
            self.buffer.release()
            self._map.close()
        except BufferError:
            pass  # a view is still out there; the mapping goes with it
