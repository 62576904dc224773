"""The launcher door: static programs of three kinds, other languages, the contract, QEMU."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import qemu
from tests.devfs.test_clients import CONTRACT, OBJECTS, PYTHON
from tests.door.conftest import LAUNCHER, Need, launch

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
KVMISH = Path(sys.prefix) / "bin" / "kvmish"
SCENARIOS = [
    "slots", "memory", "aliases", "holes", "later", "clocks", "vdso", "signals", "eventfds",
    "forked", "threads", "crowd", "exits", "kicks", "full-table", "hostile", "int80",
    pytest.param("late", marks=pytest.mark.full),
]  # fmt: skip
KINDS = ["glibc", "musl", pytest.param("32-bit", marks=pytest.mark.full)]


def _ok(command: list[str], **options: object) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=100, **options
    )  # type: ignore[call-overload]
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_static_program(compiled: Callable[[str], Path], kind: str, scenario: str) -> None:
    def few_descriptors() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024))

    _ok(launch(compiled(kind), "/dev/kvm", scenario), preexec_fn=few_descriptors)


def test_the_interpreter_too(client: Path) -> None:
    for scenario in ("slots", "signals", "crowd"):
        _ok(launch(client, "/dev/kvm", scenario), env={**os.environ, "KVMISH_ENGINE": "emulate"})


def test_a_python_program() -> None:
    _ok(launch(sys.executable, "-c", PYTHON, "/dev/kvm"))


UFFD = """
import ctypes, errno, fcntl, os
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(323, os.O_CLOEXEC) == -1 and ctypes.get_errno() == errno.ENOSYS
try:
    fcntl.ioctl(os.open("/dev/null", os.O_RDWR), 0xAA00, 0)  # USERFAULTFD_IOC_NEW
except OSError as refused:
    assert refused.errno == errno.ENOSYS
    print("ok")
"""


def test_no_userfaultfd() -> None:
    """Who answers faults of guest memory would not be asked: QEMU's postcopy ran on zeros."""
    _ok(launch(sys.executable, "-c", UFFD))


def test_a_rust_program(tmp_path: Path, need: Need) -> None:
    need(shutil.which("rustc"), "rustc")
    program = tmp_path / "client"
    command = ["rustc", "-O", "-C", "target-feature=+crt-static", "-o", str(program)]
    subprocess.run([*command, str(HERE / "client.rs")], check=True, timeout=200)
    _ok(launch(program))


@pytest.mark.full
def test_a_go_program(tmp_path: Path, need: Need) -> None:
    """Its run-time sends its threads signals all the time, to have them looked after."""
    need(shutil.which("go"), "go")
    program = tmp_path / "client"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOCACHE": str(tmp_path / "cache")}
    command = ["go", "build", "-o", str(program), str(HERE / "client.go")]
    subprocess.run(command, check=True, timeout=200, env=environment)
    _ok(launch(program))


def test_the_device_seems_to_be_there() -> None:
    script = "test -c /dev/kvm && test -r /dev/kvm && test -w /dev/kvm && ! test -x /dev/kvm"
    script += " && stat -c %F,%Hr,%Lr,%a /dev/kvm && ! test -e /dev/kvm2"
    done = subprocess.run(launch("sh", "-c", script), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "character special file,10,232,666\n")


FILES = "test_descriptors_are_not_files"  # here they are, as decision 031 says


@pytest.mark.parametrize("arguments", [CONTRACT, OBJECTS], ids=["contract", "objects"])
def test_on_the_launcher_door(arguments: list[str]) -> None:
    """As tests/abi/test_preload.py."""
    arguments = [word.replace("/dev/kvm", f"/dev/kvm and not {FILES}") for word in arguments]
    command = launch(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments)
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "KVMISH_TEST_DOOR": "/dev/kvm"},
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


MACHINES = [
    qemu.Machine(smp=2, cpu="host"),
    pytest.param(qemu.Machine(machine="q35", smp=4, cpu="max"), marks=pytest.mark.full),
    pytest.param(qemu.Machine(machine="pc,kernel-irqchip=split", smp=2), marks=pytest.mark.full),
    pytest.param(qemu.Machine(machine="pc,kernel-irqchip=off"), marks=pytest.mark.full),
    pytest.param(qemu.Machine(machine="microvm,acpi=on"), marks=pytest.mark.full),
]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_qemu_boots_linux(machine: qemu.Machine) -> None:
    words = machine.with_accel("kvmish").command()
    command = [*words[:2], "--door", "seccomp", *words[2:]]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=200
    )
    assert "selfcheck ok" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.returncode == 0
    assert "kvmish: door seccomp" in done.stderr


def test_one_door_inside_another_is_refused() -> None:
    command = launch(LAUNCHER, "/bin/true", "true")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("kvmish: ")
    assert done.stderr.count("\n") == 1
