"""The client's side of the same codec: blocking calls, events and a stream over one unix socket."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from dataclasses import replace
from typing import TypeVar

from libvirtish.errors import FrameError
from libvirtish.rpc import frame as f
from libvirtish.rpc import types as t
from libvirtish.rpc import xdr
from libvirtish.rpc.frame import STREAM_CHUNK, Frame, Kind, Status
from libvirtish.rpc.procedures import (
    BY_NAME,
    EVENT_BY_NUMBER,
    KEEPALIVE_PING,
    KEEPALIVE_PONG,
    KEEPALIVE_PROGRAM,
)

T = TypeVar("T")


class RemoteError(Exception):
    """What the daemon answered: a code of virErrorNumber and a message."""

    def __init__(self, error: t.Error) -> None:
        """`error` as it travelled."""
        super().__init__(error.message or f"error {error.code} without a message")
        self.code = error.code


class DisconnectedError(Exception):
    """The daemon is not there, or went away."""


class Connection:
    """An open connection to a daemon. Not for use from several threads."""

    def __init__(self, path: str, uri: str, timeout: float = 60.0) -> None:
        """Connect and open. :raise DisconnectedError: if nobody listens at the path."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._timeout, self._serial = timeout, 0
        self._events: deque[tuple[str, object]] = deque()
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise DisconnectedError(f"{path}: {error.strerror or error}") from error
        self._stream_frames: deque[Frame] = deque()
        self.call("auth_list")
        self.call("connect_open", t.OpenArgs(uri, 0))

    def close(self) -> None:
        """Say good-bye and close."""
        try:
            self.call("connect_close")
        except (DisconnectedError, RemoteError, FrameError):
            pass
        finally:
            self._socket.close()

    # -- calls --------------------------------------------------------------------------------

    def call(self, name: str, args: object = None) -> object:
        """Call a procedure of the table; its result, or None where it has none.

        :raise RemoteError: for the daemon's refusal. :raise DisconnectedError: if it is gone.
        """
        procedure = BY_NAME[name]
        self._serial += 1
        frame = Frame(
            procedure.program, procedure.number, Kind.CALL, self._serial, payload=xdr.encode(args)
        )
        self._send(frame)
        deadline = time.monotonic() + self._timeout
        while True:
            reply = self._receive(max(0.0, deadline - time.monotonic()))
            if reply is None:
                raise DisconnectedError(f"no answer to {name} within {self._timeout:g} s")
            if reply.kind == Kind.REPLY and reply.serial == self._serial:
                return self._result(reply, procedure.ret)
            self._keep(reply)

    def ask(self, ret: type[T], name: str, args: object = None) -> T:
        """Call a procedure with a result of this type."""
        result = self.call(name, args)
        if not isinstance(result, ret):
            raise TypeError(f"{name} returns {result!r}")
        return result

    @staticmethod
    def _result(reply: Frame, ret: type | None) -> object:
        if reply.status == Status.ERROR:
            error = xdr.decode(t.Error, reply.payload)
            assert error is not None  # noqa: S101 - a type was given
            raise RemoteError(error)
        return xdr.decode(ret, reply.payload)

    # -- events and streams ---------------------------------------------------------------------

    def next_event(self, timeout: float | None = None) -> tuple[str, object] | None:
        """Return the next event, its name and its struct, or None after the time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._events:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            frame = self._receive(left)
            if frame is None:
                return None
            self._keep(frame)
        return self._events.popleft()

    def open_stream(self, name: str, args: object) -> ClientStream:
        """Call a procedure that is followed by a stream."""
        self.call(name, args)
        return ClientStream(self, BY_NAME[name].number, self._serial)

    def _keep(self, frame: Frame) -> None:
        if frame.kind == Kind.EVENT:
            event = EVENT_BY_NUMBER.get(frame.procedure)
            if event is not None:
                self._events.append((event.name, xdr.decode(event.args, frame.payload)))
        elif frame.kind == Kind.STREAM:
            self._stream_frames.append(frame)

    # -- the socket -----------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the socket's number, to wait on."""
        return self._socket.fileno()

    def _send(self, frame: Frame) -> None:
        try:
            self._socket.sendall(frame.pack())
        except OSError as error:
            raise DisconnectedError(f"the daemon is gone: {error.strerror or error}") from error

    def _receive(self, timeout: float | None) -> Frame | None:
        """Return one frame that is not a keepalive, or None after the time."""
        while True:
            if not select.select([self._socket], [], [], timeout)[0]:
                return None
            frame = f.unpack(self._exactly(f.body_size(self._exactly(f.LENGTH_BYTES))))
            if frame.program != KEEPALIVE_PROGRAM:
                return frame
            if frame.procedure == KEEPALIVE_PING:
                self._send(f.keepalive(KEEPALIVE_PONG))

    def _exactly(self, size_bytes: int) -> bytes:
        parts, left = [], size_bytes
        while left:
            try:
                part = self._socket.recv(min(left, 1 << 20))
            except OSError as error:
                raise DisconnectedError(f"the daemon is gone: {error.strerror or error}") from error
            if not part:
                raise DisconnectedError("the daemon closed the connection")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


class ClientStream:
    """The client's side of a stream."""

    def __init__(self, connection: Connection, procedure: int, serial: int) -> None:
        """`procedure`, `serial`: those of the call."""
        program = next(each.program for each in BY_NAME.values() if each.number == procedure)
        self._connection = connection
        self._frame = Frame(program, procedure, Kind.STREAM, serial, Status.CONTINUE)

    def send(self, data: bytes) -> None:
        """Send data."""
        for start in range(0, len(data), STREAM_CHUNK):
            chunk = data[start : start + STREAM_CHUNK]
            self._connection._send(replace(self._frame, payload=chunk))

    def receive(self, timeout: float | None = None) -> bytes | None:
        """Return data, b"" at the end of the stream, or None after the time.

        :raise RemoteError: if the daemon ended it with an error.
        """
        frames = self._connection._stream_frames
        while True:
            while frames and frames[0].serial != self._frame.serial:
                frames.popleft()  # of a stream that is over
            if frames:
                break
            came = self._connection._receive(timeout)
            if came is None:
                return None
            self._connection._keep(came)
        frame = frames.popleft()
        if frame.status == Status.ERROR:
            Connection._result(frame, None)
        return frame.payload if frame.status == Status.CONTINUE else b""

    def finish(self) -> None:
        """End it: said, not waited for."""
        self._connection._send(replace(self._frame, status=Status.OK))
