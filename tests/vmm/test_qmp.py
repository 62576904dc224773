"""The monitor against clients that break its rules, beside one that keeps them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.boot import guests
from tests.boot.test_machine import resident_kib
from tests.boot.tiny import kernel
from tests.vmm.harness import LIMIT_S, Vm

FOREVER = "5: hlt\n jmp 5b"
CAPABILITIES = b'{"execute": "qmp_capabilities"}'


@pytest.fixture(scope="module")
def _vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    directory = tmp_path_factory.mktemp("vm")
    (directory / "kernel").write_bytes(kernel(FOREVER))
    machine = Vm(directory, kernel="kernel", memory_mib=32)
    machine.wait_for_socket()
    yield machine
    machine.close()


@pytest.fixture
def vm(_vm: Vm) -> Iterator[Vm]:
    """One machine for all; each test leaves it serving."""
    yield _vm
    assert _vm.process.poll() is None, _vm.errors
    assert _vm.status() == "running"
    assert "Traceback" not in _vm.errors


class Raw:
    """A client that sends what it likes."""

    def __init__(self, vm: Vm, negotiate: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect(str(vm.qmp_path))
        self._file = self.socket.makefile("rb")
        self.greeting = self.read()
        if negotiate:
            assert self.ask(CAPABILITIES) == {"return": {}}

    def read(self) -> Any:
        line = self._file.readline()
        return json.loads(line) if line else None

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, data: bytes) -> Any:
        self.send(data)
        return self.read()

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture
def raw(vm: Vm) -> Iterator[Callable[..., Raw]]:
    clients: list[Raw] = []

    def connect(negotiate: bool = True) -> Raw:
        clients.append(Raw(vm, negotiate))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def error(description: str, kind: str = "GenericError") -> dict[str, Any]:
    return {"error": {"class": kind, "desc": description}}


def test_greeting_and_negotiation(raw: Callable[..., Raw]) -> None:
    client = raw(negotiate=False)
    version = {"qemu": {"major": 0, "minor": 1, "micro": 0}, "package": "kvmish 0.1.0"}
    assert client.greeting == {"QMP": {"version": version, "capabilities": []}}
    expecting = "Expecting capabilities negotiation with 'qmp_capabilities'"
    assert client.ask(b'{"execute": "query-status"}') == error(expecting, "CommandNotFound")
    wrong = b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}'
    assert client.ask(wrong) == error("QMP capability oob is not available")
    assert client.ask(b'{"execute": "query-status"}') == error(expecting, "CommandNotFound")
    assert client.ask(CAPABILITIES) == {"return": {}}
    assert client.ask(b'{"execute": "query-status"}')["return"]["running"] is True
    again = "Capabilities negotiation is already complete, command ignored"
    assert client.ask(CAPABILITIES) == error(again, "CommandNotFound")


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("[]", error("QMP input must be a JSON object")),
        ("{}", error("QMP input lacks member 'execute'")),
        ('{"execute": 1}', error("QMP input member 'execute' must be a string")),
        (
            '{"execute": "stop", "arguments": []}',
            error("QMP input member 'arguments' must be an object"),
        ),
        ('{"execute": "stop", "x": 1}', error("QMP input member 'x' is unexpected")),
        ('{"exec-oob": "stop"}', error("QMP input lacks member 'execute'")),
        ('{"execute": "no"}', error("The command no has not been found", "CommandNotFound")),
        (
            '{"execute": "stop", "arguments": {"now": 1}}',
            error("Parameter 'now' is unexpected"),
        ),
        (
            '{"execute": "query-blockstats", "arguments": {"query-nodes": 1}}',
            error("Invalid parameter type for 'query-nodes', expected: boolean"),
        ),
        ('{"execute": "cont",}', None),
        ("nonsense\n", error("JSON parse error, expecting value")),
        ('{"execute": "st\nop"}', None),
    ],
)
def test_wrong_messages(raw: Callable[..., Raw], message: str, answer: Any) -> None:
    client = raw()
    got = client.ask(message.encode())
    if answer is None:
        assert got["error"]["desc"].startswith("JSON parse error, ")
    else:
        assert got == answer
    assert client.ask(b'\n{"execute": "query-name", "id": 7}')["return"] == {"name": "test"}


@pytest.mark.parametrize("value", [1, "x", None, [1, {"a": None}], {"deep": [[]]}, 1.5, True])
def test_id_is_echoed(raw: Callable[..., Raw], value: Any) -> None:
    message = json.dumps({"execute": "query-name", "id": value}).encode()
    assert raw().ask(message) == {"return": {"name": "test"}, "id": value}
    message = json.dumps({"execute": "nothing", "id": value}).encode()
    assert raw().ask(message)["id"] == value


def test_timestamps(vm: Vm, raw: Callable[..., Raw]) -> None:
    client = raw()
    client.send(b'{"execute": "stop"}{"execute": "cont"}')
    stop, first, resume, second = (client.read() for _ in range(4))
    assert (first, second) == ({"return": {}}, {"return": {}})
    assert (stop["event"], resume["event"]) == ("STOP", "RESUME")
    assert set(stop["timestamp"]) == {"seconds", "microseconds"}
    assert 0 <= stop["timestamp"]["microseconds"] < 1_000_000
    assert "data" not in stop


def test_half_a_message_holds_nobody_up(vm: Vm, raw: Callable[..., Raw]) -> None:
    silent = raw()
    silent.send(b'{"execute": "que')
    for _ in range(10):
        with vm.monitor() as other:
            assert other.cmd("query-name") == {"name": "test"}
    assert silent.ask(b'ry-name"}') == {"return": {"name": "test"}}


def test_huge_message(vm: Vm, raw: Callable[..., Raw]) -> None:
    client = raw()
    assert vm.status() == "running"
    before = resident_kib(vm.process.pid)
    client.send(b'{"execute": "stop", "arguments": {"x": "')
    for _ in range(64):
        client.send(b"x" * (1 << 20))
    client.send(b'"}}{"execute": "query-name"}')
    assert client.read() == error("JSON token size limit exceeded")
    assert client.read() == {"return": {"name": "test"}}
    assert resident_kib(vm.process.pid) - before < 16_000


def test_client_that_asks_and_does_not_read(vm: Vm, raw: Callable[..., Raw]) -> None:
    assert vm.status() == "running"
    before = resident_kib(vm.process.pid)
    client = raw()
    client.socket.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 64 << 20:
            sent += client.socket.send(b'{"execute": "query-qmp-schema"}' * 1000)
    assert sent < 8 << 20  # it is not read from, either
    for _ in range(10):
        assert vm.status() == "running"
    assert resident_kib(vm.process.pid) - before < 16_000


def test_client_that_does_not_read_its_events_is_cut_off(vm: Vm, raw: Callable[..., Raw]) -> None:
    client = raw()
    before = resident_kib(vm.process.pid)
    for _ in range(20_000):
        if "does not read its events" in vm.errors:
            break
        for _ in range(100):
            vm.qmp.cmd("stop")
            vm.qmp.cmd("cont")
        vm.qmp.clear_events()
    else:
        pytest.fail("it still gets events")
    assert resident_kib(vm.process.pid) - before < 16_000
    while client.read() is not None:
        pass


def test_many_clients(vm: Vm, raw: Callable[..., Raw]) -> None:
    assert vm.status() == "running"
    files = len(os.listdir(f"/proc/{vm.process.pid}/fd"))
    clients = [raw() for _ in range(60)]
    for client in clients:
        assert client.ask(b'{"execute": "query-name"}') == {"return": {"name": "test"}}
    turned_away = 0
    for _ in range(10):
        one = socket.socket(socket.AF_UNIX)
        one.connect(str(vm.qmp_path))
        one.settimeout(LIMIT_S)
        turned_away += one.recv(1) == b""
        one.close()
    for client in clients:
        client.close()
    while len(os.listdir(f"/proc/{vm.process.pid}/fd")) > files:
        assert vm.status() == "running"
    assert raw().ask(b'{"execute": "query-name"}') == {"return": {"name": "test"}}


def test_clients_that_leave_at_once(vm: Vm) -> None:
    for number in range(200):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(vm.qmp_path))
            if number % 2:
                client.sendall(CAPABILITIES + b'{"execute": "query-qmp-schema"}' * 20)
    assert vm.status() == "running"


def test_noise(vm: Vm) -> None:
    chance = random.Random(5)  # noqa: S311 - a seed that can be named again
    words = [b'{"execute":', b'"stop"', b"}", b"{", b"[", b'"id":', b"\n", b'"', b",", b"\\", b"1"]
    for _ in range(60):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(vm.qmp_path))
            noise = b"".join(chance.choice(words) for _ in range(300)) + chance.randbytes(300)
            client.sendall(noise)
            client.shutdown(socket.SHUT_WR)
    assert vm.status() == "running"


def test_errors_reach_the_real_client(vm: Vm) -> None:
    with pytest.raises(ExecuteError) as caught:
        vm.qmp.cmd("device_add", driver="x")
    assert caught.value.error_class == "CommandNotFound"
    assert str(caught.value) == "The command device_add has not been found"


def test_reset_storm_with_clients(tmp_path: Path) -> None:
    """A guest that does nothing but reset, and a monitor that is asked all the while."""
    (tmp_path / "kernel").write_bytes(kernel(guests.RESET["register"]))
    vm = Vm(tmp_path, kernel="kernel", memory_mib=32)
    try:
        for _ in range(20):
            vm.event("RESET")
            assert vm.status() == "running"
        vm.qmp.cmd("stop")
        vm.qmp.cmd("system_reset")
        vm.qmp.cmd("cont")
        vm.event("RESUME")
        vm.event("RESET")
        vm.qmp.cmd("quit")
        assert vm.wait() == 0
    finally:
        vm.close()
