"""The MC146818: date, formats, update-in-progress, alarms, periodic interrupts."""

from __future__ import annotations

from calendar import timegm

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.device.fakes import FakeClock, Line
from vmmuser.devices.rtc import Rtc

NS = 1_000_000_000
# Tuesday, 24 November 2026, 21:34:56, half a second in.
WHEN = timegm((2026, 11, 24, 21, 34, 56)) * NS + NS // 2


class Bench:
    def __init__(self, wall_ns: int = WHEN) -> None:
        self.line, self.clock = Line(), FakeClock(wall_ns)
        self.rtc = Rtc(self.line, self.clock, {0x15: 0x80, 0x16: 0x02})

    def read(self, index: int) -> int:
        self.rtc.write(0, 0, 1, index)
        return self.rtc.read(0, 1, 1)

    def write(self, index: int, value: int) -> None:
        self.rtc.write(0, 0, 1, index)
        self.rtc.write(0, 1, 1, value)

    def date(self) -> list[int]:
        return [self.read(index) for index in (0x32, 9, 8, 7, 4, 2, 0)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_date_in_bcd(bench: Bench) -> None:
    assert bench.date() == [0x20, 0x26, 0x11, 0x24, 0x21, 0x34, 0x56]
    assert bench.read(6) == 3  # Sunday is 1


def test_date_in_binary(bench: Bench) -> None:
    bench.write(0x0B, 0x06)
    assert bench.date() == [20, 26, 11, 24, 21, 34, 56]


def test_twelve_hours(bench: Bench) -> None:
    bench.write(0x0B, 0x00)
    assert bench.read(4) == 0x89  # 9 pm
    bench.clock.advance(3 * 3600 * NS)
    assert bench.read(4) == 0x12  # midnight is 12 am


def test_time_goes_on(bench: Bench) -> None:
    bench.clock.advance(4 * NS)
    assert bench.date()[-2:] == [0x35, 0x00]


def test_update_in_progress_around_the_second(bench: Bench) -> None:
    assert bench.read(0x0A) == 0x26
    bench.clock.advance(NS // 2 - 100_000)
    assert bench.read(0x0A) == 0xA6
    bench.clock.advance(1_000_000)
    assert bench.read(0x0A) == 0xA6
    bench.clock.advance(2_000_000)
    assert bench.read(0x0A) == 0x26


def test_set_freezes_and_sets(bench: Bench) -> None:
    bench.write(0x0B, 0x82)
    bench.clock.advance(10 * NS)
    assert bench.date()[-1] == 0x56
    for index, value in ((9, 0x30), (8, 0x01), (7, 0x02), (4, 0x03), (2, 0x04), (0, 0x05)):
        bench.write(index, value)
    bench.write(0x0B, 0x02)
    bench.clock.advance(NS)
    assert bench.date() == [0x20, 0x30, 0x01, 0x02, 0x03, 0x04, 0x06]


def test_periodic_interrupt_at_1024_hz(bench: Bench) -> None:
    bench.write(0x0B, 0x42)
    for _ in range(10):
        bench.clock.advance(NS // 1024 + 1)
        assert bench.line.level
        assert bench.read(0x0C) == 0xC0
        assert not bench.line.level
    bench.write(0x0B, 0x02)
    bench.clock.advance(NS)
    assert not bench.line.level
    assert bench.clock.live_timers == 0


def test_update_ended_interrupt_each_second(bench: Bench) -> None:
    bench.write(0x0B, 0x12)
    seen = 0
    for _ in range(30):
        bench.clock.advance(NS // 10)
        if bench.line.level:
            assert bench.read(0x0C) & 0x90 == 0x90
            seen += 1
    assert seen == 3


def test_alarm_at_a_second_with_wildcards(bench: Bench) -> None:
    bench.write(1, 0x59)
    bench.write(3, 0xFF)
    bench.write(5, 0xFF)
    bench.write(0x0B, 0x22)
    bench.clock.advance(2 * NS)
    assert not bench.line.level
    bench.clock.advance(NS)
    assert bench.line.level
    assert bench.read(0x0C) & 0xA0 == 0xA0


def test_alarm_of_another_minute_is_silent(bench: Bench) -> None:
    bench.write(1, 0x59)
    bench.write(3, 0x20)
    bench.write(5, 0x21)
    bench.write(0x0B, 0x22)
    bench.clock.advance(30 * NS)
    assert not bench.line.level


def test_ram_and_registers(bench: Bench) -> None:
    assert (bench.read(0x15), bench.read(0x16)) == (0x80, 0x02)
    bench.write(0x40, 0x99)
    assert bench.read(0x40) == 0x99
    assert bench.read(0x0D) == 0x80
    bench.rtc.write(0, 0, 1, 0x80 | 0x40)  # bit 7 gates NMI, it is no address
    assert bench.rtc.read(0, 1, 1) == 0x99
    assert bench.rtc.read(0, 0, 1) == 0xFF


def test_reset_keeps_time_and_ram(bench: Bench) -> None:
    bench.write(0x40, 0x11)
    bench.write(0x0B, 0x72)
    bench.rtc.reset()
    assert bench.read(0x0B) == 0x02
    assert bench.read(0x40) == 0x11
    assert bench.date() == [0x20, 0x26, 0x11, 0x24, 0x21, 0x34, 0x56]


def test_save_and_load(bench: Bench) -> None:
    bench.write(0x40, 0x12)
    bench.write(9, 0x31)
    state = bench.rtc.save()
    other = Bench()
    other.rtc.load(state)
    assert other.rtc.save() == state
    assert other.date() == bench.date()


@given(st.lists(st.tuples(st.integers(0, 0xFF), st.integers(0, 0xFF)), max_size=60))
def test_any_writes_are_survived(writes: list[tuple[int, int]]) -> None:
    bench = Bench()
    for index, value in writes:
        bench.write(index, value)
        bench.clock.advance(NS // 50)
        assert 0 <= bench.read(index) <= 0xFF
    bench.date()
