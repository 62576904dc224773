"""Static programs in other languages: no C library that could be preloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.devfs.broker import Broker

PROGRAMS = Path(__file__).with_name("programs")
GO = ("go", "build", "-o")
RUST = ("rustc", "--edition", "2021", "-O", "-C", "target-feature=+crt-static", "-o")


@pytest.mark.parametrize(
    ("build", "source", "package"),
    [(GO, "vms.go", "golang-go"), (RUST, "vms.rs", "rustc")],
    ids=["go", "rust"],
)
def test_machines_from_many_threads(
    device: Broker,
    need: Callable[[object, str], None],
    tmp_path: Path,
    build: tuple[str, ...],
    source: str,
    package: str,
) -> None:
    need(shutil.which(build[0]), package)
    program = tmp_path / "program"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOCACHE": str(tmp_path / "cache")}
    subprocess.run([*build, program, PROGRAMS / source], check=True, env=environment)
    command = [str(program), str(device.file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
