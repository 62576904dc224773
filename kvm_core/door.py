"""The ways to reach a KVM: a device file, or the core inside this process.

A door opens the system object and passes ioctls on; all descriptors, of either door, can be
mapped and closed like any other. An error of a call is an OSError with KVM's errno.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import mmap
import os
import stat
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Protocol

from kvm_core import engines
from kvm_core.errors import ConfigError

Argument = int | ctypes.Structure | ctypes.Array[Any] | bytearray | ctypes.c_uint64
Answers = ctypes.Array[ctypes.c_uint32]
HostMemory = int | ctypes.Array[Any] | ctypes.c_char

# The host's own KVM (Documentation/admin-guide/devices.txt: misc 232).
_KVM_DEVICE = os.makedev(10, 232)
_END_MS = 1000  # a vCPU leaves the guest within a few


class Door(Protocol):
    """What Kvm, Vm and Vcpu stand on."""

    @property
    def name(self) -> str:
        """What `--kvm` calls it."""

    @property
    def engine(self) -> str:
        """The technique behind it, as far as the door knows."""

    def open(self) -> int:
        """Return a descriptor of the system object."""

    def ioctl(self, fd: int, request: int, arg: Argument = 0) -> int:
        """Call, and return what the call returns. :raise OSError: with KVM's errno."""

    def runner(self, fd: int, shared: mmap.mmap, answers: Answers) -> Callable[[], int]:
        """Return KVM_RUN of this vCPU as a function: 0 or -errno, lets other threads run.

        `shared` are its pages; exits that `answers` serve (runner.h) do not come back.
        """

    def mmap(self, fd: int, size_bytes: int) -> mmap.mmap:
        """Map a vCPU's shared pages."""

    def kick(self, fd: int) -> None:
        """Make KVM_RUN on this vCPU return EINTR, if the door can; otherwise a signal must."""

    def close(self, fd: int) -> None:
        """Close any descriptor that came through this door."""


def _map_shared(fd: int, size_bytes: int) -> mmap.mmap:
    return mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


def _runner(function: str, fd: int, shared: mmap.mmap, answers: Answers) -> Callable[[], int]:
    core = engines.core()
    table = core.ffi.from_buffer("uint32_t[]", answers)
    run = core.ffi.from_buffer(shared)
    return partial(getattr(core.lib, function), fd, run, table, len(answers))


class DeviceDoor:
    """A device file: the host's /dev/kvm, or another that speaks the same ABI."""

    def __init__(self, path: str) -> None:
        """Name the file; it is opened later."""
        self.name = path
        self.path = path
        self._libc_ioctl = ctypes.CDLL(None, use_errno=True).ioctl

    @property
    def engine(self) -> str:
        """`hvm` behind the host's own KVM; behind another file, only that file knows."""
        try:
            return "hvm" if os.stat(self.path).st_rdev == _KVM_DEVICE else "unknown"
        except OSError:
            return "unknown"

    def open(self) -> int:
        """Open the file. :raise ConfigError: if it is not there, not permitted or not a device."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(
                f"--kvm {self.path}: {error.strerror}; name a KVM device file, or use --kvm direct"
            ) from None
        if stat.S_ISDIR(os.fstat(fd).st_mode):  # pragma: no cover - O_RDWR refuses directories
            os.close(fd)
            raise ConfigError(f"--kvm {self.path}: is a directory; name a KVM device file")
        return fd

    def ioctl(self, fd: int, request: int, arg: Argument = 0) -> int:
        """See Door; an integer above 2**31 goes through libc, since fcntl.ioctl refuses it."""
        if isinstance(arg, int):
            if arg < 1 << 31:
                return int(fcntl.ioctl(fd, request, arg))
            result: int = self._libc_ioctl(fd, ctypes.c_ulong(request), ctypes.c_ulong(arg))
            if result < 0:
                errno = ctypes.get_errno()
                raise OSError(errno, os.strerror(errno))
            return result
        return int(fcntl.ioctl(fd, request, arg, True))

    def runner(self, fd: int, shared: mmap.mmap, answers: Answers) -> Callable[[], int]:
        """See Door. :raise BackendError: if the core's module was not built."""
        return _runner("runner_device", fd, shared, answers)

    def mmap(self, fd: int, size_bytes: int) -> mmap.mmap:
        """See Door."""
        return _map_shared(fd, size_bytes)

    def kick(self, fd: int) -> None:
        """See Door; only a signal reaches into a device's KVM_RUN."""

    def close(self, fd: int) -> None:
        """See Door."""
        os.close(fd)


def _is_main_interpreter() -> bool:
    """A subinterpreter's end is not the process's; its threads have ended before."""
    main, here = ctypes.pythonapi.PyInterpreterState_Main, ctypes.pythonapi.PyInterpreterState_Get
    main.restype = here.restype = ctypes.c_void_p
    return bool(main() == here())


@cache
def _end_with_the_process() -> None:
    """Get the vCPUs of this process out of their guests before the interpreter gives memory back:
    daemon threads go on until the very end.
    """
    if _is_main_interpreter():
        atexit.register(engines.core().lib.runner_end, _END_MS)


class DirectDoor:
    """The core linked into this process, by way of the cffi module."""

    name = "direct"

    def __init__(self) -> None:
        """Load the module. :raise BackendError: if it was not built."""
        self._lib: Any = engines.core().lib
        self.engine = engines.chosen()

    def open(self) -> int:
        """See Door."""
        return self._check(self._lib.kvmish_open())

    def ioctl(self, fd: int, request: int, arg: Argument = 0) -> int:
        """See Door."""
        if isinstance(arg, int):
            return self._check(self._lib.kvmish_ioctl(fd, request, arg))
        if isinstance(arg, bytearray):
            holder = (ctypes.c_char * len(arg)).from_buffer(arg)
            return self._check(self._lib.kvmish_ioctl(fd, request, ctypes.addressof(holder)))
        return self._check(self._lib.kvmish_ioctl(fd, request, ctypes.addressof(arg)))

    def runner(self, fd: int, shared: mmap.mmap, answers: Answers) -> Callable[[], int]:
        """See Door."""
        _end_with_the_process()
        self._lib.runner_start()
        return _runner("runner_direct", fd, shared, answers)

    def mmap(self, fd: int, size_bytes: int) -> mmap.mmap:
        """See Door."""
        return _map_shared(fd, size_bytes)

    def kick(self, fd: int) -> None:
        """See Door."""
        self._lib.kvmish_kick(fd)

    def close(self, fd: int) -> None:
        """See Door."""
        self._check(self._lib.kvmish_close(fd))

    @staticmethod
    def _check(result: int) -> int:
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result


def open_door(where: str) -> Door:
    """Return the door that `--kvm` names: `direct` or a path."""
    return DirectDoor() if where == "direct" else DeviceDoor(where)
