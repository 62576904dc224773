"""The watch over /dev/kvm sees this process and its children, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kvm_guard import Guard


@pytest.fixture
def guarded(tmp_path: Path) -> tuple[Path, Guard]:
    path = tmp_path / "device"
    path.write_bytes(b"")
    guard = Guard.watching(str(path))
    assert guard is not None
    yield path, guard
    guard.close()


def test_own_open_is_seen(guarded: tuple[Path, Guard]) -> None:
    path, guard = guarded
    assert guard.take() == []
    path.open("rb").close()
    assert len(guard.take()) == 1
    assert guard.take() == []


def test_childs_open_is_seen(guarded: tuple[Path, Guard]) -> None:
    path, guard = guarded
    if guard._fd is None:
        pytest.skip("fanotify is not permitted here: only this process is watched")
    subprocess.run([sys.executable, "-c", f"open({str(path)!r})"], check=True)
    assert len(guard.take()) == 1


def test_nothing_to_guard(tmp_path: Path) -> None:
    assert Guard.watching(str(tmp_path / "absent")) is None
