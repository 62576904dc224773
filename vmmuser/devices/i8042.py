"""As much of an 8042 keyboard controller as a machine without a keyboard needs: self-test and
reset.
"""

from __future__ import annotations

from collections.abc import Callable

from kvm_core.errors import ConfigError
from vmmuser.device import Region, State

STATUS_OBF, STATUS_SYS, STATUS_CMD = 0x01, 0x04, 0x08
PORT2_RESET, PORT2_A20 = 0x01, 0x02

# Command -> the byte it answers with.
_ANSWERS = {0xAA: 0x55, 0xAB: 0x00, 0xA9: 0x00, 0xC0: 0x00}


class I8042:
    """Two ports of one byte: data (60h) and command/status (64h). No device is behind them."""

    regions = (Region("pio", 1), Region("pio", 1))

    def __init__(self, reset_machine: Callable[[], None]) -> None:
        """`reset_machine` is the processor's reset pin."""
        self._reset_machine = reset_machine
        self.reset()

    def reset(self) -> None:
        """See Device."""
        self._control = 0x30  # both interfaces disabled
        self._output: int | None = None
        self._expects = 0  # the command that the next data byte belongs to
        self._port2 = PORT2_RESET | PORT2_A20
        self._last_was_command = False

    def read(self, region: int, offset: int, size: int) -> int:
        """See Device."""
        if region == 1:
            status = STATUS_SYS | (STATUS_CMD if self._last_was_command else 0)
            return status | (STATUS_OBF if self._output is not None else 0)
        value, self._output = self._output, None
        return value or 0

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """See Device."""
        value &= 0xFF
        self._last_was_command = region == 1
        if region == 1:
            self._command(value)
        else:
            self._data(value)

    def _command(self, command: int) -> None:
        self._expects = 0
        if command >= 0xF0:  # pulse the output lines whose bits are 0
            if not command & PORT2_RESET:
                self._reset_machine()
        elif command in _ANSWERS:
            self._output = _ANSWERS[command]
        elif command == 0x20:
            self._output = self._control
        elif command == 0xD0:
            self._output = self._port2
        elif command in (0x60, 0xD1, 0xD2, 0xD3, 0xD4):
            self._expects = command
        elif command == 0xAD:
            self._control |= 0x10
        elif command == 0xAE:
            self._control &= ~0x10

    def _data(self, value: int) -> None:
        command, self._expects = self._expects, 0
        if command == 0x60:
            self._control = value
        elif command == 0xD1:
            self._port2 = value
            if not value & PORT2_RESET:
                self._reset_machine()
        elif command in (0xD2, 0xD3):
            self._output = value

    def save(self) -> State:
        """See Device."""
        return {
            "v": 1,
            "control": self._control,
            "output": self._output,
            "expects": self._expects,
            "port2": self._port2,
        }

    def load(self, state: State) -> None:
        """See Device."""
        if state["v"] != 1:
            raise ConfigError(f"i8042: saved by version {state['v']}, this one reads 1")
        self._control, self._output = state["control"], state["output"]
        self._expects, self._port2 = state["expects"], state["port2"]
