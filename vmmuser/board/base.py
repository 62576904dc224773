"""What a machine expects of a board, and what a board gets from its machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from kvm_core.api import Vm
from vmmuser.boot.payload import Entry, Payload
from vmmuser.bus import Bus
from vmmuser.config import MachineConfig
from vmmuser.device import Device
from vmmuser.loop import EventLoop
from vmmuser.memory import GuestMemory


class Console(Protocol):
    """The host's end of the guest's console."""

    def write(self, data: bytes) -> None:
        """The guest printed this."""


class Platform(NamedTuple):
    """The parts that a board wires its devices to."""

    config: MachineConfig
    vm: Vm
    bus: Bus
    memory: GuestMemory
    loop: EventLoop
    # Around what writes guest memory while the guest runs; lockstep wants it to stand still.
    turn: Callable[[], AbstractContextManager[None]]
    consoles: Mapping[str, Console]  # by device: serial, virtio
    power_off: Callable[[], None]
    reset: Callable[[], None]
    panicked: Callable[[bool], None]  # whether a crash kernel goes on


class Board(Protocol):
    """A set of devices at their places, and the firmware tables that describe them."""

    name: str
    devices: dict[str, Device]
    coalesced_ports: tuple[int, ...]
    mmio_hole: tuple[int, int]

    def boot(self, payload: Payload) -> Entry:
        """Put tables and kernel into memory; how the boot processor starts."""

    def start(self) -> None:
        """Start what serves devices outside of vCPU threads."""

    def stop(self) -> None:
        """Stop it, and give descriptors back."""

    def hold(self) -> None:
        """Touch guest memory no more until release. Caller does not hold the device lock."""

    def release(self) -> None:
        """Go on."""

    def reset(self) -> None:
        """Put all devices into the state after power-on. Caller holds the device lock."""

    def type(self, data: bytes) -> None:
        """Give input to /dev/console. Caller holds the device lock."""

    def receive(self, console: str, data: bytes) -> None:
        """Give input to a console: serial, virtio. Caller holds the device lock."""

    def press_power_button(self) -> None:
        """Ask the guest to power off. Caller holds the device lock."""

    def wants_polling(self) -> bool:
        """Whether held-back writes should be looked for soon."""


class KvmIrq:
    """An interrupt input (GSI) of the chips in the core."""

    def __init__(self, vm: Vm, gsi: int) -> None:
        """Drive GSI `gsi` of `vm`."""
        self._vm = vm
        self.gsi = gsi

    def set(self, level: bool) -> None:
        """See IrqLine."""
        self._vm.irq_line(self.gsi, int(level))

    def pulse(self) -> None:
        """See IrqLine."""
        self._vm.irq_line(self.gsi, 1)
        self._vm.irq_line(self.gsi, 0)
