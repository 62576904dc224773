"""One VMM process and its monitor: started, found again by a later daemon, watched, ended.

The process has a session of its own, so that it survives the daemon. It is known by its line of
/proc/PID/stat at birth, which it writes itself before it becomes the VMM: a number that was given
out again is not taken for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from qemu.qmp import ExecInterruptedError, ExecuteError, QMPClient, QMPError, Runstate, StateError

log = logging.getLogger("libvirtishd")
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what matters comes as exceptions

DESCRIPTION, MONITOR, IDENTITY, LOG = "vm.json", "qmp.sock", "process", "vmm.log"
START_S, FIND_S, RETRY_S, COMMAND_S, TERM_S, KILL_S = 30.0, 2.0, 5.0, 15.0, 3.0, 5.0

# $$ is the VMM's number too: exec keeps it, and the start time beside it.
_SHELL = (
    'read -r line </proc/$$/stat && echo "$line" >process.new'
    ' && mv process.new process && exec "$@"'
)


class VmmError(Exception):
    """The process or its monitor does not do what it should."""


def _birth(pid: int) -> str | None:
    """Return when a process was born, in ticks since boot, or None if none lives."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    rest = fields.rpartition(")")[2].split()  # from field 3 on; the command may contain anything
    return None if rest[0] in "ZX" else rest[19]


class Vmm:
    """A running VMM process."""

    def __init__(self, directory: Path, pid: int, child: subprocess.Popen[bytes] | None) -> None:
        """`child`: if this daemon started it. :raise VmmError: if it is gone already."""
        self.directory, self.pid, self._child = directory, pid, child
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise VmmError(f"process {pid} is gone") from None
        self._directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        self._gone = asyncio.Event()
        self._client: QMPClient | None = None
        self._listener: asyncio.Task[None] | None = None
        self.on_event: Callable[[str, Mapping[str, object]], None] = lambda name, data: None
        self.on_exit: Callable[[], None] = lambda: None
        asyncio.get_running_loop().add_reader(self._pidfd, self._exited)

    # -- beginnings ---------------------------------------------------------------------------

    @classmethod
    async def start(
        cls, command: list[str], directory: Path, description: Mapping[str, object]
    ) -> Vmm:
        """Start a process on a description and speak to its monitor. :raise VmmError:"""
        (directory / DESCRIPTION).write_text(json.dumps(description, indent=2), encoding="utf-8")
        with (directory / LOG).open("ab") as output:
            child = subprocess.Popen(
                ["/bin/sh", "-c", _SHELL, "vmm", *command]  # noqa: RUF005 - the machine's part
                + ["--config", DESCRIPTION, "--qmp", MONITOR],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        vmm = cls(directory, child.pid, child)
        try:
            await vmm.connect(START_S)
        except VmmError:
            vmm.kill(signal.SIGKILL)
            await vmm.wait_gone(KILL_S)
            vmm.close()
            raise
        return vmm

    @classmethod
    async def find(cls, directory: Path) -> Vmm | None:
        """Return the process that an earlier daemon started here, or None if it is gone.

        Its monitor is not yet connected to.
        """
        for _ in range(100):  # the daemon may have been killed right behind its fork
            if (directory / IDENTITY).exists():
                break
            await asyncio.sleep(0.01)
        try:
            line = (directory / IDENTITY).read_text(encoding="ascii", errors="replace")
            pid, birth = int(line.split()[0]), line.rpartition(")")[2].split()[19]
        except (OSError, ValueError, IndexError):
            return None
        try:
            vmm = cls(directory, pid, None)
        except VmmError:
            return None
        if _birth(pid) != birth:  # looked at with the descriptor in hand: it cannot change now
            vmm.close()
            return None
        return vmm

    async def connect(self, seconds: float) -> None:
        """Reach the monitor, for which the process may need a while.

        :raise VmmError: if it does not come.
        """
        deadline = time.monotonic() + seconds
        path = f"/proc/self/fd/{self._directory_fd}/{MONITOR}"  # however long the directory's name
        while not self._gone.is_set():
            if time.monotonic() > deadline:
                raise VmmError(f"its monitor did not come within {seconds:g} s; see {self._log()}")
            if os.path.exists(path):
                client = QMPClient("libvirtish")
                try:
                    async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                        await client.connect(path)
                except (QMPError, OSError, EOFError, TimeoutError) as error:
                    log.debug("%s: %r", self.directory.name, error)
                else:
                    self._client = client
                    self._listener = asyncio.create_task(self._listen(client))
                    return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), 0.02)
        raise VmmError(self.last_words())

    @property
    def connected(self) -> bool:
        """Whether there is a monitor to speak to."""
        return self._client is not None

    async def stay_connected(self, again: Callable[[], Awaitable[None]]) -> None:
        """Reach the monitor again whenever it is lost; `again` is called when it is there."""
        said = False
        while not self._gone.is_set():
            client = self._client
            try:
                if client is None:
                    await self.connect(RETRY_S)
                    await again()
                    said = False
                    continue
                while client.runstate == Runstate.RUNNING:
                    await client.runstate_changed()
                self._client = None
                await _disconnect(client)
            except VmmError as error:
                if not said and not self._gone.is_set():
                    log.error("process %d: %s; trying again", self.pid, error)
                said = True

    def _log(self) -> Path:
        return self.directory / LOG

    def last_words(self) -> str:
        """Return the end of what the process said on its standard error."""
        try:
            text = self._log().read_bytes()[-2000:].decode(errors="replace").strip()
        except OSError:
            text = ""
        return text.splitlines()[-1] if text else "the VMM process ended without a word"

    # -- the monitor --------------------------------------------------------------------------

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a QMP command. :raise VmmError: if it is refused or not answered."""
        client = self._client
        if client is None:
            raise VmmError("there is no monitor")
        try:
            async with asyncio.timeout(COMMAND_S):
                return await client.execute(command, dict(arguments or {}) or None)
        except ExecuteError as error:
            raise VmmError(f"{command}: {error}") from error
        except (ExecInterruptedError, StateError, OSError) as error:
            raise VmmError(f"{command}: the monitor went away") from error
        except TimeoutError as error:
            raise VmmError(f"{command}: no answer from the monitor in {COMMAND_S:g} s") from error

    async def _listen(self, client: QMPClient) -> None:
        with contextlib.suppress(QMPError, OSError):
            async for event in client.events:
                data = event.get("data", {})
                self.on_event(str(event["event"]), data if isinstance(data, dict) else {})

    # -- the process ----------------------------------------------------------------------------

    def cpu_time_ns(self) -> int:
        """Return the processor time that the process has used."""
        try:
            line = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return 0
        user, system = line.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    def resident_kib(self) -> int:
        """Return the memory that the process occupies."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE") // 1024

    def kill(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def wait_gone(self, seconds: float) -> bool:
        """Wait for its end; whether it came."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), seconds)
        return self._gone.is_set()

    def _exited(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        if self._child is not None:
            self._child.wait()  # it is over: this does not block
        asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        """The last events may still be in the socket: take them first."""
        client = self._client
        if client is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    while client.runstate == Runstate.RUNNING:
                        await client.runstate_changed()
            while not client.events.empty():
                await asyncio.sleep(0)
        self._gone.set()
        self.on_exit()

    def close(self) -> None:
        """Let go of descriptors; the process is left alone."""
        if self._pidfd < 0:
            return
        if not self._gone.is_set():
            asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        os.close(self._directory_fd)
        self._pidfd = -1
        if self._listener is not None:
            self._listener.cancel()
        if self._client is not None:
            self._closing = asyncio.create_task(_disconnect(self._client))
            self._client = None


async def _disconnect(client: QMPClient) -> None:
    with contextlib.suppress(QMPError, OSError, EOFError):
        await client.disconnect()
