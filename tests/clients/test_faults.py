"""Clients that do what clients do wrong, on each door and on the host's KVM, which is right."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.devfs.broker import Broker
from tests.qemu import KVMISH

HERE = Path(__file__).parent
FLAGS = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-D_GNU_SOURCE"]
SCENARIOS = [
    "children", "handed", "kept", "paths", "exclusive", "full-table", "no-memory", "leaks", "clean",
    "cancelled", "handlers", "opened", "closed-numbers",
]  # fmt: skip


def _compile(name: str, directory: Path) -> Path:
    command = ["gcc", *FLAGS, "-o", directory / name, HERE / f"{name}.c", "-lpthread"]
    subprocess.run(command, check=True)
    return directory / name


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _compile("faults", tmp_path_factory.mktemp("faults"))


def _few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def _runs(command: list[str], scenario: str) -> None:
    done = subprocess.run(
        [*command, scenario],
        capture_output=True, text=True, check=False, timeout=150, preexec_fn=_few_descriptors,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("scenario", ["orders", *SCENARIOS])
@pytest.mark.parametrize("door", ["preload", "seccomp"])
def test_in_the_programs_surroundings(faults: Path, door: str, scenario: str) -> None:
    command = [str(KVMISH), "exec", "--quiet", "--door", door, "--", str(faults), "/dev/kvm"]
    _runs(command, scenario)


def test_two_machines_that_want_one_eventfd_at_once(faults: Path) -> None:
    """Where machines are processes of their own, both may get it: kvm/eventfd.c."""
    command = [str(KVMISH), "exec", "--quiet", "--door", "preload", "--", str(faults), "/dev/kvm"]
    _runs(command, "claimed")


@pytest.mark.parametrize("scenario", [pytest.param("orders", marks=pytest.mark.full), *SCENARIOS])
def test_on_the_device_file(device: Broker, faults: Path, scenario: str) -> None:
    _runs([str(faults), str(device.file)], scenario)


@pytest.mark.parametrize("engine", ["translate", "emulate"])
@pytest.mark.parametrize(
    "way", ["unmapped", "without-a-word", "read-only", "moved", "shortened", "replaced", "own"]
)
def test_memory_that_goes_away_under_the_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, way: str
) -> None:
    monkeypatch.setenv("KVMISH_ENGINE", engine)
    program = _compile("gone", tmp_path)
    command = [str(KVMISH), "exec", "--quiet", "--door", "preload", "--", str(program), "/dev/kvm"]
    _runs(command, way)


@pytest.mark.host_kvm
@pytest.mark.full
@pytest.mark.parametrize("scenario", ["orders", *SCENARIOS])
def test_on_the_hosts_kvm(faults: Path, need: Callable[[object, str], None], scenario: str) -> None:
    need(os.access("/dev/kvm", os.R_OK | os.W_OK), "a /dev/kvm of the host's")
    _runs([str(faults), "/dev/kvm"], scenario)


@pytest.mark.full
def test_no_machine_starves(device: Broker, tmp_path: Path) -> None:
    """64 vCPUs in 16 machines of 8 programs: each machine gets half its fair share or more."""
    command = [str(_compile("fair", tmp_path)), str(device.file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    assert int(done.stdout) >= 50
