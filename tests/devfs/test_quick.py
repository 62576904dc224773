"""The reader that a client's thread has for itself, which gives way to it (decision 030)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

NO_RIGHT = 77


@pytest.mark.parametrize("program", ["quick", "watch"])
def test_one_reader_gives_way(c_program: Callable[..., Path], program: str) -> None:
    """When it starts and ends, that the load forbids it, that the hand undoes it; others wait."""
    done = subprocess.run(
        [str(c_program(f"devfs/{program}.c"))],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode == NO_RIGHT:
        pytest.skip("no CAP_SYS_NICE, without which it is not done")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
