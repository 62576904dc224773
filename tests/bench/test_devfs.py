"""What the device file costs, beside an empty fusepy mount in the same run and a real /dev/kvm."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench.conftest import Comparison
from tests.devfs.broker import SECONDS, broker
from tests.devfs.conftest import can_mount

CALLS = 20_000
CREATIONS = 30
YARDSTICK = "fusepy and C, empty"
LIMIT = 1.3


@pytest.fixture
def files(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """The device files by column."""
    if not can_mount():
        pytest.skip("no device file can be made here")
    (tmp_path / "empty").mkdir()
    script = Path(__file__).with_name("empty_fuse.py")
    command = [sys.executable, str(script), str(tmp_path / "empty")]
    empty = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert empty.stdout is not None
    assert empty.stdout.readline() == "ready\n"
    with broker(tmp_path / "dev") as one:
        found = {YARDSTICK: tmp_path / "empty" / "kvm", "kvmish": one.file}
        if os.access("/dev/kvm", os.R_OK | os.W_OK):
            found["host's /dev/kvm"] = Path("/dev/kvm")
        yield found
    empty.terminate()
    empty.wait(SECONDS)


@pytest.mark.host_kvm
@pytest.mark.timeout(3600)
def test_devfs(
    comparison: Comparison, c_program: Callable[[str], Path], files: dict[str, Path]
) -> None:
    program = c_program("bench/file_cost.c")

    def one(path: Path, what: str, count: int) -> float:
        command = [str(program), str(path), what, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        return float(done.stdout)

    def costs(column: str) -> dict[str, float]:
        found = {"an ioctl on the file": one(files[column], "empty", CALLS)}
        if column != YARDSTICK:
            found["an ioctl on a VM"] = one(files[column], "vm", CALLS)
            found["an I/O exit"] = one(files[column], "exit", CALLS)
            found["a VM with a vCPU, and its end"] = one(files[column], "create", CREATIONS)
        return found

    comparison.run(
        "The device file (kvmish devfs), in C",
        "us",
        {column: lambda column=column: costs(column) for column in files},
    )
    yardstick = comparison.median("an ioctl on the file", YARDSTICK)
    for row in ("an ioctl on the file", "an ioctl on a VM", "an I/O exit"):
        assert comparison.median(row, "kvmish") <= LIMIT * yardstick, row
