"""The device file as /dev/kvm, whether or not the host has one."""

from __future__ import annotations

from pathlib import Path

from tests.devfs.broker import KVMISH


def at_the_usual_place(file: Path) -> list[str]:
    """Return what to put before a command."""
    door = ["--door", "fuse", "--mounted", str(file.parent)]
    return [str(KVMISH), "exec", "--quiet", *door, "--"]
