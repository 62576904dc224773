"""The console on a pseudo-terminal: typing, escapes, and what every way out leaves behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.boot import guests
from tests.boot.terminal import DOOR, Terminal
from tests.boot.tiny import kernel


@pytest.fixture(autouse=True)
def _core(need: Callable[[bool, str], None]) -> None:
    need(DOOR != "direct" or find_spec("kvm_core._kvm") is not None, "the core (make ext)")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Terminal]]:
    open_ones: list[Terminal] = []

    def run(body: str) -> Terminal:
        image = tmp_path / "kernel"
        image.write_bytes(kernel(body))
        terminal = Terminal("--kernel", image)
        open_ones.append(terminal)
        return terminal

    yield run
    for terminal in open_ones:
        terminal.close()


def test_typing_reaches_the_guest_and_power_off_restores(
    start: Callable[[str], Terminal],
) -> None:
    terminal = start(guests.ECHO)
    terminal.expect(b"ready")
    assert terminal.is_raw
    terminal.type(b"hello")
    terminal.expect(b"hello")
    terminal.type(b"\x03")  # Ctrl-C is the guest's
    terminal.expect(b"\x03")
    terminal.type(b"\x01\x01")
    terminal.expect(b"\x01")
    terminal.type(b"q")
    assert terminal.wait() == 0
    assert terminal.is_restored
    assert b"the guest powered off" in terminal.text


def test_quit_by_escape(start: Callable[[str], Terminal]) -> None:
    terminal = start(guests.ECHO)
    terminal.expect(b"ready")
    terminal.type(b"\x01h")
    terminal.expect(b"power button")
    terminal.type(b"\x01x")
    assert terminal.wait() == 0
    assert terminal.is_restored


def test_power_button(start: Callable[[str], Terminal]) -> None:
    terminal = start(guests.WAIT_FOR_BUTTON)
    terminal.expect(b"ready")
    terminal.type(b"\x01p")
    assert terminal.wait() == 0
    assert b"pressed" in terminal.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_restore(start: Callable[[str], Terminal], number: signal.Signals) -> None:
    terminal = start(guests.ECHO)
    terminal.expect(b"ready")
    terminal.process.send_signal(number)
    assert terminal.wait() == 128 + number
    assert terminal.is_restored


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_sudden_death_restores(start: Callable[[str], Terminal], number: signal.Signals) -> None:
    terminal = start(guests.ECHO)
    terminal.expect(b"ready")
    assert terminal.is_raw
    terminal.process.send_signal(number)
    assert terminal.wait() == -number
    assert terminal.is_restored


def test_crash_of_the_guest_restores(start: Callable[[str], Terminal]) -> None:
    terminal = start(guests.TRIPLE_FAULT)
    assert terminal.wait() == 1
    assert terminal.is_restored
    assert b"triple fault" in terminal.text


def test_resets_leave_nothing_behind(start: Callable[[str], Terminal]) -> None:
    terminal = start(guests.COUNT_RESETS)
    pid = terminal.process.pid
    counts = {}
    for number in range(1, 31):
        terminal.expect(f"{number:016x}".encode())
        if number in (5, 30):
            maps = Path(f"/proc/{pid}/maps").read_text().count("kvmish-ram")
            counts[number] = (len(os.listdir(f"/proc/{pid}/fd")), maps)
        terminal.type(b"r")
    assert counts[5] == counts[30]
    terminal.expect(f"{31:016x}".encode())
    terminal.type(b"\x01x")
    assert terminal.wait() == 0


def test_reset_boots_again(start: Callable[[str], Terminal]) -> None:
    terminal = start(
        'say "ready\\n"\n'
        + guests.ECHO.replace("je off", "je 6f")
        + """
6:  mov al, 0xfe
    out 0x64, al
    jmp 6b
"""
    )
    terminal.expect(b"ready")
    terminal.type(b"abcq")
    terminal.expect(b"abcready")
    terminal.type(b"\x01x")
    assert terminal.wait() == 0
    assert terminal.is_restored
