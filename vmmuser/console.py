"""The host's end of the guest's console: gathers output, watches for marks, and owns the
terminal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import termios
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from vmmuser.status import say

ESCAPE = 0x01  # Ctrl-A
HELP = (
    b"\r\nCtrl-A X  quit\r\nCtrl-A P  press the power button\r\n"
    b"Ctrl-A H  this help\r\nCtrl-A Ctrl-A  send Ctrl-A\r\n"
)
FLUSH_NS = 2_000_000
TAIL_BYTES = 256
PENDING_BYTES = 1 << 16


class Output:
    """Collects what the guest prints, passes it on in pieces, and notes when marks go by.

    While there is no clock to wait by (`after_ns`), a piece is a line, passed on by who writes it.
    """

    def __init__(self, fd: int, marks: dict[str, bytes]) -> None:
        """Write to `fd`; `marks` are texts to look for, by name."""
        self._fd = fd
        self._marks = dict(marks)
        self._lock = threading.Lock()  # of _pending
        self._emit_lock = threading.Lock()  # taken first: one piece at a time, in order
        self._pending = bytearray()
        self._tail = b""
        self._scheduled = False
        self.after_ns: Callable[[int, Callable[[], object]], object] | None = None
        self.before_first: Callable[[], None] = lambda: None
        self.on_mark: Callable[[str], None] = lambda name: None
        self.first_byte: float | None = None  # of time.monotonic()
        self.seen: dict[str, float] = {}
        self.lost = False
        self.closing = False  # do not wait for a reader any more

    def write(self, data: bytes) -> None:
        """See Console."""
        with self._lock:
            if self.first_byte is None:
                self.first_byte = time.monotonic()
            self._pending += data
            after_ns = self.after_ns
            whole = len(self._pending) >= PENDING_BYTES or (after_ns is None and b"\n" in data)
            if not whole and (self._scheduled or after_ns is None):
                return
            self._scheduled = True
        if whole:  # a guest that prints faster than the reader reads must wait
            self.flush()
        elif after_ns is not None:
            after_ns(FLUSH_NS, self.flush)

    def tell(self, text: bytes) -> None:
        """Show something that is not the guest's."""
        self.flush()
        with self._emit_lock:
            self._emit(text)

    def flush(self) -> None:
        """Pass on what has collected."""
        with self._emit_lock:
            with self._lock:
                data, self._pending = bytes(self._pending), bytearray()
                self._scheduled = False
            if not data:
                return
            self.before_first()
            self.before_first = lambda: None
            self._emit(data)
            self._look(data)

    def _look(self, data: bytes) -> None:
        text = self._tail + data
        found = [name for name, mark in self._marks.items() if mark in text]
        self._tail = text[-TAIL_BYTES:]
        for name in found:
            del self._marks[name]
            self.seen[name] = time.monotonic()
            self.on_mark(name)

    def _emit(self, data: bytes) -> None:
        try:
            while data and not self.lost:
                if select.select([], [self._fd], [], 0.1)[1]:
                    # A pipe that select calls writable takes this much without blocking.
                    data = data[os.write(self._fd, data[: select.PIPE_BUF]) :]
                elif self.closing:
                    return
        except OSError as error:  # the guest goes on
            self.lost = True
            if error.errno not in (errno.EPIPE, errno.EIO):  # the reader, the terminal went away
                say(f"standard output: {error.strerror}; the guest's words are lost from here on")


class Keys:
    """Separates the user's escapes from what is meant for the guest."""

    def __init__(self, commands: dict[int, Callable[[], None]]) -> None:
        """`commands` by lower-case letter, called for Ctrl-A and that letter."""
        self._commands = commands
        self._escaped = False

    def feed(self, data: bytes) -> bytes:
        """Return what the guest should get."""
        out = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                command = self._commands.get(ord(chr(byte).lower()))
                if command is not None:
                    command()
                elif byte == ESCAPE or byte in b"aA":
                    out.append(ESCAPE)
            elif byte == ESCAPE:
                self._escaped = True
            else:
                out.append(byte)
        return bytes(out)


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Put the terminal into raw mode; restore it on every way out, a kill -9 of this process
    included.
    """
    saved = termios.tcgetattr(fd)
    guard = _Guard(fd, saved)
    try:
        _set_raw(fd, saved)
        yield
    finally:
        guard.restore()


def _set_raw(fd: int, saved: list[Any]) -> None:
    mode = [*saved[:6], list(saved[6])]
    mode[0] &= ~(
        termios.BRKINT
        | termios.ICRNL
        | termios.INPCK
        | termios.ISTRIP
        | termios.IXON
        | termios.INLCR
    )
    mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    # OPOST stays, so that our own lines end where they should; a guest's "\r\n" passes unharmed.
    termios.tcsetattr(fd, termios.TCSANOW, mode)


class _Guard:
    """A child that waits on a pipe and restores the terminal should this process die before it
    did.
    """

    def __init__(self, fd: int, saved: list[Any]) -> None:
        self._fd, self._saved = fd, saved
        read_end, self._write_end = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._write_end)
            _guard_child(fd, saved, read_end)
        os.close(read_end)

    def restore(self) -> None:
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
        with contextlib.suppress(OSError):
            os.write(self._write_end, b".")
        os.close(self._write_end)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._child, 0)


def _guard_child(fd: int, saved: list[Any], read_end: int) -> None:
    try:
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
            signal.SIGHUP,
            signal.SIGQUIT,
            signal.SIGTTOU,
        ):
            signal.signal(number, signal.SIG_IGN)
        if os.read(read_end, 1) == b"":
            termios.tcsetattr(fd, termios.TCSANOW, saved)
    except (OSError, termios.error):
        pass
    finally:
        os._exit(0)


@contextlib.contextmanager
def ending_signals(stop: Callable[[int], None]) -> Iterator[None]:
    """Turn SIGINT, SIGTERM, SIGHUP and SIGQUIT into `stop(number)`."""

    def handler(number: int, _frame: FrameType | None) -> None:
        stop(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
