"""What a run was like: milestones, instructions, exits; as text and as JSON."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from importlib import import_module


def process_start() -> float:
    """When this process began, on time.monotonic()'s scale, to the kernel's 10 ms."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age


@dataclass
class Report:
    """One run of `kvmish boot`. Seconds count from the process's start, on the host's clock."""

    engine: str
    door: str
    board: str
    cpu: str
    vcpus: int
    memory_mib: int
    kernel: str
    outcome: str = ""
    message: str = ""
    resets: int = 0
    selfcheck: bool | None = None
    seconds: float = 0.0
    seconds_to_first_instruction: float | None = None
    seconds_to_kernel: float | None = None
    seconds_to_userland: float | None = None
    guest_seconds: float | None = None
    instructions: int | None = None
    mips: float | None = None
    exits: dict[str, int] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    core_stats: dict[str, int] = field(default_factory=dict)

    def json(self) -> str:
        """Return the report as a JSON object."""
        text: str = import_module("json").dumps(asdict(self), indent=2)
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
