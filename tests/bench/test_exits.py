"""The price of an I/O exit, in C: our door in process beside a real /dev/kvm, if there is one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

CASES = {"kvmish": ("direct", 2_000_000), "host's /dev/kvm": ("/dev/kvm", 50_000)}


@pytest.mark.host_kvm
@pytest.mark.parametrize("column", CASES)
def test_io_exit(benchmark: object, c_program: Callable[[str], Path], column: str) -> None:
    door, exits = CASES[column]
    if door != "direct" and not os.access(door, os.R_OK | os.W_OK):
        pytest.skip(f"{door} cannot be opened here")
    program = c_program("bench/exit_cost.c")
    found: list[float] = []

    def run() -> None:
        done = subprocess.run(
            [program, door, str(exits)], capture_output=True, text=True, check=True, timeout=120
        )
        found.append(float(done.stdout))

    benchmark.pedantic(run, rounds=3, iterations=1)  # type: ignore[attr-defined]
    benchmark.extra_info.update(  # type: ignore[attr-defined]
        table="An I/O exit (KVM_RUN to KVM_EXIT_IO and back), in C",
        unit="ns",
        row="out dx, al",
        column=column,
        value=min(found),
    )
