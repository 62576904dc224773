"""What a run was like: milestones, instructions, exits; as text and as JSON."""

from __future__ import annotations

import os
import time
from importlib import import_module

from vmmuser.config import MachineConfig


def process_start() -> float:
    """When this process began, on time.monotonic()'s scale, to the kernel's 10 ms."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age


class Report:
    """One run of `kvmish boot`. Seconds count from the process's start, on the host's clock."""

    def __init__(self, config: MachineConfig, engine: str, door: str, board: str) -> None:
        """Say what will run."""
        self.engine = engine
        self.door = door
        self.board = board
        self.cpu = config.cpu
        self.vcpus = config.vcpus
        self.memory_mib = config.memory_mib
        self.kernel = config.kernel
        self.outcome = self.message = ""
        self.resets = 0
        self.selfcheck: bool | None = None
        self.seconds = 0.0
        self.seconds_to_first_instruction: float | None = None
        self.seconds_to_kernel: float | None = None
        self.seconds_to_userland: float | None = None
        self.guest_seconds: float | None = None
        self.instructions: int | None = None
        self.mips: float | None = None
        self.exits: dict[str, int] = {}
        self.ports: dict[str, int] = {}
        self.core_stats: dict[str, int] = {}

    def json(self) -> str:
        """Return the report as a JSON object."""
        text: str = import_module("json").dumps(vars(self), indent=2)
        return text + "\n"

    def text(self) -> str:
        """Return the summary for people."""
        stages = [
            ("first guest instruction", self.seconds_to_first_instruction),
            ("kernel", self.seconds_to_kernel),
            ("userland", self.seconds_to_userland),
            ("end", self.seconds),
        ]
        reached = [f"{name} {at:.2f} s" for name, at in stages if at is not None]
        lines = [f"{self.message}; from the start to: {', '.join(reached)}"]
        if self.instructions is not None and self.mips is not None:
            lines.append(f"{self.instructions:,} guest instructions, {self.mips:.1f} MIPS")
        if self.exits:
            exits = ", ".join(f"{name} {count:,}" for name, count in self.exits.items())
            lines.append(f"exits to the monitor: {exits}")
        return "\n".join(lines)
