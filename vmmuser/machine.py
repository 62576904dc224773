"""A virtual machine from configuration to end: memory, chips, vCPU threads, exits, and why it
stopped.

Locks, in the order in which they are taken: bus.lock (devices), a virtio transport's serving
lock, its interrupt status lock. vCPU threads take bus.lock for each exit; the event loop holds it
in every callback.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from kvm_core import abi
from kvm_core.abi import Cap
from kvm_core.api import Door, Kvm, StatsReader, Vcpu, apply_cpu_model
from kvm_core.errors import BackendError, ConfigError
from kvm_core.exits import (
    FailEntry,
    Hlt,
    InternalError,
    Interrupted,
    IoExit,
    MmioExit,
    Shutdown,
    SystemEvent,
    VcpuExit,
)
from vmmuser import cpuid
from vmmuser.board.base import Console, Platform
from vmmuser.board.microvm import IDENTITY_MAP, TSS, MicroVm, ram_ranges
from vmmuser.boot import cpustate
from vmmuser.boot.payload import Payload, read_file
from vmmuser.bus import Bus
from vmmuser.config import MachineConfig
from vmmuser.loop import EventLoop
from vmmuser.memory import GuestMemory

log = logging.getLogger("kvmish.machine")

KICK_SIGNAL = signal.SIGUSR1
# How often held-back writes are looked for: while the driver waits for the transmitter, and
# otherwise.
POLL_BUSY_NS, POLL_IDLE_NS = 2_000_000, 20_000_000

Ending = Literal["off", "reset", "quit", "crash", "error"]


@dataclass(frozen=True)
class Outcome:
    """Why the machine stopped: `off` and `reset` by the guest, `quit` by the user."""

    ending: Ending
    message: str


class Processor:
    """A vCPU and the thread that runs it."""

    def __init__(self, vcpu: Vcpu) -> None:
        """Keep the vCPU's books."""
        self.vcpu = vcpu
        self.exits: Counter[str] = Counter()
        self.ports: Counter[int] = Counter()
        self.thread: threading.Thread | None = None
        self.stats: StatsReader | None = None
        with contextlib.suppress(OSError):
            self.stats = vcpu.open_stats()


class Machine:
    """One machine, started once; a reset makes a new one."""

    def __init__(self, config: MachineConfig, door: Door, console: Console) -> None:
        """Build everything. :raise ConfigError: if the configuration cannot be. :raise
        BackendError:
        """
        self.outcome: Outcome | None = None
        self.first_instruction: float | None = None  # of time.monotonic()
        self._running = False
        self.processors: list[Processor] = []
        self.bus = Bus()
        self.loop = EventLoop(self.bus.lock)
        self.payload = load_payload(config)
        self.memory = GuestMemory(ram_ranges(config.memory_mib))
        self._closers: list[Callable[[], None]] = [self.loop.close, self.memory.close]
        try:
            self._build(config, door, console)
        except OSError as error:
            self.close()
            raise BackendError(f"--kvm {door.name}: a KVM call failed: {error}") from error
        except BaseException:
            self.close()
            raise

    def _build(self, config: MachineConfig, door: Door, console: Console) -> None:
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
        self.vm = self.kvm.create_vm()
        self._closers.append(self.vm.close)
        self._coalesces = bool(self.kvm.check_extension(Cap.COALESCED_PIO))
        self._create_vm_parts(config)
        self.processors = [Processor(self.vm.create_vcpu(i)) for i in range(config.vcpus)]
        for processor in self.processors:
            self._closers.append(processor.vcpu.close)
            if processor.stats:
                self._closers.append(processor.stats.close)
        platform = Platform(
            config=config,
            vm=self.vm,
            bus=self.bus,
            memory=self.memory,
            loop=self.loop,
            console=console,
            power_off=lambda: self.stop("off", "the guest powered off"),
            reset=lambda: self.stop("reset", "the guest reset the machine"),
        )
        self.board = MicroVm(platform)
        self._closers.append(self.board.stop)
        if self._coalesces:
            for port in self.board.coalesced_ports:
                self.vm.register_coalesced(port, 1, pio=True)
        self._set_up_vcpus(config)

    def _create_vm_parts(self, config: MachineConfig) -> None:
        self.vm.set_identity_map_addr(IDENTITY_MAP)
        self.vm.set_tss_addr(TSS)
        self.vm.create_irqchip()
        self.vm.create_pit2(abi.PIT_SPEAKER_DUMMY)
        for slot, ram in enumerate(self.memory.ranges):
            host = self.memory.host_address + ram.offset
            self.vm.set_user_memory_region(slot, ram.gpa, ram.size, host)

    def _set_up_vcpus(self, config: MachineConfig) -> None:
        entries = apply_cpu_model(self.kvm.get_supported_cpuid(), config.cpu)
        hole = self.board.mmio_hole
        msrs = cpustate.firmware_msrs(hole, cpuid.physical_address_bits(entries))
        for index, processor in enumerate(self.processors):
            vcpu = processor.vcpu
            vcpu.set_cpuid2(cpuid.for_vcpu(entries, index, config.vcpus))
            cpustate.set_msrs(vcpu, msrs)
            if cpuid.vendor(entries) == "AuthenticAMD":
                cpustate.steady_tsc(vcpu)
            cpustate.firmware_lapic(vcpu)
        cpustate.enter(self.processors[0].vcpu, self.board.boot(self.payload))

    # -- running ------------------------------------------------------------------------------

    def run(self, tick: Callable[[], None] | None = None, tick_ns: int = 250_000_000) -> Outcome:
        """Run until something stops it. On the main thread, since only it can take signals."""
        # A vCPU thread that comes back from the guest should not wait 5 ms for the interpreter.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(0.0002)
        previous = signal.signal(KICK_SIGNAL, lambda *_: None)
        try:
            self._start()
            if tick is not None:
                self._every(tick_ns, tick)
            if self._coalesces:
                self.loop.after_ns(POLL_IDLE_NS, self._poll_coalesced)
            while self.outcome is None:
                self.loop.step()
        except BaseException:
            self.stop("error", "the monitor failed")
            raise
        finally:
            self._join()
            signal.signal(KICK_SIGNAL, previous)
            sys.setswitchinterval(interval)
        self.drain()
        return self.outcome

    def _start(self) -> None:
        self._running = True
        self.board.start()
        for processor in self.processors:
            processor.thread = threading.Thread(
                target=self._vcpu_thread,
                args=(processor,),
                name=f"vcpu{processor.vcpu.id}",
                daemon=True,
            )
        for processor in self.processors:
            if processor.thread:
                processor.thread.start()

    def _every(self, interval_ns: int, call: Callable[[], None]) -> None:
        def again() -> None:
            call()
            self.loop.after_ns(interval_ns, again)

        self.loop.after_ns(interval_ns, again)

    def stop(self, ending: Ending, message: str) -> None:
        """End the run; the first reason counts. For any thread and for signal handlers."""
        if self.outcome is None:
            self.outcome = Outcome(ending, message)
        self._running = False
        for processor in self.processors:
            processor.vcpu.set_immediate_exit(True)
        self.loop.wake()

    def _join(self) -> None:
        """Get the vCPU threads out of the guest, and wait for them."""
        self._running = False
        for processor in self.processors:
            thread = processor.thread
            while thread is not None and thread.is_alive() and thread.ident:
                # Repeated, because a signal may arrive just before KVM_RUN is entered.
                processor.vcpu.set_immediate_exit(True)
                with contextlib.suppress(ProcessLookupError):
                    processor.vcpu.kick()
                    signal.pthread_kill(thread.ident, KICK_SIGNAL)
                thread.join(0.02)

    def _vcpu_thread(self, processor: Processor) -> None:
        try:
            if processor.vcpu.id == 0:
                self.first_instruction = time.monotonic()
            self._run_vcpu(processor)
        except OSError as error:
            self.stop("error", f"vCPU {processor.vcpu.id}: KVM_RUN failed: {error}")
        except Exception as error:
            log.exception("vCPU %d", processor.vcpu.id)
            self.stop("error", f"vCPU {processor.vcpu.id}: {error!r}; report this")

    def _run_vcpu(self, processor: Processor) -> None:
        run, bus, vm = processor.vcpu.run, self.bus, self.vm
        exits, ports = processor.exits, processor.ports
        while self._running:
            event = run()
            if isinstance(event, IoExit):
                exits["io"] += 1
                ports[event.port] += 1
                with bus.lock:
                    if self._coalesces and vm.coalesced_pending():
                        self.drain()
                    self._io(event)
            elif isinstance(event, MmioExit):
                exits["mmio"] += 1
                with bus.lock:
                    if self._coalesces and vm.coalesced_pending():
                        self.drain()
                    self._mmio(event)
            else:
                exits[_exit_name(event)] += 1
                self._other(processor, event)

    def _io(self, event: IoExit) -> None:
        port, size, data = event.port, event.size, event.data
        for at in range(0, size * event.count, size):
            if event.is_write:
                value = int.from_bytes(data[at : at + size], "little")
                self.bus.write_port(port, size, value)
            else:
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
        if isinstance(event, Interrupted):
            return
        if isinstance(event, Shutdown):
            self.stop("crash", f"{name}: triple fault{_where(processor.vcpu)}")
        elif isinstance(event, Hlt):
            self.stop("crash", f"{name}: halted, and no interrupt can wake it")
        elif isinstance(event, FailEntry):
            self.stop("error", f"{name}: its state cannot be entered (reason {event.reason:#x})")
        elif isinstance(event, InternalError):
            data = " ".join(f"{word:#x}" for word in event.data)
            where = _where(processor.vcpu)
            self.stop("error", f"{name}: internal error {event.suberror}{where} ({data})")
        elif isinstance(event, SystemEvent):
            endings: dict[int, Ending] = {1: "off", 2: "reset"}
            self.stop(endings.get(event.type, "crash"), f"{name}: system event {event.type}")
        else:
            self.stop("error", f"{name}: an exit that nobody asked for: {event}")

    def drain(self) -> None:
        """Give the devices the writes that the core kept for later."""
        with self.bus.lock:
            for write in self.vm.drain_coalesced():
                value = int.from_bytes(write.data, "little")
                if write.is_pio:
                    self.bus.write_port(write.address, write.size, value)
                else:
                    self.bus.write_memory(write.address, write.size, value)

    def _poll_coalesced(self) -> None:
        if self.vm.coalesced_pending():
            self.drain()
        wait = POLL_BUSY_NS if self.board.wants_polling() else POLL_IDLE_NS
        self.loop.after_ns(wait, self._poll_coalesced)

    # -- books --------------------------------------------------------------------------------

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


def load_payload(config: MachineConfig) -> Payload:
    """Read the files that the guest boots from. :raise ConfigError: if one cannot be read."""
    kernel = read_file("--kernel", config.kernel, "a bzImage or a PVH vmlinux")
    initrd = b""
    if config.initrd:
        initrd = read_file("--initrd", config.initrd, "an initramfs")
    return Payload(kernel, config.kernel, initrd, config.initrd or "", config.cmdline)


def _exit_name(event: VcpuExit) -> str:
    name = type(event).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _where(vcpu: Vcpu) -> str:
    try:
        return f" at {vcpu.get_regs().rip:#x}"
    except OSError:
        return ""
