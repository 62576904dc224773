"""Guest memory: one shared memfd, mapped once, seen by guest-physical address, bounds-checked."""

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
            self.fd = self._create(path)
            os.ftruncate(self.fd, total)
            self._map = mmap.mmap(self.fd, total)
        except (OSError, ValueError, OverflowError) as error:
            raise BackendError(
                f"-m: the host cannot map {total >> 20} MiB of guest memory ({error}); ask for less"
            ) from None
        self.buffer = memoryview(self._map)

    def _create(self, path: str | None) -> int:
        if path is None:
            return os.memfd_create("kvmish-ram", os.MFD_CLOEXEC)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"--memory-file {path}: {error.strerror}; name another") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(fd)
            # One of another size is not what a machine like this one left when it was killed.
            if not stat.S_ISREG(status.st_mode) or status.st_size not in (0, self.size):
                raise ConfigError(f"--memory-file {path}: is something else; name another")
            os.ftruncate(fd, 0)
            self._check_room(fd, path)
        except BlockingIOError:
            os.close(fd)
            raise ConfigError(f"--memory-file {path}: another machine uses it") from None
        except BaseException:
            os.close(fd)
            raise
        self._path = path
        return fd

    def _check_room(self, fd: int, path: str) -> None:
        """Refuse what the file system cannot hold: a guest's first touch of it would be SIGBUS."""
        room = os.fstatvfs(fd)
        free = room.f_bavail * room.f_frsize
        if free < self.size:
            os.unlink(path)
            raise ConfigError(
                f"--memory-file {path}: {self.size >> 20} MiB do not fit into its file system"
                f" ({free >> 20} MiB free); name another"
            )

    def clear(self) -> None:
        """Make it all zero, as after power-on, and give the pages back to the host."""
        with contextlib.suppress(OSError):  # a file system that cannot; nor does a warm reset
            self._map.madvise(mmap.MADV_REMOVE)

    def anchor(self, ram: Ram) -> ctypes.c_char:
        """Return the range's first byte; while that lives the memory stays mapped."""
        return ctypes.c_char.from_buffer(self._map, ram.offset)

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
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        if self._path:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        try:
            self.buffer.release()
            self._map.close()
        except BufferError:
            pass  # a view is still out there; the mapping goes with it
