"""One domain: its definition, its state, and what is done to it.

States, reasons and events are libvirt's. A guest that powers off leaves its VMM paused
(`on_poweroff: pause`), so that the daemon, or the one that comes after it, learns why it stopped
before the process ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from libvirtish import states as s
from libvirtish.description import description
from libvirtish.errors import Code, VirError
from libvirtish.events import Events
from libvirtish.record import Record
from libvirtish.rpc import types as t
from libvirtish.store import Store
from libvirtish.vmm import FIND_S, KILL_S, TERM_S, Vmm, VmmError
from libvirtish.xml.domain import Definition

log = logging.getLogger("libvirtishd")

_PTY = re.compile(r"pty:(/dev/pts/[0-9]+)$")


@dataclass(frozen=True)
class Surroundings:
    """What every domain of a daemon uses."""

    store: Store
    events: Events
    command: list[str]  # of the VMM


class Domain:
    """A domain, running or not."""

    def __init__(self, around: Surroundings, definition: Definition, persistent: bool) -> None:
        """`persistent`: it is on disk, and stays when it stops."""
        self._around = around
        self.definition, self.persistent = definition, persistent
        self.live: Definition | None = None  # as it was started
        self.id = -1
        self.state, self.reason = int(s.State.SHUTOFF), int(s.Shutoff.UNKNOWN)
        self.ttys: dict[str, str] = {}  # device of a console -> its terminal or socket
        self.vmm: Vmm | None = None
        self.lock = asyncio.Lock()
        self._ending: tuple[s.Shutoff, s.Stopped] | None = None
        self._record: Record | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what it is -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Return its name."""
        return self.definition.name

    @property
    def active(self) -> bool:
        """Whether it has a VMM process."""
        return self.id >= 0

    @property
    def autostart(self) -> bool:
        """Whether it starts with the daemon."""
        return self.persistent and self._around.store.autostart(self.name)

    @property
    def current(self) -> Definition:
        """Return the definition it runs with, or else would."""
        return self.live or self.definition

    @property
    def ref(self) -> t.Domain:
        """Return how the protocol names it."""
        return t.Domain(self.name, self.definition.uuid.bytes, self.id)

    @property
    def directory(self) -> Path:
        """Return where a run of it has its files."""
        return self._around.store.run_directory(self.name)

    def xml(self, inactive: bool) -> str:
        """Return its XML: as it runs, or as it would be started next."""
        if self.active and self.live is not None and not inactive:
            return self.live.live_xml(self.id, self.ttys)
        return self.definition.xml()

    def need_vmm(self) -> Vmm:
        """Return its process. :raise VirError: if it does not run."""
        if self.vmm is None or not self.active:
            raise VirError(Code.OPERATION_INVALID, "domain is not running")
        return self.vmm

    def _tell(self, event: s.Event, detail: int) -> None:
        self._around.events.lifecycle(self.ref, event, detail)

    def _set(self, state: s.State, reason: int) -> None:
        self.state, self.reason = int(state), int(reason)

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a QMP command. :raise VirError: if it fails."""
        try:
            return await self.need_vmm().execute(command, arguments)
        except VmmError as error:
            raise VirError(Code.OPERATION_FAILED, f"domain {self.name!r}: {error}") from error

    # -- starting ---------------------------------------------------------------------------------

    async def start(
        self, domain_id: int, paused: bool, as_defined: Definition | None = None
    ) -> None:
        """Start it, with the lock held; as_defined: otherwise than it is defined, this once.

        :raise VirError: if it runs already, or cannot.
        """
        if self.active:
            raise VirError(Code.OPERATION_INVALID, "domain is already running")
        definition = as_defined or self.definition
        _check_files(definition)
        for note in definition.notes:
            log.warning("domain %s: %s", self.name, note)
        self._around.store.forget_run(self.name)
        self.directory.mkdir(parents=True)
        self.live, self.id, self._ending = definition, domain_id, None
        self._set(s.State.PAUSED, s.Paused.STARTING_UP)
        told = False
        try:
            await self._note(Record(definition, domain_id, paused))
            vmm = await Vmm.start(self._around.command, self.directory, description(definition))
            await self._take(vmm)
            # Told before the guest runs: it may be over in no time.
            self._tell(s.Event.STARTED, 0)
            told = True
            log.info("domain %s: started, id %d, process %d", self.name, self.id, vmm.pid)
            if paused:
                self._set(s.State.PAUSED, s.Paused.USER)
                self._tell(s.Event.SUSPENDED, 0)
            else:
                self._set(s.State.RUNNING, s.Running.BOOTED)
                await vmm.execute("cont")
        except (VmmError, OSError) as error:
            if told and self.vmm is None:
                return  # it is over already
            await self._failed_start(told)
            why = f"{self.directory}: {error.strerror}" if isinstance(error, OSError) else error
            message = f"domain {self.name!r} did not start: {why}"
            raise VirError(Code.INTERNAL_ERROR, message) from error

    async def _failed_start(self, told: bool) -> None:
        vmm, self.vmm = self.vmm, None
        if vmm is not None:
            vmm.on_exit = lambda: None
            vmm.kill(signal.SIGKILL)
            await vmm.wait_gone(KILL_S)
            vmm.close()
        self._set(s.State.SHUTOFF, s.Shutoff.FAILED)
        if told:
            self._tell(s.Event.STOPPED, s.Stopped.FAILED)
        self._around.store.forget_run(self.name)
        self.live, self.id, self.ttys, self._record = None, -1, {}, None
        self.on_stopped(self)  # it may have been undefined meanwhile

    async def _note(self, record: Record) -> None:
        """Write down what a later daemon must know."""
        self._record = record
        await asyncio.to_thread(record.write, self.directory)

    async def _take(self, vmm: Vmm) -> None:
        """Make a process with a monitor this domain's. :raise VmmError:"""
        self._own(vmm)
        await self._learn_consoles(vmm)
        self._spawn(vmm.stay_connected(self._learn))

    def _own(self, vmm: Vmm) -> None:
        self.vmm = vmm
        vmm.on_event, vmm.on_exit = self._event, self._exited

    async def _learn_consoles(self, vmm: Vmm) -> None:
        """Where the consoles are: sockets as defined; of a terminal the VMM is believed only that
        it is one.
        """
        consoles = self.current.consoles
        self.ttys = {
            each.device: each.path for each in consoles if each.backend == "unix" and each.path
        }
        devices = {each.alias: each.device for each in consoles if each.backend == "pty"}
        answer = await vmm.execute("query-chardev")
        for row in answer if isinstance(answer, list) else []:
            found = _PTY.match(str(row.get("filename", "")))
            device = devices.get(str(row.get("label")))
            if device and found:
                self.ttys[device] = found[1]

    async def find_again(self, vmm: Vmm, record: Record) -> None:
        """Go on with a process that an earlier daemon started, even if it does not answer yet."""
        self.live, self.id, self._record = record.definition, record.id, record
        self._set(s.State.NOSTATE, 0)
        self._own(vmm)
        log.info("domain %s: found again, id %d, process %d", self.name, self.id, vmm.pid)
        try:
            await vmm.connect(FIND_S)
            await self._learn()
        except VmmError as error:
            log.error("domain %s: process %d: %s", self.name, vmm.pid, error)
        self._spawn(vmm.stay_connected(self._learn))

    async def _learn(self) -> None:
        """Ask a monitor that was found, or found again, how things are. :raise VmmError:"""
        vmm, record = self.vmm, self._record
        if vmm is None or record is None:
            return
        await self._learn_consoles(vmm)
        answer = await vmm.execute("query-status")
        status = str(answer.get("status")) if isinstance(answer, dict) else ""
        if status == "running":
            if self.state != s.State.RUNNING:
                self._set(s.State.RUNNING, s.Running.UNKNOWN)
        elif record.crashed or status == "guest-panicked":
            self._set(s.State.CRASHED, s.Crashed.PANICKED)
        elif status == "prelaunch" and not record.paused:
            # The earlier daemon was killed in the middle of a start.
            self._set(s.State.RUNNING, s.Running.BOOTED)
            await vmm.execute("cont")
        else:
            self._set(s.State.PAUSED, s.Paused.USER)
            if status == "shutdown":
                self._spawn(self._powered_off())

    # -- while it runs ----------------------------------------------------------------------------

    async def suspend(self) -> None:
        """Pause its processors."""
        self.need_vmm()
        if self.state == s.State.PAUSED:
            return
        await self.execute("stop")
        self._paused()

    def _paused(self) -> None:
        if self.state == s.State.RUNNING:
            self._set(s.State.PAUSED, s.Paused.USER)
            self._tell(s.Event.SUSPENDED, 0)

    async def resume(self) -> None:
        """Let them go on."""
        self.need_vmm()
        if self.state == s.State.RUNNING:
            return
        await self.execute("cont")
        self._resumed()

    def _resumed(self) -> None:
        if self.state == s.State.PAUSED and self.reason != s.Paused.STARTING_UP:
            self._set(s.State.RUNNING, s.Running.UNPAUSED)
            self._tell(s.Event.RESUMED, 0)

    async def shutdown(self, reboot: bool = False) -> None:
        """Press the power button; with `reboot` start it again once it is off."""
        self.need_vmm()
        if self._record is not None and reboot != self._record.reboot:
            await self._note(replace(self._record, reboot=reboot))
        await self.execute("system_powerdown")

    async def destroy(self, graceful: bool = False) -> None:
        """End the process: SIGTERM, and SIGKILL if that is not enough. With the lock held."""
        vmm = self.need_vmm()
        before, self._ending = self._ending, (s.Shutoff.DESTROYED, s.Stopped.DESTROYED)
        vmm.kill(signal.SIGTERM)
        if not await vmm.wait_gone(TERM_S):
            if graceful:
                self._ending = before
                raise VirError(Code.OPERATION_FAILED, "the process does not heed SIGTERM")
            log.warning("domain %s: process %d did not heed SIGTERM", self.name, vmm.pid)
            vmm.kill(signal.SIGKILL)
            if not await vmm.wait_gone(KILL_S):
                raise VirError(Code.OPERATION_FAILED, f"process {vmm.pid} cannot be killed")

    # -- what the VMM says ------------------------------------------------------------------------

    def _event(self, name: str, data: Mapping[str, object]) -> None:
        log.debug("domain %s: %s %s", self.name, name, dict(data))
        if name == "STOP":
            if self._ending is None and self.state == s.State.RUNNING:
                self._spawn(self._check_paused())
        elif name == "RESUME":
            self._resumed()
        elif name == "RESET":
            self._around.events.reboot(self.ref)
        elif name == "GUEST_PANICKED":
            self._crashed()
        elif name == "SHUTDOWN" and self._ending is None:
            reason = str(data.get("reason", ""))
            triple_fault = reason == "guest-reset" and self.current.on_reboot != "destroy"
            if reason == "guest-panic" or triple_fault:
                self._crashed()
            elif reason == "guest-shutdown" or (not reason and data.get("guest")):
                self._spawn(self._powered_off())
            else:  # quit by another monitor, SIGTERM by an administrator, a reset that ends it
                self._ending = (s.Shutoff.SHUTDOWN, s.Stopped.SHUTDOWN)

    async def _check_paused(self) -> None:
        """A STOP of somebody else's: by another monitor."""
        async with self.lock:
            if self._ending is None and self.state == s.State.RUNNING and self.active:
                answer = await self.execute("query-status")
                if isinstance(answer, dict) and answer.get("status") == "paused":
                    self._paused()

    def _crashed(self) -> None:
        """The guest panicked or faulted; what follows is on_crash's."""
        if self.current.on_crash == "preserve":
            if self.state != s.State.CRASHED:
                self._set(s.State.CRASHED, s.Crashed.PANICKED)
                self._tell(s.Event.CRASHED, 0)
                if self._record is not None:
                    self._spawn(self._note(replace(self._record, crashed=True)))
        elif not self.current.on_crash.endswith("restart"):
            self._ending = (s.Shutoff.CRASHED, s.Stopped.CRASHED)

    async def _powered_off(self) -> None:
        """The guest is off and its VMM waits: start it again, or end it."""
        async with self.lock:
            vmm = self.vmm
            if vmm is None or self._ending is not None:
                return
            try:
                reboot = self._record is not None and self._record.reboot
                if reboot or self.current.on_poweroff.endswith("restart"):
                    if self._record is not None and reboot:
                        await self._note(replace(self._record, reboot=False))
                    self._set(s.State.RUNNING, s.Running.BOOTED)
                    await vmm.execute("system_reset")
                    await vmm.execute("cont")
                    return
                if self.current.on_poweroff == "preserve":
                    self._set(s.State.PAUSED, s.Paused.SHUTTING_DOWN)
                    return
                self._set(s.State.SHUTDOWN, 0)
                self._tell(s.Event.SHUTDOWN, s.SHUTDOWN_GUEST)
                self._ending = (s.Shutoff.SHUTDOWN, s.Stopped.SHUTDOWN)
                await vmm.execute("quit")
            except VmmError as error:
                log.info("domain %s: %s", self.name, error)
            if not await vmm.wait_gone(TERM_S):
                vmm.kill(signal.SIGKILL)

    def _exited(self) -> None:
        """The process is gone: by our will, by the guest's, or by accident."""
        vmm = self.vmm
        shutoff, stopped = self._ending or (s.Shutoff.CRASHED, s.Stopped.CRASHED)
        if self._ending is None and vmm is not None:
            log.error(
                "domain %s: its VMM process %d died: %s", self.name, vmm.pid, vmm.last_words()
            )
        self._set(s.State.SHUTOFF, shutoff)
        self._tell(s.Event.STOPPED, stopped)  # still with its id, as libvirt does
        log.info("domain %s: stopped: %s", self.name, stopped.name.lower())
        self.vmm, self.live, self.id, self.ttys = None, None, -1, {}
        self._ending = self._record = None
        if vmm is not None:
            vmm.close()
        self._around.store.forget_run(self.name)
        self.on_stopped(self)

    @staticmethod
    def on_stopped(domain: Domain) -> None:
        """Replaced by the driver, which lets go of a domain that is not persistent."""

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("domain %s: %r", self.name, task.exception())


def _check_files(definition: Definition) -> None:
    """:raise VirError: if a file that it needs cannot be read."""
    wanted = [("kernel", definition.kernel), ("initrd", definition.initrd)]
    wanted += [(f"disk {disk.target}", disk.path) for disk in definition.disks]
    for what, path in wanted:
        if path is None:
            continue
        try:
            # Not blocking: nobody may ever write to a FIFO of that name.
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            raise VirError(
                Code.CONFIG_UNSUPPORTED,
                f"{what} {path}: {error.strerror}; put it there",
            ) from error
