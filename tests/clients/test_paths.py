"""The device by every name that leads to it, where the host has one and where it has none."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.devfs.conftest import can_mount, compiler_of
from tests.qemu import KVMISH

Need = Callable[[object, str], None]

HERE = Path(__file__).parent
FLAGS = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-D_GNU_SOURCE"]
SCENARIOS = ["spellings", "relative", "links", "others", "again"]
BY_SYSTEM_CALL = "resolved"  # which the preload door does not see
KINDS = ["glibc", "musl", pytest.param("32-bit", marks=pytest.mark.full)]
# A /dev without the device, for one command.
NOWHERE = [
    "unshare", "--mount", "sh", "-c",
    'mount -t tmpfs none /dev && ln -s /proc/self/fd /dev/fd && exec "$@"', "sh",
]  # fmt: skip


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory, need: Need) -> Callable[[str], Path]:
    """paths("musl"): the client as a program of this kind."""

    def build(kind: str) -> Path:
        program = tmp_path_factory.mktemp("paths") / "paths"
        command = [*compiler_of(kind, program.parent, need), *FLAGS, "-o", str(program)]
        subprocess.run([*command, str(HERE / "paths.c")], check=True)
        return program

    return build


@pytest.fixture(params=["as-the-host", "nowhere"])
def around(request: pytest.FixtureRequest, need: Need) -> list[str]:
    """Return what to put before a command, so that there is a /dev/kvm or none."""
    if request.param == "as-the-host":
        return []
    need(can_mount(), "root that may mount, for a /dev without kvm")
    return NOWHERE


def _runs(command: list[str], scenario: str) -> None:
    with TemporaryDirectory(prefix="kvmish-test-") as empty:
        done = subprocess.run(
            [*command, "/dev/kvm", scenario],
            cwd=empty, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def _door(name: str) -> list[str]:
    return [str(KVMISH), "exec", "--quiet", "--door", name, "--"]


def test_behind_the_preload_door(around: list[str], paths: Callable[[str], Path]) -> None:
    program = paths("dynamic")
    for scenario in SCENARIOS:
        _runs([*around, *_door("preload"), str(program)], scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_behind_the_seccomp_door(
    around: list[str], paths: Callable[[str], Path], kind: str
) -> None:
    program = paths(kind)
    for scenario in [*SCENARIOS, BY_SYSTEM_CALL]:
        _runs([*around, *_door("seccomp"), str(program)], scenario)


@pytest.mark.parametrize("door", ["preload", "seccomp"])
def test_in_a_pid_namespace(paths: Callable[[str], Path], door: str, need: Need) -> None:
    """Its /proc/self is no name to who is outside."""
    need(can_mount(), "root that may mount, for a /proc of its own")
    inside = ["unshare", "--pid", "--fork", "--mount-proc"]
    _runs([*NOWHERE, *_door(door), *inside, str(paths("dynamic"))], "spellings")


@pytest.mark.host_kvm
@pytest.mark.full
def test_on_the_hosts_kvm(paths: Callable[[str], Path], need: Need) -> None:
    need(os.access("/dev/kvm", os.R_OK | os.W_OK), "a /dev/kvm of the host's")
    program = paths("dynamic")
    for scenario in [*SCENARIOS, BY_SYSTEM_CALL]:
        _runs([str(program)], scenario)


SEEN = """
test -c /dev/kvm && test -r /dev/kvm && test -w /dev/kvm && ! test -x /dev/kvm || exit 1
ls /dev/kvm && stat -c %F,%Hr,%Lr,%a /dev//kvm && realpath -e /dev/./kvm && readlink -f /dev/kvm
! test -e /dev/kvm2 && ! readlink /dev/kvm && cd /dev && test -w kvm
"""
SAID = "/dev/kvm\ncharacter special file,10,232,666\n/dev/kvm\n/dev/kvm\n"
USER = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"]


@pytest.mark.parametrize("door", ["preload", "seccomp"])
def test_what_scripts_ask(around: list[str], door: str, need: Need) -> None:
    """Of whoever asks: the file is everybody's."""
    need(os.geteuid() == 0, "root, to be somebody else")
    for user in ([], USER):
        command = [*around, *_door(door), *user, "sh", "-c", SEEN]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (0, SAID), done.stderr
