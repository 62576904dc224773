"""A VM that only records, for boards whose tables are looked at without a processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from kvm_core.standing import StandingAnswers
from vmmuser.board.base import Platform
from vmmuser.board.microvm import MicroVm, ram_ranges
from vmmuser.bus import Bus
from vmmuser.config import MachineConfig
from vmmuser.loop import EventLoop
from vmmuser.memory import GuestMemory


class NoVm:
    """Takes interrupts and notifications, and has no capabilities."""

    def __init__(self) -> None:
        self.standing = StandingAnswers()

    def irq_line(self, gsi: int, level: int) -> None: ...

    def check_extension(self, cap: int) -> int:
        return 0


class NoConsole:
    def write(self, data: bytes) -> None: ...


@contextmanager
def board(config: MachineConfig) -> Iterator[tuple[MicroVm, GuestMemory]]:
    """A microvm board with its memory."""
    bus = Bus()
    loop = EventLoop(bus.lock)
    memory = GuestMemory(ram_ranges(config.memory_mib))
    platform = Platform(
        config=config,
        vm=NoVm(),  # type: ignore[arg-type]
        bus=bus,
        memory=memory,
        turn=nullcontext,
        loop=loop,
        consoles={"serial": NoConsole(), "virtio": NoConsole()},
        power_off=lambda: None,
        reset=lambda: None,
        panicked=lambda crash_loaded: None,
    )
    machine = MicroVm(platform)
    try:
        yield machine, memory
    finally:
        machine.stop()
        loop.close()
        memory.close()
