"""A machine on the device file: its vCPUs are another process's, which may be killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.devfs.broker import Broker, ended
from tests.devfs.broker import broker as a_broker
from tests.devfs.conftest import can_mount
from tests.vmm.harness import Console, Vm


@pytest.fixture(scope="module")
def broker(
    need: Callable[[bool, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    need(can_mount(), "root, /dev/fuse and Linux 6.9 for a device file")
    with a_broker(tmp_path_factory.mktemp("vmm") / "dev") as one:
        yield one


@pytest.mark.parametrize("body", ["5: jmp 5b", "5: hlt\n jmp 5b"])
def test_worker_killed(broker: Broker, start: Callable[..., Vm], body: str) -> None:
    vm = start('say "up\\n"\n' + body, kvm=str(broker.file))
    vm.wait_for_socket()
    Console.unix(vm.serial_path).expect(b"up")
    assert vm.status() == "running"
    os.kill(broker.machine(vm.process.pid), signal.SIGKILL)
    assert vm.event("SHUTDOWN") == {"guest": False, "reason": "host-error"}
    assert vm.wait() == 1
    assert "KVM_RUN" in vm.errors
    assert vm.leftovers() == set()


def test_worker_killed_while_paused(broker: Broker, start: Callable[..., Vm]) -> None:
    vm = start('say "up\\n"\n5: jmp 5b', kvm=str(broker.file))
    assert vm.status() == "running"
    vm.qmp.cmd("stop")
    os.kill(broker.machine(vm.process.pid), signal.SIGKILL)
    assert vm.status() == "paused"
    vm.qmp.cmd("quit")
    assert vm.wait() == 0
    assert vm.leftovers() == set()


@pytest.mark.parametrize("command", ["cont", "system_reset", "inject-nmi"])
def test_what_needs_a_killed_worker_is_refused(
    broker: Broker, start: Callable[..., Vm], command: str
) -> None:
    vm = start('say "up\\n"\n5: jmp 5b', kvm=str(broker.file))
    vm.qmp.cmd("stop")
    machine = broker.machine(vm.process.pid)
    os.kill(machine, signal.SIGKILL)
    assert ended(machine)
    with pytest.raises(ExecuteError, match=r"a KVM call failed: .* on --kvm "):
        vm.qmp.cmd(command)
    assert vm.event("SHUTDOWN") == {"guest": False, "reason": "host-error"}
    assert vm.wait() == 1
    assert "a KVM call failed" in vm.errors
    assert "Traceback" not in vm.errors


def test_typing_to_a_killed_worker(broker: Broker, start: Callable[..., Vm]) -> None:
    """A device's interrupt fails while no vCPU runs."""
    vm = start(
        "mov dx, 0x3fc\n mov al, 8\n out dx, al\n mov dx, 0x3f9\n mov al, 1\n out dx, al\n"
        'say "up\\n"\n5: jmp 5b',
        kvm=str(broker.file),
    )
    vm.wait_for_socket()
    console = Console.unix(vm.serial_path)
    console.expect(b"up")
    vm.qmp.cmd("stop")
    machine = broker.machine(vm.process.pid)
    os.kill(machine, signal.SIGKILL)
    assert ended(machine)
    console.type(b"x")
    assert vm.event("SHUTDOWN") == {"guest": False, "reason": "host-error"}
    assert vm.wait() == 1
    assert "Traceback" not in vm.errors
    assert "KVM_IRQ_LINE on --kvm" in vm.errors


def test_stop_and_reset_on_the_device_file(
    broker: Broker, start: Callable[..., Vm], tmp_path: Path
) -> None:
    vm = start('say "up\\n"\n5: hlt\n jmp 5b', kvm=str(broker.file), vcpus=2)
    vm.wait_for_socket()
    console = Console.unix(vm.serial_path)
    for _ in range(3):
        console.expect(b"up\n")
        vm.qmp.cmd("stop")
        vm.qmp.cmd("cont")
        vm.qmp.cmd("system_reset")
    console.expect(b"up\n")
    vm.qmp.cmd("quit")
    assert vm.wait() == 0
