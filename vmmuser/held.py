"""Writes to ports that the core holds back (coalesced PIO): when they are looked for."""

from __future__ import annotations

from collections.abc import Callable

from kvm_core.api import Vm
from vmmuser.bus import Bus
from vmmuser.loop import EventLoop, LoopTimer

# How often they are looked for: while a driver waits for the transmitter; otherwise; and when
# neither they nor an exit have come for a while, until the next exit.
BUSY_NS, IDLE_NS, QUIET_NS = 2_000_000, 20_000_000, 200_000_000
POLLS_TO_QUIET = 5


class HeldWrites:
    """Those of one machine."""

    def __init__(self, vm: Vm, bus: Bus, loop: EventLoop, wants_soon: Callable[[], bool]) -> None:
        """Look for them, once started, on `loop`; `wants_soon` says whether a driver waits."""
        self._vm, self._bus, self._loop, self._wants_soon = vm, bus, loop, wants_soon
        self._timer: LoopTimer | None = None
        self._empty_polls = 0  # in a row, without an exit between them

    def start(self) -> None:
        """Look for them from now on."""
        self._timer = self._loop.after_ns(IDLE_NS, self._poll)

    def exited(self) -> None:
        """Notice that a vCPU came out of the guest, which therefore is not quiet; on its thread."""
        was_quiet, self._empty_polls = self._empty_polls >= POLLS_TO_QUIET, 0
        if was_quiet:
            with self._bus.lock:
                self._vm.standing.suspended = False
            self._loop.soon(self._poll_now)

    def drain(self) -> None:
        """Give the devices what is held, oldest first; for any thread."""
        with self._bus.lock:
            for write in self._vm.drain_coalesced():
                self._bus.write_port_string(write.address, write.size, write.data)

    def _poll(self) -> None:
        self._empty_polls += 1
        # From now on a driver that polls before it writes is noticed, and ends the quiet.
        self._vm.standing.suspended = self._empty_polls >= POLLS_TO_QUIET
        if self._vm.coalesced_pending():
            self._empty_polls, self._vm.standing.suspended = 0, False
            self.drain()
        wait = IDLE_NS if self._empty_polls < POLLS_TO_QUIET else QUIET_NS
        self._timer = self._loop.after_ns(BUSY_NS if self._wants_soon() else wait, self._poll)

    def _poll_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._bus.lock:
            self._poll()
