"""Programs of one kind of work each, by their own clock: natively, under TCG, and on kvmish."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests import console, qemu
from tests.bench.conftest import Comparison
from tools.cpio import Archive
from vmmuser.assets import CLOUD

SOURCE = Path(__file__).with_name("programs.c")
APPEND = "console=ttyS0 quiet kvmish.run=/programs"

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs, linked statically: the guest has no libraries."""
    path = tmp_path_factory.mktemp("programs") / "programs"
    subprocess.run(["gcc", "-O2", "-static", "-o", path, SOURCE], check=True)
    return path


@pytest.fixture(scope="module")
def initrd(program: Path) -> Path:
    """The usual initramfs with the programs added: Linux unpacks archives that follow each other."""
    archive = Archive()
    archive.file("programs", program.read_bytes(), 0o755)
    path = program.with_name("initrd")
    path.write_bytes(CLOUD.initrd.read_bytes() + archive.finish())
    return path


def _measure(command: Sequence[str]) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        transcript = console.run(command, 300)
        found = re.findall(r"BENCH (\w+) ([\d.]+)", transcript.text)
        assert found, transcript.tail()
        return {name: float(ms) for name, ms in found}

    return run


def test_programs(comparison: Comparison, program: Path, initrd: Path) -> None:
    flavour = replace(CLOUD, initrd=initrd)
    machine = qemu.Machine(cpu="max", flavour=flavour, append=APPEND)
    own = [str(qemu.KVMISH), "boot", "-m", "256", "--initrd", str(initrd), "--append", APPEND]
    comparison.run(
        "Programs of one kind of work each",
        "ms",
        {
            "native": _measure([str(program)]),
            "tcg": _measure(machine.command()),
            "kvmish": _measure([*own, "--engine", "emulate"]),
            "kvmish, translate": _measure([*own, "--engine", "translate"]),
        },
    )
