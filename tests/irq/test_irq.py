"""Interrupt controllers and timers as C programs over a fake clock, also under ASan and UBSan."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize("asan", [False, True], ids=["plain", "sanitized"])
@pytest.mark.parametrize("name", ["pic", "ioapic", "lapic", "timers"])
def test_controller(c_program: Callable[..., Path], name: str, asan: bool) -> None:
    """Each program prints every difference, and fails if there was one."""
    program = c_program(f"irq/{name}.c", asan=asan)
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
