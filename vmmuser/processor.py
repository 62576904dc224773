"""vCPUs and their threads: entering the guest, holding all of them, letting them go on, ending.

A vCPU is only ever held where KVM_RUN has returned EINTR: by then the instruction of its last exit
is finished, so that its state is whole (KVM API 5, immediate_exit).
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from kvm_core.api import StatsReader, Vcpu
from kvm_core.exits import Interrupted, VcpuExit

KICK_SIGNAL = signal.SIGUSR1
KICK_AGAIN_S = 0.02


class Processor:
    """A vCPU, its books, and the thread that runs it."""

    def __init__(self, vcpu: Vcpu) -> None:
        """Keep the vCPU's books."""
        self.vcpu = vcpu
        self.exits: Counter[str] = Counter()
        self.ports: Counter[int] = Counter()
        self.thread: threading.Thread | None = None
        self.parked = self.over = False
        self.stats: StatsReader | None = None
        with contextlib.suppress(OSError):
            self.stats = vcpu.open_stats()

    @property
    def thread_id(self) -> int:
        """The host's number of the thread, 0 before it runs."""
        return self.thread.native_id or 0 if self.thread else 0


class Processors:
    """All vCPUs of a machine."""

    def __init__(
        self,
        processors: list[Processor],
        handle: Callable[[Processor, VcpuExit], None],
        failed: Callable[[Processor, Exception], None],
        take_turns: bool = False,
    ) -> None:
        """`handle` serves an exit and `failed` hears what a thread died of, on that thread.

        take_turns: devices may keep the vCPUs out of the guest by `turn`.
        """
        self.take_turns = take_turns
        self._all = processors
        self._handle, self._failed = handle, failed
        self._changed = threading.Condition()
        self._held = self._ended = False
        self._inside = self._turns = 0  # vCPUs in the guest; devices that have a turn or want one
        self.first_entry: float | None = None  # of time.monotonic()

    def start(self, held: bool) -> None:
        """Start the threads; held ones wait for release. On the main thread."""
        if held:
            self.hold()
        for processor in self._all:
            processor.thread = threading.Thread(
                target=self._thread,
                args=(processor,),
                name=f"vcpu{processor.vcpu.id}",
                daemon=True,
            )
        for processor in self._all:
            if processor.thread:
                processor.thread.start()

    def hold(self) -> None:
        """Let no vCPU execute any more, without waiting; for any thread and whatever it holds."""
        with self._changed:
            self._held = True
            self._leave()

    def _leave(self) -> None:
        for processor in self._all:
            processor.vcpu.set_immediate_exit(True)

    def wait_held(self) -> None:
        """Wait until all vCPUs are held or over. The caller must not hold the device lock."""
        self._kick_until(lambda processor: processor.parked or processor.over)

    def _kick_until(self, done: Callable[[Processor], bool]) -> None:
        with self._changed:
            while waiting := [processor for processor in self._all if not done(processor)]:
                self._kick(waiting)
                self._changed.wait(KICK_AGAIN_S)

    def _kick(self, processors: list[Processor]) -> None:
        """To be repeated, because a signal may arrive just before KVM_RUN is entered."""
        self._leave()
        for processor in processors:
            ident = processor.thread.ident if processor.thread else None
            with contextlib.suppress(ProcessLookupError):
                processor.vcpu.kick()
                if ident:
                    signal.pthread_kill(ident, KICK_SIGNAL)

    def release(self) -> None:
        """Let held vCPUs go on; does not wait."""
        with self._changed:
            if self._ended:
                return
            self._held = False
            for processor in self._all:
                processor.vcpu.set_immediate_exit(False)
            self._changed.notify_all()

    def end(self) -> None:
        """End all threads. The caller must not hold the device lock."""
        with self._changed:
            self._held = self._ended = True
            self._leave()
            self._changed.notify_all()
        self._kick_until(lambda processor: processor.over or processor.thread is None)
        for processor in self._all:
            if processor.thread:
                processor.thread.join()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Keep all vCPUs out of the guest meanwhile; needs `take_turns`. On a device's thread, with
        or without the device lock.
        """
        with self._changed:
            self._turns += 1
            while self._inside:
                self._kick(self._all)
                self._changed.wait(KICK_AGAIN_S)
        try:
            yield
        finally:
            with self._changed:
                self._turns -= 1
                if not self._turns and not self._held:
                    for processor in self._all:
                        processor.vcpu.set_immediate_exit(False)
                self._changed.notify_all()

    def _run_in_turn(self, vcpu: Vcpu) -> VcpuExit:
        with self._changed:
            while self._turns and not self._held:
                self._changed.wait()
            self._inside += 1
        try:
            return vcpu.run()
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def _thread(self, processor: Processor) -> None:
        if processor.vcpu.id == 0:
            self.first_entry = self.first_entry or time.monotonic()
        try:
            self._run(processor)
        except Exception as error:
            self._failed(processor, error)
        finally:
            with self._changed:
                processor.over = True
                self._changed.notify_all()

    def _run(self, processor: Processor) -> None:
        run, handle = processor.vcpu.run, self._handle
        if self.take_turns:
            run = partial(self._run_in_turn, processor.vcpu)
        while True:
            event = run()
            if not isinstance(event, Interrupted):
                handle(processor, event)
            elif self._held and not self._park(processor):
                return

    def _park(self, processor: Processor) -> bool:
        """Wait while held; False at the end."""
        with self._changed:
            processor.parked = True
            self._changed.notify_all()
            while self._held and not self._ended:
                self._changed.wait()
            processor.parked = False
            return not self._ended
