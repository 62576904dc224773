"""Notices who opens the host's /dev/kvm during a test: this process or any of its descendants.

By fanotify, which names the process; where that is not permitted, by an audit hook, which sees this
process only. fanotify_init(2), fanotify_mark(2), fanotify(7).
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import sys
import threading
from pathlib import Path

FAN_CLOEXEC, FAN_NONBLOCK, FAN_REPORT_FID = 0x1, 0x2, 0x200
FAN_MARK_ADD, FAN_OPEN = 0x1, 0x20
AT_FDCWD = -100
METADATA = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata


class Guard:
    """Collects the names of the processes that opened one path; take() hands them out."""

    def __init__(self, path: str, fd: int | None) -> None:
        self._path = path
        self._fd = fd
        self._openers: list[str] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        if fd is None:
            sys.addaudithook(self._audit)
        else:
            # A reader of its own, since an opener's parents can be asked only while it lives.
            threading.Thread(target=self._read_on, daemon=True).start()

    @classmethod
    def watching(cls, path: str) -> Guard | None:
        """Return a guard, or None if there is nothing to guard."""
        if not os.path.exists(path):
            return None
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.fanotify_init(FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_FID, os.O_RDONLY)
        if fd >= 0:
            mask = ctypes.c_uint64(FAN_OPEN)
            if libc.fanotify_mark(fd, FAN_MARK_ADD, mask, AT_FDCWD, path.encode()) == 0:
                return cls(path, fd)
            os.close(fd)
        return cls(path, None)

    def take(self) -> list[str]:
        """Return the openers since the last call."""
        self._drain()
        with self._lock:
            openers, self._openers = self._openers, []
        return openers

    def close(self) -> None:
        """Stop watching."""
        self._closing.set()

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and arguments and arguments[0] == self._path:
            self._openers.append("this process")

    def _read_on(self) -> None:
        while not self._closing.is_set():
            if select.select([self._fd], [], [], 1.0)[0]:
                self._drain()

    def _drain(self) -> None:
        if self._fd is None:
            return
        with self._lock:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return
            while data:
                length, *_, pid = METADATA.unpack_from(data)
                data = data[length:]
                if _is_ours(pid):
                    self._openers.append(_name(pid))


def _is_ours(pid: int) -> bool:
    """Whether pid is this process or descends from it; one that is gone already counts as ours."""
    try:
        while pid > 1:
            if pid == os.getpid():
                return True
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
            pid = int(stat.rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return True
    return False


def _name(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:4]
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({b' '.join(words).decode(errors='replace').strip()})"
