"""`make boot` on a system that has nothing but make: the README's promise to a stranger.

The systems are those that differ most from Debian 12, which CI is: newer compilers, headers and
Python, an archive without Debian's kernels. In a chroot with mounts of its own, as root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import archive

ROOT = Path(__file__).resolve().parent.parent.parent
DEBIAN = "http://deb.debian.org/debian"
UBUNTU = "http://archive.ubuntu.com/ubuntu"
ENTER = """
mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -t sysfs sysfs "$1/sys"
mount -t tmpfs tmpfs "$1/tmp" && exec chroot "$1" make -C /root/kvmish boot </dev/null
"""


def _ubuntu_keyring(directory: Path) -> Path:
    directory.mkdir()
    tree, _ = archive.unpack("ubuntu-keyring", directory, release="trixie")
    return tree / "usr/share/keyrings/ubuntu-archive-keyring.gpg"


def _install(root: Path, suite: str, mirror: str, keyring: Path, components: str) -> None:
    script = Path("/usr/share/debootstrap/scripts", suite)
    known = script if script.exists() else script.with_name("gutsy")  # of all of Ubuntu's
    done = subprocess.run(
        [
            *("debootstrap", "--variant=minbase", "--include=make,ca-certificates"),
            *(f"--keyring={keyring}", f"--components={components}"),
            *(suite, str(root), mirror, str(known)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def _copy_source(target: Path) -> None:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(lambda name: (ROOT / name).is_file(), names.stdout.splitlines()):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)


def _make_boot(root: Path) -> str:
    environment = {"HOME": "/root", "TERM": "dumb", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    certificates = os.environ.get("PIP_CERT")  # of a proxy, where this host has one
    if certificates:
        shutil.copy(certificates, root / "root/certificates.crt")
        environment["PIP_CERT"] = "/root/certificates.crt"
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh", root],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.full
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("system", ["debian-13", "ubuntu-24.04"])
def test_make_boot(system: str, tmp_path: Path, need: Callable[[object, str], None]) -> None:
    need(shutil.which("debootstrap") and os.geteuid() == 0, "debootstrap, as root")
    root = tmp_path / "root"
    if system == "debian-13":
        _install(root, "trixie", DEBIAN, archive.KEYRING, "main")
    else:
        keyring = _ubuntu_keyring(tmp_path / "keyring")
        _install(root, "noble", UBUNTU, keyring, "main,universe")
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    _copy_source(root / "root/kvmish")
    assert "kvmish: selfcheck ok" in _make_boot(root)
    again = _make_boot(root)
    assert "kvmish: selfcheck ok" in again
    assert "kvmish: installing" not in again
    shutil.rmtree(root)
