"""Debian's QEMU, unmodified and not preloaded: /dev/kvm is ours in its mount namespace."""

from __future__ import annotations

import subprocess

import pytest

from tests import qemu
from tests.devfs.broker import Broker
from tests.devfs.place import at_the_usual_place

QUICK = [qemu.Machine(smp=2, cpu="host")]
LONG = [
    qemu.Machine(machine="q35", smp=4, cpu="max"),
    qemu.Machine(machine="pc,kernel-irqchip=split", smp=2),
    qemu.Machine(machine="pc,kernel-irqchip=off"),
    qemu.Machine(machine="microvm,acpi=on", cpu="host"),
]


def _boots(device: Broker, machine: qemu.Machine) -> None:
    words = machine.with_accel("kvmish").command()
    command = at_the_usual_place(device.file)
    command += words[words.index("--") + 1 :]  # without kvmish exec
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=200
    )
    assert "selfcheck ok" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.returncode == 0


@pytest.mark.parametrize("machine", QUICK, ids=lambda machine: machine.name)
def test_qemu_boots_linux(device: Broker, machine: qemu.Machine) -> None:
    _boots(device, machine)


@pytest.mark.full
@pytest.mark.parametrize("machine", LONG, ids=lambda machine: machine.name)
def test_qemu_machines(device: Broker, machine: qemu.Machine) -> None:
    _boots(device, machine)
