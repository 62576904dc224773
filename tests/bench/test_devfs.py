"""What each door costs, beside an empty fusepy mount in the same run and a real /dev/kvm."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench.conftest import Comparison
from tests.devfs.broker import SECONDS, broker
from tests.devfs.conftest import can_mount

ROOT = Path(__file__).resolve().parents[2]
# Where the scheduler puts client and worker stays so for as long as they live, and counts for a
# factor of three on an idle host: many short clients, not one long one.
CLIENTS = 9
CALLS = 1_000
CREATIONS = 6
YARDSTICK = "fusepy and C, empty"
LIMIT = 1.3


Side = Callable[[Path], list[str]]  # the program's command line, as far as the device's path


def _file(path: Path | str) -> Side:
    return lambda program: [str(program), str(path)]


def _preload(program: Path) -> list[str]:
    library = ROOT / "build" / "libkvmish-preload.so"
    return ["env", f"LD_PRELOAD={library}", str(program), "/dev/kvm"]


def _seccomp(program: Path) -> list[str]:
    return [str(ROOT / "build" / "kvmish-launch"), str(program), str(program), "/dev/kvm"]


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[dict[str, Side]]:
    """The doors by column."""
    if not can_mount():
        pytest.skip("no device file can be made here")
    (tmp_path / "empty").mkdir()
    script = Path(__file__).with_name("empty_fuse.py")
    command = [sys.executable, str(script), str(tmp_path / "empty")]
    empty = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert empty.stdout is not None
    assert empty.stdout.readline() == "ready\n"
    with broker(tmp_path / "dev") as one:
        found = {YARDSTICK: _file(tmp_path / "empty" / "kvm"), "fuse": _file(one.file)}
        found |= {"seccomp": _seccomp, "preload": _preload}
        if os.access("/dev/kvm", os.R_OK | os.W_OK):
            found["host's /dev/kvm"] = _file("/dev/kvm")
        yield found
    empty.terminate()
    empty.wait(SECONDS)


@pytest.mark.host_kvm
@pytest.mark.timeout(3600)
def test_devfs(
    comparison: Comparison, c_program: Callable[[str], Path], sides: dict[str, Side]
) -> None:
    program = c_program("bench/file_cost.c")

    def one(side: Side, what: str, count: int) -> float:
        command = [*side(program), what, str(count)]

        def client() -> float:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
            return float(done.stdout)

        return statistics.median(client() for _ in range(CLIENTS))

    def costs(column: str) -> dict[str, float]:
        side = sides[column]
        found = {"an ioctl on the file": one(side, "empty", CALLS)}
        if column != YARDSTICK:
            found["an ioctl on a VM"] = one(side, "vm", CALLS)
            found["an I/O exit"] = one(side, "exit", CALLS)
            found["a VM with a vCPU"] = one(side, "create", CREATIONS)
        return found

    comparison.run(
        "The doors of kvmish exec, in C",
        "us",
        {column: lambda column=column: costs(column) for column in sides},
    )
    yardstick = comparison.median("an ioctl on the file", YARDSTICK)
    for row in ("an ioctl on the file", "an ioctl on a VM", "an I/O exit"):
        assert comparison.median(row, "fuse") <= LIMIT * yardstick, row
