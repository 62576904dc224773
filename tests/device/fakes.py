"""What a device is given in a test: a line that records, a clock that is turned by hand."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Line:
    """An interrupt line that remembers its level and its edges."""

    def __init__(self) -> None:
        self.level = False
        self.edges = 0

    def set(self, level: bool) -> None:
        self.edges += int(level and not self.level)
        self.level = level

    def pulse(self) -> None:
        self.edges += 1


class FakeTimer:
    def __init__(self, at: int, fire: Callable[[], None]) -> None:
        self.at, self.fire, self.live = at, fire, True

    def cancel(self) -> None:
        self.live = False

    def __lt__(self, other: FakeTimer) -> bool:
        return self.at < other.at


class FakeClock:
    """Machine time starts at 0; wall time where the test says."""

    def __init__(self, wall_ns: int = 0) -> None:
        self.ns = 0
        self.start_wall_ns = wall_ns
        self.timers: list[FakeTimer] = []

    def now_ns(self) -> int:
        return self.ns

    def wall_ns(self) -> int:
        return self.start_wall_ns + self.ns

    def after_ns(self, delay_ns: int, fire: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self.ns + delay_ns, fire)
        heapq.heappush(self.timers, timer)
        return timer

    def advance(self, ns: int) -> None:
        end = self.ns + ns
        while self.timers and self.timers[0].at <= end:
            timer = heapq.heappop(self.timers)
            self.ns = timer.at
            if timer.live:
                timer.fire()
        self.ns = end

    @property
    def live_timers(self) -> int:
        return sum(timer.live for timer in self.timers)


class Sink:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    def write(self, data: bytes) -> None:
        self.pieces.append(data)


class Standing:
    """A standing answer: what is polled reads as this, None: the device is asked."""

    def __init__(self) -> None:
        self.value: int | None = None

    def set(self, value: int | None) -> None:
        self.value = value
