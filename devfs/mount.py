"""The broker: mounts a directory with the file `kvm`, by fusepy, whose ioctl slot is a C function.

Python sees getattr, readdir and open; never an ioctl. A virtual machine is a process of its own
(kvmish-worker), with which the client speaks without us once it has the machine's descriptor.
"""

from __future__ import annotations

import ctypes
import errno
import grp
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from kvm_core.errors import BackendError, ConfigError

BUILD = Path(__file__).resolve().parent.parent / "build"
LIBRARY = BUILD / "libkvmish-devfs.so"
WORKER = BUILD / "kvmish-worker"
FILE = "kvm"
MNT_DETACH = 2
_OCTAL = re.compile(r"\\([0-7]{3})")  # how blanks, tabs, newlines and backslashes are written there
SPARE_WORKERS = 2


def _gid_kvm() -> int:
    """The group of /dev/kvm on most distributions; root's if there is none."""
    try:
        return grp.getgrnam("kvm").gr_gid
    except KeyError:
        return 0


def _tables() -> dict[str, Any]:
    """Mounted file systems by mount point, as /proc/self/mounts has them."""
    text = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    return {
        _OCTAL.sub(lambda found: chr(int(found[1], 8)), line.split(" ")[1]): line.split(" ")
        for line in text.splitlines()
    }


def is_ours(path: Path) -> bool:
    """Whether one of our file systems is mounted on path."""
    entry = _tables().get(os.path.realpath(path))  # as the kernel has it; a mount is never a link
    return entry is not None and entry[0] == "kvmish"


class _Library:
    """build/libkvmish-devfs.so."""

    def __init__(self) -> None:
        for file in (LIBRARY, WORKER):
            if not file.is_file():
                raise BackendError(f"{file} is missing: run make core")
        self.lib = ctypes.CDLL(str(LIBRARY))

    def start(self, spares: int, get_context: ctypes.c_void_p) -> None:
        """Start workers ahead. :raise BackendError: if one cannot run here."""
        error = ctypes.create_string_buffer(512)
        worker = os.fsencode(WORKER)
        if self.lib.devfs_start(worker, spares, get_context, error, len(error)):
            raise BackendError(f"no worker can run here: {error.value.decode()}")

    def stop(self) -> None:
        """End the workers that have no client."""
        self.lib.devfs_stop()


def _fuse_module() -> Any:
    try:
        return import_module("fuse")
    except OSError as error:
        raise BackendError(f"libfuse2 is missing ({error}): apt-get install libfuse2") from None
    except ImportError as error:
        raise BackendError(f"fusepy is missing ({error}): pip install fusepy") from None


def _check_time_limits() -> None:
    """KVM_RUN may take hours; the kernel can be told to end a FUSE session that does not answer."""
    for name in ("default_request_timeout", "max_request_timeout"):
        setting = Path("/proc/sys/fs/fuse") / name
        if setting.exists() and int(setting.read_text()):
            raise BackendError(f"a long KVM_RUN would be cut off: sysctl -w fs.fuse.{name}=0")


def _check(path: Path) -> None:
    """Everything that can be said before mounting."""
    if not os.path.exists("/dev/fuse"):
        raise BackendError("/dev/fuse is missing: modprobe fuse, or give the container the device")
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise BackendError(f"/dev/fuse: {error.strerror}; run as root") from None
    if os.geteuid() != 0:
        raise BackendError("devfs mount must be run by root: a mount and the workers need it")
    if is_ours(path):
        raise ConfigError(f"{path} is mounted already; kvmish devfs umount {path} ends it")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is not a directory; name one, the file {FILE} appears in it")
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(f"{path} is not empty; name an empty directory, or a new one")


def _directory(path: Path) -> bool:
    """Make the mount point; True if it was not there."""
    if path.is_dir():
        return False
    try:
        path.mkdir()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a directory that can be made") from None
    return True


def _operations(fuse: Any, mode: int, gid: int, ready: Callable[[], None]) -> Any:
    """The slow operations, in Python."""
    now = time.time_ns()

    class Directory(fuse.Operations):  # type: ignore[misc]
        """/ and /kvm."""

        use_ns = True

        def init(self, path: str) -> None:
            ready()

        def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
            common = {"st_atime": now, "st_mtime": now, "st_ctime": now, "st_uid": 0}
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2, "st_gid": 0, **common}
            if path == f"/{FILE}":
                return {"st_mode": stat.S_IFREG | mode, "st_nlink": 1, "st_gid": gid, **common}
            raise fuse.FuseOSError(errno.ENOENT)

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", FILE]

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            raise fuse.FuseOSError(errno.EINVAL)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            raise fuse.FuseOSError(errno.EINVAL)

        def truncate(self, path: str, length: int, fh: int | None = None) -> None:
            if fh is not None or length:
                raise fuse.FuseOSError(errno.EINVAL)

    return Directory()


def _mount(fuse: Any, library: _Library, path: Path, operations: Any) -> None:
    """Serve until unmounted or SIGTERM, SIGINT, SIGHUP; libfuse unmounts."""
    libfuse = fuse._libfuse
    real = libfuse.fuse_main_real

    def with_slot(argc: int, argv: Any, pointer: Any, size: int, data: Any) -> int:
        table = pointer.contents
        table.ioctl = ctypes.cast(library.lib.devfs_ioctl, type(table.ioctl))
        status: int = real(argc, argv, pointer, size, data)
        return status

    libfuse.fuse_main_real = with_slot
    try:
        fuse.FUSE(
            operations, str(path), foreground=True, nothreads=False, fsname="kvmish",
            allow_other=True, default_permissions=True,
            direct_io=True,  # or read() would be 0 and mmap() would succeed, without asking us
        )  # fmt: skip
    except RuntimeError:
        raise BackendError(f"mounting {path} failed; libfuse has said why above") from None
    finally:
        libfuse.fuse_main_real = real


def mount(path: Path, mode: int, group: str | None, ready: Callable[[], None]) -> None:
    """Serve path/kvm until it is unmounted or a signal comes.

    mode: permissions of the file, with 0660 its group is `group` or `kvm`. ready is called when the
    file is there. :raise ConfigError: for a path or group that cannot be used. :raise BackendError:
    if this machine cannot do it.
    """
    _check(path)
    _check_time_limits()
    try:
        gid = _gid_kvm() if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"--group {group}: no such group") from None
    fuse = _fuse_module()
    library = _Library()
    made = _directory(path)
    try:
        library.start(SPARE_WORKERS, ctypes.cast(fuse._libfuse.fuse_get_context, ctypes.c_void_p))
        _mount(fuse, library, path, _operations(fuse, mode, gid, ready))
    finally:
        library.stop()
        if made and not is_ours(path):
            path.rmdir()


def umount(path: Path, lazy: bool) -> None:
    """Unmount; the broker ends, virtual machines go on. :raise ConfigError: if it cannot be."""
    if not is_ours(path):
        raise ConfigError(f"{path} is not mounted by kvmish")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), MNT_DETACH if lazy else 0):
        code = ctypes.get_errno()
        why = "some program has the file open; --lazy unmounts all the same"
        raise ConfigError(f"{path}: {os.strerror(code)}" + (f": {why}" if code == 16 else ""))


def in_background(serve: Callable[[Callable[[], None]], None]) -> int:
    """Fork; the parent returns 0 when the file is there, 2 after saying what went wrong.

    serve(ready) runs in the child, which leaves the terminal behind.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            answer = pipe.read()
        if answer == "ready":
            return 0
        os.waitpid(pid, 0)
        sys.stderr.write(f"kvmish: {answer or 'the broker ended'}\n")
        return 2
    os.close(reading)
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):  # before the workers inherit them
        os.dup2(null, fd)

    def ready() -> None:
        os.write(writing, b"ready")
        os.close(writing)

    status = 0
    try:
        serve(ready)
    except (BackendError, ConfigError) as error:
        os.write(writing, str(error).encode())
        status = 2
    os._exit(status)
