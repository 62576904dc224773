"""The process's one event loop, asyncio's, as devices see it: descriptors and timers whose calls
hold the device lock; also the machine's clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from threading import RLock
from typing import Any, TypeVar

T = TypeVar("T")


class LoopTimer:
    """A pending call."""

    __slots__ = ("fire",)

    def __init__(self, fire: Callable[[], object] | None) -> None:
        """Call `fire` when due."""
        self.fire = fire

    def cancel(self) -> None:
        """See Timer."""
        self.fire = None


class EventLoop:
    """Runs on the thread that made it; whatever devices ask it to call runs with `lock` held.

    Coroutines run without the lock.
    """

    def __init__(self, lock: RLock | Any) -> None:
        """Take the lock that devices are used under."""
        self._lock = lock
        self._thread = threading.get_ident()
        self.asyncio = asyncio.new_event_loop()

    def now_ns(self) -> int:
        """See Clock."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """See Clock."""
        return time.time_ns()

    def soon(self, call: Callable[..., object], *arguments: object) -> None:
        """Call on the loop's thread, without the lock; for any thread and for signal handlers."""
        with contextlib.suppress(RuntimeError):  # closed: the machine is gone
            self.asyncio.call_soon_threadsafe(call, *arguments)

    def _here(self, call: Callable[..., object], *arguments: object) -> None:
        """Call at once if this is the loop's thread, soon if not."""
        if threading.get_ident() == self._thread:
            call(*arguments)
        else:
            self.soon(call, *arguments)

    def _locked(self, call: Callable[[], object]) -> None:
        with self._lock:
            call()

    def after_ns(self, delay_ns: int, fire: Callable[[], object]) -> LoopTimer:
        """See Clock; for any thread."""
        timer = LoopTimer(fire)
        due = self.asyncio.time() + max(delay_ns, 0) / 1e9
        self._here(self.asyncio.call_at, due, self._fire, timer)
        return timer

    def _fire(self, timer: LoopTimer) -> None:
        with self._lock:
            fire, timer.fire = timer.fire, None
            if fire is not None:
                fire()

    def add_reader(self, fd: int, ready: Callable[[], object]) -> None:
        """Call `ready` while `fd` is readable; for any thread."""
        self._here(self.asyncio.add_reader, fd, self._locked, ready)

    def remove_reader(self, fd: int) -> None:
        """Undo add_reader; unknown descriptors are ignored. On the loop's thread."""
        if not self.asyncio.is_closed():
            self.asyncio.remove_reader(fd)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Serve until the coroutine ends; its result."""
        return self.asyncio.run_until_complete(main)

    def close(self) -> None:
        """Cancel what is still under way, and give the descriptors back."""
        loop = self.asyncio
        if loop.is_closed():
            return
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
