"""Debian's QEMU, the first client: it brings the machine, we are its KVM.

The same machine boots under TCG and on our KVM; what the guest prints is compared.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests import console, qemu
from vmmuser.assets import FLAVOURS, ROOT, SELFCHECK_MARK, USERLAND_MARK

TCG_SECONDS = 40
BOOT_SECONDS = 120
MICROVM = "microvm,acpi=on"  # our kernel has no virtio_mmio.device= parameter, only ACPI

# The default, what it is without an in-kernel interrupt controller, and both halves.
QUICK = [
    qemu.Machine(),
    qemu.Machine(smp=2),
]
LONG = [
    qemu.Machine(smp=4),
    qemu.Machine(machine="q35"),
    qemu.Machine(machine="q35", smp=4),
    qemu.Machine(machine=MICROVM),
    qemu.Machine(machine="pc,kernel-irqchip=off"),
    qemu.Machine(machine="pc,kernel-irqchip=split"),
    qemu.Machine(machine="q35,kernel-irqchip=split", smp=2),
    qemu.Machine(flavour=FLAVOURS["generic"], memory_mb=512),
    qemu.Machine(flavour=FLAVOURS["rt"], memory_mb=512),
]


def _id(machine: qemu.Machine) -> str:
    return f"{machine.machine}-smp{machine.smp}-{machine.flavour.name}"


def _facts(transcript: console.Transcript) -> dict[str, str]:
    """What the self-check printed, by name."""
    found = {}
    for line in transcript.values("kvmish: "):
        match = re.match(r"(cpu count|memory|disks|check \w+) (.*)", line)
        if match:
            found[match.group(1)] = match.group(2)
    return found


@cache
def _under_tcg(machine: qemu.Machine) -> console.Transcript:
    plain = machine.machine.replace(",kernel-irqchip=off", "").replace(",kernel-irqchip=split", "")
    command = qemu.Machine(**{**vars(machine), "machine": plain, "accel": "tcg"}).command()
    for _ in range(3):  # QEMU's own microvm hangs now and then under TCG
        transcript = console.run(command, TCG_SECONDS)
        if transcript.has(SELFCHECK_MARK):
            break
    return transcript


def _boot_and_compare(machine: qemu.Machine) -> None:
    ours = console.run(machine.with_accel("kvmish").command(), BOOT_SECONDS)
    assert ours.has(USERLAND_MARK), ours.tail()
    assert ours.has(SELFCHECK_MARK), ours.tail()
    assert ours.status == 0, ours.tail()
    assert ours.has("reboot: Power down"), ours.tail()
    theirs = _under_tcg(machine)
    assert theirs.has(SELFCHECK_MARK), theirs.tail()
    assert _facts(ours) == _facts(theirs)
    mark = "kvmish: dmesg: "
    assert set(ours.values(mark)) - set(theirs.values(mark)) == set()


@pytest.fixture(autouse=True)
def _qemu_is_here(need: Callable[[object, str], None]) -> None:
    need(shutil.which("qemu-system-x86_64"), "qemu-system-x86")


@pytest.mark.timeout(2 * BOOT_SECONDS)
@pytest.mark.parametrize("machine", QUICK, ids=_id)
def test_boots_as_under_tcg(machine: qemu.Machine) -> None:
    _boot_and_compare(machine)


@pytest.mark.full
@pytest.mark.timeout(2 * BOOT_SECONDS)
@pytest.mark.parametrize("machine", LONG, ids=_id)
def test_more_machines_boot_as_under_tcg(machine: qemu.Machine) -> None:
    _boot_and_compare(machine)


def test_guest_clock_keeps_the_hosts_time() -> None:
    """Within 0.5 % over ten seconds; the lines' own way to the host is under 20 ms."""
    seconds = 10
    append = f"console=ttyS0 quiet kvmish.selfcheck kvmish.clock={seconds}"
    machine = qemu.Machine(append=append)
    transcript = console.run(machine.with_accel("kvmish").command(), BOOT_SECONDS)
    stamps = [when for when, line in transcript.lines if "kvmish: clock " in line]
    values = [float(value) for value in transcript.values("kvmish: clock ")]
    assert len(stamps) == len(values) == 2, transcript.tail()
    host, guest = stamps[1] - stamps[0], values[1] - values[0]
    assert guest == pytest.approx(host, rel=0.005, abs=0.02)


@pytest.mark.full
@pytest.mark.timeout(10 * BOOT_SECONDS + 60)
def test_boots_under_the_sanitizers() -> None:
    """One boot with the core built by `make asan`; a report of ASan or UBSan fails it."""
    runtime = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        "LD_PRELOAD": f"{Path(runtime).resolve()}:{ROOT}/build/asan/libkvmish-preload.so",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    machine = qemu.Machine().with_accel("kvmish")
    command = machine.command()[3:]  # without "kvmish exec --": the preload is ours
    transcript = console.run(command, 10 * BOOT_SECONDS, environment=environment)
    assert "ERROR: AddressSanitizer" not in transcript.errors
    assert "runtime error" not in transcript.errors
    assert transcript.has(SELFCHECK_MARK), transcript.tail()


def test_power_button() -> None:
    """QEMU's monitor presses the button; the guest's acpid answers."""
    machine = qemu.Machine(
        append="console=ttyS0 quiet",
        extra=("-chardev", "stdio,id=c,mux=on,signal=off", "-serial", "chardev:c", "-mon", "c"),
    )
    words = machine.with_accel("kvmish").command()
    where = words.index("-serial")
    del words[where : where + 2]  # the plain -serial stdio
    # Ctrl-A C switches a multiplexed console to the monitor.
    answers = [("(guest) ", "\x01c"), ("(qemu) ", "system_powerdown\n\x01c")]
    transcript = console.run(words, BOOT_SECONDS, answers=answers)
    assert transcript.has("kvmish: power button"), transcript.tail()
    assert transcript.status == 0, transcript.tail()
