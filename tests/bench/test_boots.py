"""The same QEMU machine booted under TCG and on our KVM, and our own VMM beside them.

Times are the host's: from the spawn of the process to a line of the guest on its console.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import console, qemu
from vmmuser.assets import SELFCHECK_MARK, USERLAND_MARK

ROUNDS = 3
TIMEOUT_SECONDS = 180
MACHINES = [
    qemu.Machine(),
    qemu.Machine(smp=2),
    qemu.Machine(machine="microvm,acpi=on"),
]


def _best_boot(benchmark: object, command: list[str]) -> console.Transcript:
    """Boot ROUNDS times; return the boot that was first in userland."""
    boots: list[console.Transcript] = []

    def boot() -> None:
        for _ in range(3):  # QEMU's own microvm hangs now and then under TCG
            transcript = console.run(command, TIMEOUT_SECONDS)
            if transcript.has(SELFCHECK_MARK):
                break
        assert transcript.has(SELFCHECK_MARK), transcript.tail()
        boots.append(transcript)

    benchmark.pedantic(boot, rounds=ROUNDS, iterations=1)  # type: ignore[attr-defined]
    return min(boots, key=lambda transcript: transcript.at(USERLAND_MARK))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
@pytest.mark.parametrize("engine", ["tcg", "kvmish"])
@pytest.mark.timeout(ROUNDS * TIMEOUT_SECONDS)
def test_qemu_boot(benchmark: object, machine: qemu.Machine, engine: str) -> None:
    best = _best_boot(benchmark, machine.with_accel(engine).command())
    benchmark.extra_info.update(  # type: ignore[attr-defined]
        table="Boot of Debian's cloud kernel to userland in QEMU",
        unit="s",
        row=machine.name,
        column=engine,
        value=best.at(USERLAND_MARK),
    )


@pytest.mark.parametrize("smp", [1, 2])
@pytest.mark.timeout(ROUNDS * TIMEOUT_SECONDS)
def test_own_boot(benchmark: object, tmp_path: Path, smp: int) -> None:
    report = tmp_path / "report.json"
    command = [str(qemu.KVMISH), "boot", "--smp", str(smp), "--report", str(report)]
    best = _best_boot(benchmark, command)
    benchmark.extra_info.update(  # type: ignore[attr-defined]
        table="Boot of Debian's cloud kernel to userland by kvmish boot",
        unit="s",
        row=f"microvm board, smp {smp}",
        column="kvmish",
        value=best.at(USERLAND_MARK),
        report=json.loads(report.read_text()),
    )


def _native() -> list[str]:
    return ["busybox", "sh", "tools/guest/workloads"]


WORKLOADS = qemu.Machine(append="console=ttyS0 quiet kvmish.run=workloads")
COLUMNS: dict[str, Callable[[], list[str]]] = {
    "native": _native,
    "tcg": WORKLOADS.command,
    "kvmish": WORKLOADS.with_accel("kvmish").command,
}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.timeout(ROUNDS * TIMEOUT_SECONDS)
def test_workloads(benchmark: object, column: str) -> None:
    best: dict[str, float] = {}

    def run() -> None:
        transcript = console.run(COLUMNS[column](), TIMEOUT_SECONDS)
        assert transcript.has("kvmish: workloads done"), transcript.tail()
        for name in transcript.values("kvmish: begin "):
            begin, end = (transcript.at(f"kvmish: {edge} {name}") for edge in ("begin", "end"))
            best[name] = min(best.get(name, end - begin), end - begin)

    benchmark.pedantic(run, rounds=2, iterations=1)  # type: ignore[attr-defined]
    benchmark.extra_info.update(  # type: ignore[attr-defined]
        table="Programs in the guest (QEMU's pc machine, 1 vCPU)",
        unit="s",
        column=column,
        rows=best,
    )
