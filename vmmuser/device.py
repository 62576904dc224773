"""The device contract: regions, read and write, reset, save, load. A device sees offsets only."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

State = dict[str, Any]
"""Named fields, and a version under `v`."""


class Region(NamedTuple):
    """One range of registers; size in bytes."""

    kind: Literal["pio", "mmio"]
    size: int


class Device(Protocol):
    """One piece of hardware. Offsets in, values out."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """The ranges of registers, in a fixed order."""

    def read(self, region: int, offset: int, size: int) -> int:
        """Answer a read of 1, 2, 4 or 8 bytes that lies within the region."""

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """Take a write of 1, 2, 4 or 8 bytes that lies within the region."""

    def reset(self) -> None:
        """Go to the state after power-on."""

    def save(self) -> State:
        """Return the state as named fields and a version."""

    def load(self, state: State) -> None:
        """Take a state that save returned. :raise ConfigError: on an unknown version."""


@runtime_checkable
class StringDevice(Protocol):
    """A device that takes many bytes for one register at once."""

    def write_string(self, region: int, offset: int, data: bytes) -> None:
        """Take them as so many writes of one byte."""


class IrqLine(Protocol):
    """One interrupt input of the board."""

    def set(self, level: bool) -> None:
        """Drive the line; for any thread."""

    def pulse(self) -> None:
        """Raise and lower it: one edge; for any thread."""


class StandingAnswer(Protocol):
    """What a register reads as, for drivers that poll it: its device is not asked."""

    def set(self, value: int | None) -> None:
        """Let reads of one byte get `value`; None: let them reach the device, to have an effect."""


class Timer(Protocol):
    """Something that will fire."""

    def cancel(self) -> None:
        """Keep it from firing, if it has not."""


class Clock(Protocol):
    """The one clock of a machine."""

    def now_ns(self) -> int:
        """Nanoseconds of machine time, monotonic."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC."""

    def after_ns(self, delay_ns: int, fire: Any) -> Timer:
        """Call `fire()` once, on the machine's event loop, with the device lock held."""
