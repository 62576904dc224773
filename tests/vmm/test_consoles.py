"""Consoles and their readers: who comes, goes, does not read, or floods."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import tty
from collections.abc import Callable
from typing import Any

import pytest

from tests.boot import guests
from tests.boot.test_machine import resident_kib
from tests.vmm.harness import LIMIT_S, Console, Vm
from vmmuser.chardev import HISTORY_BYTES, PENDING_BYTES

Start = Callable[..., Vm]

# Counts in hexadecimal for ever, a line at a time.
COUNTS = """
    xor r12, r12
5:  mov rax, r12
    call putx
    inc r12
    jmp 5b
"""
# Prints lines of 4096 characters for ever, as fast as it can.
POURS = """
    mov edi, 0xc00000
    mov al, 'x'
    mov ecx, 4095
    rep stosb
    mov byte ptr [rdi], 10
5:  mov esi, 0xc00000
    mov ecx, 4096
    mov dx, 0x3f8
    rep outsb
    jmp 5b
"""
# Prints this many lines, then echoes.
PRINTS = """
    xor r12, r12
6:  mov rax, r12
    call putx
    inc r12
    cmp r12, %d
    jne 6b
"""


def _serial(backend: str, **more: str) -> list[dict[str, str]]:
    return [{"device": "serial", "backend": backend, **more}]


def _pty(vm: Vm) -> str:
    chardevs: Any = vm.qmp.cmd("query-chardev")
    kind, path = chardevs[0]["filename"].split(":")
    assert kind == "pty"
    return str(path)


def _open_pty(path: str) -> Console:
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(fd)
    return Console(fd)


def test_pty_and_its_readers(start: Start) -> None:
    vm = start(guests.ECHO, consoles=_serial("pty"))
    path = _pty(vm)
    for number in range(3):
        console = _open_pty(path)
        if number == 0:
            console.expect(b"ready\n")  # printed before anybody was there
        console.type(f"reader {number}".encode())
        console.expect(f"reader {number}".encode())
        console.close()
    assert vm.status() == "running"
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    os.write(fd, b"quick and gone, q")
    os.close(fd)
    assert vm.wait() == 0
    assert not os.path.exists(path)


def test_pty_is_what_a_terminal_program_expects(start: Start) -> None:
    """Raw: no echo of our own, no signals, no newline translation."""
    vm = start(guests.ECHO, consoles=_serial("pty"))
    fd = os.open(_pty(vm), os.O_RDWR | os.O_NOCTTY)
    console = Console(fd)
    console.expect(b"ready\n")
    console.type(b"a\x03\x1a\r\x04z")
    console.expect(b"z")
    assert console.text.endswith(b"a\x03\x1a\r\x04z")
    console.close()


def test_readers_of_a_socket_queue(start: Start) -> None:
    vm = start(guests.ECHO)
    vm.wait_for_socket()
    first, second = Console.unix(vm.serial_path), Console.unix(vm.serial_path)
    first.expect(b"ready\n")
    second.type(b"second")
    first.type(b"first")
    first.expect(b"first")
    first.close()
    second.expect(b"second")
    assert second.text == b"second"
    second.close()


def test_output_without_a_reader_is_kept_up_to_a_limit(start: Start) -> None:
    lines = 9 * HISTORY_BYTES // 4 // 17
    vm = start(PRINTS % lines + guests.ECHO, consoles=_serial("unix", path="serial", log="log"))
    vm.wait_for_socket()
    while not (vm.directory / "log").read_bytes().endswith(b"ready\n"):
        assert vm.status() == "running"
    console = Console.unix(vm.serial_path)
    console.expect(b"ready\n")
    assert HISTORY_BYTES // 2 < len(console.text) <= 2 * HISTORY_BYTES + 64
    last = re.findall(rb"[0-9a-f]{16}\n", console.text)
    assert int(last[-1], 16) == lines - 1
    assert [int(line, 16) for line in last] == list(range(lines - len(last), lines))


def test_reader_that_does_not_read_costs_output_not_time(start: Start) -> None:
    vm = start(POURS, consoles=_serial("unix", path="serial", log="log"))
    vm.wait_for_socket()
    console = Console.unix(vm.serial_path)
    console.expect(b"\n")
    before = resident_kib(vm.process.pid)
    target = (vm.directory / "log").stat().st_size + 6 * PENDING_BYTES
    while (vm.directory / "log").stat().st_size < target:
        assert vm.status() == "running"
    assert resident_kib(vm.process.pid) - before < 8_000
    vm.qmp.cmd("stop")
    kept = 0
    while select.select([console._fd], [], [], 0.3)[0]:
        kept += len(os.read(console._fd, 65536))
    assert kept < target
    vm.qmp.cmd("cont")
    console.text, console._seen = b"", 0
    console.expect(b"\n")
    console.expect(b"\n")
    console.close()


def test_log_has_everything_in_order(start: Start) -> None:
    vm = start(PRINTS % 3000 + "jmp off", consoles=_serial("null", log="log"))
    assert vm.wait() == 0
    text = (vm.directory / "log").read_bytes()
    assert text == b"".join(b"%016x\n" % number for number in range(3000))


def test_log_is_added_to_and_file_begins_anew(start: Start) -> None:
    vm = start('say "text\\n"\n jmp off', consoles=_serial("file", path="out", log="log"))
    assert vm.wait() == 0
    again = Vm(vm.directory, **vm.description)
    assert again.wait() == 0
    again.close()
    assert (vm.directory / "out").read_bytes() == b"text\n"
    assert (vm.directory / "log").read_bytes() == b"text\n" * 2


def test_standard_input_and_output(start: Start) -> None:
    vm = start(guests.ECHO, kernel="nowhere")
    assert vm.wait() == 2
    description = vm.description | {"kernel": "kernel", "consoles": _serial("stdio")}
    (vm.directory / "vm.json").write_text(json.dumps(description))
    done = subprocess.run(
        vm.command(), input=b"some textq", capture_output=True, timeout=LIMIT_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"ready\nsome text"), done.stderr


def test_flood_of_input_is_bounded(start: Start) -> None:
    vm = start('say "up\\n"\n5: hlt\n jmp 5b')
    vm.wait_for_socket()
    console = Console.unix(vm.serial_path)
    console.expect(b"up")
    before = resident_kib(vm.process.pid)
    for _ in range(32):
        console.type(b"x" * (1 << 20))
    assert vm.status() == "running"
    assert resident_kib(vm.process.pid) - before < 40_000
    console.close()


def test_readers_that_come_and_go_quickly(start: Start) -> None:
    vm = start(COUNTS)
    vm.wait_for_socket()
    files = None
    for number in range(200):
        with socket.socket(socket.AF_UNIX) as reader:
            reader.connect(str(vm.serial_path))
            if number % 3 == 0:
                reader.sendall(b"noise")
            if number % 5 == 0:
                assert reader.recv(10)
        if number == 20:
            assert vm.status() == "running"
            files = len(os.listdir(f"/proc/{vm.process.pid}/fd"))
    assert vm.status() == "running"
    assert files is not None
    assert len(os.listdir(f"/proc/{vm.process.pid}/fd")) <= files + 2
    Console.unix(vm.serial_path).expect(b"\n")


@pytest.mark.parametrize("how", ["hangup", "kill"])
def test_a_terminal_program_on_the_pty_that_dies(start: Start, how: str) -> None:
    vm = start(guests.ECHO, consoles=_serial("pty"))
    path = _pty(vm)
    reader = subprocess.Popen(["cat", path], stdout=subprocess.PIPE, start_new_session=True)
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"ready\n"
    reader.kill() if how == "kill" else reader.terminate()
    reader.wait()
    reader.stdout.close()
    console = _open_pty(path)
    console.type(b"again")
    console.expect(b"again")
    console.close()
    assert vm.status() == "running"
