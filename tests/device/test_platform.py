"""8042, PM1 and the reset register; and address decoding."""

from __future__ import annotations

import pytest

from kvm_core.errors import ConfigError
from tests.device.fakes import Line, Sink, Standing
from vmmuser.bus import Bus
from vmmuser.device import Region, State
from vmmuser.devices.i8042 import I8042
from vmmuser.devices.pci import HostBridge
from vmmuser.devices.power import AcpiPm1
from vmmuser.devices.serial import Serial


class Calls:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


class TestI8042:
    def test_self_test(self) -> None:
        keyboard = I8042(Calls())
        assert keyboard.read(1, 0, 1) & 1 == 0
        keyboard.write(1, 0, 1, 0xAA)
        assert keyboard.read(1, 0, 1) & 1 == 1
        assert keyboard.read(0, 0, 1) == 0x55
        assert keyboard.read(1, 0, 1) & 1 == 0

    @pytest.mark.parametrize("command", [0xFE, 0xF0, 0xF2])
    def test_pulse_resets(self, command: int) -> None:
        reset = Calls()
        I8042(reset).write(1, 0, 1, command)
        assert reset.count == 1

    def test_pulse_of_nothing_does_not_reset(self) -> None:
        reset = Calls()
        I8042(reset).write(1, 0, 1, 0xFF)
        assert reset.count == 0

    def test_output_port(self) -> None:
        reset = Calls()
        keyboard = I8042(reset)
        keyboard.write(1, 0, 1, 0xD1)
        keyboard.write(0, 0, 1, 0xDF)
        assert reset.count == 0
        keyboard.write(1, 0, 1, 0xD0)
        assert keyboard.read(0, 0, 1) == 0xDF
        keyboard.write(1, 0, 1, 0xD1)
        keyboard.write(0, 0, 1, 0xFE)
        assert reset.count == 1

    def test_control_byte_and_state(self) -> None:
        keyboard = I8042(Calls())
        keyboard.write(1, 0, 1, 0x60)
        keyboard.write(0, 0, 1, 0x47)
        keyboard.write(1, 0, 1, 0x20)
        other = I8042(Calls())
        other.load(keyboard.save())
        assert other.read(0, 0, 1) == 0x47


class TestPm1:
    def pm1(self) -> tuple[AcpiPm1, Line, Calls]:
        sci, off = Line(), Calls()
        return AcpiPm1(sci, off), sci, off

    def test_acpi_mode_is_on_and_stays(self) -> None:
        pm1, _, _ = self.pm1()
        assert pm1.read(0, 4, 2) & 1
        pm1.write(0, 4, 2, 0)
        assert pm1.read(0, 4, 2) & 1

    def test_power_button_interrupts_when_enabled(self) -> None:
        pm1, sci, _ = self.pm1()
        pm1.press_button()
        assert not sci.level
        pm1.write(0, 2, 2, 1 << 8)
        assert sci.level
        assert pm1.read(0, 0, 2) == 1 << 8
        pm1.write(0, 0, 2, 1 << 8)  # a 1 clears
        assert not sci.level
        assert pm1.read(0, 0, 2) == 0

    def test_status_and_enable_as_one_dword(self) -> None:
        pm1, sci, _ = self.pm1()
        pm1.press_button()
        pm1.write(0, 0, 4, 1 << 24)
        assert pm1.read(0, 0, 4) == 1 << 24 | 1 << 8
        assert sci.level

    def test_byte_accesses(self) -> None:
        pm1, _, _ = self.pm1()
        pm1.write(0, 3, 1, 0x01)
        assert pm1.read(0, 2, 2) == 0x100
        assert pm1.read(0, 3, 1) == 0x01

    def test_s5(self) -> None:
        pm1, _, off = self.pm1()
        pm1.write(0, 4, 2, 5 << 10)
        assert off.count == 0
        pm1.write(0, 4, 2, 5 << 10 | 1 << 13)
        assert off.count == 1
        assert pm1.read(0, 4, 2) & 1 << 13 == 0

    def test_other_sleep_states_do_nothing(self) -> None:
        pm1, _, off = self.pm1()
        pm1.write(0, 4, 2, 3 << 10 | 1 << 13)
        assert off.count == 0

    def test_save_and_load(self) -> None:
        pm1, _, _ = self.pm1()
        pm1.write(0, 2, 2, 1 << 8)
        pm1.press_button()
        other, sci, _ = self.pm1()
        other.load(pm1.save())
        assert sci.level
        with pytest.raises(ConfigError):
            other.load({"v": 0})


def test_reset_register() -> None:
    reset = Calls()
    device = HostBridge(reset)
    device.write(0, 1, 1, 0x02)
    assert (reset.count, device.read(0, 1, 1)) == (0, 0x02)
    device.write(0, 1, 1, 0x06)
    assert reset.count == 1


def test_an_empty_pci_bus() -> None:
    """Linux's checks; the address of function 4, whose second byte would reset the machine."""
    reset = Calls()
    device = HostBridge(reset)
    device.write(0, 3, 1, 0x01)
    assert device.read(0, 0, 4) == 0
    device.write(0, 0, 4, 0x80000008)
    assert device.read(0, 0, 4) == 0x80000008
    assert (device.read(0, 6, 2), device.read(0, 4, 4)) == (0x0600, 0x06000000)
    other = HostBridge(reset)
    other.load(device.save())
    assert other.read(0, 7, 1) == 0x06
    for nobody in (0x80000400, 0x80000800, 0x80010000, 0x00000000):
        device.write(0, 0, 4, nobody)
        assert device.read(0, 4, 4) == 0xFFFFFFFF
    device.write(0, 0, 4, 0x80000000)
    device.write(0, 4, 4, 0)
    assert device.read(0, 4, 4) == 0x00081B36
    assert reset.count == 0
    device.reset()
    assert device.read(0, 4, 2) == 0xFFFF


class Bytes:
    """A device that stores."""

    def __init__(self, kind: str, size: int) -> None:
        self.regions = (Region(kind, size),)  # type: ignore[arg-type]
        self.store = bytearray(size)

    def read(self, region: int, offset: int, size: int) -> int:
        return int.from_bytes(self.store[offset : offset + size], "little")

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        self.store[offset : offset + size] = value.to_bytes(size, "little")

    def reset(self) -> None: ...
    def save(self) -> State:
        return {}

    def load(self, state: State) -> None: ...


class TestBus:
    def test_ports(self) -> None:
        bus, device = Bus(), Bytes("pio", 4)
        bus.attach(device, pio=0x100)
        bus.write_port(0x100, 4, 0x44332211)
        assert bus.read_port(0x102, 2) == 0x4433
        assert bus.read_port(0x200, 4) == 0xFFFFFFFF
        bus.write_port(0x200, 4, 0)
        assert bus.unclaimed == 8

    def test_access_across_two_devices_is_split(self) -> None:
        bus, one, two = Bus(), Bytes("pio", 2), Bytes("pio", 2)
        bus.attach(one, pio=0x100)
        bus.attach(two, pio=0x102)
        bus.write_port(0x101, 2, 0xBBAA)
        assert (one.store[1], two.store[0]) == (0xAA, 0xBB)
        assert bus.read_port(0x101, 4) == 0xFF00BBAA

    def test_strings(self) -> None:
        bus, device = Bus(), Bytes("pio", 4)
        bus.attach(device, pio=0x100)
        bus.write_port_string(0x101, 1, b"abc")
        bus.write_port_string(0x102, 2, b"defg")
        assert device.store == b"\0cfg"

    def test_strings_at_once(self) -> None:
        bus, sink = Bus(), Sink()
        bus.attach(Serial(Line(), sink, Standing(), Standing()), pio=0x3F8)
        bus.write_port_string(0x3F8, 1, b"hello")
        bus.write_port_string(0x3F8, 2, b"a\0")  # to two registers
        assert sink.pieces == [b"hello", b"a"]

    def test_the_last_port_wraps(self) -> None:
        bus, device = Bus(), Bytes("pio", 1)
        bus.attach(device, pio=0)
        bus.write_port(0xFFFF, 2, 0x5500)
        assert device.store[0] == 0x55

    def test_memory(self) -> None:
        bus, device = Bus(), Bytes("mmio", 0x100)
        bus.attach(device, mmio=0xFEB00000)
        bus.write_memory(0xFEB000F8, 8, 0x1122334455667788)
        assert bus.read_memory(0xFEB000FC, 4) == 0x11223344
        assert bus.read_memory(0xFEB000FD, 4) == 0xFFFFFFFF  # runs over the end
        assert bus.read_memory(0xFEAFFFFF, 1) == 0xFF

    def test_overlaps_are_refused(self) -> None:
        bus = Bus()
        bus.attach(Bytes("mmio", 0x100), mmio=0x1000)
        bus.attach(Bytes("pio", 8), pio=0x3F8)
        for place in (0xF80, 0x1080):
            with pytest.raises(ConfigError):
                bus.attach(Bytes("mmio", 0x100), mmio=place)
        with pytest.raises(ConfigError):
            bus.attach(Bytes("pio", 1), pio=0x3FF)
