"""Power management: the ACPI fixed registers (PM1) with power button and S5."""

from __future__ import annotations

from collections.abc import Callable

from kvm_core.errors import ConfigError
from vmmuser.device import IrqLine, Region, State

# ACPI 6.4, 4.8.3.1: bits of PM1_STS, PM1_EN and PM1_CNT.
PWRBTN = 1 << 8
STS_BITS = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 15
EN_BITS = 1 << 0 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10
CNT_SCI_EN, CNT_SLP_EN = 1 << 0, 1 << 13
CNT_SLP_TYP_SHIFT = 10

SLP_TYP_S5 = 5


class AcpiPm1:
    """PM1a event block (4 bytes) and, after it, the PM1a control block (2 bytes)."""

    regions = (Region("pio", 6),)

    def __init__(self, sci: IrqLine, power_off: Callable[[], None]) -> None:
        """`sci` is level-triggered; `power_off` is called when the guest enters S5."""
        self._sci = sci
        self._power_off = power_off
        self._level = False
        self.reset()

    def reset(self) -> None:
        """See Device; ACPI mode is always on (there is no SMI command port)."""
        self.status = self.enable = 0
        self.control = CNT_SCI_EN
        self._update()

    def press_button(self) -> None:
        """The power button, pressed and let go. Caller holds the device lock."""
        self.status |= PWRBTN
        self._update()

    def read(self, region: int, offset: int, size: int) -> int:
        """See Device."""
        image = self.status | self.enable << 16 | self.control << 32
        return image >> 8 * offset & (1 << 8 * size) - 1

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """See Device; bytes of a register may be written alone."""
        for i in range(size):
            self._write_byte(offset + i, value >> 8 * i & 0xFF)
        if offset <= 5 < offset + size and self.control & CNT_SLP_EN:
            self._sleep()
        self._update()

    def _write_byte(self, offset: int, value: int) -> None:
        shift = 8 * (offset & 1)
        mask = 0xFF << shift
        match offset >> 1:
            case 0:  # a 1 clears
                self.status &= ~(value << shift & STS_BITS)
            case 1:
                self.enable = (self.enable & ~mask | value << shift) & EN_BITS
            case 2:
                self.control = self.control & ~mask | value << shift | CNT_SCI_EN

    def _sleep(self) -> None:
        self.control &= ~CNT_SLP_EN  # write-only
        if self.control >> CNT_SLP_TYP_SHIFT & 7 == SLP_TYP_S5:
            self._power_off()

    def _update(self) -> None:
        level = bool(self.status & self.enable)
        if level != self._level:
            self._level = level
            self._sci.set(level)

    def save(self) -> State:
        """See Device."""
        return {"v": 1, "status": self.status, "enable": self.enable, "control": self.control}

    def load(self, state: State) -> None:
        """See Device."""
        if state["v"] != 1:
            raise ConfigError(f"pm1: saved by version {state['v']}, this one reads 1")
        self.status, self.enable = state["status"], state["enable"]
        self.control = state["control"]
        self._update()
