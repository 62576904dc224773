"""Where an ioctl's argument may lie, and many memory slots."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path


def test_on_the_stack(c_program: Callable[..., Path]) -> None:
    """It is copied without a system call there, and must still not be read behind the end."""
    program = c_program("abi/stack.c")
    result = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_many_slots(c_program: Callable[..., Path]) -> None:
    """Overlaps, and memory in two slots, as by comparing each slot with each."""
    program = c_program("abi/slots.c")
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
