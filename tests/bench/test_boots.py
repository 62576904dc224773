"""The same QEMU machine booted under TCG and on our KVM, and our own VMM beside them.

Times are the host's: from the spawn of the process to a line of the guest on its console.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests import console, qemu
from tests.bench.conftest import Comparison
from vmmuser.assets import SELFCHECK_MARK, USERLAND_MARK

TIMEOUT_SECONDS = 180
MACHINES = [
    qemu.Machine(),
    qemu.Machine(smp=2),
    qemu.Machine(machine="q35"),
    qemu.Machine(machine="microvm,acpi=on"),
]

pytestmark = pytest.mark.timeout(3600)


def _boot(command: Sequence[str], row: str, attempts: int = 1) -> dict[str, float]:
    """Boot once, return the seconds to userland and to the end."""
    for _ in range(attempts):
        transcript = console.run(command, TIMEOUT_SECONDS)
        if transcript.has(SELFCHECK_MARK):
            break
    assert transcript.has(SELFCHECK_MARK), transcript.tail()
    return {f"{row}: userland": transcript.at(USERLAND_MARK), f"{row}: off": transcript.seconds}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_qemu_boot(comparison: Comparison, machine: qemu.Machine) -> None:
    row = f"{machine.machine.partition(',')[0]}, {machine.smp} vCPU"
    comparison.run(
        "Boot of Debian's cloud kernel in QEMU",
        "s",
        {
            # QEMU's own microvm hangs now and then under TCG; ours has one attempt
            "tcg": lambda: _boot(machine.command(), row, attempts=3),
            "kvmish": lambda: _boot(machine.with_accel("kvmish").command(), row),
        },
    )


@pytest.mark.parametrize("smp", [1, 2])
def test_own_boot(comparison: Comparison, smp: int) -> None:
    """The board is ours, so TCG has no counterpart; its nearest relative is QEMU's microvm."""
    command = [str(qemu.KVMISH), "boot", "-m", "256", "--smp", str(smp)]
    command += ["--append", "kvmish.selfcheck"]
    comparison.run(
        "Boot of Debian's cloud kernel by kvmish boot",
        "s",
        {"kvmish": lambda: _boot(command, f"microvm board, {smp} vCPU")},
    )


WORKLOADS = qemu.Machine(append="console=ttyS0 quiet kvmish.run=workloads")
COLUMNS: dict[str, list[str]] = {
    "native": ["busybox", "sh", str(Path("tools", "guest", "workloads"))],
    "tcg": WORKLOADS.command(),
    "kvmish": WORKLOADS.with_accel("kvmish").command(),
}


def _workloads(command: list[str]) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        transcript = console.run(command, TIMEOUT_SECONDS)
        assert transcript.has("kvmish: workloads done"), transcript.tail()
        return {
            name: transcript.at(f"kvmish: end {name}") - transcript.at(f"kvmish: begin {name}")
            for name in transcript.values("kvmish: begin ")
        }

    return run


def test_workloads(comparison: Comparison) -> None:
    comparison.run(
        "Programs in the guest (QEMU's pc machine, 1 vCPU)",
        "s",
        {column: _workloads(command) for column, command in COLUMNS.items()},
    )
