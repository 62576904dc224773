"""Debian's archive, whose packages the guests are made of.

By the system's own apt, or, on Ubuntu and other relatives, whose archives have other kernels, by
lists of its own under build/assets.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

from vmmuser.assets import ASSETS

RELEASE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCE = f"deb [arch=amd64 signed-by={KEYRING}] http://deb.debian.org/debian {{release}} main\n"


class ArchiveError(Exception):
    """Something could not be had; the message says what to do."""


def depends(package: str) -> str:
    """Return what apt says that a package depends on; empty if it knows no such package."""
    return _apt("apt-cache", "depends", "--important", package)


def unpack(package: str, scratch: Path, release: str | None = None) -> tuple[Path, str]:
    """Download a package into an empty directory, unpack it; return the tree and the version.

    It is the system's own release's, or Debian's RELEASE's, unless another of Debian's is named.
    """
    _apt("apt-get", "download", "-qq", package, cwd=scratch, release=release)
    archives = list(scratch.glob("*.deb"))
    if not archives:
        update(release)
        _apt("apt-get", "download", "-qq", package, cwd=scratch, release=release)
        archives = list(scratch.glob("*.deb"))
    if not archives:
        raise ArchiveError(f"could not download {package}: check the network, then run again")
    tree = scratch / "tree"
    output(["dpkg", "-x", str(archives[0]), str(tree)])
    return tree, output(["dpkg-deb", "-f", str(archives[0]), "Version"]).strip()


def update(release: str | None = None) -> None:
    """Get the lists of packages anew; the system's own as root or by sudo."""
    if release is None and _is_debian():
        as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        output([*as_root, "apt-get", "update", "-qq"], allow_failure=True)
        return
    if not KEYRING.is_file():
        raise ArchiveError(f"{KEYRING} is missing: install debian-archive-keyring")
    _apt("apt-get", "update", "-qq", release=release)


def output(command: Iterable[str], cwd: Path | None = None, allow_failure: bool = False) -> str:
    """Run a command and return what it prints."""
    command = list(command)
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, check=False, timeout=600
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise ArchiveError(f"{command[0]}: {error}; kernels come from Debian's apt") from error
    if done.returncode and not allow_failure:
        raise ArchiveError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _apt(program: str, *arguments: str, cwd: Path | None = None, release: str | None = None) -> str:
    options = [] if release is None and _is_debian() else _own_lists(release or RELEASE)
    return output([program, *options, *arguments], cwd=cwd, allow_failure=True)


def _is_debian() -> bool:
    try:
        return platform.freedesktop_os_release()["ID"] == "debian"
    except OSError:
        return False


def _own_lists(release: str) -> list[str]:
    """Return apt's options for a state of its own, which no root is needed for."""
    place = Path(ASSETS, "apt", release)
    for directory in ("lists/partial", "archives/partial"):
        (place / directory).mkdir(parents=True, exist_ok=True)
    (place / "status").touch()
    (place / "sources.list").write_text(SOURCE.format(release=release), encoding="utf-8")
    values = {
        "Dir::State": place,
        "Dir::State::lists": place / "lists",
        "Dir::State::status": place / "status",
        "Dir::Cache": place,
        "Dir::Cache::archives": place / "archives",
        "Dir::Etc::sourcelist": place / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "APT::Architecture": "amd64",
    }
    return [word for key, value in values.items() for word in ("-o", f"{key}={value}")]
