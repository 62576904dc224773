"""A PCI bus with nothing on it but its host bridge, and the reset register between its ports.

A kernel that looks for PCI finds a bus that it can read (PCI Local Bus 3.0, 3.2.2.3.2:
configuration mechanism 1), and no devices; without one Linux says that the machine is broken.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from kvm_core.errors import ConfigError
from vmmuser.device import Region, State

ADDRESS, RESET, DATA = 0, 1, 4
ENABLE = 1 << 31
ADDRESS_BITS = ENABLE | 0xFFFFFC  # bus, device, function, register
CF9_SYSTEM, CF9_NOW = 0x02, 0x04
RESET_VALUE = CF9_SYSTEM | CF9_NOW

# vendor, device, command and status, class and revision: QEMU's host bridge of no real chipset
HOST_BRIDGE = struct.pack("<HHIB3s", 0x1B36, 0x0008, 0, 0, b"\x00\x00\x06").ljust(256, b"\0")


class HostBridge:
    """The eight ports from CF8h. As in chipsets, a byte at CF9h is the reset control register."""

    regions = (Region("pio", 8),)

    def __init__(self, reset_machine: Callable[[], None]) -> None:
        """`reset_machine` is the platform's reset line."""
        self._reset_machine = reset_machine
        self.reset()

    def reset(self) -> None:
        """See Device."""
        self._address = self._control = 0

    def _configuration(self, offset: int, size: int) -> int:
        if self._address & ~0xFF != ENABLE:
            return (1 << 8 * size) - 1  # nobody is there, or configuration is off
        at = (self._address & 0xFC) + offset - DATA
        return int.from_bytes(HOST_BRIDGE[at : at + size], "little")

    def read(self, region: int, offset: int, size: int) -> int:
        """See Device."""
        if offset >= DATA:
            return self._configuration(offset, size)
        if (offset, size) == (ADDRESS, 4):
            return self._address
        return self._control if (offset, size) == (RESET, 1) else (1 << 8 * size) - 1

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """See Device; no register of the bridge can be written."""
        if (offset, size) == (ADDRESS, 4):
            self._address = value & ADDRESS_BITS
        elif (offset, size) == (RESET, 1):
            self._control = value & CF9_SYSTEM
            if value & CF9_NOW:
                self._reset_machine()

    def save(self) -> State:
        """See Device."""
        return {"v": 1, "address": self._address, "control": self._control}

    def load(self, state: State) -> None:
        """See Device."""
        if state["v"] != 1:
            raise ConfigError(f"pci: saved by version {state['v']}, this one reads 1")
        self._address, self._control = state["address"], state["control"]
