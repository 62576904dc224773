"""Serves the remote protocol on a unix socket: a task per client, calls go to a driver's methods.

A client is a stranger. What it sends is bounded in size and time, what it does not read is not
piled up, and an error in one call or one client is that one's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from libvirtish.errors import Code, FrameError, VirError
from libvirtish.rpc import frame as f
from libvirtish.rpc import xdr
from libvirtish.rpc.frame import Frame, Kind, rpc_error
from libvirtish.rpc.procedures import (
    BY_NUMBER,
    EVENT_BY_NAME,
    HIGHEST,
    KEEPALIVE_PING,
    KEEPALIVE_PONG,
    KEEPALIVE_PROGRAM,
    PROTOCOL_VERSION,
    QEMU_PROGRAM,
    REMOTE_PROGRAM,
    Procedure,
    api_name,
)
from libvirtish.rpc.stream import Stream
from libvirtish.rpc.unserved import UNSERVED

log = logging.getLogger("libvirtishd")

Handler = Callable[["Client", object], Awaitable[object]]


@dataclass(frozen=True)
class Limits:
    """What one client may cost."""

    clients: int = 500
    calls_at_once: int = 5  # per client, as libvirt's max_client_requests
    frame_s: float = 30.0  # from a frame's first byte to its last
    before_open_bytes: int = 64 << 10  # of a frame, while the client has not opened the connection
    unread_bytes: int = 64 << 20  # waiting for a client that does not read
    keepalive_s: float = 5.0
    keepalive_count: int = 5


class Client:
    """One connection."""

    def __init__(
        self,
        server: Server,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        number: int,
    ) -> None:
        """`number` names it in the log."""
        self._server, self._reader, self._writer = server, reader, writer
        self.number, self.opened = number, False
        self.wants_keepalive = False
        self._calls: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(server.limits.calls_at_once)
        self._streams: dict[tuple[int, int], Stream] = {}
        self._unanswered = 0
        self.on_close: list[Callable[[], None]] = []

    # -- sending ------------------------------------------------------------------------------

    def send(self, frame: Frame) -> None:
        """Send a frame, or drop a client that has stopped reading."""
        transport = self._writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > self._server.limits.unread_bytes:
            log.warning("client %d: does not read what it is sent; closed", self.number)
            transport.abort()
            return
        self._writer.write(frame.pack())

    async def drained(self) -> None:
        """Wait until the client has read enough to send it more."""
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def event(self, name: str, value: object) -> None:
        """Send an event of the table EVENTS."""
        procedure = EVENT_BY_NAME[name]
        payload = xdr.encode(value)
        self.send(Frame(procedure.program, procedure.number, Kind.EVENT, 0, payload=payload))

    def close(self) -> None:
        """End the connection; what was written is still sent."""
        self._writer.close()

    # -- receiving ----------------------------------------------------------------------------

    async def serve(self) -> None:
        """Serve until the client goes or breaks the protocol."""
        beat = asyncio.create_task(self._keepalive())
        try:
            while True:
                await self._route(await self._next())
        except FrameError as error:
            log.warning("client %d: %s; connection closed", self.number, error)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except TimeoutError:
            log.warning(
                "client %d: half a message, then nothing for %g s; connection closed",
                self.number,
                self._server.limits.frame_s,
            )
        finally:
            beat.cancel()
            # Calls under way are finished: half a start would leave a domain in between.
            for stream in list(self._streams.values()):
                stream.abort()
            for hook in self.on_close:
                hook()
            self._writer.close()

    async def _next(self) -> Frame:
        limits = self._server.limits
        first = await self._reader.readexactly(1)
        async with asyncio.timeout(limits.frame_s):
            word = first + await self._reader.readexactly(f.LENGTH_BYTES - 1)
            limit = f.FRAME_MAX if self.opened else limits.before_open_bytes
            body = await self._reader.readexactly(f.body_size(word, limit))
        self._unanswered = 0  # any frame shows that the client lives
        return f.unpack(body)

    async def _route(self, frame: Frame) -> None:
        if frame.program == KEEPALIVE_PROGRAM:
            if frame.procedure == KEEPALIVE_PING:
                self.send(f.keepalive(KEEPALIVE_PONG))
        elif frame.kind == Kind.STREAM:
            self._stream_frame(frame)
        elif frame.kind in (Kind.CALL, Kind.CALL_WITH_FDS):
            await self._slots.acquire()
            task = asyncio.create_task(self._call(frame))
            self._calls.add(task)
            task.add_done_callback(self._called)
            # So that short calls of one client are answered in their order.
            await asyncio.sleep(0)
        else:
            raise FrameError(f"a frame of type {frame.kind}, which only a server may send")

    def _called(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._slots.release()

    async def _call(self, frame: Frame) -> None:
        try:
            procedure, handler = self._server.find(frame)
            if not self.opened and procedure.name not in Server.BEFORE_OPEN:
                raise rpc_error(f"{procedure.name} before connect_open")
            try:
                args = xdr.decode(procedure.args, frame.payload)
            except xdr.XdrError as error:
                message = f"Unable to decode message payload: {procedure.name}: {error}"
                raise rpc_error(message) from error
            stream = Stream(self, frame) if procedure.stream else None
            result = await handler(self, args)
            reply = frame.reply(result if stream is None else None)
            if stream is not None:
                self._streams[frame.procedure, frame.serial] = stream
                stream.on_end = lambda: self._streams.pop((frame.procedure, frame.serial), None)
            self.send(reply)
            if stream is not None:
                stream.attach(result)
        except VirError as error:
            if error.code == Code.RPC:
                log.warning("client %d: %s", self.number, error)
            self.send(frame.refusal(error))
        except xdr.XdrError as error:
            log.error("procedure %d: the answer cannot travel: %s", frame.procedure, error)
            self.send(frame.refusal(VirError(Code.INTERNAL_ERROR, f"the answer: {error}")))
        except OSError as error:  # of the daemon's own files: a full disk
            what = f"{error.filename or 'the daemon'}: {error.strerror or error}"
            log.error("procedure %d: %s", frame.procedure, what)
            self.send(frame.refusal(VirError(Code.SYSTEM_ERROR, what)))
        except Exception as error:
            log.exception("procedure %d failed", frame.procedure)
            self.send(frame.refusal(VirError(Code.INTERNAL_ERROR, f"{error!r}; see the log")))
        await self.drained()

    def _stream_frame(self, frame: Frame) -> None:
        stream = self._streams.get((frame.procedure, frame.serial))
        if stream is not None:  # it may have ended while this was under way
            stream.received(frame)

    async def _keepalive(self) -> None:
        limits = self._server.limits
        while True:
            await asyncio.sleep(limits.keepalive_s)
            if not self.wants_keepalive:
                continue
            if self._unanswered >= limits.keepalive_count:
                log.warning("client %d: no answer to keepalives; connection closed", self.number)
                self._writer.transport.abort()
                return
            self._unanswered += 1
            self.send(f.keepalive(KEEPALIVE_PING))


class Server:
    """Finds the driver's method for a call, and keeps the clients."""

    BEFORE_OPEN = ("auth_list", "connect_open", "connect_supports_feature", "connect_close")

    def __init__(self, driver: object, limits: Limits | None = None) -> None:
        """`driver`: has a coroutine method (client, args) -> result for each procedure."""
        self._driver, self.limits = driver, limits or Limits()
        self.clients: set[Client] = set()
        self._numbers = 0
        self._server: asyncio.AbstractServer | None = None

    def find(self, frame: Frame) -> tuple[Procedure, Handler]:
        """Return a call's procedure and method. :raise VirError: as libvirt answers."""
        if frame.program not in (REMOTE_PROGRAM, QEMU_PROGRAM):
            message = f"Cannot find program {frame.program:#x} version {frame.version}"
            raise rpc_error(message)
        if frame.version != PROTOCOL_VERSION:
            raise rpc_error(f"Cannot find program {frame.program:#x} version {frame.version}")
        if frame.kind == Kind.CALL_WITH_FDS:
            raise VirError(Code.NO_SUPPORT, "calls with descriptors")
        procedure = BY_NUMBER.get((frame.program, frame.procedure))
        if procedure is not None:
            return procedure, getattr(self._driver, procedure.handler or procedure.name)
        name = UNSERVED.get(frame.procedure)
        if frame.program == QEMU_PROGRAM or (name is None and 0 < frame.procedure <= HIGHEST):
            name = f"procedure {frame.procedure}"
        elif name is not None:
            name = api_name(name)
        if name is None:
            raise rpc_error(f"unknown procedure: {frame.procedure}")
        raise VirError(Code.NO_SUPPORT, name)

    async def listen(self, path: str) -> None:
        """Begin to serve on a unix socket, which must not exist."""
        self._server = await asyncio.start_unix_server(
            self._serve, path, limit=1 << 18, backlog=self.limits.clients
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self.clients) >= self.limits.clients:
            log.warning("more than %d clients; one turned away", self.limits.clients)
            writer.close()
            return
        self._numbers += 1
        client = Client(self, reader, writer, self._numbers)
        self.clients.add(client)
        try:
            await client.serve()
        except Exception:
            log.exception("client %d: failed", client.number)
            writer.close()
        finally:
            self.clients.discard(client)

    async def close(self) -> None:
        """Stop listening and let the clients go."""
        if self._server is not None:
            self._server.close()
        for client in list(self.clients):
            client.close()
