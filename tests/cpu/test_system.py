"""The C tests of CPUID, MSRs, control and debug registers and the system instructions."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAMS = ["cpuid", "msr", "creg", "sysinsn", "segments", "engine", "straight", "lockstep"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(c_program: Callable[..., Path], name: str) -> None:
    done = subprocess.run(
        [c_program(f"cpu/{name}.c")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.full
@pytest.mark.parametrize("name", PROGRAMS)
def test_program_under_asan(c_program: Callable[..., Path], name: str) -> None:
    done = subprocess.run(
        [c_program(f"cpu/{name}.c", asan=True)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
