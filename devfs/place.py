"""The device file at /dev/kvm for this process and its children alone, in a mount namespace."""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path

from devfs.mount import FILE, is_ours
from kvm_core.errors import BackendError

_DEVICE = Path("/dev/kvm")
_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_MOVE, _MS_REC, _MS_PRIVATE = 0x1000, 0x2000, 0x4000, 0x40000


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), kind and kind.encode(), flags, None):
        code = ctypes.get_errno()
        raise OSError(code, f"mounting {target}: {os.strerror(code)}")


def _keep_to_ourselves() -> None:
    """Let no mount of this namespace be seen in another one.

    That is said of a mount point, which the root of a chroot is not: the namespace's own root is,
    where setns(2) leads.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    root, here = (os.open(path, os.O_PATH | os.O_CLOEXEC) for path in ("/", "."))
    us = os.pidfd_open(os.getpid())
    try:
        if libc.setns(us, _CLONE_NEWNS):
            code = ctypes.get_errno()
            raise OSError(code, f"leaving the chroot for a moment: {os.strerror(code)}")
        try:
            _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
        finally:
            os.fchdir(root)
            os.chroot(".")
            os.fchdir(here)
    finally:
        for fd in (root, here, us):
            os.close(fd)


def _make_room() -> None:
    """No /dev/kvm on this host: make a /dev that leads to the host's, with a place for it."""
    before, host = tempfile.mkdtemp(prefix="kvmish-"), "/dev/.host"
    _mount("/dev", before, None, _MS_BIND | _MS_REC)
    _mount("kvmish", "/dev", "tmpfs", 0)
    os.mkdir(host)
    _mount(before, host, None, _MS_MOVE)
    os.rmdir(before)
    for name in os.listdir(host):
        os.symlink(os.path.join(host, name), os.path.join("/dev", name))
    _DEVICE.touch()


def put_in_place(directory: Path) -> None:
    """Make directory's file /dev/kvm, for us. :raise BackendError: if that cannot be."""
    if not is_ours(directory):
        raise BackendError(f"no device file in {directory}: run kvmish devfs mount --daemon")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        reason = os.strerror(ctypes.get_errno())
        raise BackendError(f"--door fuse: no mount namespace of our own ({reason}); run as root")
    try:
        _keep_to_ourselves()
        if not _DEVICE.exists():
            _make_room()
        _mount(str(directory / FILE), str(_DEVICE), None, _MS_BIND)
    except OSError as error:
        raise BackendError(f"--door fuse: {error.strerror}") from None
