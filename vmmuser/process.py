"""One machine as a process (`kvmish vm`): its description's files and sockets, its monitor, its
consoles, signals, and the exit status.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from types import FrameType

from kvm_core import engines
from kvm_core.api import open_door
from kvm_core.errors import ConfigError
from vmmuser import status
from vmmuser.board.base import Console
from vmmuser.chardev import Listener, Stream, open_chardev, open_output
from vmmuser.description import Description
from vmmuser.machine import Machine, Outcome
from vmmuser.qmp.server import QmpServer
from vmmuser.runstate import Event, Policy

log = logging.getLogger("kvmish.vm")

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# What a machine's errors call an option has another name in a description.
_FIELDS = {
    "--kernel": "kernel",
    "--initrd": "initrd",
    "--append": "cmdline",
    "--disk": "disks",
    "--smp": "vcpus",
    "--cpu": "cpu",
    "--kvm": "kvm",
    "--memory-file": "memory_file",
    "-m": "memory_mib",
}


def in_fields(message: str) -> str:
    """Put a machine's error into a description's words."""
    words = [_FIELDS.get(word.rstrip(":"), word) for word in message.split(" ")]
    first, *rest = words
    return " ".join([f"{first}:" if first in _FIELDS.values() else first, *rest])


class PidFile:
    """A file with this process's number, locked while it lives."""

    def __init__(self, path: str) -> None:
        """Write it. :raise ConfigError: if another living process has it."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        except OSError as error:
            raise ConfigError(f"pidfile: {path}: {error.strerror}; name another path") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())
        except BlockingIOError:
            owner = os.read(self._fd, 32).decode(errors="replace").strip()
            os.close(self._fd)
            raise ConfigError(f"pidfile: {path}: process {owner} has it; stop it first") from None
        except OSError as error:
            os.close(self._fd)
            raise ConfigError(f"pidfile: {path}: {error.strerror}; name another path") from None

    def close(self) -> None:
        """Remove it."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        os.close(self._fd)


class VmProcess:
    """Everything of one `kvmish vm`. Close it in any case."""

    def __init__(self, description: Description) -> None:
        """Take hold of all that the description names. :raise ConfigError: if something cannot be
        had; nothing is left behind then.
        """
        self.description = description
        self._stack = contextlib.ExitStack()
        self._chardevs: list[Stream] = []
        self._told_shutdown = False
        self._server: QmpServer | None = None
        self._listener: Listener | None = None
        self._early: signal.Signals | None = None  # came before the loop could take it
        for number in ENDING_SIGNALS:
            signal.signal(number, self._note)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._early = signal.Signals(number)

    def _open(self) -> None:
        description = self.description
        if description.log:
            self._log_to(description.log)
        if description.pidfile:
            self._stack.callback(PidFile(description.pidfile).close)
        if description.qmp:
            self._listener = Listener(description.qmp, "qmp")
            self._stack.callback(self._listener.close)
        for spec in description.consoles:
            chardev = open_chardev(spec)
            self._chardevs.append(chardev)
            self._stack.callback(chardev.close)
        policy = Policy(description.on_poweroff, description.on_reboot, description.on_crash)
        consoles: dict[str, Console] = {c.spec.device: c for c in self._chardevs}
        if description.engine:
            engines.choose(description.engine)
        try:
            door = open_door(description.kvm)
            self.machine = Machine(description.machine, door, consoles, policy)
        except ConfigError as error:
            raise ConfigError(in_fields(str(error))) from None
        self._stack.callback(self.machine.close)
        self.machine.on_event = self._event

    @staticmethod
    def _log_to(path: str) -> None:
        """Let what is written to standard error go to a file, the core's own words included."""
        fd = open_output(path, append=True, what="log")
        os.set_blocking(fd, True)
        sys.stderr.flush()
        os.dup2(fd, 2)
        os.close(fd)

    @property
    def chardevs(self) -> Sequence[Stream]:
        """See Target."""
        return self._chardevs

    def quit(self) -> None:
        """See Target; the answer to the command goes first."""
        self.machine.loop.soon(
            self.machine.shut_down, "quit", "a monitor's client quit", "host-qmp-quit"
        )

    def _event(self, event: Event) -> None:
        self._told_shutdown |= event.name == "SHUTDOWN"
        log.info("%s %s", event.name, event.data or "")
        if self._server is not None:
            self._server.broadcast(event)

    def run(self) -> int:
        """Run to the end; the exit status."""
        try:
            outcome = self.machine.loop.run(self._main())
        finally:
            for number in ENDING_SIGNALS:  # what follows is quick, and is to be whole
                signal.signal(number, signal.SIG_IGN)
        done = outcome.ending in ("off", "quit", "reset")
        log.log(logging.INFO if done else logging.ERROR, "%s", outcome.message)
        return status.DONE if done else status.FAILED

    def _signalled(self, number: signal.Signals) -> None:
        self.machine.shut_down("quit", f"stopped by {number.name}", "host-signal")

    async def _main(self) -> Outcome:
        machine, loop = self.machine, asyncio.get_running_loop()
        for number in ENDING_SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        if self._early is not None:
            self._signalled(self._early)
        for chardev in self._chardevs:
            chardev.start(machine.loop, partial(machine.board.receive, chardev.spec.device))
        if self._listener is not None:
            self._server = QmpServer(self._listener, self)
            self._server.start()
        try:
            with machine.powered(paused=self.description.paused):
                outcome = await machine.ended()
        finally:
            for chardev in self._chardevs:  # while the loop can still take them off
                chardev.close()
        if not self._told_shutdown:
            self._event(Event("SHUTDOWN", {"guest": False, "reason": "host-error"}))
        if self._server is not None:
            await self._server.close()
        return outcome

    def close(self) -> None:
        """Give everything back; a second time does nothing."""
        self._stack.close()
