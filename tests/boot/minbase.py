"""A Debian root file system on a disk image: debootstrap's minbase with an init, made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.boot.terminal import Terminal
from vmmuser.assets import ASSETS

IMAGE = Path(ASSETS, "minbase.img")
SUITE = "bookworm"
SIZE_MIB = 600


def image() -> Path:
    """The image; built at the first call, as root (debootstrap makes device nodes)."""
    if IMAGE.is_file():
        return IMAGE
    with tempfile.TemporaryDirectory(dir=ASSETS) as name:
        root, new = Path(name) / "root", Path(name) / "image"
        include = "systemd-sysv,udev,kmod,e2fsprogs"
        command = ["debootstrap", "--variant=minbase", f"--include={include}", SUITE, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        _configure(root)
        with new.open("wb") as file:
            file.truncate(SIZE_MIB << 20)
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(root), str(new)], check=True
        )
        shutil.move(new, IMAGE)
    return IMAGE


def disk(directory: Path, need: Callable[[bool, str], None]) -> Path:
    """A copy of the image for one guest to write to."""
    need(shutil.which("debootstrap") is not None and os.geteuid() == 0, "debootstrap, as root")
    return Path(shutil.copy(image(), directory / "root.img"))


def use(terminal: Terminal, tty: str = "ttyS0") -> None:
    """Log in on the tty, run a command that writes, power off; the machine's process ends well."""
    try:
        terminal.expect(f"minbase {tty}".encode(), 600)
        terminal.expect(b"login: ", 60)
        terminal.type(b"root\r")
        terminal.expect(b"# ", 120)
        terminal.type(b"echo $((6 * 7)) > /root/proof; cat /root/proof; poweroff\r")
        terminal.expect(b"\r42", 60)  # behind bash's own escapes
        assert terminal.wait(300) == 0
    finally:
        terminal.close()


def check(disk: Path) -> None:
    """The file system is clean, its journal empty, and what was written is there."""
    fsck = ["e2fsck", "-fn", str(disk)]
    done = subprocess.run(fsck, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "recovering journal" not in done.stdout + done.stderr
    cat = ["debugfs", "-R", "cat /root/proof", str(disk)]
    assert subprocess.run(cat, capture_output=True, check=True).stdout == b"42\n"


def _configure(root: Path) -> None:
    (root / "etc/hostname").write_text("minbase\n")
    (root / "etc/fstab").write_text("/dev/vda / ext4 errors=remount-ro 0 1\n")
    subprocess.run(["chroot", str(root), "passwd", "-d", "root"], check=True, capture_output=True)
    shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
