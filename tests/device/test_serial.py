"""The 16550A as its data sheet and Linux's and other drivers' probes know it."""

from __future__ import annotations

import pytest

from kvm_core.errors import ConfigError
from tests.device.fakes import Line, Sink, Standing
from vmmuser.devices.serial import DATA, IER, IIR_FCR, LCR, LSR, MCR, MSR, SCR, Serial


class Uart:
    """A serial port with everything around it."""

    def __init__(self) -> None:
        self.line, self.sink = Line(), Sink()
        self.polled, self.enabled = Standing(), Standing()
        self.serial = Serial(self.line, self.sink, self.polled, self.enabled)

    def read(self, offset: int) -> int:
        standing = self.polled.value
        value = self.serial.read(0, offset, 1)
        assert offset != LSR or standing in (value, None)
        assert offset != IER or self.enabled.value == value
        return value

    def write(self, offset: int, value: int) -> None:
        self.serial.write(0, offset, 1, value)


@pytest.fixture
def uart() -> Uart:
    return Uart()


@pytest.fixture
def live(uart: Uart) -> Uart:
    """FIFOs on, 14-byte trigger, OUT2 on: as a driver leaves it."""
    uart.write(IIR_FCR, 0xC7)
    uart.write(MCR, 0x0B)
    return uart


def test_after_power_on(uart: Uart) -> None:
    assert uart.read(LSR) == 0x60
    assert uart.read(IIR_FCR) == 0x01
    assert uart.read(IER) == 0
    assert uart.read(MSR) == 0xB0  # carrier, DSR and CTS; no deltas
    assert not uart.line.level


def test_characters_leave(uart: Uart) -> None:
    for byte in b"hello":
        uart.write(DATA, byte)
    assert uart.sink.data == b"hello"


def test_string_leaves_in_one_piece(uart: Uart) -> None:
    uart.serial.write_string(0, DATA, b"hello")
    assert uart.sink.pieces == [b"hello"]


def test_strings_to_other_registers(live: Uart) -> None:
    live.serial.write_string(0, SCR, b"abc")
    assert live.read(SCR) == ord("c")
    live.write(LCR, 0x83)
    live.serial.write_string(0, DATA, b"\x0c\x01")
    assert live.read(DATA) == 0x01
    live.write(LCR, 0x03)
    live.write(MCR, 0x1B)  # loopback
    live.serial.write_string(0, DATA, b"xy")
    assert [live.read(DATA), live.read(DATA)] == [ord("x"), ord("y")]
    assert live.sink.pieces == []


def test_polled_status_stands_while_nothing_hangs_on_the_poll(live: Uart) -> None:
    assert live.polled.value == 0x60
    live.serial.receive(b"k")
    assert live.polled.value == 0x61
    live.read(DATA)
    assert live.polled.value == 0x60


def test_polls_are_seen_while_held_back_characters_would_interrupt(live: Uart) -> None:
    live.write(IER, 0x02)
    assert live.polled.value is None
    live.write(IER, 0x01)
    assert live.polled.value == 0x60


def test_polls_are_seen_in_loopback_and_when_they_clear_an_error(live: Uart) -> None:
    live.write(MCR, 0x1B)
    assert live.polled.value is None
    for value in range(17):
        live.write(DATA, value)
    live.write(MCR, 0x0B)
    assert live.polled.value is None
    assert live.read(LSR) == 0x63
    assert live.polled.value == 0x61


def test_the_status_is_there_before_the_interrupt(live: Uart) -> None:
    seen: list[int | None] = []
    live.line.set = lambda level: seen.append(live.polled.value)  # type: ignore[method-assign]
    live.write(IER, 0x01)
    live.serial.receive(b"k")
    live.read(DATA)
    assert seen == [0x61, 0x60]


def test_divisor_is_behind_dlab(uart: Uart) -> None:
    uart.write(LCR, 0x83)
    uart.write(DATA, 0x01)
    uart.write(IER, 0x02)
    assert (uart.read(DATA), uart.read(IER)) == (0x01, 0x02)
    uart.write(LCR, 0x03)
    assert uart.read(IER) == 0
    assert uart.sink.data == b""


def test_scratch_register(uart: Uart) -> None:
    uart.write(SCR, 0xA5)
    assert uart.read(SCR) == 0xA5


def test_ier_has_four_bits(uart: Uart) -> None:
    uart.write(IER, 0xFF)
    assert uart.read(IER) == 0x0F


def test_fifo_shows_in_iir(uart: Uart) -> None:
    uart.write(IIR_FCR, 0x01)
    assert uart.read(IIR_FCR) == 0xC1
    uart.write(IIR_FCR, 0x00)
    assert uart.read(IIR_FCR) == 0x01


def test_thre_interrupt_on_enabling_and_acknowledged_by_iir(live: Uart) -> None:
    live.write(IER, 0x02)
    assert live.line.level
    assert live.read(IIR_FCR) == 0xC2
    assert not live.line.level
    assert live.read(IIR_FCR) == 0xC1
    live.write(DATA, ord("x"))  # leaves at once, so THR is empty again
    assert live.line.level
    assert live.read(IIR_FCR) == 0xC2


def test_thre_interrupt_comes_again_when_enabled_again(live: Uart) -> None:
    live.write(IER, 0x02)
    live.read(IIR_FCR)
    live.write(IER, 0x00)
    live.write(IER, 0x02)
    assert live.read(IIR_FCR) == 0xC2


def test_wants_thre_follows_ier(live: Uart) -> None:
    assert not live.serial.wants_thre
    live.write(IER, 0x02)
    assert live.serial.wants_thre


def test_out2_gates_the_line(live: Uart) -> None:
    live.write(IER, 0x02)
    assert live.line.level
    live.write(MCR, 0x03)
    assert not live.line.level
    live.write(MCR, 0x0B)
    assert live.line.level


def test_receive_with_interrupt(live: Uart) -> None:
    live.write(IER, 0x01)
    live.serial.receive(b"ab")
    assert live.line.level
    assert live.read(IIR_FCR) == 0xCC  # fewer than 14: time-out
    assert live.read(LSR) & 1
    assert live.read(DATA) == ord("a")
    assert live.line.level
    assert live.read(DATA) == ord("b")
    assert not live.line.level
    assert live.read(LSR) & 1 == 0


def test_receive_at_trigger_level(live: Uart) -> None:
    live.write(IER, 0x01)
    live.serial.receive(bytes(14))
    assert live.read(IIR_FCR) == 0xC4


def test_input_beyond_the_fifo_waits(live: Uart) -> None:
    text = bytes(range(1, 101))
    live.serial.receive(text)
    assert bytes(live.read(DATA) for _ in range(100)) == text
    assert live.read(LSR) & 3 == 0  # no data, no overrun


def test_input_is_bounded(live: Uart) -> None:
    for _ in range(3):
        live.serial.receive(bytes(1 << 20))
    assert len(live.serial._waiting) <= 1 << 20


def test_without_fifo_one_character_at_a_time(uart: Uart) -> None:
    uart.serial.receive(b"xy")
    assert uart.read(LSR) & 1
    assert uart.read(DATA) == ord("x")
    assert uart.read(DATA) == ord("y")


def test_receiver_has_priority_over_transmitter(live: Uart) -> None:
    live.write(IER, 0x03)
    live.serial.receive(b"z")
    assert live.read(IIR_FCR) == 0xCC
    live.read(DATA)
    assert live.read(IIR_FCR) == 0xC2


def test_loopback_data_and_overrun(live: Uart) -> None:
    live.write(MCR, 0x1B)
    live.write(IER, 0x04)
    for value in range(17):
        live.write(DATA, value)
    assert live.sink.data == b""
    assert live.read(LSR) & 0x03 == 0x03  # data, overrun
    assert live.read(LSR) & 0x03 == 0x01  # reading cleared the error
    assert [live.read(DATA) for _ in range(16)] == list(range(16))
    assert not live.line.level


@pytest.mark.parametrize(
    ("mcr", "msr"), [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80), (0x0A, 0x90)]
)
def test_loopback_modem_lines(uart: Uart, mcr: int, msr: int) -> None:
    uart.write(MCR, 0x10 | mcr)
    assert uart.read(MSR) & 0xF0 == msr


def test_modem_deltas_clear_on_read(uart: Uart) -> None:
    uart.write(MCR, 0x10)
    uart.read(MSR)
    uart.write(MCR, 0x11)  # DTR -> DSR
    assert uart.read(MSR) == 0x22
    assert uart.read(MSR) == 0x20


def test_trailing_edge_of_ring(uart: Uart) -> None:
    uart.write(MCR, 0x10)
    uart.read(MSR)
    uart.write(MCR, 0x14)
    assert uart.read(MSR) & 0x0F == 0
    uart.write(MCR, 0x10)
    assert uart.read(MSR) & 0x0F == 0x04


def test_clearing_the_receive_fifo(live: Uart) -> None:
    live.serial.receive(b"abc")
    live.write(IIR_FCR, 0xC3)
    assert live.read(LSR) & 1 == 0


def test_save_and_load(live: Uart) -> None:
    live.write(IER, 0x03)
    live.write(SCR, 0x42)
    live.serial.receive(b"q")
    state = live.serial.save()
    other = Uart()
    other.serial.load(state)
    assert other.serial.save() == state
    assert other.line.level
    assert other.read(DATA) == ord("q")
    with pytest.raises(ConfigError, match="version 99"):
        other.serial.load({"v": 99})


def test_wide_access_takes_consecutive_registers(uart: Uart) -> None:
    uart.write(SCR, 0x77)
    assert uart.serial.read(0, 6, 4) == 0x77B0
