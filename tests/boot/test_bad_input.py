"""What a user can get wrong: one line that says what, where and what to do, and status 2."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.boot.bzimage import bzimage

ROOT = Path(__file__).resolve().parent.parent.parent
DOOR = os.environ.get("KVMISH_TEST_DOOR", "direct")
RUN = "import sys; from kvmish.start import main; sys.exit(main())"


def kvmish(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, "boot", *map(str, options)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("kvmish: ")
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--bogus",), ("--bogus",)),
        (("extra",), ("extra",)),
        (("-m", "x"), ("-m x", "give MiB")),
        (("-m", "1"), ("-m 1", "out of range")),
        (("--smp", "0"), ("--smp 0", "give 1 to")),
        (("--cpu", "z80"), ("--cpu z80", "x86-64-v3")),
        (("--engine", "magic"), ("--engine magic", "emulate")),
        (("--report", "/nonexistent/r.json"), ("--report", "No such file")),
    ],
)
def test_options(tmp_path: Path, options: tuple[str, ...], parts: tuple[str, ...]) -> None:
    kernel = tmp_path / "k"
    kernel.write_bytes(bzimage())
    refused(kvmish("--kernel", kernel, *options), *parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("/nonexistent", ("No such file", "name a device")),
        ("/proc", ("directory", "--kvm direct")),
        ("/dev/null", ("is not a KVM device",)),
    ],
)
def test_door(tmp_path: Path, name: str, parts: tuple[str, ...]) -> None:
    kernel = tmp_path / "k"
    kernel.write_bytes(bzimage())
    refused(kvmish("--kvm", name, "--kernel", kernel), f"--kvm {name}", parts[0])


@pytest.fixture
def run(need: Callable[[bool, str], None]) -> Callable[..., subprocess.CompletedProcess[str]]:
    need(DOOR != "direct" or find_spec("kvm_core._kvm") is not None, "the core (make ext)")

    def start(*options: str | Path) -> subprocess.CompletedProcess[str]:
        return kvmish("--kvm", DOOR, *options)

    return start


Run = Callable[..., subprocess.CompletedProcess[str]]


def test_kernel_missing(run: Run) -> None:
    refused(
        run("--kernel", "/nonexistent"), "--kernel /nonexistent: No such file", "name a bzImage"
    )


def test_kernel_is_a_directory(run: Run, tmp_path: Path) -> None:
    refused(run("--kernel", tmp_path), "s a directory")


def test_kernel_is_endless(run: Run) -> None:
    refused(run("--kernel", "/dev/zero"), "is not a file")


def test_kernel_is_empty(run: Run) -> None:
    refused(run("--kernel", "/proc/self/setgroups"), "--kernel")


def test_kernel_truncated(run: Run, tmp_path: Path) -> None:
    kernel = tmp_path / "k"
    kernel.write_bytes(bzimage()[:-1000])
    refused(run("--kernel", kernel), "cut short by", "get it again")


def test_kernel_larger_than_memory(run: Run, tmp_path: Path) -> None:
    """Also where nothing of what it says of itself is large: something is appended."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bzimage())
    os.truncate(kernel, 4 << 30)
    refused(run("--kernel", kernel), "needs 41", "give more with -m")


def test_kernel_with_endless_notes(run: Run, tmp_path: Path) -> None:
    """An ELF file of 200 GiB, none of them on the disk, that is one note."""
    size, kernel = 200 << 30, tmp_path / "kernel"
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    note = struct.pack("<IIQQQQQQ", 4, 4, 0, 0, 0, size, size, 4)
    kernel.write_bytes(b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + header + note)
    os.truncate(kernel, size)
    refused(run("--kernel", kernel), "without a PVH entry note")


def test_kernel_is_something_else(run: Run, tmp_path: Path) -> None:
    kernel = tmp_path / "k"
    kernel.write_bytes(os.urandom(100000))
    refused(run("--kernel", kernel), "is not a Linux bzImage")


def test_initrd_larger_than_memory(run: Run, tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "k", tmp_path / "i"
    kernel.write_bytes(bzimage())
    initrd.write_bytes(bytes(40 << 20))
    refused(run("--kernel", kernel, "--initrd", initrd, "-m", "32"), "--initrd", "with -m")


@pytest.mark.parametrize("what", ["missing", "directory", "empty", "not a disk"])
def test_disk(run: Run, tmp_path: Path, what: str) -> None:
    kernel, empty = tmp_path / "k", tmp_path / "empty"
    kernel.write_bytes(bzimage())
    empty.touch()
    disks = {
        "missing": tmp_path / "no",
        "directory": tmp_path,
        "empty": empty,
        "not a disk": Path("/dev/null"),
    }
    refused(run("--kernel", kernel, "--disk", disks[what]), f"--disk {disks[what]}")


def test_too_many_disks(run: Run, tmp_path: Path) -> None:
    kernel, disk = tmp_path / "k", tmp_path / "d"
    kernel.write_bytes(bzimage())
    disk.write_bytes(bytes(4096))
    options = [text for _ in range(16) for text in ("--disk", f"{disk},ro")]
    refused(run("--kernel", kernel, *options), "16 disks", "room for 15")


@pytest.mark.skipif(os.geteuid() != 0, reason="dropping root needs root")
def test_no_permission(run: Run, tmp_path: Path) -> None:
    """As an ordinary user, who cannot read the file."""
    secret = tmp_path / "secret"
    secret.write_bytes(bzimage())
    secret.chmod(0o600)
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)
    code = f"import os; os.setgid(65534); os.setuid(65534); {RUN}"
    done = subprocess.run(
        [sys.executable, "-c", code, "boot", "--kvm", DOOR, "--kernel", str(secret)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "Traceback" in done.stderr:
        pytest.skip("the source tree is closed to other users")
    refused(done, "Permission denied")
