"""A virtual machine from configuration to end: memory, chips, exits, its run state, and why it
stopped.

Locks, in the order in which they are taken: bus.lock (devices), a virtio transport's serving
lock, its interrupt status lock; the vCPUs' own (processor.py) last of all. vCPU threads take
bus.lock for each exit; the event loop holds it in every device's callback, and in nothing else: the
run state changes on the loop's thread only, and a change may wait for the vCPUs.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from kvm_core import abi
from kvm_core.abi import Cap
from kvm_core.api import Door, Kvm, Vcpu, apply_cpu_model
from kvm_core.errors import BackendError, ConfigError, VmError
from kvm_core.exits import (
    FailEntry,
    Hlt,
    InternalError,
    IoExit,
    MmioExit,
    Shutdown,
    SystemEvent,
    VcpuExit,
)
from vmmuser import cpuid
from vmmuser.board.base import Console, Platform
from vmmuser.board.microvm import IDENTITY_MAP, TSS, MicroVm, ram_ranges
from vmmuser.boot import cpustate, poweron
from vmmuser.boot.payload import Payload, open_image
from vmmuser.bus import Bus
from vmmuser.config import MachineConfig
from vmmuser.held import HeldWrites
from vmmuser.log import Log
from vmmuser.loop import EventLoop
from vmmuser.memory import GuestMemory
from vmmuser.processor import KICK_SIGNAL, Processor, Processors
from vmmuser.runstate import NEEDS_RESET, Event, Policy, Request, RunState, Wish

if TYPE_CHECKING:
    from asyncio import Future

log = Log("kvmish.machine")

Ending = Literal["off", "reset", "quit", "crash", "error"]


class Outcome(NamedTuple):
    """Why the machine stopped: `off` and `reset` by the guest, `quit` by the user."""

    ending: Ending
    message: str


class Machine:
    """One machine and its event loop; a reset starts it anew in place."""

    def __init__(
        self,
        config: MachineConfig,
        door: Door,
        consoles: Mapping[str, Console],
        policy: Policy | None = None,
    ) -> None:
        """Build everything. :raise ConfigError: if the configuration cannot be. :raise
        BackendError:
        """
        self.outcome: Outcome | None = None
        self.state: RunState = "prelaunch"
        self.on_event: Callable[[Event], None] = lambda event: None
        self.policy = policy or Policy()
        self.processors: list[Processor] = []
        self.bus = Bus()
        self.loop = EventLoop(self.bus.lock)
        self._waiting: Future[None] | None = None
        self._request: Request | None = None  # guarded by bus.lock; the first one counts
        self._clock: abi.KvmClockData | None = None  # of a machine that was paused
        self._powered = False
        self._closers: list[Callable[[], None]] = [self.loop.close]
        try:
            self.payload = open_payload(config)
            self._closers.append(self.payload.close)
            self.memory = GuestMemory(ram_ranges(config.memory_mib), config.memory_file)
            self._closers.append(self.memory.close)
            self._build(config, door, consoles)
        except OSError as error:
            self.close()
            raise BackendError(f"--kvm {door.name}: a KVM call failed: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def _build(self, config: MachineConfig, door: Door, consoles: Mapping[str, Console]) -> None:
        self._open_kvm(config, door)
        self.vm = self.kvm.create_vm()
        self._closers.append(self.vm.close)
        self._create_vm_parts()
        self.processors = [Processor(self.vm.create_vcpu(i)) for i in range(config.vcpus)]
        for processor in self.processors:
            self._closers.append(processor.vcpu.close)
            if processor.stats:
                self._closers.append(processor.stats.close)
        self._vcpus = Processors(
            self.processors, self._serve_exit, self._vcpu_failed, config.lockstep
        )
        platform = Platform(
            config=config,
            vm=self.vm,
            bus=self.bus,
            memory=self.memory,
            loop=self.loop,
            turn=self._vcpus.turn if config.lockstep else contextlib.nullcontext,
            consoles=consoles,
            power_off=lambda: self._ask("power-off", "the guest powered off"),
            reset=lambda: self._ask("reset", "the guest reset the machine"),
            panicked=self._panicked,
        )
        self.board = MicroVm(platform)
        self._closers.append(self.board.stop)
        coalesced: tuple[int, ...] = self.board.coalesced_ports
        if not self.kvm.check_extension(Cap.COALESCED_PIO):
            coalesced = ()
        self.held = HeldWrites(self.vm, self.bus, self.loop, coalesced, self.board.wants_polling)
        self._set_cpuid(config)
        indices = self.kvm.get_msr_index_list()
        self._power_on_vcpus = [poweron.take_vcpu(p.vcpu, indices) for p in self.processors]
        self._power_on_chips = poweron.take_chips(self.vm)
        self._enter_payload()

    def _open_kvm(self, config: MachineConfig, door: Door) -> None:
        self.kvm = Kvm(door)
        self._closers.append(self.kvm.close)
        try:
            version = self.kvm.get_api_version()
        except OSError:
            raise ConfigError(
                f"--kvm {door.name}: is not a KVM device; name one, or use --kvm direct"
            ) from None
        if version != abi.API_VERSION:
            raise ConfigError(f"--kvm {door.name}: speaks KVM API {version}; 12 is needed")
        limit = self.kvm.check_extension(Cap.MAX_VCPUS)
        if config.vcpus > limit:
            raise ConfigError(
                f"--smp {config.vcpus}: {door.name} runs at most {limit}; ask for fewer"
            )

    def _create_vm_parts(self) -> None:
        self.vm.set_identity_map_addr(IDENTITY_MAP)
        self.vm.set_tss_addr(TSS)
        self.vm.create_irqchip()
        self.vm.create_pit2(abi.PIT_SPEAKER_DUMMY)
        for slot, ram in enumerate(self.memory.ranges):
            self.vm.set_user_memory_region(slot, ram.gpa, ram.size, self.memory.anchor(ram))

    def _set_cpuid(self, config: MachineConfig) -> None:
        self._cpuid = apply_cpu_model(self.kvm.get_supported_cpuid(), config.cpu)
        for index, processor in enumerate(self.processors):
            processor.vcpu.set_cpuid2(cpuid.for_vcpu(self._cpuid, index, config.vcpus))

    def _enter_payload(self) -> None:
        """Do what firmware and boot loader would have done."""
        bits = cpuid.physical_address_bits(self._cpuid)
        msrs = cpustate.firmware_msrs(self.board.mmio_hole, bits)
        for processor in self.processors:
            cpustate.set_msrs(processor.vcpu, msrs)
            if cpuid.vendor(self._cpuid) == "AuthenticAMD":
                cpustate.steady_tsc(processor.vcpu)
            cpustate.firmware_lapic(processor.vcpu)
        cpustate.enter(self.processors[0].vcpu, self.board.boot(self.payload))

    # -- running ------------------------------------------------------------------------------

    def run(self, tick: Callable[[], bool], tick_ns: int = 250_000_000) -> Outcome:
        """Run until something stops it. On the main thread, since only it can take signals. `tick`
        is called again and again until it is False.
        """
        self._every(tick_ns, tick)
        with self.powered():
            return self.loop.run(self.ended())

    @contextlib.contextmanager
    def powered(self, paused: bool = False) -> Iterator[None]:
        """Let the vCPUs run (once `resume` was called, if `paused`); end them behind it."""
        # A vCPU thread that comes back from the guest should not wait 5 ms for the interpreter.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(0.0002)
        previous = signal.signal(KICK_SIGNAL, lambda *_: None)
        self.loop.on_failure = self._loop_failed
        try:
            self.board.start()
            self._powered = True
            self.state = "prelaunch" if paused else "running"
            self.held.start()  # a vCPU would write past it meanwhile, with an exit each time
            self._vcpus.start(held=paused or self.outcome is not None)
            yield
        except BaseException:
            self.stop("error", "the monitor failed")
            raise
        finally:
            self._vcpus.end()
            signal.signal(KICK_SIGNAL, previous)
            sys.setswitchinterval(interval)
            self.held.drain()

    async def ended(self) -> Outcome:
        """Wait until something stops it."""
        if self.outcome is None:
            self._waiting = self.loop.asyncio.create_future()
            await self._waiting
        if self.outcome is None:  # pragma: no cover - stop sets it first
            raise BackendError("the machine ended without a reason; report this")
        return self.outcome

    def _every(self, interval_ns: int, call: Callable[[], bool]) -> None:
        def again() -> None:
            if call():
                self.loop.after_ns(interval_ns, again)

        self.loop.after_ns(interval_ns, again)

    def _loop_failed(self, context: dict[str, Any]) -> None:
        """A device's callback raised, or (without a handle) a task that nobody waits for did."""
        error = context.get("exception")
        expected = isinstance(error, OSError | VmError)
        if not expected:
            log.error("%s", context.get("message"), error=error)
        if "handle" in context:
            what = "a call" if isinstance(error, OSError) else "the monitor"
            hint = "" if expected else "; report this"
            self.shut_down("error", f"{what} failed: {error!r}{hint}", "host-error")

    def stop(self, ending: Ending, message: str) -> None:
        """End the run; the first reason counts. For any thread and for signal handlers."""
        if self.outcome is None:
            self.outcome = Outcome(ending, message)
        self._vcpus.hold()
        self.loop.soon(self._wake)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # -- the run state: on the loop's thread, without the device lock --------------------------

    @contextlib.contextmanager
    def _kvm_calls(self) -> Iterator[None]:
        """Around a change made of KVM calls: half of it is no state to go on from."""
        try:
            yield
        except OSError as error:
            message = f"a KVM call failed: {error.strerror}"
            self.shut_down("error", message, "host-error")
            raise BackendError(message) from error

    def pause(self, state: RunState = "paused") -> None:
        """Hold all vCPUs, the guest's clock and its memory."""
        if self.state != "running":
            return
        self._hold()
        self.state = state
        with self._kvm_calls():
            self._clock = self.vm.get_clock()
        self.held.drain()
        self.board.hold()
        self._tell("STOP")

    def resume(self) -> None:
        """Go on. :raise ConfigError: if only a reset helps."""
        if self.state == "running":
            return
        if self.state in NEEDS_RESET:
            raise ConfigError("Resetting the Virtual Machine is required")
        if self._clock is not None:
            with self._kvm_calls():
                self.vm.set_clock(abi.KvmClockData(clock=self._clock.clock))
            self._clock = None
            for processor in self.processors:
                with contextlib.suppress(OSError):  # a guest without the clock
                    processor.vcpu.kvmclock_ctrl()
        self.state = "running"
        self.board.release()
        self._tell("RESUME")
        self._vcpus.release()

    def reset(self, guest: bool = False, reason: str = "host-qmp-system-reset") -> None:
        """Start anew: vCPUs, chips, devices, memory, kernel; runs on if it ran."""
        self._hold()
        self.held.drain()
        with self.bus.lock, self._kvm_calls():
            self.board.reset()
            self._request = None
            poweron.put_chips(self.vm, self._power_on_chips)
            for processor, state in zip(self.processors, self._power_on_vcpus, strict=True):
                poweron.put_vcpu(processor.vcpu, state)
            self.memory.clear()
            self._enter_payload()
        self._tell("RESET", guest=guest, reason=reason)
        if self.state == "running":
            self._vcpus.release()
        else:
            self.state = "prelaunch"
            self._clock = None

    def inject_nmi(self) -> None:
        """Send every vCPU a non-maskable interrupt."""
        self._hold()
        with self._kvm_calls():
            for processor in self.processors:
                processor.vcpu.nmi()
        if self.state == "running":
            self._vcpus.release()

    def power_button(self) -> None:
        """Press it."""
        with self.bus.lock:
            self.board.press_power_button()
        self._tell("POWERDOWN")

    def shut_down(self, ending: Ending, message: str, reason: str, guest: bool = False) -> None:
        """Tell that it ends, and end it."""
        if self.outcome is None:
            self._tell("SHUTDOWN", guest=guest, reason=reason)
        self.stop(ending, message)

    def _hold(self) -> None:
        self._vcpus.hold()
        if self._powered:
            self._vcpus.wait_held()

    def _tell(self, name: str, **data: object) -> None:
        self.on_event(Event(name, data))

    # -- what the guest asks for --------------------------------------------------------------

    def _ask(self, wish: Wish, message: str) -> None:
        """Hold the vCPUs and let the loop's thread decide; for any thread."""
        with self.bus.lock:
            if self._request is None:
                self._request = Request(wish, message)
                self.loop.soon(self._serve_request)
        self._vcpus.hold()

    def _panicked(self, crash_loaded: bool) -> None:
        if crash_loaded:  # its crash kernel goes on
            self.loop.soon(self._tell_panic, "GUEST_CRASHLOADED", "run")
        else:
            self._ask("panic", "the guest's kernel panicked")

    def _tell_panic(self, name: str, action: str) -> None:
        self._tell(name, action=action)

    def _serve_request(self) -> None:
        with self.bus.lock:
            request = self._request
        if request is None or self.outcome is not None:
            return
        self._hold()
        with self.bus.lock:
            self._request = None
        match request.wish:
            case "power-off":
                self._end_or_pause(request, self.policy.on_poweroff, "off", "guest-shutdown")
            case "reset" if self.policy.on_reboot == "reset":
                self.reset(guest=True, reason="guest-reset")
            case "reset":
                self.shut_down("reset", request.message, "guest-reset", guest=True)
            case "triple-fault" if self.policy.on_crash == "reset":
                log.warning("%s; the machine is reset", request.message)
                self.reset(guest=True, reason="guest-reset")
            case "triple-fault":
                self._end_or_pause(request, self.policy.on_crash, "crash", "guest-reset")
            case "panic":
                self._serve_panic(request)
            case "error" if self.policy.on_crash == "exit":
                self.shut_down("error", request.message, "host-error")
            case "error":
                log.error("%s; only a reset helps", request.message)
                self.pause("internal-error")

    def _end_or_pause(self, request: Request, policy: str, ending: Ending, reason: str) -> None:
        if policy == "pause":
            self._tell("SHUTDOWN", guest=True, reason=reason)
            self.pause("shutdown")
        else:
            self.shut_down(ending, request.message, reason, guest=True)

    def _serve_panic(self, request: Request) -> None:
        policy = self.policy.on_crash
        action = {"exit": "poweroff", "pause": "pause", "reset": "run"}[policy]
        self._tell_panic("GUEST_PANICKED", action)
        if policy == "reset":
            self.reset(guest=True, reason="guest-panic")
            return
        self.pause("guest-panicked")
        if policy == "exit":
            self.shut_down("crash", request.message, "guest-panic", guest=True)

    # -- exits: on the vCPUs' threads ---------------------------------------------------------

    def _serve_exit(self, processor: Processor, event: VcpuExit) -> None:
        if isinstance(event, IoExit):
            self.held.exited(event.port)
            processor.exits["io"] += 1
            processor.ports[event.port] += 1
            with self.bus.lock:
                self.held.drain()
                self._io(event)
        elif isinstance(event, MmioExit):
            processor.exits["mmio"] += 1
            with self.bus.lock:
                self.held.drain()
                self._mmio(event)
        else:
            processor.exits[_exit_name(event)] += 1
            self._other(processor, event)

    def _io(self, event: IoExit) -> None:
        port, size, data = event.port, event.size, event.data
        if event.is_write:
            self.bus.write_port_string(port, size, bytes(data))
            return
        for at in range(0, size * event.count, size):
            value = self.bus.read_port(port, size) & (1 << 8 * size) - 1
            data[at : at + size] = value.to_bytes(size, "little")

    def _mmio(self, event: MmioExit) -> None:
        size = event.size
        if event.is_write:
            self.bus.write_memory(event.gpa, size, int.from_bytes(event.data, "little"))
        else:
            value = self.bus.read_memory(event.gpa, size) & (1 << 8 * size) - 1
            event.data[:] = value.to_bytes(size, "little")

    def _other(self, processor: Processor, event: VcpuExit) -> None:
        name = f"vCPU {processor.vcpu.id}"
        if isinstance(event, Shutdown):
            self._ask("triple-fault", f"{name}: triple fault{_where(processor.vcpu)}")
        elif isinstance(event, Hlt):
            self._ask("error", f"{name}: halted, and no interrupt can wake it")
        elif isinstance(event, FailEntry):
            self._ask("error", f"{name}: its state cannot be entered (reason {event.reason:#x})")
        elif isinstance(event, InternalError):
            data = " ".join(f"{word:#x}" for word in event.data)
            where = _where(processor.vcpu)
            self._ask("error", f"{name}: internal error {event.suberror}{where} ({data})")
        elif isinstance(event, SystemEvent):
            wishes: dict[int, Wish] = {1: "power-off", 2: "reset"}
            self._ask(wishes.get(event.type, "panic"), f"{name}: system event {event.type}")
        else:
            self._ask("error", f"{name}: an exit that nobody asked for: {event}")

    def _vcpu_failed(self, processor: Processor, error: Exception) -> None:
        name = f"vCPU {processor.vcpu.id}"
        message = f"{name}: KVM_RUN failed: {error}"
        if not isinstance(error, OSError):
            log.error("%s", name, error=error)
            message = f"{name}: {error!r}; report this"
        self.loop.soon(self.shut_down, "error", message, "host-error")

    # -- books --------------------------------------------------------------------------------

    @property
    def first_instruction(self) -> float | None:
        """When the first vCPU was entered, of time.monotonic()."""
        return self._vcpus.first_entry

    def instructions(self) -> int | None:
        """Guest instructions so far, all vCPUs; None if the core does not count them."""
        total = 0
        for processor in self.processors:
            if processor.stats is None:
                return None
            count = processor.stats.read().get("instructions")
            if count is None:
                return None
            total += count
        return total

    def core_stats(self) -> dict[str, int]:
        """The core's own statistics, summed over the vCPUs; empty if it keeps none."""
        total: Counter[str] = Counter()
        for processor in self.processors:
            if processor.stats is not None:
                total.update(processor.stats.read())
        return dict(total)

    def exits(self) -> dict[str, int]:
        """Exits to this program by reason."""
        total: Counter[str] = Counter()
        for processor in self.processors:
            total += processor.exits
        return dict(total.most_common())

    def ports(self) -> dict[str, int]:
        """Port exits by port."""
        total: Counter[int] = Counter()
        for processor in self.processors:
            total += processor.ports
        return {f"{port:#x}": count for port, count in total.most_common()}

    def close(self) -> None:
        """Give everything back; a second time does nothing."""
        while self._closers:
            self._closers.pop()()


def open_payload(config: MachineConfig) -> Payload:
    """Open the files that the guest boots from. :raise ConfigError: if one cannot be read."""
    kernel = open_image("--kernel", config.kernel, "a bzImage or a PVH vmlinux")
    try:
        initrd = open_image("--initrd", config.initrd, "an initramfs") if config.initrd else None
    except ConfigError:
        kernel.close()
        raise
    return Payload(kernel, initrd, config.cmdline)


def _exit_name(event: VcpuExit) -> str:
    name = type(event).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _where(vcpu: Vcpu) -> str:
    try:
        return f" at {vcpu.get_regs().rip:#x}"
    except OSError:
        return ""
