"""The price of an I/O exit, in C: our door in process beside a real /dev/kvm, if there is one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.conftest import Comparison

EXITS = {"kvmish": ("direct", 2_000_000), "host's /dev/kvm": ("/dev/kvm", 20_000)}


@pytest.mark.host_kvm
@pytest.mark.timeout(3600)
def test_io_exit(comparison: Comparison, c_program: Callable[[str], Path]) -> None:
    program = c_program("bench/exit_cost.c")

    def cost(door: str, exits: int) -> dict[str, float]:
        done = subprocess.run(
            [program, door, str(exits)], capture_output=True, text=True, check=True, timeout=120
        )
        return {"out dx, al": float(done.stdout)}

    comparison.run(
        "An I/O exit (KVM_RUN to KVM_EXIT_IO and back), in C",
        "ns",
        {
            column: lambda door=door, exits=exits: cost(door, exits)
            for column, (door, exits) in EXITS.items()
            if door == "direct" or os.access(door, os.R_OK | os.W_OK)
        },
    )
