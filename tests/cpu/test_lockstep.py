"""A whole Linux boot in lockstep: an engine, and the interpreter's careful path."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests import console
from tests.conftest import ROOT


@pytest.mark.full
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("engine", ["emulate", "translate"])
def test_boot_in_lockstep(tmp_path: Path, engine: str) -> None:
    """To userland, a self-check that reads a disk, and power-off."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(range(256)) * 4096)
    script = "md5sum${IFS}/dev/vda"
    command = [str(ROOT / ".venv/bin/kvmish"), "boot", "--lockstep", "-m", "256"]
    command += ["--engine", engine]
    done = console.run([*command, "--disk", disk, "--append", f"kvmish.run={script}"], 1400)
    assert done.status == 0, done.tail()
    assert done.has(hashlib.md5(disk.read_bytes(), usedforsecurity=False).hexdigest())
    assert done.has("reboot: Power down"), done.tail()


def test_lockstep_is_for_one_processor() -> None:
    done = subprocess.run(
        [ROOT / ".venv/bin/kvmish", "boot", "--lockstep", "--smp", "2"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "--smp 1" in done.stdout + done.stderr
