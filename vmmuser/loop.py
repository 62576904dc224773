"""The machine's event loop: descriptors and timers, on one thread; also its clock."""

from __future__ import annotations

import contextlib
import heapq
import os
import selectors
import time
from collections.abc import Callable
from threading import RLock
from typing import Any


class LoopTimer:
    """A pending call."""

    __slots__ = ("deadline_ns", "fire")

    def __init__(self, deadline_ns: int, fire: Callable[[], object] | None) -> None:
        """Due at `deadline_ns` of the monotonic clock."""
        self.deadline_ns = deadline_ns
        self.fire = fire

    def cancel(self) -> None:
        """See Timer."""
        self.fire = None

    def __lt__(self, other: LoopTimer) -> bool:
        """Order by deadline."""
        return self.deadline_ns < other.deadline_ns


class EventLoop:
    """Waits for descriptors and timers; whatever it calls runs with `lock` held."""

    def __init__(self, lock: RLock | Any) -> None:
        """Take the lock that devices are used under."""
        self._lock = lock
        self._selector = selectors.DefaultSelector()
        self._timers: list[LoopTimer] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ, self._drain_wake)
        self._stopped = False

    def now_ns(self) -> int:
        """See Clock."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """See Clock."""
        return time.time_ns()

    def after_ns(self, delay_ns: int, fire: Callable[[], object]) -> LoopTimer:
        """See Clock; for any thread that holds the lock."""
        timer = LoopTimer(time.monotonic_ns() + max(delay_ns, 0), fire)
        with self._lock:
            heapq.heappush(self._timers, timer)
            first = self._timers[0] is timer
        if first:
            self.wake()
        return timer

    def add_reader(self, fd: int, ready: Callable[[], object]) -> None:
        """Call `ready` while `fd` is readable; for any thread."""
        self._selector.register(fd, selectors.EVENT_READ, ready)
        self.wake()

    def remove_reader(self, fd: int) -> None:
        """Undo add_reader; unknown descriptors are ignored."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(fd)

    def wake(self) -> None:
        """Make the loop look again; for any thread and for signal handlers."""
        if self._wake >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Make run return; for any thread and for signal handlers."""
        self._stopped = True
        self.wake()

    def run(self) -> None:
        """Serve until stop."""
        while not self._stopped:
            self.step()

    def step(self, limit_ns: int | None = None) -> None:
        """Wait once, at most `limit_ns`, and serve what is ready."""
        with self._lock:
            while self._timers and self._timers[0].fire is None:
                heapq.heappop(self._timers)
            due = self._timers[0].deadline_ns - time.monotonic_ns() if self._timers else None
        waits = [ns for ns in (due, limit_ns) if ns is not None]
        timeout = max(min(waits), 0) / 1e9 if waits else None
        ready = self._selector.select(timeout)
        with self._lock:
            for key, _ in ready:
                key.data()
            now = time.monotonic_ns()
            while self._timers and self._timers[0].deadline_ns <= now:
                fire = heapq.heappop(self._timers).fire
                if fire is not None:
                    fire()

    def close(self) -> None:
        """Give the descriptors back."""
        if self._wake >= 0:
            self._selector.close()
            os.close(self._wake)
            self._wake = -1

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
