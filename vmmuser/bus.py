"""Address decoding: which device answers at a port or an address, and at which of its offsets."""

from __future__ import annotations

import threading
from bisect import bisect_right
from typing import NamedTuple

from kvm_core.errors import ConfigError
from vmmuser.device import Device, StringDevice


class Window(NamedTuple):
    """A region of a device at its place."""

    base: int
    end: int
    device: Device
    region: int
    strings: StringDevice | None


class Bus:
    """The port space and the memory-mapped space of one machine. Callers hold `lock`."""

    def __init__(self) -> None:
        """Start empty."""
        self.lock = threading.RLock()
        self._ports: dict[int, Window] = {}
        self._windows: list[Window] = []
        self._bases: list[int] = []
        self.unclaimed = 0

    def attach(
        self,
        device: Device,
        *,
        pio: int | tuple[int, ...] = (),
        mmio: int | tuple[int, ...] = (),
    ) -> None:
        """Place the device's regions, in their order. :raise ConfigError: if two overlap."""
        places = {"pio": _as_list(pio), "mmio": _as_list(mmio)}
        for index, region in enumerate(device.regions):
            base = places[region.kind].pop(0)
            strings = device if isinstance(device, StringDevice) else None
            window = Window(base, base + region.size, device, index, strings)
            if region.kind == "pio":
                self._attach_ports(window)
            else:
                self._attach_window(window)

    def _attach_ports(self, window: Window) -> None:
        ports = range(window.base, window.end)
        taken = [port for port in ports if port in self._ports]
        if taken:
            raise ConfigError(f"port {taken[0]:#x} belongs to two devices")
        self._ports.update((port, window) for port in ports)

    def _attach_window(self, window: Window) -> None:
        at = bisect_right(self._bases, window.base)
        before = self._windows[at - 1] if at else None
        after = self._windows[at] if at < len(self._windows) else None
        if (before and before.end > window.base) or (after and after.base < window.end):
            raise ConfigError(f"address {window.base:#x} belongs to two devices")
        self._windows.insert(at, window)
        self._bases.insert(at, window.base)

    def read_port(self, port: int, size: int) -> int:
        """IN: an access that no single device covers is made byte by byte; no device, all ones."""
        window = self._ports.get(port)
        if window is not None and port + size <= window.end:
            return window.device.read(window.region, port - window.base, size)
        if size == 1:
            self.unclaimed += 1
            return 0xFF
        return sum(self.read_port((port + i) & 0xFFFF, 1) << 8 * i for i in range(size))

    def write_port(self, port: int, size: int, value: int) -> None:
        """OUT: as read_port; no device, no effect."""
        window = self._ports.get(port)
        if window is not None and port + size <= window.end:
            window.device.write(window.region, port - window.base, size, value)
        elif size == 1:
            self.unclaimed += 1
        else:
            for i in range(size):
                self.write_port((port + i) & 0xFFFF, 1, value >> 8 * i & 0xFF)

    def write_port_string(self, port: int, size: int, data: bytes) -> None:
        """OUTS: elements of `size` bytes, one after the other; at once, where a device can."""
        window = self._ports.get(port)
        if window is not None and window.strings is not None and size == 1:
            window.strings.write_string(window.region, port - window.base, data)
            return
        for at in range(0, len(data), size):
            self.write_port(port, size, int.from_bytes(data[at : at + size], "little"))

    def _find(self, address: int, size: int) -> Window | None:
        at = bisect_right(self._bases, address) - 1
        if at >= 0 and address + size <= self._windows[at].end:
            return self._windows[at]
        self.unclaimed += 1
        return None

    def read_memory(self, address: int, size: int) -> int:
        """Load from a device; where there is none, all ones."""
        window = self._find(address, size)
        if window is None:
            return (1 << 8 * size) - 1
        return window.device.read(window.region, address - window.base, size)

    def write_memory(self, address: int, size: int, value: int) -> None:
        """Store to a device; where there is none, no effect."""
        window = self._find(address, size)
        if window is not None:
            window.device.write(window.region, address - window.base, size, value)


def _as_list(places: int | tuple[int, ...]) -> list[int]:
    return [places] if isinstance(places, int) else list(places)
