"""Machines for the tests of this directory: many small ones, and one Linux that is shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.boot.tiny import kernel
from tests.vmm.harness import PROMPT, Console, Vm
from vmmuser import assets


@pytest.fixture(autouse=True)
def _core(need: Callable[[bool, str], None]) -> None:
    need(find_spec("kvm_core._kvm") is not None, "the core (make ext)")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Vm]]:
    """start(body, **fields): a machine whose kernel is a few instructions."""
    machines: list[Vm] = []

    def run(body: str, **fields: Any) -> Vm:
        directory = tmp_path / str(len(machines))
        directory.mkdir()
        (directory / "kernel").write_bytes(kernel(body))
        machines.append(Vm(directory, **({"kernel": "kernel", "memory_mib": 32} | fields)))
        return machines[-1]

    yield run
    for machine in machines:
        machine.close()


class Linux:
    """A Linux guest at its shell; started again if a test ended it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._runs = 0
        self.vm: Vm
        self.console: Console

    def start(self) -> None:
        self._runs += 1
        directory = self._directory / str(self._runs)
        directory.mkdir()
        disk = directory / "disk.img"
        disk.write_bytes(b"kvmish" * 1000 + bytes(1 << 20))
        self.vm = Vm(
            directory,
            kernel=assets.CLOUD.kernel,
            initrd=assets.CLOUD.initrd,
            cmdline="console=ttyS0 clocksource=kvm-clock",
            vcpus=2,
            memory_mib=256,
            disks=[{"path": "disk.img", "id": "data", "serial": "S1"}],
            consoles=[
                {"device": "serial", "backend": "unix", "path": "serial"},
                {"device": "virtio", "backend": "pty"},
            ],
            on_crash="pause",
        )
        self.vm.wait_for_socket()
        self.console = Console.unix(self.vm.serial_path)
        self.console.expect(PROMPT)

    def ready(self) -> None:
        """See that there is a shell."""
        if self._runs == 0 or self.vm.process.poll() is not None:
            if self._runs:
                self.close()
            self.start()
        self.vm.qmp.clear_events()

    def close(self) -> None:
        if self._runs:
            self.console.close()
            self.vm.close()


@pytest.fixture(scope="module")
def _linux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Linux]:
    machine = Linux(tmp_path_factory.mktemp("linux"))
    yield machine
    machine.close()


@pytest.fixture
def linux(_linux: Linux, need: Callable[[bool, str], None]) -> Linux:
    need(assets.CLOUD.ready(), "Debian's kernel (make assets)")
    _linux.ready()
    return _linux
