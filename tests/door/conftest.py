"""Programs that LD_PRELOAD does not reach, compiled as anybody would, and their launcher."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.devfs.conftest import compiled

__all__ = ["compiled"]

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "build" / "kvmish-launch"

Need = Callable[[object, str], None]


def launch(program: Path | str, *arguments: str) -> list[str]:
    """Return the command that runs a program behind the door."""
    path = shutil.which(str(program))
    assert path is not None, program
    return [str(LAUNCHER), path, str(program), *arguments]


@pytest.fixture(scope="session")
def client(compiled: Callable[[str], Path]) -> Path:
    """The static program of the host's own C library."""
    return compiled("glibc")
