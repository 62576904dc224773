"""When held-back writes are looked for, by a clock that is turned by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvm_core.api import CoalescedWrite
from tests.device.fakes import FakeClock, Line, Sink, Standing
from vmmuser.bus import Bus
from vmmuser.devices.serial import Serial
from vmmuser.held import BUSY_NS, IDLE_NS, POLLS_TO_QUIET, HeldWrites

COM1, MS = 0x3F8, 1_000_000


class Loop(FakeClock):
    def soon(self, call: Callable[..., object]) -> None:
        self.after_ns(0, lambda: call())


class Ring:
    """The VM, of which only zones and ring are looked at."""

    def __init__(self) -> None:
        self.zones: list[int] = []
        self.writes: list[CoalescedWrite] = []

    def register_coalesced(self, address: int, size: int, pio: bool) -> None:
        self.zones.append(address)

    def unregister_coalesced(self, address: int, size: int, pio: bool) -> None:
        self.zones.remove(address)

    def hold(self, data: bytes) -> None:
        assert self.zones == [COM1]
        self.writes.append(CoalescedWrite(COM1, 1, True, data))

    def coalesced_pending(self) -> bool:
        return bool(self.writes)

    def drain_coalesced(self) -> list[CoalescedWrite]:
        taken, self.writes = self.writes, []
        return taken


class Held:
    def __init__(self) -> None:
        self.ring, self.loop, self.sink, bus = Ring(), Loop(), Sink(), Bus()
        bus.attach(Serial(Line(), self.sink, Standing(), Standing()), pio=COM1)
        self.waits = False
        vm: Any = self.ring
        loop: Any = self.loop
        self.held = HeldWrites(vm, bus, loop, (COM1,), lambda: self.waits)
        self.held.start()

    @property
    def is_quiet(self) -> bool:
        return not self.ring.zones

    def be_quiet(self) -> None:
        self.loop.advance(POLLS_TO_QUIET * IDLE_NS)
        assert self.is_quiet


@pytest.fixture
def machine() -> Held:
    return Held()


def test_found_by_the_next_poll(machine: Held) -> None:
    machine.ring.hold(b"a")
    machine.ring.hold(b"b")
    machine.loop.advance(IDLE_NS)
    assert machine.sink.data == b"ab"


def test_found_soon_while_a_driver_waits(machine: Held) -> None:
    machine.waits = True
    machine.loop.advance(IDLE_NS)
    machine.ring.hold(b"a")
    machine.loop.advance(BUSY_NS)
    assert machine.sink.data == b"a"


def test_nobody_looks_at_a_quiet_guest(machine: Held) -> None:
    machine.be_quiet()
    assert machine.loop.live_timers == 0


def test_what_came_just_before_the_quiet_is_given_on(
    machine: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, unregister = machine.ring, machine.ring.unregister_coalesced

    def unregister_after_a_write(address: int, size: int, pio: bool) -> None:
        ring.hold(b"a")
        unregister(address, size, pio)

    monkeypatch.setattr(ring, "unregister_coalesced", unregister_after_a_write)
    machine.be_quiet()
    assert machine.sink.data == b"a"


def test_it_is_not_quiet_while_a_driver_waits(machine: Held) -> None:
    machine.waits = True
    machine.loop.advance(2 * POLLS_TO_QUIET * IDLE_NS)
    assert not machine.is_quiet
    machine.waits = False
    machine.loop.advance(BUSY_NS)
    assert machine.is_quiet


def test_a_write_ends_the_quiet_at_once(machine: Held) -> None:
    machine.be_quiet()
    machine.held.exited(COM1 + 1)
    assert machine.is_quiet
    machine.held.exited(COM1)
    assert not machine.is_quiet
    machine.ring.hold(b"a")
    machine.loop.advance(IDLE_NS)
    assert machine.sink.data == b"a"
    assert machine.loop.live_timers == 1


def test_a_guest_whose_exits_empty_the_ring_is_not_quiet(machine: Held) -> None:
    """Linux's console does so with each line: polls find nothing, and yet it prints."""
    for _ in range(100):
        machine.ring.hold(b"a")
        machine.held.exited(COM1 + 1)
        machine.held.drain()
        machine.loop.advance(15 * MS)
        assert not machine.is_quiet


def test_what_the_last_poll_before_the_quiet_finds_prevents_it(machine: Held) -> None:
    machine.loop.advance((POLLS_TO_QUIET - 1) * IDLE_NS)
    machine.ring.hold(b"a")
    machine.loop.advance(IDLE_NS)
    assert machine.sink.data == b"a"
    assert not machine.is_quiet
