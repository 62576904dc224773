"""What ends, resets or pauses a machine and how that is told; files, sockets, signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.boot import guests
from tests.vmm.harness import LIMIT_S, ROOT, Console, Vm

Start = Callable[..., Vm]

FOREVER = 'say "up\\n"\n5: jmp 5b'
SLEEPS = 'say "up\\n"\n5: hlt\n jmp 5b'
PANIC = "mov dx, 0x505\n in al, dx\n mov al, 1\n out dx, al\n5: jmp 5b"
CRASH_LOADED = "mov dx, 0x505\n mov al, 2\n out dx, al\n" + FOREVER


@pytest.mark.parametrize(
    ("body", "policy", "events", "end"),
    [
        ("jmp off", {}, [("SHUTDOWN", "guest-shutdown")], 0),
        ("jmp off", {"on_poweroff": "pause"}, [("SHUTDOWN", "guest-shutdown"), "STOP"], "shutdown"),
        (guests.RESET["keyboard"], {"on_reboot": "exit"}, [("SHUTDOWN", "guest-reset")], 0),
        (guests.RESET["register"], {}, [("RESET", "guest-reset")] * 3, "running"),
        (guests.TRIPLE_FAULT, {}, [("SHUTDOWN", "guest-reset")], 1),
        (guests.TRIPLE_FAULT, {"on_crash": "reset"}, [("RESET", "guest-reset")] * 2, "running"),
        (
            guests.TRIPLE_FAULT,
            {"on_crash": "pause"},
            [("SHUTDOWN", "guest-reset"), "STOP"],
            "shutdown",
        ),
        (PANIC, {}, [("GUEST_PANICKED", "poweroff"), "STOP", ("SHUTDOWN", "guest-panic")], 1),
        (PANIC, {"on_crash": "pause"}, [("GUEST_PANICKED", "pause"), "STOP"], "guest-panicked"),
        (
            PANIC,
            {"on_crash": "reset"},
            [("GUEST_PANICKED", "run"), ("RESET", "guest-panic")] * 2,
            "running",
        ),
        (CRASH_LOADED, {}, [("GUEST_CRASHLOADED", "run")], "running"),
    ],
    ids=lambda value: None if isinstance(value, str) and "\n" in value else str(value),
)
def test_policies(
    start: Start, body: str, policy: dict[str, str], events: list[Any], end: int | str
) -> None:
    vm = start(body, paused=True, **policy)
    assert vm.status() == "prelaunch"
    vm.qmp.cmd("cont")
    vm.event("RESUME")
    for expected in events:
        got = vm.qmp.pull_event(wait=float(LIMIT_S))
        assert got is not None
        data: Any = got.get("data", {})
        said = data.get("reason") or data.get("action")
        assert (got["event"], said) == (expected, None) if said is None else expected
        assert data.get("guest", True) is True
    if isinstance(end, int):
        assert vm.wait() == end, vm.errors
        assert (vm.errors != "") == (end != 0)
        assert vm.leftovers() == set()
    else:
        assert vm.status() == end


def test_paused_start_runs_nothing_before_cont(start: Start) -> None:
    vm = start('say "ran\\n"\n' + FOREVER, paused=True)
    vm.wait_for_socket()
    console = Console.unix(vm.serial_path)
    assert vm.status() == "prelaunch"
    with pytest.raises(AssertionError):
        console.expect(b"ran", 0.3)
    vm.qmp.cmd("cont")
    console.expect(b"ran")


def test_only_a_reset_leads_on_after_a_shutdown(start: Start) -> None:
    vm = start('say "once\\n"\n jmp off', on_poweroff="pause")
    vm.wait_for_socket()
    console = Console.unix(vm.serial_path)
    console.expect(b"once")
    while vm.status() != "shutdown":
        pass
    with pytest.raises(ExecuteError, match="Resetting the Virtual Machine is required"):
        vm.qmp.cmd("cont")
    vm.qmp.cmd("stop")
    assert vm.status() == "shutdown"
    vm.qmp.cmd("system_reset")
    assert vm.status() == "prelaunch"
    vm.qmp.cmd("cont")
    console.expect(b"once")


def test_reset_while_running_and_while_paused(start: Start) -> None:
    vm = start(FOREVER)
    vm.wait_for_socket()
    console = Console.unix(vm.serial_path)
    console.expect(b"up\n")
    vm.qmp.cmd("system_reset")
    console.expect(b"up\n")
    assert vm.status() == "running"
    vm.qmp.cmd("stop")
    vm.qmp.cmd("system_reset")
    assert vm.status() == "prelaunch"
    vm.qmp.cmd("cont")
    console.expect(b"up\n")


def test_reset_clears_memory(start: Start) -> None:
    """What the guest wrote is not there after a reset, as after power-on."""
    vm = start(
        "mov rax, [0xc00000]\n call putx\n mov qword ptr [0xc00000], 0x77\n"
        + guests.RESET["register"]
    )
    vm.wait_for_socket()
    console = Console.unix(vm.serial_path)
    for _ in range(3):
        console.expect(b"0000000000000000\n")


def test_reset_of_processors_that_were_started(start: Start) -> None:
    """They wait for their start again, all but the first."""
    body = guests.START_PROCESSORS % {"count": 2}
    vm = start(body.replace("jmp off", guests.RESET["register"]), vcpus=2)
    vm.wait_for_socket()
    console = Console.unix(vm.serial_path)
    for _ in range(3):
        console.expect(b"0000000000000001\n")


def test_power_button_reaches_the_guest(start: Start) -> None:
    vm = start(guests.WAIT_FOR_BUTTON)
    vm.wait_for_socket()
    console = Console.unix(vm.serial_path)
    console.expect(b"ready")
    vm.qmp.cmd("system_powerdown")
    vm.event("POWERDOWN")
    console.expect(b"pressed")
    assert vm.event("SHUTDOWN") == {"guest": True, "reason": "guest-shutdown"}
    assert vm.wait() == 0


def test_quit_answers_first(start: Start) -> None:
    vm = start(FOREVER)
    assert vm.qmp.cmd("quit") == {}
    assert vm.event("SHUTDOWN") == {"guest": False, "reason": "host-qmp-quit"}
    assert vm.wait() == 0
    assert vm.leftovers() == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("body", [FOREVER, SLEEPS])
def test_signals_are_an_orderly_end(start: Start, number: signal.Signals, body: str) -> None:
    vm = start(body, pidfile="pid", vcpus=2)
    vm.wait_for_socket()
    assert vm.qmp.cmd("query-name") == {"name": "test"}
    assert (vm.directory / "pid").read_text() == f"{vm.process.pid}\n"
    vm.process.send_signal(number)
    assert vm.event("SHUTDOWN") == {"guest": False, "reason": "host-signal"}
    assert vm.wait() == 0
    assert vm.leftovers() == set()


def test_signal_during_the_start_leaves_nothing(start: Start) -> None:
    vm = start(FOREVER, pidfile="pid")
    while not (vm.directory / "pid").exists():
        assert vm.process.poll() is None, vm.errors
    vm.process.send_signal(signal.SIGTERM)
    assert vm.wait() in (0, 128 + signal.SIGTERM)
    assert vm.leftovers() == set()


def _second(vm: Vm, **fields: Any) -> str:
    """Start another machine in the first one's directory; what it says instead of running."""
    config = vm.directory / "vm.json"
    before = config.read_text()
    config.write_text(json.dumps(vm.description | fields))
    done = subprocess.run(vm.command(), capture_output=True, text=True, timeout=60, check=False)
    config.write_text(before)
    assert done.returncode == 2, done.stderr
    return done.stderr.strip().replace(str(vm.directory), "DIR")


def test_a_living_machines_places_are_refused(start: Start) -> None:
    vm = start(FOREVER, pidfile="pid", memory_file="ram")
    assert vm.status() == "running"
    taken = "a living process listens there; stop it first"
    assert _second(vm, pidfile="") == f"kvmish: qmp: DIR/qmp: {taken}"
    pid = vm.process.pid
    assert _second(vm) == f"kvmish: pidfile: DIR/pid: process {pid} has it; stop it first"
    elsewhere = ["--qmp", str(vm.directory / "other")]
    vm.command = lambda: [*Vm.command(vm)[:-2], *elsewhere]  # type: ignore[method-assign]
    assert _second(vm, pidfile="") == f"kvmish: consoles: serial0: path: DIR/serial: {taken}"
    assert _second(vm, pidfile="", consoles=[]) == (
        "kvmish: memory_file: DIR/ram: another machine uses it"
    )
    assert vm.status() == "running"
    assert vm.leftovers() == {"qmp", "serial", "pid", "ram"}


def test_a_dead_machines_places_are_taken(start: Start) -> None:
    first = start(FOREVER, pidfile="pid", memory_file="ram")
    assert first.status() == "running"
    first.process.kill()
    first.process.wait()
    assert first.leftovers() == {"qmp", "serial", "pid", "ram"}
    second = Vm(first.directory, **first.description)
    try:
        second.wait_for_socket()
        assert second.status() == "running"
    finally:
        second.close()
    assert second.process.returncode == 0
    assert second.leftovers() == set()


def test_a_file_is_never_taken_for_a_socket(start: Start, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("text")
    vm = start(FOREVER, consoles=[{"device": "serial", "backend": "unix", "path": str(precious)}])
    assert vm.wait() == 2
    assert "is not a socket; name another path" in vm.errors
    assert precious.read_text() == "text"
    assert vm.leftovers() == set()


PYTHON_MIB = -(-Path("/proc/self/exe").stat().st_size >> 20)  # rounded up


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"kernel": "vm.json"}, "kernel: DIR/vm.json: is not a Linux bzImage; name one"),
        (
            {"memory_mib": 20, "initrd": "/proc/self/exe"},
            f"initrd: /proc/self/exe: {PYTHON_MIB} MiB do not fit beside the kernel into the "
            "guest's memory (3 MiB free); give more with memory_mib",
        ),
        ({"disks": [{"path": "vm.json", "x": 1}]}, "DIR/vm.json: disks[0].x: there is no such"),
        ({"kvm": "/dev/null"}, "kvm: /dev/null: is not a KVM device"),
        ({"pidfile": "no/such/pid"}, "pidfile: DIR/no/such/pid: No such file or directory"),
    ],
)
def test_what_cannot_be_is_told_in_the_descriptions_words(
    start: Start, fields: dict[str, Any], problem: str
) -> None:
    vm = start(FOREVER, **fields)
    assert vm.wait() == 2
    assert vm.errors.replace(str(vm.directory), "DIR").startswith(f"kvmish: {problem}")
    assert vm.leftovers() == set()


def test_log_file(start: Start) -> None:
    vm = start(guests.HOSTILE_QUEUE, log="log", on_poweroff="pause")
    vm.wait_for_socket()
    while vm.status() != "shutdown":
        pass
    assert "it needs a reset" in (vm.directory / "log").read_text()
    assert vm.errors == ""


def test_description_from_standard_input(start: Start, tmp_path: Path) -> None:
    vm = start("jmp off")
    description = vm.description | {"consoles": [], "kernel": str(vm.directory / "kernel")}
    done = subprocess.run(
        [*vm.command()[:-4], "--config", "-", "-v"], input=json.dumps(description).encode(),
        capture_output=True, cwd=tmp_path, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert b"SHUTDOWN {'guest': True, 'reason': 'guest-shutdown'}" in done.stderr


def test_guest_memory_is_a_file_that_others_can_map(start: Start) -> None:
    vm = start("mov qword ptr [0xc00000], 0x4321\n" + SLEEPS, memory_file="ram")
    vm.wait_for_socket()
    Console.unix(vm.serial_path).expect(b"up")
    with (vm.directory / "ram").open("rb") as ram:
        assert os.fstat(ram.fileno()).st_size == 32 << 20
        ram.seek(0xC00000)
        assert ram.read(8) == (0x4321).to_bytes(8, "little")


def test_directories_with_long_names(start: Start, tmp_path: Path) -> None:
    vm = start("jmp off", kernel="nowhere")
    assert vm.wait() == 2
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    description = vm.description | {"kernel": str(vm.directory / "kernel"), "on_poweroff": "pause"}
    (deep / "vm.json").write_text(json.dumps(description))
    command = [*vm.command()[:-4], "--config", "vm.json", "--qmp", "qmp"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=deep, env=environment) as process:
        fd = os.open(deep, os.O_PATH)
        vm.qmp_path = Path(f"/proc/self/fd/{fd}/qmp")
        while not vm.qmp_path.exists():
            assert process.poll() is None
        vm.process = process
        while vm.status() != "shutdown":
            pass
        assert (deep / "serial").is_socket()
        vm.qmp.cmd("quit")
        assert process.wait(LIMIT_S) == 0
        os.close(fd)
    assert {path.name for path in deep.iterdir()} == {"vm.json"}


def test_only_this_user_may_connect(start: Start) -> None:
    vm = start(FOREVER)
    vm.wait_for_socket()
    for name in ("qmp", "serial"):
        assert (vm.directory / name).stat().st_mode & 0o077 == 0


def test_a_client_that_does_not_read_cannot_hold_up_the_end(start: Start) -> None:
    vm = start(guests.RESET["register"], paused=True)
    vm.wait_for_socket()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(vm.qmp_path))
        deaf.sendall(b'{"execute": "qmp_capabilities"}')
        vm.qmp.cmd("cont")
        for _ in range(20):
            vm.event("RESET")
        began = time.monotonic()
        vm.qmp.cmd("quit")
        assert vm.wait() == 0
        assert time.monotonic() - began < 10
