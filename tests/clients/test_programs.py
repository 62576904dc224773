"""Static programs in other languages on the device file: no C library that could be preloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.devfs.broker import Broker
from tests.devfs.place import at_the_usual_place

DOOR = Path(__file__).resolve().parents[1] / "door"  # their sources are with the launcher's tests
GO = ("go", "build", "-o")
RUST = ("rustc", "-O", "-C", "target-feature=+crt-static", "-o")


@pytest.mark.full
@pytest.mark.parametrize(
    ("build", "source", "package"),
    [(GO, "client.go", "golang-go"), (RUST, "client.rs", "rustc")],
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
    subprocess.run([*build, program, DOOR / source], check=True, env=environment)
    command = [*at_the_usual_place(device.file), str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
