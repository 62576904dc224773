"""A domain's console as a stream's backend: a terminal or a unix socket of the VMM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import termios
import tty

from libvirtish.errors import FROM_STREAMS, Code, VirError
from libvirtish.rpc.stream import Stream

CHUNK = 1 << 16
INPUT_MAX_BYTES = 1 << 20  # what the guest has not yet read of a client's input


def open_console(path: str) -> int:
    """Open a terminal, or connect to a socket, not blocking. :raise OSError:"""
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(termios.error):
            tty.setraw(descriptor, termios.TCSANOW)
        return descriptor
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)  # EAGAIN if the other side has too many waiting
        connection.connect(path)
        return connection.detach()


class Console:
    """One client's hold on a console."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor`: of open_console(); closed at the end."""
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._stream: Stream | None = None
        self._input = bytearray()
        self._pump: asyncio.Task[None] | None = None
        self.open = True
        self._readable = asyncio.Event()

    def start(self, stream: Stream) -> None:
        """Give what the guest writes to the stream."""
        self._stream = stream
        self._pump = asyncio.create_task(self._give())

    async def _give(self) -> None:
        stream = self._stream
        while self.open and stream is not None:
            self._readable.clear()
            self._loop.add_reader(self._descriptor, self._ready)
            await self._readable.wait()
            if not self.open:
                return
            try:
                data = os.read(self._descriptor, CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                data = b""  # EIO: the other end of the terminal is closed
            await stream.data(data)
            if not data:
                self._release()
                return

    def _ready(self) -> None:
        self._loop.remove_reader(self._descriptor)
        self._readable.set()

    def write(self, data: bytes) -> None:
        """Take what the client typed."""
        if not self.open:
            return
        if len(self._input) + len(data) > INPUT_MAX_BYTES:
            self.fail("the guest does not read its console")
            return
        self._input += data
        self._flush()

    def _flush(self) -> None:
        try:
            while self._input:
                del self._input[: os.write(self._descriptor, self._input[:CHUNK])]
            self._loop.remove_writer(self._descriptor)
        except BlockingIOError:
            self._loop.add_writer(self._descriptor, self._flush)
        except OSError:
            self._release()

    def fail(self, why: str) -> None:
        """End the client's stream with an error."""
        stream = self._stream
        self._release()
        if stream is not None:
            stream.fail(VirError(Code.OPERATION_FAILED, why, FROM_STREAMS))

    def end(self) -> None:
        """Let go: the stream is over."""
        self._release()

    def _release(self) -> None:
        if not self.open:
            return
        self.open = False
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        os.close(self._descriptor)
        self._readable.set()
