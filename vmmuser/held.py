"""Writes to ports that the core holds back (coalesced PIO): when they are looked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvm_core.api import Vm
from vmmuser.bus import Bus
from vmmuser.loop import EventLoop, LoopTimer

# How often they are looked for: while a driver waits for the transmitter, and otherwise.
BUSY_NS, IDLE_NS = 2_000_000, 20_000_000
POLLS_TO_QUIET = 5


class HeldWrites:
    """Those of one machine. Of a guest that is quiet none are held back, and nobody looks for any:
    its next write is an exit, which ends the quiet.
    """

    def __init__(
        self,
        vm: Vm,
        bus: Bus,
        loop: EventLoop,
        ports: Sequence[int],
        wants_soon: Callable[[], bool],
    ) -> None:
        """Look for writes to `ports`, once started, on `loop`; `wants_soon` says whether a driver
        waits.
        """
        self._vm, self._bus, self._loop, self._ports = vm, bus, loop, ports
        self._wants_soon = wants_soon
        self._timer: LoopTimer | None = None
        self._quiet = True
        self._empty_polls = 0  # since there was one

    def start(self) -> None:
        """Hold writes back from now on. On the loop's thread."""
        if not self._ports:
            return
        with self._bus.lock:
            self._hold_back()
        self._timer = self._loop.after_ns(IDLE_NS, self._poll)

    def exited(self, port: int) -> None:
        """Notice that a vCPU came out of the guest because of a port; on its thread."""
        if self._quiet and self._timer and port in self._ports:
            with self._bus.lock:
                self._hold_back()
            self._loop.soon(self._poll_now)

    def drain(self) -> None:
        """Give the devices what is held, oldest first; for any thread."""
        with self._bus.lock:
            for write in self._vm.drain_coalesced():
                self._empty_polls = 0
                self._bus.write_port_string(write.address, write.size, write.data)

    def _hold_back(self) -> None:
        if self._quiet:
            self._quiet, self._empty_polls = False, 0
            for port in self._ports:
                self._vm.register_coalesced(port, 1, pio=True)

    def _be_quiet(self) -> None:
        self._quiet = True
        for port in self._ports:
            self._vm.unregister_coalesced(port, 1, pio=True)
        self.drain()

    def _poll(self) -> None:
        self._empty_polls += 1
        if self._vm.coalesced_pending():
            self.drain()
        if self._wants_soon():
            self._timer = self._loop.after_ns(BUSY_NS, self._poll)
        elif self._empty_polls < POLLS_TO_QUIET:
            self._timer = self._loop.after_ns(IDLE_NS, self._poll)
        else:
            self._be_quiet()

    def _poll_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._bus.lock:
            self._poll()
