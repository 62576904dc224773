"""A stream of the remote protocol: data both ways under a call's number and serial.

Which frames mean what: CONTINUE with data is data, CONTINUE without is end of file, OK finishes and
is answered by OK, ERROR aborts and is answered by OK; from the server ERROR carries an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from libvirtish.errors import VirError
from libvirtish.rpc.frame import STREAM_CHUNK, Frame, Kind, Status

if TYPE_CHECKING:
    from libvirtish.rpc.server import Client


class Backend(Protocol):
    """What a stream is connected to: a console."""

    def start(self, stream: Stream) -> None:
        """Begin to give data to stream.data()."""

    def write(self, data: bytes) -> None:
        """Take what the client sent."""

    def end(self) -> None:
        """Let go; nothing is given any more."""


class Stream:
    """The server's side of one stream."""

    def __init__(self, client: Client, call: Frame) -> None:
        """`call`: the frame that opened it."""
        self._client = client
        self._frame = replace(call, kind=Kind.STREAM, status=Status.CONTINUE, payload=b"")
        self._backend: Backend | None = None
        self.on_end: Callable[[], object] = lambda: None

    def attach(self, backend: object) -> None:
        """Connect it: called after the reply was sent."""
        self._backend = backend  # type: ignore[assignment]  # by the driver's contract
        if self._backend is not None:
            self._backend.start(self)

    async def data(self, data: bytes) -> None:
        """Send data and wait until the client has taken enough of it; empty data is end of file."""
        for start in range(0, len(data) or 1, STREAM_CHUNK):
            chunk = data[start : start + STREAM_CHUNK]
            self._client.send(replace(self._frame, payload=chunk))
        await self._client.drained()

    def fail(self, error: VirError) -> None:
        """End it with an error for the client."""
        self._client.send(self._frame.refusal(error))
        self.abort()

    def received(self, frame: Frame) -> None:
        """Take a frame of the client."""
        if frame.status == Status.CONTINUE:
            if frame.payload and self._backend is not None:
                self._backend.write(frame.payload)
            return
        self.abort()
        self._client.send(replace(self._frame, status=Status.OK))

    def abort(self) -> None:
        """Let go of both sides without a word."""
        backend, self._backend = self._backend, None
        self.on_end()
        if backend is not None:
            backend.end()
