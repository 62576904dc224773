"""The process's one event loop, asyncio's, as devices see it: descriptors and timers whose calls
hold the device lock; also the machine's clock.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from importlib import import_module
from queue import Empty, SimpleQueue
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

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

    Coroutines run without the lock. Importing asyncio takes longer than building a machine: it
    is done when the loop is wanted, which is when vCPUs run already. What was asked for waits.
    """

    def __init__(self, lock: RLock | Any) -> None:
        """Take the lock that devices are used under."""
        self._lock = lock
        self._thread = threading.get_ident()
        self._loop: AbstractEventLoop | None = None
        self._early: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.on_failure: Callable[[dict[str, Any]], None] | None = None

    @property
    def asyncio(self) -> AbstractEventLoop:
        """The loop itself; on its thread."""
        if self._loop is None:
            loop: AbstractEventLoop = import_module("asyncio").new_event_loop()
            loop.set_exception_handler(self._failed)
            loop.call_soon(self._take_early)
            self._loop = loop
        return self._loop

    def _failed(self, loop: AbstractEventLoop, context: dict[str, Any]) -> None:
        if self.on_failure is None:
            loop.default_exception_handler(context)
        else:
            self.on_failure(context)

    def _take_early(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self.asyncio.call_soon(self._early.get_nowait())

    def now_ns(self) -> int:
        """See Clock."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """See Clock."""
        return time.time_ns()

    def soon(self, call: Callable[..., object], *arguments: object) -> None:
        """Call on the loop's thread, without the lock; for any thread and for signal handlers."""
        if self._loop is None:
            self._early.put(partial(call, *arguments))
            call, arguments = self._take_early, ()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # closed: the machine is gone
                self._loop.call_soon_threadsafe(call, *arguments)

    def _here(self, call: Callable[..., object], *arguments: object) -> None:
        """Call at once if this is the thread of a loop that is there, soon if not."""
        if threading.get_ident() == self._thread and self._loop is not None:
            call(*arguments)
        else:
            self.soon(call, *arguments)

    def _locked(self, call: Callable[[], object]) -> None:
        with self._lock:
            call()

    def after_ns(self, delay_ns: int, fire: Callable[[], object]) -> LoopTimer:
        """See Clock; for any thread."""
        timer = LoopTimer(fire)
        due = time.monotonic() + max(delay_ns, 0) / 1e9  # asyncio's clock
        self._here(self._wait, due, timer)
        return timer

    def _wait(self, due: float, timer: LoopTimer) -> None:
        self.asyncio.call_at(due, self._fire, timer)

    def _fire(self, timer: LoopTimer) -> None:
        with self._lock:
            fire, timer.fire = timer.fire, None
            if fire is not None:
                fire()

    def add_reader(self, fd: int, ready: Callable[[], object]) -> None:
        """Call `ready` while `fd` is readable; for any thread."""
        self._here(self._listen, fd, ready)

    def _listen(self, fd: int, ready: Callable[[], object]) -> None:
        self.asyncio.add_reader(fd, self._locked, ready)

    def remove_reader(self, fd: int) -> None:
        """Undo add_reader; unknown descriptors are ignored. On the loop's thread."""
        self._here(self._ignore, fd)

    def _ignore(self, fd: int) -> None:
        if not self.asyncio.is_closed():
            self.asyncio.remove_reader(fd)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Serve until the coroutine ends; its result."""
        return self.asyncio.run_until_complete(main)

    def close(self) -> None:
        """Cancel what is still under way, and give the descriptors back."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        asyncio = import_module("asyncio")
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
