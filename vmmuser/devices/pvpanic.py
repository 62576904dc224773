"""pvpanic: a byte that a guest's kernel writes when it panics (QEMU, docs/specs/pvpanic)."""

from __future__ import annotations

from collections.abc import Callable

from vmmuser.device import Region, State

PANICKED, CRASH_LOADED = 1, 2


class PvPanic:
    """One port. Read: the events that are understood; written: those that happened."""

    regions = (Region("pio", 1),)

    def __init__(self, panicked: Callable[[], None], crash_loaded: Callable[[], None]) -> None:
        """`crash_loaded`: the guest panicked too, but goes on with a kernel for such cases."""
        self._panicked, self._crash_loaded = panicked, crash_loaded

    def read(self, region: int, offset: int, size: int) -> int:
        """See Device."""
        return PANICKED | CRASH_LOADED

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """See Device."""
        if value & PANICKED:
            self._panicked()
        if value & CRASH_LOADED:
            self._crash_loaded()

    def reset(self) -> None:
        """See Device; there is nothing to forget."""

    def save(self) -> State:
        """See Device."""
        return {"v": 1}

    def load(self, state: State) -> None:
        """See Device."""
