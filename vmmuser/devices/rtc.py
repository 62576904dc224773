"""The MC146818 clock with its CMOS RAM (data sheet of the MC146818A), date from the machine's
clock.
"""

from __future__ import annotations

import time
from importlib import import_module

from kvm_core.errors import ConfigError
from vmmuser.device import Clock, IrqLine, Region, State, Timer

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = range(6)
WEEKDAY, DAY, MONTH, YEAR, REG_A, REG_B, REG_C, REG_D = range(6, 14)
CENTURY = 0x32

A_UIP = 0x80
B_SET, B_PIE, B_AIE, B_UIE, B_BINARY, B_24H, B_DST = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02, 0x01
C_IRQ, C_PF, C_AF, C_UF = 0x80, 0x40, 0x20, 0x10
D_VALID = 0x80

NS = 1_000_000_000
# UIP is set 244 us before an update, which takes 1984 us at 32,768 Hz.
UIP_BEFORE_NS, UPDATE_NS = 244_000, 1_984_000
_TIME = {SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY}


class Rtc:
    """Ports: index and data. An update happens at each whole second of the clock's wall time."""

    regions = (Region("pio", 2),)

    def __init__(self, irq: IrqLine, clock: Clock, cmos: dict[int, int] | None = None) -> None:
        """`cmos` preloads battery-backed bytes, for instance those that tell the memory size."""
        self._irq = irq
        self._clock = clock
        self._ram = bytearray(128)
        for at, value in (cmos or {}).items():
            self._ram[at] = value
        self._ram[REG_A], self._ram[REG_B], self._ram[REG_D] = 0x26, B_24H, D_VALID
        self._offset_ns = 0  # what setting the clock has added to the wall time
        self._frozen_ns: int | None = None  # the time shown while B_SET is on
        self._index = 0
        self._timers: dict[int, Timer] = {}
        self._level = False

    def reset(self) -> None:
        """The RESET pin: interrupts off, time and RAM kept (data sheet, "RESET")."""
        self._index = 0
        self._ram[REG_B] &= ~(B_PIE | B_AIE | B_UIE) & 0xFF
        self._ram[REG_C] = 0
        self._schedule()
        self._update_line()

    # -- registers ----------------------------------------------------------------------------

    def read(self, region: int, offset: int, size: int) -> int:
        """See Device; the index port is write-only and reads as all ones."""
        value = self._read(self._index) if offset or size > 1 else 0xFF
        return value if offset else (value << 8 | 0xFF if size > 1 else 0xFF)

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """See Device."""
        if offset == 0:
            self._index = value & 0x7F
            if size > 1:
                self._write(self._index, value >> 8 & 0xFF)
        else:
            self._write(self._index, value & 0xFF)

    def _read(self, index: int) -> int:
        if index in _TIME:
            return self._time_field(index)
        if index == REG_A:
            return self._ram[REG_A] | (A_UIP if self._updating() else 0)
        if index == REG_C:
            value = self._ram[REG_C]
            self._ram[REG_C] = 0
            self._update_line()
            return value
        return self._ram[index]

    def _write(self, index: int, value: int) -> None:
        if index in _TIME:
            self._set_time_field(index, value)
        elif index == REG_A:
            self._ram[REG_A] = value & 0x7F
            self._schedule()
        elif index == REG_B:
            self._write_b(value)
        elif index not in (REG_C, REG_D):
            self._ram[index] = value
            if index in (SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM):
                self._schedule()

    def _write_b(self, value: int) -> None:
        if value & B_SET:
            if self._frozen_ns is None:
                self._frozen_ns = self._now_ns()
            value &= ~B_UIE & 0xFF  # data sheet: SET clears UIE
        elif self._frozen_ns is not None:
            self._offset_ns = self._frozen_ns - self._clock.wall_ns()
            self._frozen_ns = None
        self._ram[REG_B] = value
        self._schedule()
        self._update_line()

    # -- time ---------------------------------------------------------------------------------

    def _now_ns(self) -> int:
        if self._frozen_ns is not None:
            return self._frozen_ns
        return self._clock.wall_ns() + self._offset_ns

    def _updating(self) -> bool:
        if self._frozen_ns is not None or self._ram[REG_A] & 0x70 >= 0x60:
            return False
        into = self._now_ns() % NS
        return into >= NS - UIP_BEFORE_NS or into < UPDATE_NS

    def _encode(self, value: int) -> int:
        return value if self._ram[REG_B] & B_BINARY else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self._ram[REG_B] & B_BINARY else (value >> 4) * 10 + (value & 0xF)

    def _time_field(self, index: int) -> int:
        now = time.gmtime(self._now_ns() // NS)
        match index:
            case 0:
                return self._encode(now.tm_sec)
            case 2:
                return self._encode(now.tm_min)
            case 4:
                if self._ram[REG_B] & B_24H:
                    return self._encode(now.tm_hour)
                return self._encode(now.tm_hour % 12 or 12) | (0x80 if now.tm_hour >= 12 else 0)
            case 6:
                return self._encode((now.tm_wday + 1) % 7 + 1)
            case 7:
                return self._encode(now.tm_mday)
            case 8:
                return self._encode(now.tm_mon)
            case 9:
                return self._encode(now.tm_year % 100)
        return self._encode(now.tm_year // 100)

    def _hour(self, value: int) -> int:
        if self._ram[REG_B] & B_24H:
            return self._decode(value)
        return self._decode(value & 0x7F) % 12 + (12 if value & 0x80 else 0)

    def _set_time_field(self, index: int, value: int) -> None:
        now_ns = self._now_ns()
        now = list(time.gmtime(now_ns // NS)[:6])
        match index:
            case 0:
                now[5] = self._decode(value)
            case 2:
                now[4] = self._decode(value)
            case 4:
                now[3] = self._hour(value)
            case 7:
                now[2] = self._decode(value)
            case 8:
                now[1] = self._decode(value)
            case 9:
                now[0] = now[0] // 100 * 100 + self._decode(value) % 100
            case 0x32:
                now[0] = self._decode(value) * 100 + now[0] % 100
            case _:
                return  # the weekday follows from the date
        # Nonsense from the guest (month 25) must not reach timegm, which few guests ever need.
        now[1] = min(max(now[1], 1), 12)
        now[0] = min(max(now[0], 1), 9999)
        try:
            seconds: int = import_module("calendar").timegm(now)
        except (ValueError, OverflowError):
            return
        if not 0 <= seconds < 253402300800:  # until the year 9999
            return
        new_ns = seconds * NS + now_ns % NS
        if self._frozen_ns is not None:
            self._frozen_ns = new_ns
        else:
            self._offset_ns += new_ns - now_ns

    # -- interrupts ---------------------------------------------------------------------------

    def _period_ns(self) -> int:
        rate = self._ram[REG_A] & 0x0F
        if rate == 0:
            return 0
        # Rates 1 and 2 repeat 8 and 9 with a 32,768 Hz base.
        return NS * (1 << (rate + 7 if rate < 3 else rate)) // 65536

    def _schedule(self) -> None:
        """Timers run only for what may interrupt."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        enabled = self._ram[REG_B]
        if enabled & B_PIE and self._period_ns():
            self._timers[C_PF] = self._clock.after_ns(self._period_ns(), self._periodic)
        if enabled & (B_AIE | B_UIE) and self._frozen_ns is None:
            wait = NS - self._now_ns() % NS + UPDATE_NS
            self._timers[C_UF] = self._clock.after_ns(wait, self._updated)

    def _periodic(self) -> None:
        period = self._period_ns()
        if period and self._ram[REG_B] & B_PIE:
            # The host cannot follow 8 kHz; a flag that is still up stands for the missed ones.
            wait = max(period, 1_000_000) if self._ram[REG_C] & C_PF else period
            self._timers[C_PF] = self._clock.after_ns(wait, self._periodic)
        self._flag(C_PF)

    def _updated(self) -> None:
        now = time.gmtime(self._now_ns() // NS)
        shown = ((SECONDS_ALARM, now.tm_sec), (MINUTES_ALARM, now.tm_min))
        matches = all(
            self._ram[at] >= 0xC0 or self._decode(self._ram[at]) == value for at, value in shown
        )
        hour = self._ram[HOURS_ALARM]
        if matches and (hour >= 0xC0 or self._hour(hour) == now.tm_hour):
            self._flag(C_AF)
        self._flag(C_UF)
        if self._ram[REG_B] & (B_AIE | B_UIE) and self._frozen_ns is None:
            wait = NS - self._now_ns() % NS + UPDATE_NS
            self._timers[C_UF] = self._clock.after_ns(wait, self._updated)

    def _flag(self, flag: int) -> None:
        self._ram[REG_C] |= flag
        self._update_line()

    def _update_line(self) -> None:
        pending = self._ram[REG_C] & self._ram[REG_B] & (C_PF | C_AF | C_UF)
        if pending:
            self._ram[REG_C] |= C_IRQ
        level = bool(pending)
        if level != self._level:
            self._level = level
            self._irq.set(level)

    # -- state --------------------------------------------------------------------------------

    def save(self) -> State:
        """See Device."""
        return {
            "v": 1,
            "ram": bytes(self._ram),
            "index": self._index,
            "offset_ns": self._offset_ns,
            "frozen_ns": self._frozen_ns,
        }

    def load(self, state: State) -> None:
        """See Device."""
        if state["v"] != 1:
            raise ConfigError(f"rtc: saved by version {state['v']}, this one reads 1")
        self._ram = bytearray(state["ram"])
        self._index = state["index"]
        self._offset_ns = state["offset_ns"]
        self._frozen_ns = state["frozen_ns"]
        self._schedule()
        self._update_line()
