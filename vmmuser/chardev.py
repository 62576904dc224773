"""The host ends of consoles: pty, unix socket, standard input and output, file, nothing.

A console outlives its readers and never holds a vCPU up. What the guest prints while nobody reads
is kept, as much as HISTORY_BYTES of it, for the next reader; a reader that is slower than the guest
loses the oldest of what waits beyond PENDING_BYTES.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from typing import Protocol

from kvm_core.errors import ConfigError
from vmmuser.description import ConsoleSpec
from vmmuser.loop import EventLoop

HISTORY_BYTES = 1 << 16
PENDING_BYTES = 1 << 18
SPOOL_BYTES = 1 << 16
CHUNK_BYTES = 1 << 14
FLUSH_NS = 1_000_000
ACCEPT_AGAIN_NS = 100_000_000
MAX_SOCKET_PATH_BYTES = 107  # sun_path without its NUL, unix(7)
PTY_POLL_NS = 100_000_000  # how often a pty without a reader is looked at; there is no event


class Chardev(Protocol):
    """One console's host end."""

    spec: ConsoleSpec

    @property
    def filename(self) -> str:
        """Where it is, as QEMU's query-chardev writes it."""

    @property
    def is_open(self) -> bool:
        """Whether somebody is there."""

    def write(self, data: bytes) -> None:
        """The guest printed this; for any thread, never blocks."""

    def start(self, loop: EventLoop, receive: Callable[[bytes], None]) -> None:
        """Serve on the loop; `receive` gets what is typed, with the device lock held."""

    def close(self) -> None:
        """Give everything back, and remove what was made in the file system."""


class Spool:
    """A file that gets all of the output, in pieces; a full disk costs the file, not the guest."""

    def __init__(self, fd: int) -> None:
        """Write to `fd`, and close it in the end."""
        self._fd = fd
        self._pending = bytearray()
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Take it; for any thread."""
        with self._lock:
            self._pending += data
            full = len(self._pending) >= SPOOL_BYTES
        if full:
            self.flush()

    def flush(self) -> None:
        """Write out what has collected; for any thread."""
        with self._lock:
            data, self._pending = self._pending, bytearray()
            with contextlib.suppress(OSError):
                while data and self._fd >= 0:
                    del data[: os.write(self._fd, data)]

    def close(self) -> None:
        """Write the rest; a second time does nothing."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Stream:
    """Output buffer and log, which all kinds share. `_fd` is the reader, -1 when there is none."""

    def __init__(self, spec: ConsoleSpec) -> None:
        """Open the log. :raise ConfigError: if it cannot be."""
        self.spec = spec
        self._fd = -1
        self._lock = threading.Lock()  # of _pending and _scheduled
        self._pending = bytearray()
        self._scheduled = False
        self._waits = False  # for the descriptor to become writable
        self._loop: EventLoop | None = None
        self._receive: Callable[[bytes], None] = lambda data: None
        self._spools: list[Spool] = []
        if spec.log:
            log = open_output(spec.log, append=True, what=f"consoles: {spec.id}: log")
            self._spools.append(Spool(log))

    @property
    def filename(self) -> str:
        """See Chardev."""
        return self.spec.backend

    @property
    def is_open(self) -> bool:
        """See Chardev."""
        return self._fd >= 0

    def start(self, loop: EventLoop, receive: Callable[[bytes], None]) -> None:
        """See Chardev."""
        self._loop, self._receive = loop, receive
        self._begin(loop)

    def _begin(self, loop: EventLoop) -> None:
        """Start looking for a reader."""

    def write(self, data: bytes) -> None:
        """See Chardev."""
        for spool in self._spools:
            spool.write(data)
        with self._lock:
            self._pending += data
            limit = PENDING_BYTES if self._fd >= 0 else HISTORY_BYTES
            if len(self._pending) > 2 * limit:  # not at each byte: that would copy all of it
                del self._pending[:-limit]
            if self._scheduled or self._loop is None:
                return
            self._scheduled = True
        self._loop.after_ns(FLUSH_NS, self._flush_timer)

    def _flush_timer(self) -> None:
        with self._lock:
            self._scheduled = False
        for spool in self._spools:
            spool.flush()
        if not self._waits:
            self._flush()

    def _flush(self) -> None:
        """Give the reader what it takes. On the loop's thread."""
        if self._fd < 0 or self._loop is None:
            return
        try:
            with self._lock:
                while self._pending:
                    count = self._put(bytes(self._pending[:CHUNK_BYTES]))
                    del self._pending[:count]
        except BlockingIOError:
            if not self._waits:
                self._waits = True
                self._loop.asyncio.add_writer(self._fd, self._writable)
        except OSError:
            self._reader_gone()

    def _put(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def _writable(self) -> None:
        self._stop_waiting()
        self._flush()

    def _stop_waiting(self) -> None:
        if self._waits and self._loop is not None:
            self._waits = False
            self._loop.asyncio.remove_writer(self._fd)

    def _readable(self) -> None:
        """Take what was typed. Called with the device lock held."""
        try:
            data = os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._receive(data)
        else:
            self._reader_gone()

    def _reader_gone(self) -> None:
        """Nobody reads any more."""
        if self._fd < 0:
            return
        self._stop_waiting()
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
        fd, self._fd = self._fd, -1
        with self._lock:
            del self._pending[:-HISTORY_BYTES]
        self._let_go(fd)

    def _let_go(self, fd: int) -> None:
        """Do with the descriptor what its kind does when the reader is gone."""

    def _reader_came(self, fd: int) -> None:
        if self._loop is not None:
            self._fd = fd
            self._loop.add_reader(fd, self._readable)
            self._flush()

    def close(self) -> None:
        """See Chardev; a second time does nothing."""
        if self._fd >= 0:
            self._flush()  # the last words; what does not fit is lost
        self._reader_gone()
        self._loop = None
        for spool in self._spools:
            spool.close()


class Null(Stream):
    """Nobody, ever."""


class File(Stream):
    """A file that is written from its beginning; nothing is ever typed."""

    def __init__(self, spec: ConsoleSpec) -> None:
        """Open it. :raise ConfigError: if it cannot be."""
        super().__init__(spec)
        file = open_output(spec.path, append=False, what=f"consoles: {spec.id}: path")
        self._spools.append(Spool(file))


class Stdio(Stream):
    """This process's standard input and output, whose modes are other programs' too."""

    def _begin(self, loop: EventLoop) -> None:
        self._fd = 1
        with contextlib.suppress(PermissionError):  # a file: nothing to wait for
            loop.add_reader(0, self._readable)

    def _put(self, data: bytes) -> int:
        if not select.select([], [1], [], 0)[1]:
            raise BlockingIOError
        # A pipe that select calls writable takes this much without blocking.
        return os.write(1, data[: select.PIPE_BUF])

    def _readable(self) -> None:
        try:
            data = os.read(0, CHUNK_BYTES)
        except OSError:
            data = b""
        if data:
            self._receive(data)
        elif self._loop is not None:  # the guest goes on without
            self._loop.remove_reader(0)

    def _let_go(self, fd: int) -> None:
        if self._loop is not None:
            self._loop.remove_reader(0)


class Pty(Stream):
    """A pseudo-terminal; its reader is whoever has the other end open."""

    def __init__(self, spec: ConsoleSpec) -> None:
        """Make one, in raw mode. :raise ConfigError: if the host has none left."""
        super().__init__(spec)
        try:
            self._master, slave = os.openpty()
        except OSError as error:
            raise ConfigError(
                f"consoles: {spec.id}: no pty to be had ({error.strerror}); use a unix socket"
            ) from None
        self.path = os.ttyname(slave)
        tty.setraw(slave, termios.TCSANOW)
        os.close(slave)
        os.set_blocking(self._master, False)

    @property
    def filename(self) -> str:
        """See Chardev."""
        return f"pty:{self.path}"

    def _begin(self, loop: EventLoop) -> None:
        self._look()

    def _look(self) -> None:
        """Look whether somebody opened it."""
        if self._loop is None or self._fd >= 0:
            return
        poll = select.poll()
        poll.register(self._master, select.POLLIN)
        state = dict(poll.poll(0)).get(self._master, 0)
        if state & select.POLLHUP and not state & select.POLLIN:
            self._loop.after_ns(PTY_POLL_NS, self._look)
        else:  # or somebody was here, typed, and went
            self._reader_came(self._master)

    def _let_go(self, fd: int) -> None:
        with contextlib.suppress(termios.error):  # what the reader left is not for the next one
            termios.tcflush(fd, termios.TCOFLUSH)
        if self._loop is not None:
            self._loop.after_ns(PTY_POLL_NS, self._look)

    def close(self) -> None:
        """See Chardev."""
        super().close()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


class Unix(Stream):
    """A unix socket that is listened on: one reader at a time, the next ones queue."""

    def __init__(self, spec: ConsoleSpec) -> None:
        """Listen. :raise ConfigError: if the path cannot be had."""
        super().__init__(spec)
        self._listener = Listener(spec.path, f"consoles: {spec.id}: path")
        self._peer: socket.socket | None = None

    @property
    def filename(self) -> str:
        """See Chardev."""
        prefix = "" if self.is_open else "disconnected:"
        return f"{prefix}unix:{self.spec.path},server=on"

    def _begin(self, loop: EventLoop) -> None:
        self._listen()

    def _listen(self) -> None:
        if self._loop is not None:
            self._loop.add_reader(self._listener.socket.fileno(), self._accept)

    def _accept(self) -> None:
        if self._loop is None:
            return
        self._loop.remove_reader(self._listener.socket.fileno())
        try:
            self._peer, _ = self._listener.socket.accept()
        except OSError:  # it went away, or we have no descriptor left
            self._loop.after_ns(ACCEPT_AGAIN_NS, self._listen)
            return
        self._peer.setblocking(False)
        self._reader_came(self._peer.fileno())

    def _let_go(self, fd: int) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        self._listen()

    def close(self) -> None:
        """See Chardev."""
        loop = self._loop
        super().close()
        if loop is not None:
            loop.remove_reader(self._listener.socket.fileno())
        self._listener.close()


class Listener:
    """A listening unix socket with a path of its own: taken from a dead process, never from a
    living one, and removed at the end.
    """

    def __init__(self, path: str, what: str) -> None:
        """Listen at `path`, for this user only. :raise ConfigError: `what` says for which field."""
        self.path = path
        with _short_name(path, what) as name:
            self._listen(name, path, what)
        self._identity = _identity(path)

    def _listen(self, name: str, path: str, what: str) -> None:
        self._remove_stale(name, path, what)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        mask = os.umask(0o077)
        try:
            self.socket.bind(name)
            self.socket.listen(16)
        except OSError as error:
            self.socket.close()
            raise ConfigError(f"{what}: {path}: {error.strerror}; name another path") from None
        finally:
            os.umask(mask)

    @staticmethod
    def _remove_stale(name: str, path: str, what: str) -> None:
        try:
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise ConfigError(f"{what}: {path}: is not a socket; name another path")
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(f"{what}: {path}: {error.strerror}; name another path") from None
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # one whose queue is full is alive too
            try:
                probe.connect(name)
            except (ConnectionRefusedError, FileNotFoundError):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                return
            except OSError:
                pass
        raise ConfigError(f"{what}: {path}: a living process listens there; stop it first")

    def close(self) -> None:
        """Stop listening; remove the path unless it is somebody else's by now."""
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        if _identity(self.path) == self._identity:
            with contextlib.suppress(OSError):
                os.unlink(self.path)


@contextlib.contextmanager
def _short_name(path: str, what: str) -> Iterator[str]:
    """A name for `path` that a socket's address has room for, while the context lasts."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        yield path
        return
    directory, name = os.path.split(path)
    try:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{what}: {path}: {error.strerror}; name another path") from None
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def open_output(path: str, append: bool, what: str) -> int:
    """Open a file to write to. :raise ConfigError: `what` says for which field."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags | (os.O_APPEND if append else os.O_TRUNC), 0o600)
    except OSError as error:
        raise ConfigError(f"{what}: {path}: {error.strerror}; name a file to write") from None


_KINDS: dict[str, type[Stream]] = {
    "pty": Pty,
    "unix": Unix,
    "stdio": Stdio,
    "file": File,
    "null": Null,
}


def open_chardev(spec: ConsoleSpec) -> Stream:
    """Make the host end that a console asks for. :raise ConfigError: if it cannot be had."""
    return _KINDS[spec.backend](spec)
