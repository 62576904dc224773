"""Where an ioctl's argument may lie, and many memory slots."""

from __future__ import annotations

import os
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


def test_eventfds_without_proc(
    c_program: Callable[..., Path], need: Callable[[object, str], None], tmp_path: Path
) -> None:
    need(os.geteuid() == 0, "root, for chroot(2)")
    program = c_program("abi/no_proc.c")
    done = subprocess.run(
        [program, tmp_path], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")
