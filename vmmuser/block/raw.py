"""A raw disk image: a file or block device whose bytes are the disk's."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat

from kvm_core.errors import ConfigError
from vmmuser.log import Log

log = Log("kvmish.block")

SECTOR = 512
# How the images of other formats begin. A raw one may well: its guest writes what it likes.
FORMATS = {b"QFI\xfb": "qcow2", b"KDMV": "VMDK", b"conectix": "VHD", b"vhdxfile": "VHDX"}

FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
IOV_MAX = 1024
_ZEROES = bytes(1 << 20)

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class RawImage:
    """Positional input and output; every failure is an OSError, which the device turns into a
    status.
    """

    def __init__(self, path: str, read_only: bool = False) -> None:
        """Open and lock the image. :raise ConfigError: if it cannot serve as a disk."""
        self.path = path
        flags = os.O_RDONLY if read_only else os.O_RDWR
        try:
            self.fd = os.open(path, flags | os.O_CLOEXEC)
        except OSError as error:
            hint = "name an image file" if error.errno != errno.EACCES else "check its permissions"
            raise ConfigError(f"--disk {path}: {error.strerror}; {hint}") from None
        try:
            self._check()
            fcntl.flock(self.fd, fcntl.LOCK_NB | (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX))
        except BlockingIOError:
            os.close(self.fd)
            raise ConfigError(
                f"--disk {path}: another program or disk has it; end that, or attach it read-only"
            ) from None
        except BaseException:
            os.close(self.fd)
            raise
        self.read_only = read_only

    def _check(self) -> None:
        mode = os.fstat(self.fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "not a file or block device"
            raise ConfigError(f"--disk {self.path}: is {kind}; name an image file")
        self.size = os.lseek(self.fd, 0, os.SEEK_END)
        if self.size < SECTOR:
            raise ConfigError(
                f"--disk {self.path}: {self.size} bytes are less than a sector; make it larger"
            )
        self.sectors = self.size // SECTOR
        head = os.pread(self.fd, max(map(len, FORMATS)), 0)
        for magic, name in FORMATS.items():
            if head.startswith(magic):
                log.warning(
                    "%s: is a %s image, and the guest gets it as it is; "
                    "qemu-img convert -O raw makes one for it",
                    self.path,
                    name,
                )

    def read(self, parts: list[memoryview], offset: int) -> None:
        """Fill the buffers."""
        for batch in _batches(parts):
            while batch:
                got = os.preadv(self.fd, batch, offset)
                if got == 0:
                    raise OSError(errno.EIO, "the image became shorter")
                offset += got
                batch = _skip(batch, got)

    def write(self, parts: list[memoryview], offset: int) -> None:
        """Write the buffers out."""
        for batch in _batches(parts):
            while batch:
                done = os.pwritev(self.fd, batch, offset)
                offset += done
                batch = _skip(batch, done)

    def flush(self) -> None:
        """Make what was written survive a power failure."""
        os.fdatasync(self.fd)

    def discard(self, offset: int, size: int) -> None:
        """Say that the range is not needed; a file system that cannot, keeps it."""
        with contextlib.suppress(OSError):
            self._allocate(FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, offset, size)

    def write_zeroes(self, offset: int, size: int, unmap: bool) -> None:
        """Make the range read as zeroes."""
        mode = (FALLOC_PUNCH_HOLE if unmap else FALLOC_ZERO_RANGE) | FALLOC_KEEP_SIZE
        try:
            self._allocate(mode, offset, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
            while size > 0:
                take = min(size, len(_ZEROES))
                self.write([memoryview(_ZEROES)[:take]], offset)
                offset, size = offset + take, size - take

    def _allocate(self, mode: int, offset: int, size: int) -> None:
        if size and _fallocate(self.fd, mode, offset, size) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Close the file, which also unlocks it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _batches(parts: list[memoryview]) -> list[list[memoryview]]:
    return [parts[at : at + IOV_MAX] for at in range(0, len(parts), IOV_MAX)]


def _skip(parts: list[memoryview], done: int) -> list[memoryview]:
    while parts and done >= len(parts[0]):
        done -= len(parts[0])
        parts = parts[1:]
    return [parts[0][done:], *parts[1:]] if parts and done else parts
