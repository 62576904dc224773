"""Clients whose threads, processes, descriptors and rights change, on each door and on KVM."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.devfs.broker import Broker
from tests.devfs.conftest import can_mount, compiler_of
from tests.qemu import KVMISH

Need = Callable[[object, str], None]

HERE = Path(__file__).parent
FLAGS = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-D_GNU_SOURCE"]
ALWAYS = [
    "first-ends", "own-table", "own-again", "starts-others", "daemonizes", "low-limit", "locked",
    "no-new-rights",
]  # fmt: skip
AS_ROOT = [
    "chroot", "set-user", "user-namespace", "mount-namespace", "pid-namespace", "maker-ends",
]  # fmt: skip
# What a door cannot: docs/howto/exec.md and devfs.md say so.
PRELOAD = [*ALWAYS, *AS_ROOT, "first-ends-later", "shares-memory"]
SECCOMP = [*ALWAYS, *AS_ROOT, "strict", "first-ends-later", "own-table-later"]
FUSE = [*ALWAYS, *AS_ROOT, "strict", "own-table-later"]
KVM = [
    *ALWAYS, *AS_ROOT, "strict", "first-ends-later", "own-table-later", "shares-memory",
]  # fmt: skip
KINDS = ["glibc", *(pytest.param(kind, marks=pytest.mark.full) for kind in ("musl", "32-bit"))]


@pytest.fixture(scope="session")
def lives(tmp_path_factory: pytest.TempPathFactory, need: Need) -> Callable[[str], Path]:
    """lives("dynamic"): the client as a program of this kind."""
    programs: dict[str, Path] = {}

    def build(kind: str) -> Path:
        if kind not in programs:
            program = tmp_path_factory.mktemp("lives") / "lives"
            command = [*compiler_of(kind, program.parent, need), *FLAGS, "-o", str(program)]
            subprocess.run([*command, str(HERE / "lives.c"), "-lpthread"], check=True)
            programs[kind] = program
        return programs[kind]

    return build


@pytest.fixture
def rights(request: pytest.FixtureRequest, need: Need) -> None:
    """Namespaces and other users are root's."""
    if request.node.callspec.params["scenario"] in AS_ROOT:
        need(can_mount(), "root that may mount, for namespaces and other users")


def _runs(command: list[str], scenario: str) -> None:
    done = subprocess.run(
        [*command, scenario], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def _behind(door: str, program: Path) -> list[str]:
    return [str(KVMISH), "exec", "--quiet", "--door", door, "--", str(program), "/dev/kvm"]


@pytest.mark.usefixtures("rights")
@pytest.mark.parametrize("scenario", PRELOAD)
def test_behind_the_preload_door(lives: Callable[[str], Path], scenario: str) -> None:
    _runs(_behind("preload", lives("dynamic")), scenario)


@pytest.mark.usefixtures("rights")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scenario", SECCOMP)
def test_behind_the_seccomp_door(lives: Callable[[str], Path], kind: str, scenario: str) -> None:
    _runs(_behind("seccomp", lives(kind)), scenario)


@pytest.mark.usefixtures("rights")
@pytest.mark.parametrize("scenario", FUSE)
def test_on_the_device_file(device: Broker, lives: Callable[[str], Path], scenario: str) -> None:
    _runs([str(lives("dynamic")), str(device.file)], scenario)


@pytest.mark.host_kvm
@pytest.mark.full
@pytest.mark.parametrize("scenario", KVM)
def test_on_the_hosts_kvm(lives: Callable[[str], Path], need: Need, scenario: str) -> None:
    need(os.access("/dev/kvm", os.R_OK | os.W_OK), "a /dev/kvm of the host's")
    _runs([str(lives("dynamic")), "/dev/kvm"], scenario)
