"""One QMP client, on qemu.qmp's AsyncProtocol: greeting, negotiation, commands, events."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from qemu.qmp.message import Message
from qemu.qmp.protocol import AsyncProtocol, Runstate

from kvm_core.errors import VmError
from vmmuser import __version__
from vmmuser.qmp.stream import Splitter, decode
from vmmuser.qmp.types import Command, Json, QmpError, check
from vmmuser.runstate import Event

log = logging.getLogger("kvmish.qmp")

READ_BYTES = 1 << 16
MAX_BACKLOG_BYTES = 1 << 18  # of answers and events that a client does not read

NOT_FOUND = "CommandNotFound"
_MEMBERS = ("execute", "arguments", "id")


def version() -> dict[str, Json]:
    """Return VersionInfo: QMP has a place for QEMU's version only."""
    major, minor, micro = (int(part) for part in __version__.split("."))
    qemu = {"major": major, "minor": minor, "micro": micro}
    return {"qemu": qemu, "package": f"kvmish {__version__}"}


def event_message(event: Event) -> Message:
    """Put an event into QMP's form, as of now."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    message: dict[str, Json] = {
        "timestamp": {"seconds": seconds, "microseconds": rest // 1000},
        "event": event.name,
    }
    if event.data:
        message["data"] = event.data
    return Message(message)


class Monitor(AsyncProtocol[Message | QmpError]):
    """A connection. It answers one command after the other and reads no further until its client
    has taken the answer, so that what it keeps is bounded.
    """

    def __init__(self, commands: dict[str, Command], call: Callable[[Command, Json], Json]) -> None:
        """`call` runs a command with checked arguments. :raise QmpError: or VmError."""
        super().__init__(readbuflen=READ_BYTES)
        self._commands, self._call = commands, call
        self._splitter = Splitter()
        self._received: deque[bytes | QmpError] = deque()
        self._negotiated = False

    async def _establish_session(self) -> None:
        greeting = {"QMP": {"version": version(), "capabilities": []}}
        self._do_send(Message(greeting))
        await super()._establish_session()

    def _cb_inbound(self, msg: Message | QmpError) -> Message | QmpError:
        return msg  # the library's own would format every message for a log that is off

    def _cb_outbound(self, msg: Message | QmpError) -> Message | QmpError:
        return msg

    async def _do_recv(self) -> Message | QmpError:
        assert self._reader is not None  # noqa: S101 - for mypy
        while not self._received:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise EOFError
            self._received.extend(self._splitter.feed(data))
        part = self._received.popleft()
        try:
            value = decode(part) if isinstance(part, bytes) else part
        except QmpError as error:
            return error
        if isinstance(value, QmpError):
            return value
        if not isinstance(value, dict):
            return QmpError("QMP input must be a JSON object")
        return Message(value, eager=False)

    def _do_send(self, msg: Message | QmpError) -> None:
        assert self._writer is not None  # noqa: S101 - for mypy
        if isinstance(msg, Message):
            self._writer.write(bytes(msg) + b"\r\n")

    async def _on_message(self, msg: Message | QmpError) -> None:
        await self._outgoing.put(Message(self._answer(msg)))
        await self._outgoing.join()
        if self._writer is not None:
            await self._writer.drain()
        await asyncio.sleep(0)  # a client that floods us is one among others

    def _answer(self, msg: Message | QmpError) -> dict[str, Json]:
        answer: dict[str, Json] = {}
        try:
            if isinstance(msg, QmpError):
                raise msg
            if "id" in msg:
                answer["id"] = msg["id"]
            answer["return"] = self._execute(msg)
        except QmpError as error:
            answer["error"] = error.answer()
        except VmError as error:
            answer["error"] = QmpError(str(error)).answer()
        except Exception as error:
            log.exception("a command failed")
            answer["error"] = QmpError(f"internal error, report this: {error!r}").answer()
        return answer

    def _execute(self, msg: Message) -> Json:
        name, arguments = msg.get("execute"), msg.get("arguments", {})
        if "execute" not in msg:
            raise QmpError("QMP input lacks member 'execute'")
        if not isinstance(name, str):
            raise QmpError("QMP input member 'execute' must be a string")
        if not isinstance(arguments, dict):
            raise QmpError("QMP input member 'arguments' must be an object")
        for member in msg:
            if member not in _MEMBERS:
                raise QmpError(f"QMP input member '{member}' is unexpected")
        command = self._commands.get(name)
        if not self._negotiated and name != "qmp_capabilities":
            raise QmpError("Expecting capabilities negotiation with 'qmp_capabilities'", NOT_FOUND)
        if command is None:
            raise QmpError(f"The command {name} has not been found", NOT_FOUND)
        if self._negotiated and name == "qmp_capabilities":
            raise QmpError(
                "Capabilities negotiation is already complete, command ignored", NOT_FOUND
            )
        check(command.arguments, arguments)
        result = self._call(command, arguments)
        self._negotiated = True
        return result

    def send_event(self, message: Message) -> None:
        """Pass an event on; a client that has not negotiated gets none, one that does not read
        them is cut off.
        """
        if not self._negotiated or self.runstate != Runstate.RUNNING or self._writer is None:
            return
        transport = self._writer.transport
        if transport.get_write_buffer_size() > MAX_BACKLOG_BYTES:
            log.warning("a QMP client does not read its events: closed")
            transport.abort()
            return
        self._outgoing.put_nowait(message)

    async def serve(self) -> None:
        """Stay until the client is gone."""
        while self.runstate == Runstate.RUNNING:
            await self.runstate_changed()

    def abort(self) -> None:
        """Cut it off, whatever has not been sent."""
        if self._writer is not None:
            self._writer.transport.abort()
