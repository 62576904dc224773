"""Calls and returns, translated (the order of both, and what changes between them)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path


def test_calls(c_program: Callable[..., Path]) -> None:
    """Longjmps, retpolines, deep recursion; code, mapping and rights that change before RET."""
    program = c_program("jit/calls.c")
    result = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
