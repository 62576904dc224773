"""Writes a cpio archive in the newc format, device nodes included, without root.

The format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field


@dataclass
class Archive:
    """An archive that grows in memory; the same entries give the same bytes (times are zero)."""

    _chunks: list[bytes] = field(default_factory=list)
    _inode: int = 0

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory; parents must have been added before."""
        self._add(path, stat.S_IFDIR | mode)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._add(path, stat.S_IFREG | mode, data)

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def char_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self._add(path, stat.S_IFCHR | mode, rdev=(major, minor))

    def finish(self) -> bytes:
        """Close the archive and return it."""
        self._inode = -1  # the trailer's inode is 0
        self._add("TRAILER!!!", 0)
        return b"".join(self._chunks)

    def _add(
        self, path: str, mode: int, data: bytes = b"", rdev: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        name = path.lstrip("/").encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        numbers = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, *rdev, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % number for number in numbers)
        self._chunks += [_padded(header + name), _padded(data)]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
