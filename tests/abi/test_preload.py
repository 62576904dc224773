"""The contract and the Python objects again, on the path /dev/kvm that the preload door serves.

Whoever opens the host's own device instead fails the test (tests/conftest.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = ["tests/abi/test_contract.py", "tests/abi/test_contract_rare.py", "-k", "/dev/kvm"]
OBJECTS = ["tests/unit/test_doors.py"]


def _pytest(preload: str, arguments: list[str], **extra: str) -> None:
    environment = {**os.environ, "LD_PRELOAD": preload, "KVMISH_TEST_DOOR": "/dev/kvm", **extra}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
    assert "runtime error" not in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [CONTRACT, OBJECTS], ids=["contract", "objects"])
def test_on_the_preload_door(arguments: list[str]) -> None:
    _pytest(f"{ROOT}/build/libkvmish-preload.so", arguments)


@pytest.mark.parametrize("scenario", ["exits", "kicks"])
def test_signals_on_the_preload_door(c_program: Callable[[str], Path], scenario: str) -> None:
    """A handler that runs as KVM_RUN ends does not end the next one."""
    _runs(c_program, scenario)


@pytest.mark.parametrize("scenario", ["holes", "later", "vdso"])
def test_memory_that_comes_and_goes(c_program: Callable[[str], Path], scenario: str) -> None:
    _runs(c_program, scenario)


def test_the_device_as_a_stream(c_program: Callable[[str], Path]) -> None:
    _runs(c_program, program="abi/stream.c")


def test_other_files_in_a_signal_handler(c_program: Callable[[str], Path]) -> None:
    _runs(c_program, program="abi/handler.c")


def test_what_descriptors_are(c_program: Callable[[str], Path]) -> None:
    _runs(c_program, program="abi/descriptors.c")


@pytest.mark.host_kvm
@pytest.mark.full
def test_what_the_hosts_descriptors_are(
    c_program: Callable[[str], Path], need: Callable[[bool, str], None]
) -> None:
    need(os.access("/dev/kvm", os.R_OK | os.W_OK), "a /dev/kvm of the host's")
    done = subprocess.run(
        [c_program("abi/descriptors.c")], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def _runs(
    c_program: Callable[[str], Path], *arguments: str, program: str = "devfs/client.c"
) -> None:
    environment = {**os.environ, "LD_PRELOAD": f"{ROOT}/build/libkvmish-preload.so"}
    command = [str(c_program(program)), "/dev/kvm", *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.full
@pytest.mark.parametrize("arguments", [CONTRACT, OBJECTS], ids=["contract", "objects"])
def test_on_the_preload_door_under_the_sanitizers(arguments: list[str]) -> None:
    runtime = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    _pytest(
        f"{Path(runtime).resolve()}:{ROOT}/build/asan/libkvmish-preload.so",
        arguments,
        ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1",
    )
