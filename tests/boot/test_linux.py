"""Debian's cloud kernel on our own VMM, from the first instruction to power-off."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from kvm_core import engines
from tests.boot import minbase
from tests.boot.terminal import DOOR, RUN, Terminal
from tests.console import Transcript, run
from vmmuser import assets

LIMIT_S = 180

pytestmark = pytest.mark.timeout(LIMIT_S + 30)


@pytest.fixture(autouse=True)
def _parts(need: Callable[[bool, str], None]) -> None:
    need(DOOR != "direct" or find_spec("kvm_core._kvm") is not None, "the core (make ext)")
    need(assets.CLOUD.ready(), "Debian's kernel (make assets)")


class Linux:
    """Boots without a terminal and keeps the report."""

    def __init__(self, directory: Path) -> None:
        self.report_file = directory / "report.json"

    def __call__(
        self, *options: str | Path, answers: tuple[tuple[str, str], ...] = ()
    ) -> tuple[Transcript, dict[str, Any]]:
        command = [sys.executable, "-c", RUN, "boot", "--kvm", DOOR]
        command += ["--report", str(self.report_file), *map(str, options)]
        transcript = run(command, LIMIT_S, answers=answers)
        text = self.report_file.read_text() if self.report_file.exists() else ""
        return transcript, json.loads(text or "{}")


@pytest.fixture
def linux(tmp_path: Path) -> Linux:
    return Linux(tmp_path)


def good(done: Transcript) -> None:
    assert done.status == 0, done.tail(40)
    assert done.has(assets.SELFCHECK_MARK), done.tail(40)


def test_selfcheck_and_power_off(linux: Linux) -> None:
    done, report = linux()
    good(done)
    assert report["outcome"] == "off"
    assert report["selfcheck"] is True
    assert report["engine"] == (engines.chosen() if DOOR == "direct" else "hvm")
    first, kernel = report["seconds_to_first_instruction"], report["seconds_to_kernel"]
    assert 0 < first < kernel < report["seconds_to_userland"] < report["seconds"]
    # The data port is coalesced; what is left are single characters before the zone fills.
    assert report["ports"].get("0x3f8", 0) < 1000
    if DOOR == "direct":
        assert report["instructions"] > 10**8
    found = done.values("kvmish: date ")
    guest = time.mktime(time.strptime(found[0], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    assert abs(guest - time.time()) < LIMIT_S


@pytest.mark.skipif(DOOR != "direct", reason="of translated code in this process")
def test_profile(linux: Linux, tmp_path: Path) -> None:
    """The table at the end, with a name for an address that Linux's kernel surely executed."""
    names = tmp_path / "System.map"
    names.write_text("ffffffff81000000 T _text\n")
    done, _ = linux("--profile", "--symbols", names)
    good(done)
    assert "of instructions:" in done.errors
    assert "_text+0x" in done.errors


@pytest.mark.parametrize("count", [2, 4])
def test_several_processors(linux: Linux, count: int) -> None:
    done, _ = linux("--smp", count)
    good(done)
    assert done.values("kvmish: cpu count ") == [str(count)]


@pytest.mark.parametrize("model", ["x86-64-v3", "x86-64-v2", "qemu64"])
def test_processor_models(linux: Linux, model: str) -> None:
    done, _ = linux("--cpu", model)
    good(done)
    assert done.values("kvmish: cpu model ") == [f"kvmish {model}"]


def test_warnings(linux: Linux) -> None:
    """Nothing of level warning or worse, but what guests with Zens are told."""
    done, _ = linux("--smp", "2")
    good(done)
    without_cppc = {  # since Linux 6.11, under real KVM too
        "amd_pstate: The CPPC feature is supported but currently disabled by the BIOS.",
        "Please enable it if your BIOS has the CPPC option.",
        "amd_pstate: the _CPC object is not present in SBIOS or ACPI disabled",
    }
    assert set(done.values("kvmish: dmesg: ")) <= without_cppc


def test_disk(linux: Linux, tmp_path: Path) -> None:
    """The guest reads what the host wrote, and the other way round."""
    disk = tmp_path / "disk.img"
    content = os.urandom(3 << 20)
    disk.write_bytes(content)
    script = (
        "md5sum${IFS}/dev/vda;"
        "dd${IFS}if=/dev/urandom${IFS}of=/dev/vda${IFS}bs=64k${IFS}count=16${IFS}conv=fsync;"
        "md5sum${IFS}/dev/vda"
    )
    done, _ = linux("--disk", disk, "--append", f"kvmish.run={script}")
    assert done.status == 0, done.tail(30)
    sums = [line.split()[0] for _, line in done.lines if line.endswith("  /dev/vda")]
    assert sums == [
        hashlib.md5(content, usedforsecurity=False).hexdigest(),
        hashlib.md5(disk.read_bytes(), usedforsecurity=False).hexdigest(),
    ]
    assert sums[0] != sums[1]
    assert disk.read_bytes()[1 << 20 :] == content[1 << 20 :]


def test_read_only_disk(linux: Linux, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    script = "cat${IFS}/sys/block/vda/ro;dd${IFS}if=/dev/urandom${IFS}of=/dev/vda${IFS}bs=512"
    done, _ = linux("--disk", f"{disk},ro", "--append", f"kvmish.run={script}")
    assert done.status == 0, done.tail(30)
    assert done.has("1")
    assert disk.read_bytes() == bytes(1 << 20)


def test_shell_and_power_button() -> None:
    """What a user sees: a prompt, an answer, and the power button that the guest's acpid hears."""
    terminal = Terminal()
    try:
        terminal.expect(assets.USERLAND_MARK.encode(), LIMIT_S)
        terminal.expect(b"(guest)", LIMIT_S)
        terminal.type(b"echo $((6 * 7))\r")
        terminal.expect(b"\n42")
        terminal.type(b"\x01p")
        terminal.expect(b"kvmish: power button")
        assert terminal.wait() == 0
        assert terminal.is_restored
    finally:
        terminal.close()


@pytest.mark.full
@pytest.mark.parametrize("name", ["generic", "rt"])
def test_flavours(linux: Linux, name: str, need: Callable[[bool, str], None]) -> None:
    flavour = assets.FLAVOURS[name]
    need(flavour.ready(), f"Debian's {name} kernel (make assets-full)")
    options = ("--kernel", flavour.kernel, "--initrd", flavour.initrd, "-m", "512")
    done, _ = linux(*options, "--append", "kvmish.selfcheck")
    good(done)


def test_panic_ends_the_run(linux: Linux) -> None:
    """Without a terminal a panic resets the machine, and that is the end."""
    done, report = linux("--kernel", assets.CLOUD.kernel, "--append", "init=/nothing")
    assert done.status == 1, done.tail(30)
    assert done.has("Kernel panic")
    assert report["outcome"] == "reset"


def test_an_init_by_name(linux: Linux) -> None:
    """One that ends, upon which the kernel panics."""
    done, report = linux("--append", "init=/bin/free")
    assert done.has("Mem:"), done.tail(30)
    assert not done.has("(guest)")
    assert report["outcome"] == "crash"


@pytest.mark.parametrize(
    ("append", "said"),
    [
        ("init=/nothing", "kvmish: no /nothing in the initramfs"),
        ("root=/dev/vda", "kvmish: root=/dev/vda has no /sbin/init"),
        ("root=/dev/vda init=/nothing", "kvmish: root=/dev/vda has no /nothing"),
    ],
)
def test_an_init_that_is_not_there(linux: Linux, tmp_path: Path, append: str, said: str) -> None:
    """Without a terminal nobody could answer a prompt."""
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mke2fs", "-q", disk], check=True)
    done, report = linux("--disk", disk, "--append", append)
    assert done.has(said), done.tail(30)
    assert (done.status, report["outcome"]) == (1, "reset")


@pytest.mark.full
@pytest.mark.parametrize("count", [1, 2, 4])
def test_twenty_boots(linux: Linux, count: int) -> None:
    for _ in range(20):
        done, _ = linux("--smp", count)
        good(done)


@pytest.mark.full
def test_pvh_entry(linux: Linux, tmp_path: Path, need: Callable[[bool, str], None]) -> None:
    """The vmlinux inside Debian's bzImage, by its PVH note."""
    need(shutil.which("lz4") is not None, "lz4")
    kernel = Path(assets.CLOUD.kernel).read_bytes()
    offset, size = struct.unpack_from("<II", kernel, 0x248)
    setup = (kernel[0x1F1] + 1) * 512
    packed, vmlinux = tmp_path / "vmlinux.lz4", tmp_path / "vmlinux"
    packed.write_bytes(kernel[setup + offset : setup + offset + size - 4])
    subprocess.run(["lz4", "-dqf", packed, vmlinux], check=True)
    done, _ = linux("--kernel", vmlinux, "--initrd", assets.CLOUD.initrd)
    good(done)


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("tty", ["ttyS0", "hvc0"])
def test_debian_root_on_a_disk(tmp_path: Path, need: Callable[[bool, str], None], tty: str) -> None:
    """Debian's own init on a virtio disk, to a login; after power-off the file system is clean."""
    disk = minbase.disk(tmp_path, need)
    append = "root=/dev/vda" if tty == "ttyS0" else f"root=/dev/vda console={tty}"
    terminal = Terminal("-m", "512", "--disk", disk, "--append", append)
    minbase.use(terminal, tty)
    minbase.check(disk)
    # No virtio console where none is asked for: its getty would share the terminal.
    assert (b"hvc0" in terminal.text) == (tty == "hvc0")
