"""Where the kernels and initramfs archives are that `make assets` gets ready: the one place.

The directory is build/assets of the source tree, or the environment's KVMISH_ASSETS.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("KVMISH_ASSETS") or ROOT / "build" / "assets")


class Flavour(NamedTuple):
    """A flavour of Debian's kernel: its package, and the files made from it."""

    name: str
    package: str
    kernel: Path
    initrd: Path

    def ready(self) -> bool:
        """Whether both files are there."""
        return self.kernel.is_file() and self.initrd.is_file()


def _flavour(name: str, package: str, suffix: str) -> Flavour:
    return Flavour(name, package, ASSETS / f"vmlinuz{suffix}", ASSETS / f"initrd{suffix}.img")


FLAVOURS = {
    "cloud": _flavour("cloud", "linux-image-cloud-amd64", ""),
    "generic": _flavour("generic", "linux-image-amd64", "-generic"),
    "rt": _flavour("rt", "linux-image-rt-amd64", "-rt"),
}
CLOUD = FLAVOURS["cloud"]

# Printed by the initramfs as its first act, and at the end of a good self-check.
USERLAND_MARK = "kvmish: userland"
SELFCHECK_MARK = "kvmish: selfcheck ok"
