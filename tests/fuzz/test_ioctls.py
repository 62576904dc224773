"""Random requests, and those that long runs have found to reach most of the core.

In a full run under the sanitizers and after the coverage, too.
"""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.pack import PACKED

ROOT = Path(__file__).resolve().parents[2]
Program = Callable[..., Path]


def _requests(program: Path, count: int, seed: int) -> None:
    command = [str(program), str(count), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stderr.split()[-2]) >= count  # "N requests"


@pytest.mark.parametrize("seed", [1, 2])
def test_random_requests(c_program: Program, seed: int) -> None:
    _requests(c_program("fuzz/ioctls.c"), 20_000, seed)


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """What long runs have found to reach something new, each of them once: pack.py."""
    inputs = tmp_path / "inputs"
    inputs.write_bytes(lzma.decompress(PACKED.read_bytes()))
    return inputs


def _replay(program: Path, inputs: Path) -> None:
    command = [str(program), str(inputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stderr.split()[-2]) > 5000  # "N requests"


def test_requests_that_were_found(c_program: Program, found: Path) -> None:
    _replay(c_program("fuzz/ioctls.c"), found)


@pytest.mark.full
@pytest.mark.timeout(700)
def test_requests_that_were_found_under_the_sanitizers(c_program: Program, found: Path) -> None:
    _replay(c_program("fuzz/ioctls.c", asan=True), found)


@pytest.mark.full
@pytest.mark.timeout(700)
def test_random_requests_under_the_sanitizers(c_program: Program) -> None:
    _requests(c_program("fuzz/ioctls.c", asan=True), 300_000, 3)


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_requests_that_follow_the_coverage(
    need: Callable[[object, str], None], tmp_path: Path
) -> None:
    need(shutil.which("clang"), "clang")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    subprocess.run(["make", "-s", "fuzz"], cwd=ROOT, env=environment, check=True)
    command = [str(ROOT / "build/fuzz/ioctls"), "-runs=20000", "-max_len=8192", "-seed=1"]
    command += ["-len_control=0", "-print_funcs=0"]
    command += ["-rss_limit_mb=4096", "-timeout=60", f"-artifact_prefix={tmp_path}/", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
