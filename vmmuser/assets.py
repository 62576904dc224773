"""Where the kernels and initramfs archives are that `make assets` gets ready: the one place.

The directory is build/assets of the source tree, or the environment's KVMISH_ASSETS. Paths are
text: pathlib is a tenth of what a machine's start imports.
"""

from __future__ import annotations

import os
from typing import NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
ASSETS = os.environ.get("KVMISH_ASSETS") or f"{ROOT}/build/assets"


class Flavour(NamedTuple):
    """A flavour of Debian's kernel: its package, and the files made from it."""

    name: str
    package: str
    kernel: str
    initrd: str

    def ready(self) -> bool:
        """Whether both files are there."""
        return os.path.isfile(self.kernel) and os.path.isfile(self.initrd)


def _flavour(name: str, package: str, suffix: str) -> Flavour:
    return Flavour(name, package, f"{ASSETS}/vmlinuz{suffix}", f"{ASSETS}/initrd{suffix}.img")


FLAVOURS = {
    "cloud": _flavour("cloud", "linux-image-cloud-amd64", ""),
    "generic": _flavour("generic", "linux-image-amd64", "-generic"),
    "rt": _flavour("rt", "linux-image-rt-amd64", "-rt"),
}
CLOUD = FLAVOURS["cloud"]

# Printed by the initramfs as its first act, and at the end of a good self-check.
USERLAND_MARK = "kvmish: userland"
SELFCHECK_MARK = "kvmish: selfcheck ok"
